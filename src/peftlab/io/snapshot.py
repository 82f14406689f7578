"""Bytes from outside, copied once into a private file that nobody else can change.

A mapping of the original would not do: whoever may write to it can change a byte after the check,
or cut the file short, and then the next read of the mapping kills the process (SIGBUS). The copy
has no name: it lives in sealed memory while there is little of it, else in a deleted file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from peftlab.io.files import disk_errors

BLOCK = 2**20
MEMORY_BYTES = 128 * 2**20  # all copies of one artefact that are held in memory; ours
SEALS = ("F_SEAL_SEAL", "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE")


class WrongSize(Exception):
    """There came more or fewer bytes than were announced."""


@dataclass(slots=True)
class OpenFile:
    """One private copy.

    Attributes:
        name: inside the artefact.
        size: in bytes.
        sha256: of the copy, 64 hex digits.
        descriptor: of the copy; can be handed to a child process.
        view: all of its bytes, read-only.
    """

    name: str
    size: int
    sha256: str
    descriptor: int
    view: memoryview

    def forget(self, start: int = 0, stop: int | None = None) -> None:
        """Take pages that were read out of this process; they come back when they are read.

        A scan that forgets what is behind it needs little memory for a file of any size.
        """
        mapped = self.view.obj
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            end = self.size if stop is None else stop // mmap.PAGESIZE * mmap.PAGESIZE
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            if end > first:
                mapped.madvise(mmap.MADV_DONTNEED, first, end - first)

    def close(self) -> None:
        """Give the copy back; arrays made from ``view`` keep it alive until they are gone."""
        os.close(self.descriptor)
        mapped = self.view.obj
        with suppress(BufferError):
            self.view.release()
            if isinstance(mapped, mmap.mmap):
                mapped.close()


class Snapshots:
    """Makes the copies of one artefact."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_left = memory_bytes

    def keep(self, name: str, blocks: Iterable[bytes | memoryview], size: int) -> OpenFile:
        """Copy ``blocks``, hash them and map the copy.

        Args:
            name: inside the artefact.
            blocks: the content in order; reading stops at the first byte too many.
            size: how many bytes must come.

        Raises:
            WrongSize: more came, or fewer.
            ResourceLimit: ``DISK-FULL``.

        Examples:
            >>> file = Snapshots().keep("a", [b"he", b"llo"], 5)
            >>> bytes(file.view)
            b'hello'
            >>> file.close()
        """
        in_memory = hasattr(os, "memfd_create") and size <= self._memory_left
        descriptor = _memory_file() if in_memory else _deleted_file()
        try:
            with disk_errors(Path(tempfile.gettempdir())):
                sha256 = _fill(descriptor, blocks, size)
            if in_memory:
                _seal(descriptor)
                self._memory_left -= size
            mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) if size else b""
        except BaseException:
            os.close(descriptor)
            raise
        return OpenFile(name, size, sha256, descriptor, memoryview(mapped))


def blocks_of(descriptor: int, block: int = BLOCK) -> Iterator[bytes]:
    """Read a descriptor from where it stands to its end."""
    while piece := os.read(descriptor, block):
        yield piece


def _memory_file() -> int:
    return os.memfd_create("peftlab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _deleted_file() -> int:
    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _fill(descriptor: int, blocks: Iterable[bytes | memoryview], size: int) -> str:
    """Write exactly ``size`` bytes and return their hash."""
    sha, count = hashlib.sha256(), 0
    for block in blocks:
        count += len(block)
        if count > size:
            raise WrongSize(f"more than {size} bytes")
        sha.update(block)
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    if count != size:
        raise WrongSize(f"{count} bytes of {size}")
    return sha.hexdigest()


def _seal(descriptor: int) -> None:
    """Make a copy in memory unchangeable, for us and for every process that it is handed to."""
    import fcntl

    seals = sum(getattr(fcntl, name) for name in SEALS)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
