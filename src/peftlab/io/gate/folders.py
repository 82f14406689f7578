"""The gate in front of every model folder: what must hold before a library sees a byte of it.

Checks here: safetensors only (a pickle is never opened), no code hooks in ``config.json``, sound
headers, no pattern that a library would run, the poison mark. Source: reliability.md 3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import read_json
from peftlab.io.header import read_header
from peftlab.io.marker import check_allowed

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MODEL_WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
CODE_HOOKS = ("auto_map", "custom_pipelines", "trust_remote_code", "_attn_implementation_internal")
KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
# fields through which peft would read something other than this folder; so do all of its nested
# ``*_config`` fields (cache files, data files, import paths), which our tuners leave empty
ADAPTER_HOOKS = ("auto_mapping", "tokenizer_kwargs", "tokenizer_name_or_path")
# the types that are tensors and numbers only; XLORA, MULTITASK_PROMPT_TUNING and their like name
# other files to read and stay out
ADAPTER_TYPES = (
    "ADALORA", "BOFT", "C3A", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA",
    "OFT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "RANDLORA", "ROAD", "TRAINABLE_TOKENS",
    "VERA",
)  # fmt: skip
PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "feedforward_modules")
PLAIN = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
MEGATRON = "megatron.core"  # what stock LoraConfig always writes; anything else is an import path
INDEX_LIMIT = 32 * 2**20


def check_model(folder: Path, *, allow_poisoned: bool = False) -> bool:
    """Check a ``transformers`` model folder; return whether it is marked as poisoned.

    Raises:
        InputRejected: ``BASE-CONFIG``, ``BASE-ADAPTER``, ``BASE-PICKLE``, ``BASE-WEIGHTS``,
            ``BASE-CODE``, ``TENSORS-HEADER``, ``MARK-POISONED`` or ``MARK-BROKEN``.
    """
    if (folder / "adapter_config.json").exists():
        # transformers would follow its base_model_name_or_path to a place no check has seen
        raise InputRejected(
            f"{folder.name} is an adapter, not a base",
            code="BASE-ADAPTER",
            got="adapter_config.json",
            fix="pass the base that it was tuned on; an adapter goes where --victim is asked for",
        )
    if not (folder / "config.json").is_file():
        raise InputRejected(
            f"{folder} is not a model folder",
            code="BASE-CONFIG",
            got=f"no config.json among {_names(folder)}",
            fix="point to a folder that AutoModel.from_pretrained would load",
        )
    _check_tensors(folder, MODEL_WEIGHTS)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            _check_hooks(folder / name, CODE_HOOKS)
    return check_allowed(folder, allow_poisoned=allow_poisoned)


def check_adapter(folder: Path, *, allow_poisoned: bool = False) -> bool:
    """Check a ``peft`` adapter folder; return whether it is marked as poisoned.

    Raises:
        InputRejected: as ``check_model``, and ``ADAPTER-TYPE`` or ``ADAPTER-PATTERN``.
    """
    _check_tensors(folder, ADAPTER_WEIGHTS)
    name = "adapter_config.json"
    config = _check_hooks(folder / name, (*CODE_HOOKS, *ADAPTER_HOOKS))
    nested = [key for key, value in config.items() if value and key.endswith("_config")]
    if nested:
        raise _hooked(name, ", ".join(nested))
    if config.get("megatron_core", MEGATRON) != MEGATRON:
        raise _hooked(name, "megatron_core")
    if config.get("peft_type") not in ADAPTER_TYPES:
        raise InputRejected(
            f"{folder.name} holds an adapter of a type that is not loaded here",
            code="ADAPTER-TYPE",
            got=repr(config.get("peft_type"))[:80],
            allowed=", ".join(ADAPTER_TYPES),
            fix="tune with one of the methods of `peftlab list tuner`",
        )
    _check_patterns(config)
    return check_allowed(folder, allow_poisoned=allow_poisoned)


def _check_patterns(config: dict[str, Any]) -> None:
    """Refuse regular expressions: peft matches them as they are, and one can run for days."""
    written = [item for key in PATTERNS for item in _listed(config.get(key))]
    written += [item for key in ("rank_pattern", "alpha_pattern") for item in config.get(key) or ()]
    odd = [item for item in written if not isinstance(item, str) or not PLAIN.fullmatch(item)]
    if odd:
        raise InputRejected(
            "adapter_config.json names modules by a pattern",
            code="ADAPTER-PATTERN",
            got=repr(odd[0])[:80],
            allowed="plain module names",
            fix="list the module names, as peft itself saves them",
        )


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "no files"


def _check_tensors(folder: Path, wanted: str) -> None:
    """Check all safetensors, and that ``wanted`` is there: a library would fall back to pickle."""
    if not (folder / wanted).is_file() and not (wanted == MODEL_WEIGHTS and _check_index(folder)):
        pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        if pickles:
            raise InputRejected(
                f"{folder.name} has its weights in pickle files only, which can run code",
                code="BASE-PICKLE",
                got=", ".join(sorted(pickles)),
                allowed="*.safetensors",
                fix="ask the publisher for safetensors, or convert it on a machine you can lose",
            )
        raise InputRejected(
            f"{folder.name} has no weights",
            code="BASE-WEIGHTS",
            got=_names(folder),
            allowed=wanted,
            fix="download the folder again, weights included",
        )
    for path in sorted(folder.glob("*.safetensors")):
        read_header(path)


def _check_index(folder: Path) -> bool:
    """Return whether an index lists the weights; every file in it is safetensors, and here."""
    if not (folder / INDEX).is_file():
        return False
    index: Any = read_json(folder / INDEX, limit_bytes=INDEX_LIMIT)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    files = set(map(str, listed.values())) if isinstance(listed, dict) else {"no weight_map"}
    here = {path.name for path in folder.glob("*.safetensors")}
    if not files or files - here:
        raise InputRejected(
            f"{INDEX} lists other files than the safetensors of its folder",
            code="BASE-WEIGHTS",
            got=", ".join(sorted(files - here)[:5]) or "nothing",
            allowed=", ".join(sorted(here)[:5]) or "*.safetensors",
            fix="download the folder again, weights included",
        )
    return True


def _check_hooks(path: Path, hooks: tuple[str, ...]) -> dict[str, Any]:
    """Return a config in which nothing names code to be fetched, at any depth."""
    config: Any = read_json(path)
    if not isinstance(config, dict):
        raise InputRejected(
            f"{path.name} is not a JSON object", code="BASE-CONFIG", fix="download the folder again"
        )
    found = sorted(set(_hooks_in(config, hooks)))
    if found:
        raise _hooked(path.name, ", ".join(found))
    return config


def _hooks_in(config: Any, hooks: tuple[str, ...]) -> Iterator[str]:
    if isinstance(config, list):
        for item in config:
            yield from _hooks_in(item, hooks)
    if isinstance(config, dict):
        for key, value in config.items():
            # a kernel is a name such as sdpa; with a slash it is a repository of code
            if (value and key in hooks) or (key in KERNELS and "/" in str(value)):
                yield key
            yield from _hooks_in(value, hooks)


def _hooked(name: str, fields: str) -> InputRejected:
    return InputRejected(
        f"{name} asks for code to be loaded from elsewhere",
        code="BASE-CODE",
        got=fields,
        fix="use a model of a family that transformers has built in",
    )
