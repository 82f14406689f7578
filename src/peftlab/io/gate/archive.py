"""A zip as a source: members are unpacked one by one into private copies, never to a path."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from peftlab.core.findings import Severity, rule
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import Entry, Stop
from peftlab.io.gate.local import FileSource
from peftlab.io.gate.names import COUNT, SIZE
from peftlab.io.gate.zip_directory import STORED, BadZip, Member, TooMany, read_directory
from peftlab.io.snapshot import OpenFile, Snapshots, WrongSize

ZIP = rule(
    "GATE-ZIP",
    Severity.HIGH,
    "an archive that is damaged, or made to be read in two ways",
    why="the program that unpacks it later may find other files than the ones audited",
    fix="unpack it in a place you can lose, look at it, and audit the folder",
)
PACKED_BLOCK, BLOCK = 2**16, 2**20
TOP = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_. \-]*)/")
FINDER = "__MACOSX/"  # what the Finder adds to every zip that it makes


class ZipSource:
    """A zip archive on this machine."""

    def __init__(self, file: FileSource, limits: Limits) -> None:
        self.kind = "zip"
        self.commit: str | None = None
        try:
            (entry,) = file.entries
            if entry.size > limits.total_bytes:
                raise Stop(SIZE.found(entry.name, f"{entry.size} bytes"), "gate-names")
            self._archive = file.fetch(entry, Snapshots())
        finally:
            file.close()
        try:
            members = _members(self._archive, limits)
        except BaseException:
            self._archive.close()
            raise
        top = _common_folder([member.name for member in members])
        self._members = {
            member.name.removeprefix(top).removesuffix("/"): member
            for member in members
            if member.name != top
        }
        self.entries = [
            Entry(name.removeprefix(top).removesuffix("/"), member.size, member.kind,
                  packed=member.packed)
            for member in members
            if (name := member.name) != top
        ]  # fmt: skip
        self.facts: dict[str, object] = {"zip_sha256": self._archive.sha256, "folder": top}

    def fetch(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        """Unpack one member; its size and checksum must be those that were announced."""
        member = self._members[entry.name]
        try:
            return snapshots.keep(entry.name, _content(self._archive.view, member), member.size)
        except WrongSize:
            why = f"unpacks to another size than {member.size}"
            raise Stop(ZIP.found(entry.name, why), "gate-names") from None
        except (BadZip, zlib.error) as error:
            raise Stop(ZIP.found(entry.name, str(error)), "gate-names") from None

    def close(self) -> None:
        """Give the copy of the archive back."""
        self._archive.close()


def _members(archive: OpenFile, limits: Limits) -> list[Member]:
    try:
        return read_directory(archive.view, limits.files)
    except BadZip as error:
        step = "gate-source" if "not a zip" in str(error) else "gate-names"
        raise Stop(ZIP.found(archive.name, str(error)), step) from None
    except TooMany as error:
        raise Stop(COUNT.found(archive.name, str(error)), "gate-names") from None


def _content(archive: memoryview, member: Member) -> Iterator[bytes | memoryview]:
    """Unpack a member block by block, and check it to its last byte."""
    packed = archive[member.start : member.start + member.packed]
    crc = 0
    for block in _stored(packed) if member.method == STORED else _inflated(packed):
        crc = zlib.crc32(block, crc)
        yield block
    if crc != member.crc:
        raise BadZip("its checksum is wrong")


def _stored(packed: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(packed), BLOCK):
        yield packed[start : start + BLOCK]


def _inflated(packed: memoryview) -> Iterator[bytes]:
    """Inflate; whoever asks for the next block decides whether there is one."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(packed), PACKED_BLOCK):
        piece: bytes | memoryview = packed[start : start + PACKED_BLOCK]
        while piece:
            yield unpacker.decompress(piece, BLOCK)
            piece = unpacker.unconsumed_tail
        if unpacker.eof and (unpacker.unused_data or start + PACKED_BLOCK < len(packed)):
            raise BadZip("bytes after its packed data")
    while rest := unpacker.decompress(b"", BLOCK):
        yield rest
    if not unpacker.eof:
        raise BadZip("its packed data is cut short")


def _common_folder(names: list[str]) -> str:
    """Return the one folder that holds everything, with its slash; else an empty string."""
    own = [name for name in names if not name.startswith(FINDER)]
    tops = {found.group() if (found := TOP.match(name)) else "" for name in own}
    return tops.pop() if len(tops) == 1 else ""
