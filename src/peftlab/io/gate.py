"""The gate in front of every model folder: what must hold before a library sees a byte of it.

Checks here: safetensors only (a pickle is never opened), no code hooks in ``config.json``, sound
headers, the poison mark. Source: reliability.md 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import read_json
from peftlab.io.header import read_header
from peftlab.io.marker import check_allowed

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE_HOOKS = ("auto_map", "custom_pipelines", "trust_remote_code", "_attn_implementation_internal")
ADAPTER_HOOKS = ("auto_mapping", "megatron_config", "loftq_config")
MEGATRON = "megatron.core"  # what stock LoraConfig always writes; anything else is an import path


def check_model(folder: Path, *, allow_poisoned: bool = False) -> bool:
    """Check a ``transformers`` model folder; return whether it is marked as poisoned.

    Raises:
        InputRejected: ``BASE-CONFIG``, ``BASE-PICKLE``, ``BASE-WEIGHTS``, ``BASE-CODE``,
            ``TENSORS-HEADER``, ``MARK-POISONED`` or ``MARK-BROKEN``.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise InputRejected(
            f"{folder} is not a model folder",
            code="BASE-CONFIG",
            got=f"no config.json among {_names(folder)}",
            fix="point to a folder that AutoModel.from_pretrained would load",
        )
    _check_tensors(folder)
    _check_hooks(folder / "config.json", CODE_HOOKS)
    return check_allowed(folder, allow_poisoned=allow_poisoned)


def check_adapter(folder: Path, *, allow_poisoned: bool = False) -> bool:
    """Check a ``peft`` adapter folder; return whether it is marked as poisoned.

    Raises:
        InputRejected: as ``check_model``.
    """
    _check_tensors(folder)
    _check_hooks(folder / "adapter_config.json", ADAPTER_HOOKS)
    if read_json(folder / "adapter_config.json").get("megatron_core", MEGATRON) != MEGATRON:
        raise _hooked("adapter_config.json", "megatron_core")
    return check_allowed(folder, allow_poisoned=allow_poisoned)


def _names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "no files"


def _check_tensors(folder: Path) -> None:
    tensors = sorted(folder.glob("*.safetensors"))
    if not tensors:
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
            allowed="*.safetensors",
            fix="download the folder again, weights included",
        )
    for path in tensors:
        read_header(path)


def _check_hooks(path: Path, hooks: tuple[str, ...]) -> None:
    config: Any = read_json(path)
    found = [key for key in hooks if isinstance(config, dict) and config.get(key)]
    if found:
        raise _hooked(path.name, ", ".join(found))


def _hooked(name: str, fields: str) -> InputRejected:
    return InputRejected(
        f"{name} asks for code to be loaded from elsewhere",
        code="BASE-CODE",
        got=fields,
        fix="use a model of a family that transformers has built in",
    )
