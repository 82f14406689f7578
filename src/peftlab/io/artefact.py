"""An artefact opened once: every check and every later load reads the bytes that were hashed.

Each file is opened without following links and copied once (``io.snapshot``); the copy is what is
hashed, mapped, audited and loaded. A folder that changes in between changes nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from peftlab.io.snapshot import OpenFile, Snapshots, blocks_of

__all__ = ["Artefact", "OpenFile", "TensorInfo", "open_file"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor stands: its file, type as safetensors writes it, shape, bytes of the file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


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

    def forget(self, tensor: str) -> None:
        """Let the memory of a tensor go that has been looked at; it can be read again."""
        info = self.tensors[tensor]
        self.files[info.file].forget(info.start, info.stop)

    def close(self) -> None:
        """Give all copies back; arrays made from them stay valid until they are gone."""
        for file in self.files.values():
            file.close()
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
    """Copy, hash and map one regular file, without following a link."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags)
    try:
        return Snapshots().keep(name, blocks_of(descriptor), os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
