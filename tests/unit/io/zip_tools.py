"""Zip archives built field by field, so that each can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any


@dataclass
class File:
    """One file of an archive; ``local`` and ``central`` overwrite header fields by name."""

    name: bytes
    content: bytes = b"hello"
    method: int = 0
    flags: int = 0
    made: int = 3 << 8
    attributes: int = 0o100644 << 16
    extra: bytes = b""
    local_extra: bytes = b""
    after: bytes = b""
    packed: bytes | None = None
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)


def deflated(content: bytes) -> bytes:
    """Return raw deflated bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def archive(
    *files: File, before: bytes = b"", gap: bytes = b"", comment: bytes = b"", after: bytes = b"",
    large: bool = False, **end: int,
) -> bytes:  # fmt: skip
    """Return an archive; ``end`` overwrites fields of its end: count, here, length, start, disk."""
    body, directory = before, b""
    for file in files:
        packed = file.packed
        if packed is None:
            packed = deflated(file.content) if file.method == 8 else file.content
        said = {
            "name": file.name, "flags": file.flags, "method": file.method,
            "crc": zlib.crc32(file.content), "packed": len(packed), "size": len(file.content),
        }  # fmt: skip
        local, central = {**said, **file.local}, {"at": len(body), **said, **file.central}
        body += struct.pack(
            "<4s5H3L2H", b"PK\x03\x04", local.get("needed", 20), local["flags"], local["method"], 0,
            33, local["crc"], local["packed"], local["size"], len(local["name"]),
            len(file.local_extra),
        ) + local["name"] + file.local_extra + packed + file.after  # fmt: skip
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", file.made, central.get("needed", 20), central["flags"],
            central["method"], 0, 33, central["crc"], central["packed"], central["size"],
            len(central["name"]), len(file.extra), 0, central.get("disk", 0), 0, file.attributes,
            central["at"],
        ) + central["name"] + file.extra  # fmt: skip
    body += gap
    fields = {"count": len(files), "length": len(directory), "start": len(body), "disk": 0, **end}
    fields.setdefault("here", fields["count"])
    tail = body + directory
    if large:
        tail += struct.pack(
            "<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, fields["here"], fields["count"],
            fields["length"], fields["start"],
        ) + struct.pack("<4sLQL", b"PK\x06\x07", 0, len(tail), 1)  # fmt: skip
        fields |= {"count": 0xFFFF, "here": 0xFFFF, "length": 0xFFFFFFFF, "start": 0xFFFFFFFF}
        fields |= {key: end[f"small_{key}"] for key in fields if f"small_{key}" in end}
    return tail + struct.pack(
        "<4s4H2LH", b"PK\x05\x06", fields["disk"], 0, fields["here"], fields["count"],
        fields["length"], fields["start"], len(comment),
    ) + comment + after  # fmt: skip


def wide(*numbers: int) -> bytes:
    """Return the extra field of 64-bit sizes."""
    return struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)
