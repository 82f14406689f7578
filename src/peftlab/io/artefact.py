"""An artefact opened once: every check and every later load reads the bytes that were hashed.

The files of a folder are opened without following links, hashed and memory-mapped through the same
descriptor, so that a folder which changes in between changes nothing here.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor stands: its file, type as safetensors writes it, shape, bytes of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(slots=True)
class OpenFile:
    """One file of an artefact, open; ``view`` is all of its bytes, read-only."""

    name: str
    size: int
    sha256: str
    descriptor: int
    view: memoryview


@dataclass(slots=True)
class Artefact:
    """An adapter or checkpoint from outside, opened.

    Attributes:
        source: what the user typed.
        kind: folder, file, zip or hub.
        commit: of a hub repository, 40 hex digits.
        files: those that may be read, by their path inside the artefact.
        recorded: names that are never opened (pickles, code), with their sizes.
        tensors: of all safetensors files, filled by the gate once the headers are checked.
        metadata: of all safetensors files, by file.
        config: ``adapter_config.json`` or ``config.json``, without refused fields; by the gate.
    """

    source: str
    kind: str
    commit: str | None = None
    files: dict[str, OpenFile] = field(default_factory=dict)
    recorded: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file."""
        return bytes(self.files[name].view)

    def tensor_bytes(self, tensor: str) -> memoryview:
        """Return the bytes of one tensor, without a copy."""
        info = self.tensors[tensor]
        return self.files[info.file].view[info.start : info.stop]

    def close(self) -> None:
        """Close all files; views and tensors made from them must be gone by then."""
        for file in self.files.values():
            os.close(file.descriptor)
        self.files.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_file(path: Path, name: str) -> OpenFile:
    """Open, map and hash one regular file, without following a link."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    view = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b"")
    sha = hashlib.sha256()
    for start in range(0, size, BLOCK):
        sha.update(view[start : start + BLOCK])
    return OpenFile(name, size, sha.hexdigest(), descriptor, view)
