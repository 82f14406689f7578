"""Checkpoints of a training run: complete or absent, checked on reading, the newest two kept."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import new_folder, read_json, sha256_file, write_json

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"step-(\d{9})")
_TENSORS = ("model", "optimiser", "curve")


@dataclass(frozen=True)
class Checkpoint:
    """One state of a run.

    Attributes:
        step: steps done.
        model: parameters by name.
        optimiser: state tensors by ``NAME/KIND`` (``bert.embeddings.../exp_avg``).
        curve: (step,) loss of every step so far.
        facts: JSON-able; what must agree for a resume, and notes for people.
    """

    step: int
    model: dict[str, torch.Tensor]
    optimiser: dict[str, torch.Tensor]
    curve: torch.Tensor
    facts: dict[str, Any]


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted((path for path in parent.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def save_checkpoint(parent: Path, state: Checkpoint, *, keep: int = 2) -> Path:
    """Write a checkpoint folder as a whole, then remove all but the newest ``keep``.

    Raises:
        ResourceLimit: ``DISK-FULL``.
        ConfigError: ``PATH-WRITE``.
    """
    from safetensors.torch import save_file

    target = parent / f"step-{state.step:09d}"
    with new_folder(target, overwrite=True) as folder:
        tensors = {
            "model": state.model,
            "optimiser": state.optimiser,
            "curve": {"loss": state.curve},
        }
        for name in _TENSORS:
            plain = {key: value.detach().cpu().contiguous() for key, value in tensors[name].items()}
            save_file(plain, folder / f"{name}.safetensors")
        hashes = {name: sha256_file(folder / f"{name}.safetensors") for name in _TENSORS}
        write_json(
            folder / "state.json", {"step": state.step, "sha256": hashes, "facts": state.facts}
        )
    for old in _folders(parent)[keep:]:
        shutil.rmtree(old)
    return target


def _check_hash(path: Path, expected: str) -> None:
    if sha256_file(path) != expected:
        raise InputRejected(
            f"{path.name} was changed",
            code="CHECKPOINT-BAD",
            fix="throw the checkpoint away and start again",
        )


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        InputRejected: ``CHECKPOINT-BAD``, a file is missing, damaged or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = read_json(folder / "state.json")
        parts = {}
        for name in _TENSORS:
            _check_hash(folder / f"{name}.safetensors", state["sha256"][name])
            parts[name] = load_file(folder / f"{name}.safetensors")
        return Checkpoint(
            step=int(state["step"]),
            model=parts["model"],
            optimiser=parts["optimiser"],
            curve=parts["curve"]["loss"],
            facts=dict(state["facts"]),
        )
    except (InputRejected, SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputRejected(
            f"the checkpoint {folder} is damaged",
            code="CHECKPOINT-BAD",
            got=str(error),
            fix="throw the checkpoint away and start again",
        ) from error


def newest_checkpoint(parent: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, with a warning for each that is not.

    Args:
        parent: folder of the checkpoints; may be missing.
    """
    for folder in _folders(parent):
        try:
            return read_checkpoint(folder)
        except InputRejected as error:
            warnings.warn(f"{error}\n  going on from the one before", RuntimeWarning, stacklevel=2)
    return None
