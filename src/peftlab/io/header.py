"""The header of a safetensors file, read by our own small parser before anything loads it.

Layout: 8 bytes little-endian length, that many bytes of JSON, then the data; source:
huggingface/safetensors:README.md. The limits are ours.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import disk_errors
from peftlab.io.strict_json import most_values, parse_json

HEADER_LIMIT = 8 * 2**20
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
         "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1}  # fmt: skip
MOST_TENSORS = 2**16
VALUES_PER_TENSOR = 16  # an entry of the most dimensions has 15
FIELDS = {"dtype", "shape", "data_offsets"}
NAME = re.compile(r"[A-Za-z0-9_.\-]{1,512}")


def _reject(name: str, why: str) -> InputRejected:
    return InputRejected(
        f"{name} is not a sound safetensors file",
        code="TENSORS-HEADER",
        got=why,
        fix="get the file again from its publisher and compare the checksum",
    )


def read_header(path: Path) -> dict[str, Any]:
    """Return the checked header: tensor name to {dtype, shape, data_offsets}, and ``__metadata__``.

    Raises:
        InputRejected: ``TENSORS-HEADER`` for anything that is not exactly the format: a length
            that does not fit, duplicate keys, odd names, unknown types, holes or overlaps.
    """
    if not path.is_file():  # a pipe would block for ever
        raise _reject(path.name, "not a file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = header_length(start, size, path.name)
        return parse_header(start + file.read(length), path.name, size=size)


def header_length(
    start: bytes | memoryview, size: int, name: str, most_bytes: int = HEADER_LIMIT
) -> int:
    """Return how many bytes of JSON follow the first 8 of a file of ``size`` bytes.

    Raises:
        InputRejected: ``TENSORS-HEADER``.
    """
    if len(start) < 8:
        raise _reject(name, f"{size} bytes, too short for a header")
    length: int = struct.unpack("<Q", start[:8])[0]
    if not 2 <= length <= min(most_bytes, size - 8):
        raise _reject(name, f"header length {length} in a file of {size} bytes")
    return length


def parse_header(
    content: bytes | memoryview,
    name: str,
    *,
    size: int | None = None,
    names: re.Pattern[str] | None = NAME,
    most_bytes: int = HEADER_LIMIT,
    most_tensors: int = MOST_TENSORS,
) -> dict[str, Any]:
    """Return the checked header of a file that is in memory, or of its first bytes.

    Args:
        content: the file, or at least its header.
        name: of the file, for the message.
        size: of the file, if ``content`` is only a part of it.
        names: what a tensor may be called; None leaves that to the caller.
        most_bytes: longest header.
        most_tensors: known before the header is parsed, so that a dear one is not parsed.

    Raises:
        InputRejected: as ``read_header``.
    """
    size = len(content) if size is None else size
    length = header_length(content, size, name, most_bytes)
    header = _parsed(bytes(content[8 : 8 + length]), name, most_tensors)
    tensors = {key: entry for key, entry in header.items() if key != "__metadata__"}
    if len(tensors) > most_tensors:
        raise _reject(name, f"{len(tensors)} tensors, allowed {most_tensors}")
    odd = [key for key in tensors if names is not None and not names.fullmatch(key)]
    if odd:
        raise _reject(name, f"tensor name {odd[0][:80]!r}")
    end = 0
    for first, last in sorted(_span(name, key, entry) for key, entry in tensors.items()):
        if first != end:
            raise _reject(name, f"hole or overlap at byte {end}")
        end = last
    if end != size - 8 - length:
        raise _reject(name, f"tensors end at byte {end}, data has {size - 8 - length}")
    return header


def _parsed(text: bytes, name: str, most_tensors: int) -> dict[str, Any]:
    """Return the JSON of a header, in which the metadata is sound."""
    if most_values(text) > VALUES_PER_TENSOR * most_tensors:
        raise _reject(name, f"more values in its header than {most_tensors} tensors need")
    try:
        header = parse_json(text, name)
    except InputRejected as error:
        raise _reject(name, f"its header is not valid JSON: {error.got}") from None
    if not isinstance(header, dict):
        raise _reject(name, "the header is not a JSON object")
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise _reject(name, "__metadata__ is not an object of strings")
    return header


def _span(file: str, key: str, entry: Any) -> tuple[int, int]:
    name = key[:80]
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        raise _reject(file, f"entry of {name!r} has not exactly the fields of the format")
    shape, offsets, kind = entry["shape"], entry["data_offsets"], entry["dtype"]
    sound = isinstance(shape, list) and len(shape) <= 8 and isinstance(kind, str)
    sound = sound and isinstance(offsets, list) and len(offsets) == 2 and kind in SIZES
    if not sound or not all(map(_is_size, [*shape, *offsets])):
        raise _reject(file, f"entry of {name!r}: {str(entry)[:200]}")
    first, last = offsets
    if last - first != math.prod(shape) * SIZES[kind]:
        raise _reject(file, f"{name!r} has {last - first} bytes, its shape needs another number")
    return first, last


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number <= 2**40


def metadata(path: Path) -> dict[str, str]:
    """Return the ``__metadata__`` strings of a file (empty if it has none)."""
    found: dict[str, str] = read_header(path).get("__metadata__", {})
    return found


def add_metadata(path: Path, extra: dict[str, str]) -> None:
    """Rewrite the file with ``extra`` merged into ``__metadata__``; tensors stay as they are."""
    header = read_header(path)
    header["__metadata__"] = {**header.get("__metadata__", {}), **extra}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        with path.open("rb") as old, part.open("wb") as new:
            old.seek(8 + struct.unpack("<Q", old.read(8))[0])
            new.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(old, new, 2**20)
            new.flush()
            os.fsync(new.fileno())
        part.replace(path)
