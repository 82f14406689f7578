"""Step 7: the headers of all safetensors files, by our own parser, before any library reads one.

Hard: everything that is not exactly the format; a name that is a path, a control sequence or
markup; more dimensions or larger ones than any layer has; a tensor in two files. Mild, because
published adapters do it and it is harmless as data: other names and more metadata than usual.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.core.printable import printable
from peftlab.io.artefact import Artefact, TensorInfo
from peftlab.io.gate.folders import INDEX
from peftlab.io.gate.json_files import INDEX_LIMIT
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded
from peftlab.io.gate.zip_directory import CENTRAL, END, LOCATOR, MOST_COMMENT
from peftlab.io.header import header_length, parse_header
from peftlab.io.marker import FILE as POISONED
from peftlab.io.marker import KEY
from peftlab.io.strict_json import parse_json

HEADER = rule(
    "GATE-HEADER",
    Severity.HIGH,
    "a safetensors file that is not sound",
    why="a library would read past its end, or read another tensor than the checks saw",
    fix="get the file again from its publisher and compare the checksum",
)
TENSOR_NAME = rule(
    "GATE-TENSOR-NAME",
    Severity.LOW,
    "a tensor name that no common format uses",
    why="a reader may take it for another tensor, or show it as something else",
    fix="ask the publisher which program wrote it",
)
METADATA = rule(
    "GATE-METADATA",
    Severity.LOW,
    "metadata that is unusual",
    why="it can tell more about the training than its publisher wanted, and steer a terminal",
    fix="read it in the report; before publishing, remove what nobody needs",
)
DTYPE = rule(
    "GATE-DTYPE",
    Severity.LOW,
    "a type that adapters do not have",
    why="truth values and unsigned integers are no weights; they can hold any content",
    fix="ask the publisher what the tensor is for",
)
POLYGLOT = rule(
    "GATE-POLYGLOT",
    Severity.HIGH,
    "a tensor file that is a zip archive as well",
    why="Python and other programs run or unpack such a file by its end, whatever its name",
    fix="do not use it; no tool writes such a file by accident",
)
MARK = rule(
    "GATE-MARK",
    Severity.HIGH,
    "the mark of a red-team artefact",
    why="it was made to do harm, for an experiment",
    fix="never deploy it; in an experiment, expect it",
)
# cloneofsimo writes unet:0:up, and learned words as <s1>; all other formats write dotted names
USUAL_NAME = re.compile(r"[A-Za-z0-9_.\-:]+|<[A-Za-z0-9_\-]+>")
HARD_NAME = re.compile(r"[^ -~]|[/\\<>\"'`&$;|{}]|\.\.")
MOST_NAME = 512
# a factor of a three-dimensional convolution has 5 dimensions; 8 is what the parser takes
ADAPTER_DIMENSIONS = 5
MOST_DIMENSION, MOST_VALUES = 2**24, 2**31
ADAPTER_TYPES = (
    "F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
    "I64", "I32", "I16", "I8", "U8",
)  # fmt: skip


def check_headers(artefact: Artefact, limits: Limits) -> Check:
    """Check all headers and fill ``artefact.tensors`` and ``artefact.metadata``."""
    findings: list[Finding] = []
    adapter = is_adapter(artefact)
    for name, file in artefact.files.items():
        if not name.endswith(".safetensors"):
            continue
        try:
            header = parse_header(
                file.view,
                name,
                names=None,
                most_bytes=limits.header_bytes,
                most_tensors=limits.tensors,
            )
        except InputRejected as error:
            return _stopped([*findings, HEADER.found(name, str(error.got))], limits)
        artefact.metadata[name] = header.pop("__metadata__", {})
        if _ends_as_zip(file.view):
            findings.append(POLYGLOT.found(name))
        findings += _of_metadata(name, artefact.metadata[name], len(header), limits)
        findings += _of_tensors(name, header, adapter=adapter)
        start = 8 + header_length(file.view, file.size, name, limits.header_bytes)
        findings += _add(artefact, name, header, start)
    findings += [*_of_index(artefact), *_of_marks(artefact)]
    if any(found.code != MARK.code and found.severity >= Severity.HIGH for found in findings):
        return _stopped(findings, limits)
    stop = any(found.severity == Severity.CRITICAL for found in findings)
    return concluded("gate-headers", findings, stop=stop, facts=_facts(artefact), most=limits)


def is_adapter(artefact: Artefact) -> bool:
    """Return whether the artefact is held to the limits of adapters, not to those of models."""
    if "adapter_config.json" in artefact.files:
        return True
    return "config.json" not in artefact.files and INDEX not in artefact.files


def _stopped(findings: list[Finding], limits: Limits) -> Check:
    return concluded("gate-headers", findings, stop=True, most=limits)


def _facts(artefact: Artefact) -> dict[str, Any]:
    types: dict[str, int] = {}
    for info in artefact.tensors.values():
        types[info.dtype] = types.get(info.dtype, 0) + 1
    values = sum(math.prod(info.shape) for info in artefact.tensors.values())
    return {"tensors": len(artefact.tensors), "values": values, "types": types}


def _add(artefact: Artefact, file: str, header: Mapping[str, Any], start: int) -> Iterator[Finding]:
    for name, entry in header.items():
        if name in artefact.tensors:
            other = artefact.tensors[name].file
            yield HEADER.found(f"{file}#{name}", f"the same tensor is in {other}")
        first, last = entry["data_offsets"]
        artefact.tensors[name] = TensorInfo(
            file, entry["dtype"], tuple(entry["shape"]), start + first, start + last
        )


def _of_tensors(file: str, header: Mapping[str, Any], *, adapter: bool) -> Iterator[Finding]:
    odd_type = ""
    for name, entry in header.items():
        where = f"{file}#{name}"
        if not USUAL_NAME.fullmatch(name) or ".." in name or len(name) > MOST_NAME:
            yield _of_name(where, name)
        if adapter:
            why = _why_bad_shape(entry["shape"])
            if why:
                yield HEADER.found(where, why)
            if entry["dtype"] not in ADAPTER_TYPES:
                odd_type = odd_type or name
    if odd_type:
        yield DTYPE.found(f"{file}#{odd_type}", header[odd_type]["dtype"])


def _of_name(where: str, name: str) -> Finding:
    if HARD_NAME.search(name) or not 1 <= len(name) <= MOST_NAME:
        return HEADER.found(where, f"the name of a tensor cannot be {name!r}"[:200])
    return TENSOR_NAME.found(where)


def _why_bad_shape(shape: list[int]) -> str:
    """Return what is wrong with the shape of an adapter's tensor.

    A checkpoint may hold empty buffers and flat packed weights; there the file's own size, which
    the tensors must fill exactly, is the bound.
    """
    if len(shape) > ADAPTER_DIMENSIONS:
        return f"{len(shape)} dimensions, allowed {ADAPTER_DIMENSIONS}"
    if not all(1 <= size <= MOST_DIMENSION for size in shape):
        return f"shape {shape}: each size is 1 to {MOST_DIMENSION}"
    if math.prod(shape) > MOST_VALUES:
        return f"shape {shape}: more than {MOST_VALUES} values"
    return ""


def _ends_as_zip(content: memoryview) -> bool:
    """Return whether a reader of zips would find one: a directory, and an end that points to it.

    Readers look for the end in the last 64 KiB, whatever stands behind it. Numbers look like that
    by chance once in 10**14 files.
    """
    first = max(0, len(content) - 22 - MOST_COMMENT)
    tail = bytes(content[first:])
    at = tail.find(END)
    while at >= 0:
        if _has_directory(content, first + at):
            return True
        at = tail.find(END, at + 1)
    return False


def _has_directory(content: memoryview, end: int) -> bool:
    """Return whether the directory that an end of a zip speaks of is there, before it."""
    start = end - int.from_bytes(content[end + 12 : end + 16], "little")
    if 0 <= start < end <= len(content) - 22 and bytes(content[start : start + 4]) == CENTRAL:
        return True
    return end >= 20 and bytes(content[end - 20 : end - 16]) == LOCATOR


def _of_metadata(
    file: str, notes: Mapping[str, str], tensors: int, limits: Limits
) -> Iterator[Finding]:
    long = {key: len(text) for key, text in notes.items() if len(text) > limits.metadata_bytes}
    if long:
        key = max(long, key=long.__getitem__)
        yield METADATA.found(f"{file}#__metadata__.{key}", f"{long[key]} characters")
    odd = next((key for key, text in notes.items() if _is_odd(key, text)), None)
    if odd is not None:
        yield METADATA.found(f"{file}#__metadata__.{odd}", "control or invisible characters")
    if len(notes) > max(limits.metadata_keys, tensors):  # some formats note each layer's rank
        yield METADATA.found(f"{file}#__metadata__", f"{len(notes)} keys")


def _is_odd(key: str, text: str) -> bool:
    return not key.isprintable() or printable(text) != text


def _of_index(artefact: Artefact) -> Iterator[Finding]:
    """Check that the index of a split model says what the headers say."""
    if INDEX not in artefact.files:
        return
    if artefact.files[INDEX].size > INDEX_LIMIT:
        yield HEADER.found(INDEX, f"more than {INDEX_LIMIT} bytes")
        return
    try:
        index = parse_json(artefact.read(INDEX), INDEX)
    except InputRejected as error:
        yield HEADER.found(INDEX, str(error.got))
        return
    listed = index.get("weight_map") if isinstance(index, dict) else None
    here = {name: info.file for name, info in artefact.tensors.items()}
    if not isinstance(listed, dict) or listed != here:
        both = {**here, **(listed if isinstance(listed, dict) else {})}
        odd = next((name for name in both if name not in here or both[name] != here[name]), "")
        yield HEADER.found(f"{INDEX}#{odd}", "it does not list the tensors that are in the files")


def _of_marks(artefact: Artefact) -> Iterator[Finding]:
    """Look for our own mark of red-team work in all its places; see ``io.marker``."""
    marked = {name: KEY in notes for name, notes in artefact.metadata.items()}
    if "config.json" in artefact.files:
        marked["config.json"] = KEY.encode() in artefact.read("config.json")
    if artefact.kind != "file":
        marked[POISONED] = POISONED in artefact.files
    if all(marked.values()):
        yield MARK.found(next(iter(marked)))
    elif any(marked.values()):
        missing = ", ".join(name for name, found in marked.items() if not found)
        why = f"part of it was removed: none in {missing}"
        yield MARK.found(missing, why, severity=Severity.CRITICAL)
