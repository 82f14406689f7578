"""The directory of a zip archive, read so strictly that no two programs could read it differently.

A zip says everything twice (before each file and in the directory at its end) and readers differ in
which they believe. Here both must agree, the files must lie one after the other from the first byte
on with nothing between and nothing shared, and the directory must end where the archive ends.
Sources: APPNOTE 6.3.10; overlapping files: Fifield, A better zip bomb, WOOT 2019.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from peftlab.io.gate.listing import Kind

END, END64, LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
CENTRAL, LOCAL, DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
ZIP64_EXTRA, UNICODE_EXTRA = 0x0001, 0x7075
FULL32, FULL16 = 0xFFFFFFFF, 0xFFFF
ENCRYPTED, STREAMED, UTF8 = 0x0001, 0x0008, 0x0800
KNOWN_FLAGS = STREAMED | UTF8 | 0x0006  # the last: how hard the packer tried
STORED, DEFLATED = 0, 8
NEWEST = 45  # version 4.5 brought large archives; what came later is not read here
MOST_COMMENT = 0xFFFF
FOLDER_ATTRIBUTE = 0x10


class BadZip(Exception):
    """The archive is not sound; says why."""


class TooMany(Exception):
    """The archive lists more entries than allowed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the directory, confirmed by the header before its data.

    Attributes:
        name: as written.
        kind: file, folder, link or device.
        method: 0 stored, 8 deflated.
        crc: of the unpacked bytes.
        packed: bytes in the archive.
        size: bytes unpacked, as announced twice.
        start: of its data in the archive.
        header: start of its header in the archive.
        stop: end of its data and of what belongs to it.
    """

    name: str
    kind: Kind
    method: int
    crc: int
    packed: int
    size: int
    start: int
    header: int
    stop: int


def read_directory(archive: memoryview, most: int) -> list[Member]:
    """Return all members, in the order of the directory.

    Args:
        archive: all of it.
        most: entries allowed.

    Raises:
        BadZip: anything that is not exactly one sound archive.
        TooMany: it lists more than ``most`` entries.
    """
    try:
        count, start, stop = _end(archive)
        if count > most:
            raise TooMany(f"{count} entries")
        members, at = [], start
        for _ in range(count):
            member, at = _member(archive, at, start)
            members.append(member)
    except struct.error:
        raise BadZip("cut short") from None
    if at != stop:
        raise BadZip("the directory has another length than it says")
    _check_layout(members, start)
    return members


def _unpack(form: str, archive: memoryview, at: int) -> tuple[int, ...]:
    return struct.unpack_from(form, archive, at)


def _end(archive: memoryview) -> tuple[int, int, int]:
    """Return how many entries there are, and where the directory starts and stops."""
    size = len(archive)
    tail = max(0, size - 22 - MOST_COMMENT)
    at = bytes(archive[tail:]).rfind(END)
    if at < 0:
        raise BadZip("no end of directory: not a zip, or cut short")
    at += tail
    disk, first, here, count, length, start, comment = _unpack("<4H2LH", archive, at + 4)
    if at + 22 + comment != size:
        raise BadZip("bytes after its end")
    stop, said = at, (count, length, start)
    if at >= 20 and bytes(archive[at - 20 : at - 16]) == LOCATOR:
        stop, said = _end64(archive, at - 20, said)
    elif count == FULL16 or FULL32 in {length, start}:
        raise BadZip("a large archive without its large directory")
    if disk or first or here != count:
        raise BadZip("split over several disks")
    count, length, start = said
    if start + length != stop:
        raise BadZip("the directory does not end where the archive ends")
    return count, start, stop


def _end64(
    archive: memoryview, locator: int, said: tuple[int, int, int]
) -> tuple[int, tuple[int, int, int]]:
    disk, at, disks = _unpack("<LQL", archive, locator + 4)
    if bytes(archive[at : at + 4]) != END64:
        raise BadZip("its large directory is not where it says")
    length, _, _, this, first, here, count, size, start = _unpack("<QHHLLQQQQ", archive, at + 4)
    if disk or disks > 1 or this or first or here != count or at + 12 + length != locator:
        raise BadZip("its large directory is not sound")
    for small, large, full in zip(
        said, (count, size, start), (FULL16, FULL32, FULL32), strict=True
    ):
        if small not in {full, large}:
            raise BadZip("its two directories disagree")
    return at, (count, size, start)


def _member(archive: memoryview, at: int, end: int) -> tuple[Member, int]:
    """Return the member at ``at`` of the directory, and where the next one is."""
    if bytes(archive[at : at + 4]) != CENTRAL:
        raise BadZip("the directory holds something else than entries")
    made, needed, flags, method, _, _, *sizes, n, e, c, disk, _, attributes, header = _unpack(
        "<6H3L5H2L", archive, at + 4
    )
    crc, packed, size = sizes
    after = at + 46 + n + e + c
    name = _name(archive, at + 46, n, flags)
    extra = dict(_extras(archive, at + 46 + n, e))
    _check_unicode(extra, name)
    size, packed, header = _widened(extra, size, packed, header)
    if flags & ENCRYPTED:
        raise BadZip(f"{name!r} is encrypted")
    if flags & ~KNOWN_FLAGS or method not in {STORED, DEFLATED} or disk or _is_newer(needed):
        raise BadZip(f"{name!r} is packed in a way that is not read here")
    if method == STORED and size != packed:
        raise BadZip(f"{name!r} has two sizes")
    start = _local(archive, header, (name, flags, method, crc, packed, size))
    kind = _kind(name, made, attributes)
    stop = start + packed
    if stop > end:
        raise BadZip(f"{name!r} runs into the directory")
    if kind == "folder" and size:
        raise BadZip(f"the folder {name!r} has content")
    if flags & STREAMED:
        stop += _descriptor(archive, stop, (crc, packed, size))
    return Member(name, kind, method, crc, packed, size, start, header, stop), after


def _local(archive: memoryview, at: int, said: tuple[str, int, int, int, int, int]) -> int:
    """Check the header before the data against the directory; return where the data starts."""
    if bytes(archive[at : at + 4]) != LOCAL:
        raise BadZip(f"{said[0]!r} is not where the directory says")
    needed, flags, method, _, _, crc, packed, size, n, e = _unpack("<5H3L2H", archive, at + 4)
    name = _name(archive, at + 30, n, flags)
    extra = dict(_extras(archive, at + 30 + n, e))
    _check_unicode(extra, name)
    size, packed, _ = _widened(extra, size, packed, 0)
    if flags & STREAMED and (crc, packed, size) == (0, 0, 0):
        _, _, _, crc, packed, size = said  # they follow the data
    if (name, flags, method, crc, packed, size) != said or _is_newer(needed):
        raise BadZip(f"{said[0]!r} is described in two ways")
    return at + 30 + n + e


def _is_newer(needed: int) -> bool:
    """Return whether a member says that it needs a later program; the upper byte means nothing."""
    return needed & 0xFF > NEWEST


def _descriptor(archive: memoryview, at: int, said: tuple[int, int, int]) -> int:
    """Return the length of what follows streamed data, which must say the same once more."""
    signed = 4 if bytes(archive[at : at + 4]) == DESCRIPTOR else 0
    for form in ("<3L", "<LQQ"):
        length = struct.calcsize(form)
        content = bytes(archive[at + signed : at + signed + length])
        if len(content) == length and struct.unpack(form, content) == said:
            return signed + length
    raise BadZip("what follows a file disagrees with the directory")


def _name(archive: memoryview, at: int, length: int, flags: int) -> str:
    content = bytes(archive[at : at + length])
    try:
        return content.decode("utf-8" if flags & UTF8 else "ascii")
    except UnicodeDecodeError:
        raise BadZip("a name in an unknown encoding") from None


def _extras(archive: memoryview, at: int, length: int) -> Iterator[tuple[int, bytes]]:
    stop = at + length
    while at < stop:
        key, size = _unpack("<2H", archive, at)
        at += 4 + size
        if at > stop:
            raise BadZip("an extra field that is cut short")
        yield key, bytes(archive[at - size : at])


def _check_unicode(extra: dict[int, bytes], name: str) -> None:
    """Refuse a second name: some programs take it for the first."""
    second = extra.get(UNICODE_EXTRA)
    if second is not None and second[5:] != name.encode():
        raise BadZip(f"{name!r} has two names")


def _widened(extra: dict[int, bytes], *fields: int) -> tuple[int, ...]:
    """Return the fields with those that did not fit in 32 bits taken from the extra field."""
    content = extra.get(ZIP64_EXTRA, b"")
    wide = [value[0] for value in struct.iter_unpack("<Q", content[: len(content) // 8 * 8])]
    return tuple(_first(wide) if value == FULL32 else value for value in fields)


def _first(wide: list[int]) -> int:
    if not wide:
        raise BadZip("a size of 4 GiB that is written nowhere")
    return wide.pop(0)


def _kind(name: str, made: int, attributes: int) -> Kind:
    """Return the kind by the mode bits, which some programs heed whatever system wrote them."""
    form = stat.S_IFMT(attributes >> 16)
    if form == stat.S_IFLNK:
        return "link"
    if form not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "device"
    by_dos = made >> 8 == 0 and attributes & FOLDER_ATTRIBUTE
    return "folder" if name.endswith("/") or form == stat.S_IFDIR or by_dos else "file"


def _check_layout(members: list[Member], end: int) -> None:
    """Check that the files lie one after the other and fill everything before the directory."""
    at = 0
    for member in sorted(members, key=lambda member: member.header):
        if member.header != at:
            words = "shares bytes with another" if member.header < at else "has odd bytes before it"
            raise BadZip(f"{member.name!r} {words}")
        at = member.stop
    if at != end:
        raise BadZip("odd bytes before the directory")
