"""What every contract test needs: a watch on side effects, and option values from the schema."""

import hashlib
import importlib.util
import json
import math
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftlab.core import registry
from peftlab.core.contracts import Stage, stage_of

PLUGINS = Path(__file__).parents[2] / "docs" / "examples" / "plugins"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
DATA_SUFFIXES = {".safetensors", ".json", ".txt", ".md", ".jinja", ".npy"}


@dataclass
class _Seen:
    """What the running block did that others would notice."""

    writes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


_watches: list[_Seen] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches:
        return
    if (
        event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments)
    ) or event in {"os.mkdir", "os.remove", "os.rmdir", "os.rename"}:
        _watches[-1].writes.append(os.fsdecode(arguments[0]))
    elif event in {"pickle.find_class", "socket.connect", "socket.getaddrinfo", "os.system"}:
        _watches[-1].others.append(f"{event} {arguments[1:3]}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(isinstance(flags, int) and flags & WRITES)


sys.addaudithook(_hook)  # cannot be taken away again, hence the list of watches


def _generators() -> list[str]:
    import torch

    kind, words, *rest = np.random.get_state()  # noqa: NPY002  the very thing that is watched
    return [
        repr(random.getstate()),
        repr((kind, words.tobytes(), rest)),
        hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest(),
    ]


@contextmanager
def well_behaved(*allowed: Path) -> Iterator[None]:
    """Check that the block leaves no trace but files under ``allowed``.

    No global generator moves, nothing is unpickled, nobody is called over the network, and no file
    is written, moved or removed elsewhere.
    """
    before = _generators()
    seen = _Seen()
    _watches.append(seen)
    try:
        yield
    finally:
        _watches.pop()
    assert before == _generators(), "a global random generator was used"
    assert not seen.others
    places = [*map(str, allowed), os.devnull, "/proc/", "/dev/shm"]
    stray = [path for path in seen.writes if not path.startswith(tuple(places))]
    assert not stray, f"written outside the given folder: {stray}"


def assert_plain_files(folder: Path) -> None:
    """Check that a folder holds tensors and text only: no pickle, no archive, no code."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert path.suffix in DATA_SUFFIXES, path
        with path.open("rb") as file:
            head = file.read(4)
        assert not head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")), (
            path
        )
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))


def fingerprint(model: Any) -> dict[str, str]:
    """Return a hash of each parameter and buffer."""
    return {
        name: hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, tensor in model.state_dict().items()
    }


def _branches(about: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in about.get("anyOf", [about]) if part.get("type") != "null"]


def _near(bound: float, direction: int, *, whole: bool) -> float:
    return int(bound) + direction if whole else math.nextafter(bound, direction * math.inf)


def option_cases(cls: Any) -> list[tuple[str, Any, bool]]:
    """Return (option, value, is allowed), just inside and outside of every bound of the schema."""
    cases: list[tuple[str, Any, bool]] = []
    for name, about in cls.model_json_schema().get("properties", {}).items():
        for part in _branches(about):
            cases += [(name, value, ok) for value, ok in _values(part)]
    return cases


def _values(part: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    yield from _edges(part)
    if "enum" in part or "const" in part:
        yield from ((value, True) for value in part.get("enum", [part.get("const")]))
        yield "no such choice", False
    elif part.get("type") == "string" and "maxLength" in part:
        yield "x" * part["maxLength"], True
        yield "x" * (part["maxLength"] + 1), False
    elif part.get("type") in {"integer", "number"}:
        yield from ((value, False) for value in ("many", [], {}, math.nan, math.inf, -math.inf))
    elif part.get("type") == "boolean":
        yield from ((True, True), (False, True), ("perhaps", False), (7, False))


def _edges(part: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    whole = part.get("type") == "integer"
    for key, inward in (("minimum", 1), ("maximum", -1)):
        if key in part:
            yield part[key], True
            yield _near(part[key], -inward, whole=whole), False
    for key, inward in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
        if key in part:
            yield _near(part[key], inward, whole=whole), True
            yield part[key], False


@cache
def plugin_entries() -> tuple[registry.Entry, ...]:
    """Return the methods of the documentation's example files, without enrolling them for others.

    Importing a file is all that it takes to register what is in it.
    """
    before = registry.entries()
    for path in sorted(PLUGINS.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    found = [entry for entry in registry.entries() if entry not in before]
    for entry in found:
        del registry._entries[entry.kind, entry.name]
    return tuple(found)


def enrolled(kind: str | None = None, stage: Stage | None = None) -> list[Any]:
    """Return a test parameter for every registered method of a kind, examples included.

    Args:
        kind: attack, tuner, ...; None is all.
        stage: of defences: where they act; None is all.
    """
    found = [*registry.entries(kind), *(e for e in plugin_entries() if kind in (None, e.kind))]
    found = [entry for entry in found if stage is None or stage_of(entry.cls) == stage]
    return [pytest.param(entry, id=f"{entry.kind}-{entry.name}") for entry in found]
