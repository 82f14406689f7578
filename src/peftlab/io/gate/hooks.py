"""Fields of a config through which a library would import, fetch or open something else.

In every JSON file of a model: code by name, and kernels that are repositories. In the config of an
adapter also: classes, modules, caches and data files, other adapters. What stock ``peft`` writes by
itself is no hook: ``megatron_core`` as it always is, the class of the base in ``auto_mapping``, a
tokenizer that is not read because the adapter is saved for inference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

Path = tuple[str | int, ...]

EVERYWHERE = ("auto_map", "custom_pipelines", "trust_remote_code", "_attn_implementation_internal")
KERNELS = ("*kernel*", "*implementation*")  # a name such as sdpa; with a slash it is code to fetch
ADAPTER_ONLY = (
    "tokenizer_kwargs", "cache_file", "covariance_file", "runtime_config", "adapters",
    "prompt_tuning_init_state_dict_path", "import_allowlist",
)  # fmt: skip
ADAPTER_NAMES = ("megatron_*", "*_class", "*_kernel*", "*_attn_implementation*")  # that hold text
STOCK = {"megatron_core": "megatron.core", "shadow_model": "mirror"}
LIBRARIES = (  # whose classes may be a base: peft writes the module of the class down
    "transformers", "diffusers", "peft", "torch", "torchvision", "timm", "sentence_transformers",
    "lerobot", "__main__",
)  # fmt: skip
IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)
MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,15}", re.ASCII)


def hooks_of(config: Mapping[str, Any], *, adapter: bool = False) -> Iterator[Path]:
    """Yield the place of every hook, at any depth.

    Args:
        config: a parsed JSON object.
        adapter: it is an ``adapter_config.json``.

    Examples:
        >>> list(hooks_of({"text_config": {"auto_map": {"AutoModel": "repo--file.Class"}}}))
        [('text_config', 'auto_map')]
        >>> list(hooks_of({"megatron_core": "os", "tokenizer_class": None}, adapter=True))
        [('megatron_core',)]
    """
    if adapter and _reads_tokenizer(config):
        yield ("tokenizer_name_or_path",)
    yield from _inside(config, (), adapter=adapter)


def _inside(value: Any, place: Path, *, adapter: bool) -> Iterator[Path]:
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _inside(inner, (*place, number), adapter=adapter)
    if isinstance(value, dict):
        for key, inner in value.items():
            if _is_hook(key, inner) or (adapter and _is_adapter_hook(key, inner)):
                yield (*place, key)
            elif not (adapter and key == "auto_mapping"):
                yield from _inside(inner, (*place, key), adapter=adapter)


def _is_hook(key: str, value: Any) -> bool:
    if key in EVERYWHERE:
        return bool(value)
    return _is_like(key, KERNELS) and any("/" in text for text in texts_in(value))


def _is_adapter_hook(key: str, value: Any) -> bool:
    if not value or STOCK.get(key) == value:
        return False
    if key == "auto_mapping":
        return not is_stock_mapping(value)
    if key in ADAPTER_ONLY or key in STOCK:
        return True
    return _is_like(key, ADAPTER_NAMES) and (isinstance(value, dict) or any(texts_in(value)))


def _is_like(key: str, names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, name) for name in names)


def texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in a JSON value, keys apart."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def is_stock_mapping(value: Any) -> bool:
    """Return whether ``auto_mapping`` names the class of a base in a library that has bases.

    Examples:
        >>> is_stock_mapping({"base_model_class": "BertModel",
        ...                   "parent_library": "transformers.models.bert.modeling_bert"})
        True
        >>> is_stock_mapping({"base_model_class": "system", "parent_library": "os"})
        False
    """
    if not isinstance(value, dict):
        return False
    name, module = value.get("base_model_class"), value.get("parent_library")
    rest = [
        inner for key, inner in value.items() if key not in ("base_model_class", "parent_library")
    ]
    if not isinstance(name, str) or not isinstance(module, str):
        return False
    sound = IDENTIFIER.fullmatch(name) and MODULE.fullmatch(module)
    known = module.partition(".")[0] in LIBRARIES
    return bool(sound) and known and all(isinstance(inner, bool | None) for inner in rest)


def _reads_tokenizer(config: Mapping[str, Any]) -> bool:
    """Return whether peft would load the tokenizer that is named: only in training, for prompts."""
    prompts = str(config.get("peft_type")) in {"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "CPT"}
    unread = prompts and config.get("inference_mode") is True
    return bool(config.get("tokenizer_name_or_path")) and not unread


def without(value: Any, places: set[Path], here: Path = ()) -> Any:
    """Return a copy of a JSON value in which the given places are not there.

    Examples:
        >>> without({"a": 1, "b": {"c": 2, "d": 3}}, {("a",), ("b", "d")})
        {'b': {'c': 2}}
    """
    if isinstance(value, dict):
        return {
            key: without(inner, places, (*here, key))
            for key, inner in value.items()
            if (*here, key) not in places
        }
    if isinstance(value, list):
        return [
            without(inner, places, (*here, number))
            for number, inner in enumerate(value)
            if (*here, number) not in places
        ]
    return value


def written(place: Path) -> str:
    """Return a place as people write it.

    Examples:
        >>> written(("a", 0, "b"))
        'a.0.b'
    """
    return ".".join(map(str, place))
