"""Hostile safetensors files: the header, the values, and what pretends to be one."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_artefacts import (
    Case,
    Maker,
    Tensor,
    Traps,
    adapter_files,
    data_of,
    entries,
    lora_tensors,
    packed,
    safetensors,
    tensor,
    write,
)

from peftlab.core.findings import Severity

WEIGHTS = "adapter_model.safetensors"
EXTRA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
STEM = "base_model.model.model.layers.0.self_attn.q_proj"
VALUE = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"
DEEP = 100_000


def _weights(change: Callable[[bytes], bytes]) -> Maker:
    """Return a maker that changes the bytes of the sound file."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        files = adapter_files()
        if bad:
            files[WEIGHTS] = change(files[WEIGHTS])
        return write(folder, files)

    return make


def _header(change: Callable[[dict[str, Any]], object]) -> Maker:
    """Return a maker that changes the header, or writes other bytes in its place."""

    def changed(_: bytes) -> bytes:
        tensors = lora_tensors()
        header = {"__metadata__": {"format": "pt"}, **entries(tensors)}
        return packed(change(header) or header, data_of(tensors))

    return _weights(changed)


def _first(**fields: Any) -> Maker:
    """Return a maker that overwrites fields of the first tensor's entry."""
    return _header(lambda header: header[EXTRA].update(fields))


def _renamed(name: str) -> Maker:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        return {name if key == EXTRA else key: value for key, value in header.items()}

    return _header(change)


def _metadata(notes: object) -> Maker:
    return _header(lambda header: header.update(__metadata__=notes))


def _added(name: str, added: Tensor) -> Maker:
    return _weights(lambda _: safetensors({**lora_tensors(), name: added}))


def _torch_zip(traps: Traps) -> bytes:
    """Return what ``torch.save`` writes, with a pickle of ours."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", traps.pickle())
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _replaced(content: Callable[[Traps], bytes]) -> Maker:
    """Return a maker that puts other content under the name of the weights."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        files = adapter_files()
        return write(folder, {**files, WEIGHTS: content(traps)} if bad else files)

    return make


def _polyglot(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write a sound safetensors file that ends in a zip: one tensor is the whole archive."""
    inside = _torch_zip(traps)
    added = {"payload": ("U8", (len(inside),), inside)} if bad else {}
    return write(folder, adapter_files(tensors={**lora_tensors(), **added}))


def _polyglot_and_more(folder: Path, traps: Traps, bad: bool) -> Path:
    """Hide the zip in the weights of a layer, with numbers behind it that zip readers skip."""
    tensors, name = lora_tensors(), list(lora_tensors())[-1]
    inside = _torch_zip(traps)
    if bad:
        tensors[name] = ("F32", (32, 4), (inside + bytes(2048))[:512])
    return write(folder, adapter_files(tensors=tensors))


def _appended(folder: Path, traps: Traps, bad: bool) -> Path:
    files = adapter_files()
    if bad:
        files[WEIGHTS] += _torch_zip(traps)
    return write(folder, files)


def _values(dtype: str, itemsize: int, bits: int) -> Maker:
    """Return a maker of one tensor in a type, hostile with one value of the given bits."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        tensors = lora_tensors()
        shape = tensors[VALUE][1]
        content = bytearray(itemsize * shape[0] * shape[1])
        if bad:  # neither the first nor the last value: all must be looked at
            content[itemsize * 77 : itemsize * 78] = bits.to_bytes(itemsize, "little")
        tensors[VALUE] = (dtype, shape, bytes(content))
        return write(folder, adapter_files(tensors=tensors))

    return make


def _without(name: str) -> Maker:
    def change(_: bytes) -> bytes:
        return safetensors({key: x for key, x in lora_tensors().items() if key != name})

    return _weights(change)


def _tables(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write the two tables that peft saves by itself after a resize, though none was resized."""
    added = {
        "base_model.model.model.embed_tokens.weight": tensor(np.ones((96, 32))),
        "base_model.model.lm_head.weight": tensor(np.ones((96, 32))),
    }
    return write(folder, adapter_files(tensors={**lora_tensors(), **(added if bad else {})}))


def _shaped(name: str, shape: tuple[int, ...]) -> Maker:
    return _weights(lambda _: safetensors({**lora_tensors(), name: tensor(np.full(shape, 0.01))}))


def _twice(content: bytes) -> bytes:
    """Give the first key twice: the first time with a harmless entry."""
    length = struct.unpack("<Q", content[:8])[0]
    text = content[8 : 8 + length].strip()
    again = b'"%s": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, ' % EXTRA.encode()
    return packed(b"{" + again + text[1:], content[8 + length :])


def _many(content: bytes) -> bytes:
    """Return a file of 70 000 tensors of one byte: small, and dear for a careless reader."""
    return safetensors({f"t{number}": ("U8", (1,), b"x") for number in range(70_000)})


def _hole(content: bytes) -> bytes:
    tensors = lora_tensors()
    header = entries(tensors)
    for name, entry in header.items():
        if name != EXTRA:
            entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]
    data = data_of(tensors)
    first = len(tensors[EXTRA][2])
    return packed(header, data[:first] + bytes(64) + data[first:])


def _overlap(content: bytes) -> bytes:
    tensors = lora_tensors()
    header = entries(tensors)
    names = list(header)
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    size = len(tensors[names[0]][2])
    for name in names[2:]:
        header[name]["data_offsets"] = [x - size for x in header[name]["data_offsets"]]
    return packed(header, data_of(tensors)[size:])


def _stop(name: str, make: Maker, *codes: str, group: str = "safetensors header") -> Case:
    return Case(name, group, make, "gate-headers", codes, stops=True)


def _flag(name: str, make: Maker, step: str, *codes: str, group: str, **more: Any) -> Case:
    return Case(name, group, make, step, codes, **more)


HEADER = "GATE-HEADER"
HEADERS = [
    _stop("header-trailing-bytes", _weights(lambda x: x + b"\0" * 32), HEADER),
    _stop("header-hole", _weights(_hole), HEADER),
    _stop("header-overlap", _weights(_overlap), HEADER),
    _stop("header-wrong-size", _first(shape=[5, 32]), HEADER),
    _stop("header-length-2-63", _weights(lambda x: struct.pack("<Q", 2**63) + x[8:]), HEADER),
    _stop("header-length-past-end", _weights(lambda x: struct.pack("<Q", len(x)) + x[8:]), HEADER),
    _stop("header-9-mib", _weights(lambda x: packed(b"{}" + b" " * 9 * 2**20, b"")), HEADER),
    _stop("header-empty-file", _weights(lambda _: b""), HEADER),
    _stop("header-cut-short", _weights(lambda x: x[: len(x) // 2]), HEADER),
    _stop("header-key-twice", _weights(_twice), HEADER),
    _stop("header-metadata-twice", _weights(lambda x: packed(
        b'{"__metadata__": {"a": "1"}, "__metadata__": {"a": "2"}}', b"")), HEADER),
    _stop("header-name-traversal", _renamed("../../../../etc/cron.d/x"), HEADER),
    _stop("header-name-script", _renamed("<script>fetch('//a.example')</script>"), HEADER),
    _stop("header-name-terminal", _renamed("\x1b]0;pwned\x07\x1b[2Jlora_A.weight"), HEADER),
    _stop("header-name-bidi", _renamed("lora_\u202eA.weight"), HEADER),
    _stop("header-name-long", _renamed("a" * 600), HEADER),
    _stop("header-shape-0-2-62", _first(shape=[0, 2**62]), HEADER),
    _stop("header-shape-overflow", _first(shape=[2**32, 2**32, 2**32]), HEADER),
    _stop("header-shape-negative", _first(shape=[-4, -32]), HEADER),
    _stop("header-shape-float", _first(shape=[4.0, 32.0]), HEADER),
    _stop("header-shape-bool", _first(shape=[True, 128]), HEADER),
    _stop("header-offset-huge", _first(data_offsets=[0, 2**64 + 512]), HEADER),
    _stop("header-offset-null", _first(data_offsets=None), HEADER),
    _stop("header-dtype-unknown", _first(dtype="PY_OBJECT"), HEADER),
    _stop("header-extra-field", _first(hook="os.system"), HEADER),
    _stop("header-not-an-object", _header(lambda _: [1, 2, 3]), HEADER),
    _stop("header-deep", _header(lambda _: b"[" * DEEP + b"]" * DEEP), HEADER),
    _stop("header-not-utf-8", _header(lambda x: json.dumps(x).encode("utf-16")), HEADER),
    _stop("header-bad-utf-8",
          _header(lambda x: json.dumps(x).encode().replace(b"pt", b"\xff\xfe")), HEADER),
    _stop("header-metadata-not-text", _metadata({"format": {"a": 1}}), HEADER),
    _stop("header-70000-tensors", _weights(_many), HEADER),
]  # fmt: skip

METADATA = [  # real files of some trainers have that much, so it is said and not refused
    _flag(f"header-metadata-{name}", _metadata(notes), "gate-headers", "GATE-METADATA",
          group="safetensors header", severity=Severity.LOW)
    for name, notes in (
        ("80-keys", {f"k{x}": "v" for x in range(80)}),
        ("5-kib", {"format": "pt", "note": "x" * 5120}),
    )
]  # fmt: skip

PICKLES = [
    _stop("pickle-renamed", _replaced(lambda traps: traps.pickle()), HEADER, group="pickle"),
    _stop("pickle-torch-zip-renamed", _replaced(_torch_zip), HEADER, group="pickle"),
    _stop("polyglot-zip-appended", _appended, HEADER, group="polyglot"),
    _stop("polyglot-zip-in-a-tensor", _polyglot, "GATE-POLYGLOT", group="polyglot"),
    _stop("polyglot-zip-and-more", _polyglot_and_more, "GATE-POLYGLOT", group="polyglot"),
]

VALUES = [
    _flag(f"values-{name}", _values(dtype, size, bits), "gate-values", "GATE-VALUES",
          group="NaN and Inf")
    for name, dtype, size, bits in (
        ("nan-f32", "F32", 4, 0x7FC00001), ("inf-f32", "F32", 4, 0xFF800000),
        ("nan-f64", "F64", 8, 0x7FF8000000000000), ("inf-f16", "F16", 2, 0x7C00),
        ("nan-bf16", "BF16", 2, 0xFFC0), ("nan-f8-e4m3", "F8_E4M3", 1, 0xFF),
        ("inf-f8-e5m2", "F8_E5M2", 1, 0x7C),
    )
]  # fmt: skip

MISFIT = "does not fit"
SEMANTIC = [
    _flag("rank-not-of-the-config", _weights(lambda _: safetensors(lora_tensors(8))),
          "gate-semantic", "GATE-RANK", group=MISFIT),
    _flag("a-without-b", _without(f"{STEM}.lora_B.weight"), "gate-semantic", "GATE-PAIR",
          group=MISFIT),
    _flag("a-and-b-of-two-ranks", _shaped(f"{STEM}.lora_B.weight", (32, 5)), "gate-semantic",
          "GATE-PAIR", "GATE-RANK", group=MISFIT),
    _flag("a-of-five-dimensions", _first(shape=[1, 1, 1, 4, 32]), "gate-semantic", "GATE-PAIR",
          group=MISFIT),
    _flag("wider-than-the-base", _shaped(EXTRA, (4, 4096)), "gate-semantic", "GATE-SHAPE",
          group=MISFIT, against=True),
    _flag("layer-that-the-base-lacks",
          _added("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight",
                 tensor(np.full((4, 32), 0.01))),
          "gate-semantic", "GATE-SHAPE", "GATE-PAIR", group=MISFIT, against=True),
    _flag("hidden-lm-head", _added("base_model.model.lm_head.weight", tensor(np.ones((96, 32)))),
          "gate-semantic", "GATE-EXTRA", group="undeclared layers"),
    _flag("hidden-embeddings",
          _added("base_model.model.model.embed_tokens.weight", tensor(np.ones((96, 32)))),
          "gate-semantic", "GATE-EXTRA", group="undeclared layers"),
    _flag("hidden-tables-as-if-resized", _tables, "gate-semantic", "GATE-EXTRA",
          group="undeclared layers", against=True),
    _flag("hidden-saved-module",
          _added("base_model.model.score.modules_to_save.weight", tensor(np.ones((2, 32)))),
          "gate-semantic", "GATE-EXTRA", group="undeclared layers"),
    _flag("hidden-norm", _added("base_model.model.model.norm.weight", tensor(np.ones(32))),
          "gate-semantic", "GATE-EXTRA", group="undeclared layers"),
]  # fmt: skip

CASES = [*HEADERS, *METADATA, *PICKLES, *VALUES, *SEMANTIC]
