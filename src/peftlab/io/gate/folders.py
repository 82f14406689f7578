"""The gate in front of every model folder: what must hold before a library sees a byte of it.

Checks here: safetensors only (a pickle is never opened), no code hooks in ``config.json``, sound
headers, no pattern that a library would run, the poison mark. Ours: the short form
of the gate in ``SECURITY.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import read_json
from peftlab.io.gate.config import HOOK, Judged, judge_adapter, judge_other
from peftlab.io.gate.hooks import written
from peftlab.io.gate.json_files import ADAPTER_CONFIG, INDEX_LIMIT
from peftlab.io.gate.patterns import refused_patterns
from peftlab.io.header import read_header
from peftlab.io.marker import check_allowed

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MODEL_WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
# the types that are tensors and numbers only; XLORA, MULTITASK_PROMPT_TUNING and their like name
# other files to read and stay out
ADAPTER_TYPES = (
    "ADALORA", "BOFT", "C3A", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA",
    "OFT", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "RANDLORA", "ROAD", "TRAINABLE_TOKENS",
    "VERA",
)  # fmt: skip


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
            _check_hooks(_read_object(folder / name), name, judge_other)
    return check_allowed(folder, allow_poisoned=allow_poisoned)


def check_adapter(folder: Path, *, allow_poisoned: bool = False) -> bool:
    """Check a ``peft`` adapter folder; return whether it is marked as poisoned.

    Raises:
        InputRejected: as ``check_model``, and ``ADAPTER-TYPE`` or ``ADAPTER-PATTERN``.
    """
    _check_tensors(folder, ADAPTER_WEIGHTS)
    config = _read_object(folder / ADAPTER_CONFIG)
    if config.get("peft_type") not in ADAPTER_TYPES:
        raise InputRejected(
            f"{folder.name} holds an adapter of a type that is not loaded here",
            code="ADAPTER-TYPE",
            got=repr(config.get("peft_type"))[:80],
            allowed=", ".join(ADAPTER_TYPES),
            fix="tune with one of the methods of `peftlab list tuner`",
        )
    _check_hooks(config, ADAPTER_CONFIG, judge_adapter)
    for place, why in refused_patterns(config):
        raise InputRejected(
            "adapter_config.json names modules by a pattern that is not run here",
            code="ADAPTER-PATTERN",
            got=f"{written(place)}: {why}"[:200],
            allowed="module names, or patterns that end on every name",
            fix="list the module names, as peft itself saves them",
        )
    return check_allowed(folder, allow_poisoned=allow_poisoned)


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


def _read_object(path: Path) -> dict[str, Any]:
    config: Any = read_json(path)
    if not isinstance(config, dict):
        raise InputRejected(
            f"{path.name} is not a JSON object", code="BASE-CONFIG", fix="download the folder again"
        )
    return config


def _check_hooks(
    config: dict[str, Any], name: str, judge: Callable[[dict[str, Any], str], Judged]
) -> None:
    """Refuse a config that names code or files elsewhere, at any depth."""
    hooks = [found.where for found in judge(config, name).findings if found.code == HOOK.code]
    if hooks:
        raise InputRejected(
            f"{name} asks for code to be loaded from elsewhere",
            code="BASE-CODE",
            got=", ".join(hooks),
            fix="use a model of a family that transformers has built in",
        )
