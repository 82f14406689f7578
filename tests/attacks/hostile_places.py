"""Hostile folders and archives: links, names, bombs, code beside the weights, changes meanwhile."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from hostile_artefacts import (
    Case,
    Maker,
    Traps,
    adapter_files,
    lora_tensors,
    safetensors,
    write,
    zipped,
)

from peftlab.core.findings import Severity

WEIGHTS = "adapter_model.safetensors"
MEDIUM = Severity.MEDIUM


def _folder(change: Callable[[Path, Traps], None]) -> Maker:
    """Return a maker that does something to the folder of a clean adapter."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        place = write(folder / "adapter", adapter_files())
        if bad:
            change(place, traps)
        return place

    return make


def _files(extra: Callable[[Traps], Mapping[str, bytes]]) -> Maker:
    return _folder(lambda place, traps: write(place, extra(traps)) and None)


def _outside(place: Path) -> Path:
    """Write the file that a link would reach."""
    secret = place.parent / "outside.json"
    secret.write_text('{"token": "canary-secret-5f1c2a"}', encoding="utf-8")
    return secret


def _symlink(place: Path, _: Traps) -> None:
    (place / "special_tokens_map.json").symlink_to(_outside(place))


def _symlink_weights(place: Path, _: Traps) -> None:
    moved = (place / WEIGHTS).rename(place.parent / "elsewhere.safetensors")
    (place / WEIGHTS).symlink_to(moved)


def _symlink_folder(place: Path, _: Traps) -> None:
    (place / "sub").symlink_to("/etc")


def _symlink_loop(place: Path, _: Traps) -> None:
    (place / "sub").symlink_to(place)


def _hardlink(place: Path, _: Traps) -> None:
    os.link(_outside(place), place / "special_tokens_map.json")


def _fifo(place: Path, _: Traps) -> None:
    os.mkfifo(place / "tokenizer.json")


def _fifo_weights(place: Path, _: Traps) -> None:
    (place / WEIGHTS).unlink()
    os.mkfifo(place / WEIGHTS)


def _device(place: Path, _: Traps) -> None:
    (place / "tokenizer.json").symlink_to("/dev/zero")


def _sparse(place: Path, _: Traps) -> None:
    with (place / WEIGHTS).open("r+b") as file:
        file.truncate(3 * 2**30)


def _name(name: str, group: str = "names") -> Case:
    make = _files(lambda _: {name: b"{}"})
    return Case(f"name-{_label(name)}", group, make, "gate-names", ("GATE-NAME",), stops=True)


def _label(name: str) -> str:
    return "-".join(f"{ord(x):x}" for x in name if not (x.isascii() and x.isalnum())) or name[:20]


FOLDERS = [
    Case(f"folder-{name}", "links and devices", _folder(change), "gate-names", codes, stops=True)
    for name, change, codes in (
        ("symlink-out", _symlink, ("GATE-LINK",)),
        ("symlink-weights", _symlink_weights, ("GATE-LINK",)),
        ("symlink-to-etc", _symlink_folder, ("GATE-LINK",)),
        ("symlink-loop", _symlink_loop, ("GATE-LINK",)),
        ("symlink-to-a-device", _device, ("GATE-LINK",)),
        ("fifo", _fifo, ("GATE-KIND",)),
        ("fifo-as-weights", _fifo_weights, ("GATE-KIND",)),
        ("3-gib-sparse", _sparse, ("GATE-SIZE",)),
    )
] + [
    Case("folder-hardlink", "links and devices", _folder(_hardlink), "gate-names", ("GATE-LINK",),
         MEDIUM)
]  # fmt: skip
NAMES = [
    Case("names-differ-by-case", "names", _files(lambda _: {"readme.MD": b"x"}), "gate-names",
         ("GATE-NAME", "GATE-CASE"), stops=True),
    Case("names-not-nfc", "names", _files(lambda _: {"cafe\u0301.json": b"{}"}), "gate-names",
         ("GATE-NAME",), stops=True),
    Case("name-bidi", "names", _files(lambda _: {"adapter\u202enosj.exe": b"{}"}), "gate-names",
         ("GATE-NAME",), stops=True),
    Case("name-terminal", "names", _files(lambda _: {"\x1b]0;pwned\x07.json": b"{}"}),
         "gate-names", ("GATE-NAME",), stops=True),
    Case("name-new-line", "names", _files(lambda _: {"a\n::error::x.json": b"{}"}), "gate-names",
         ("GATE-NAME",), stops=True),
    Case("name-not-unicode", "names", _files(lambda _: {os.fsdecode(b"a\xff.json"): b"{}"}),
         "gate-names", ("GATE-NAME",), stops=True),
    Case("name-drive", "names", _files(lambda _: {"C:evil.json": b"{}"}), "gate-names",
         ("GATE-NAME",), stops=True),
    Case("name-reserved", "names", _files(lambda _: {"nul.json": b"{}"}), "gate-names",
         ("GATE-NAME",), stops=True),
    Case("name-with-a-dot-at-the-end", "names", _files(lambda _: {"README.md.": b"{}"}),
         "gate-names", ("GATE-NAME",), stops=True),
    Case("name-with-zero-width", "names", _files(lambda _: {"adapter_config\u200b.json": b"{}"}),
         "gate-names", ("GATE-NAME",), stops=True),
    Case("files-70", "names", _files(lambda _: {f"n{x}.json": b"{}" for x in range(70)}),
         "gate-names", ("GATE-COUNT", "GATE-SIZE"), stops=True),
    Case("files-7-deep", "names", _files(lambda _: {"a/b/c/d/e/f/x.json": b"{}"}), "gate-names",
         ("GATE-DEPTH",), stops=True),
]  # fmt: skip


def _only_pickle(folder: Path, traps: Traps, bad: bool) -> Path:
    files = adapter_files()
    if bad:
        del files[WEIGHTS]
        files["adapter_model.bin"] = traps.pickle()
    return write(folder, files)


def _inner(traps: Traps) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("adapter_model.bin", traps.pickle())
    return buffer.getvalue()


def _beside(name: str, content: Callable[[Traps], bytes], severity: Severity = MEDIUM) -> Case:
    make = _files(lambda traps: {name: content(traps)})
    return Case(f"beside-{name.replace('/', '-')}", "files beside the adapter", make, "gate-files",
                ("GATE-PICKLE", "GATE-CODE", "GATE-BESIDE"), severity)  # fmt: skip


def _pickle_file(folder: Path, traps: Traps, bad: bool) -> Path:
    path = folder / ("adapter_model.bin" if bad else "adapter_model.safetensors")
    path.write_bytes(traps.pickle() if bad else adapter_files()[WEIGHTS])
    return path


def _index(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write an index that sends a loader to a pickle in another folder."""
    files = adapter_files()
    tensors = dict.fromkeys(lora_tensors(), "../outside/evil.bin" if bad else WEIGHTS)
    (folder / "outside").mkdir()
    (folder / "outside" / "evil.bin").write_bytes(traps.pickle())
    index = json.dumps({"metadata": {}, "weight_map": tensors}).encode()
    return write(folder / "adapter", {**files, "model.safetensors.index.json": index})


def _second_weights(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write a second file in which the tensors of the first stand again, with other values."""
    again = {"pytorch_lora_weights.safetensors": safetensors(lora_tensors(seed=1))}
    return write(folder, {**adapter_files(), **(again if bad else {})})


BESIDE = [
    Case("pickle-file", "pickle", _pickle_file, "gate-files", ("GATE-PICKLE",), stops=True),
    Case("index-to-a-pickle", "files beside the adapter", _index, "gate-headers",
         ("GATE-HEADER",), stops=True),
    Case("same-tensors-in-a-second-file", "files beside the adapter", _second_weights,
         "gate-files", ("GATE-BESIDE",), MEDIUM),
    Case("pickle-only", "pickle", _only_pickle, "gate-files", ("GATE-PICKLE",), stops=True),
    _beside("adapter_model.bin", lambda traps: traps.pickle()),
    _beside("training_args.bin", lambda traps: traps.pickle()),
    _beside("optimizer.pt", lambda traps: traps.pickle()),
    _beside("modeling_evil.py", lambda traps: traps.code().encode()),
    _beside("sitecustomize.py", lambda traps: traps.code().encode()),
    _beside("native.so", lambda _: b"\x7fELF" + bytes(60)),
    _beside("model.gguf", lambda _: b"GGUF" + bytes(60), Severity.LOW),
    _beside("chat_template.jinja", lambda _: b"{{ cycler.__init__.__globals__.os.environ }}",
            Severity.LOW),
    _beside("inner.zip", _inner, Severity.LOW),
]  # fmt: skip


def _zip(change: Callable[[dict[str, bytes], Traps], Mapping[str, bytes]]) -> Maker:
    """Return a maker of a zip of a clean adapter, hostile with other entries."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        files = adapter_files()
        return zipped(folder / "adapter.zip", change(files, traps) if bad else files)

    return make


def _zip_bytes(change: Callable[[bytes], bytes]) -> Maker:
    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        path = zipped(folder / "adapter.zip", adapter_files())
        if bad:
            path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _zip_info(change: Callable[[zipfile.ZipInfo], None], content: bytes = b"/etc/passwd") -> Maker:
    """Return a maker of a zip with one entry whose attributes are odd."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        path = zipped(folder / "adapter.zip", adapter_files())
        if bad:
            info = zipfile.ZipInfo("special_tokens_map.json", (2020, 1, 1, 0, 0, 0))
            change(info)
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(info, content)
        return path

    return make


def _as_link(info: zipfile.ZipInfo) -> None:
    info.create_system, info.external_attr = 3, 0o120777 << 16


def _as_device(info: zipfile.ZipInfo) -> None:
    info.create_system, info.external_attr = 3, 0o020666 << 16


def _slip(name: str, label: str) -> Case:
    make = _zip(lambda files, traps: {**files, name: b"{}"})
    return Case(f"zip-slip-{label}", "zip", make, "gate-names", ("GATE-NAME",), stops=True)


def _encrypted(content: bytes) -> bytes:
    """Set the flag of encryption in all headers of the archive."""
    raw = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = raw.find(mark)
        while at >= 0:
            raw[at + offset] |= 1
            at = raw.find(mark, at + 4)
    return bytes(raw)


def _local_name(content: bytes) -> bytes:
    """Give the README another name in its local header only."""
    raw = bytearray(content)
    at = raw.find(b"README.md")  # the first is in the local header
    raw[at : at + 9] = b"evil.py\0\0"
    return bytes(raw)


def _size_lie(content: bytes) -> bytes:
    """Say in the central directory that the last file is one byte."""
    raw = bytearray(content)
    at = raw.rfind(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 1)
    return bytes(raw)


def _overlapping(content: bytes) -> bytes:
    """Let the second entry of the central directory point at the data of the first."""
    raw = bytearray(content)
    first = raw.find(b"PK\x01\x02")
    second = raw.find(b"PK\x01\x02", first + 4)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    return bytes(raw)


def _quine_bomb(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write a zip whose 40 entries share one run of packed data (overlapping entries)."""
    path = zipped(folder / "adapter.zip", adapter_files())
    if bad:
        kernel = zipped(folder / "kernel.zip", {"a.json": b"\0" * 2**20}).read_bytes()
        central = kernel.find(b"PK\x01\x02")
        end = kernel.find(b"PK\x05\x06")
        entry = kernel[central:end]
        entries = b"".join(
            entry.replace(b"a.json", b"%c.json" % (97 + number)) for number in range(26)
        )
        tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 26, 26, len(entries), central, 0)
        path.write_bytes(kernel[:central] + entries + tail)
        (folder / "kernel.zip").unlink()
    return path


def _twice(folder: Path, traps: Traps, bad: bool) -> Path:
    """Write a zip in which the config occurs twice: readers differ in which one they take."""
    path = zipped(folder / "adapter.zip", adapter_files())
    if bad:
        other = adapter_files({"auto_mapping": {"parent_library": "os"}})["adapter_config.json"]
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("adapter_config.json", other)
    return path


def _two_ends(content: bytes) -> bytes:
    """Let the archive's comment be the end of another archive."""
    end = content.rfind(b"PK\x05\x06")
    other = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0, 0, 0, 0, 0)
    return content[: end + 20] + struct.pack("<H", len(other)) + other


def _second_name(info: zipfile.ZipInfo) -> None:
    """Give an entry another name in the extra field that some programs prefer."""
    name = b"../../evil.json"
    crc = zlib.crc32(info.filename.encode())
    info.extra = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, crc) + name


def _zip_case(name: str, make: Maker, step: str, *codes: str, stops: bool = True) -> Case:
    return Case(f"zip-{name}", "zip", make, step, codes, stops=stops)


ZIPS = [
    _slip("/tmp/peftlab-evil.json", "absolute"),
    _slip("../../evil.json", "dots"),
    _slip("a/../../evil.json", "inner-dots"),
    _slip("C:\\evil.json", "drive"),
    _slip("..\\..\\evil.json", "backslash"),
    _slip("\\\\server\\share\\evil.json", "unc"),
    _slip("a\0b.json", "null"),
    _zip_case("bomb", _zip(lambda files, _: {**files, "tokenizer.json": bytes(64 * 2**20)}),
              "gate-names", "GATE-BOMB"),
    _zip_case("nested", _zip(lambda files, traps: {**files, "inner.zip": _inner(traps)}),
              "gate-names", "GATE-NESTED"),
    _zip_case("overlapping", _zip_bytes(_overlapping), "gate-names", "GATE-ZIP"),
    _zip_case("overlap-bomb", _quine_bomb, "gate-names", "GATE-ZIP", "GATE-BOMB"),
    _zip_case("symlink", _zip_info(_as_link), "gate-names", "GATE-LINK"),
    _zip_case("device", _zip_info(_as_device), "gate-names", "GATE-KIND"),
    _zip_case("second-name", _zip_info(_second_name), "gate-names", "GATE-ZIP"),
    _zip_case("config-twice", _twice, "gate-names", "GATE-ZIP", "GATE-NAME", "GATE-CASE"),
    _zip_case("two-ends", _zip_bytes(_two_ends), "gate-names", "GATE-ZIP"),
    _zip_case("encrypted", _zip_bytes(_encrypted), "gate-names", "GATE-ZIP"),
    _zip_case("two-names", _zip_bytes(_local_name), "gate-names", "GATE-ZIP"),
    _zip_case("size-lie", _zip_bytes(_size_lie), "gate-names", "GATE-ZIP", "GATE-BOMB"),
    _zip_case("case-twins", _zip(lambda files, _: {**files, "Adapter_Config.JSON": b"{}"}),
              "gate-names", "GATE-NAME", "GATE-CASE"),
    _zip_case("pickle-inside", _zip(lambda files, traps: {
        "adapter_config.json": files["adapter_config.json"], "adapter_model.bin": traps.pickle()}),
        "gate-files", "GATE-PICKLE"),
    _zip_case("cut-short", _zip_bytes(lambda x: x[: len(x) // 2]), "gate-source", "GATE-ZIP"),
    _zip_case("data-before", _zip_bytes(lambda x: b"#!/bin/sh\necho\n" + x), "gate-names",
              "GATE-ZIP"),
    _zip_case("70-files", _zip(lambda files, _: {f"n{x}.json": b"{}" for x in range(70)}),
              "gate-names", "GATE-COUNT", "GATE-SIZE"),
]  # fmt: skip


def _reference(name: str, build: Callable[[Traps], str]) -> Case:
    def make(folder: Path, traps: Traps, bad: bool) -> str | Path:
        return build(traps) if bad else write(folder, adapter_files())

    return Case(f"reference-{name}", "references", make, "gate-source", ("GATE-SOURCE",),
                stops=True)  # fmt: skip


REFERENCES = [
    _reference("url", lambda traps: f"http://127.0.0.1:{traps.port}/adapter"),
    _reference("device", lambda _: "/dev/zero"),
    _reference("traversal", lambda _: "../../../../../../etc/nothing-here"),
    _reference("option", lambda _: "--upload-pack=touch"),
    _reference("null", lambda _: "a\0b"),
]


def _rewrite(reference: Path) -> None:
    """Write other bytes into the same file: a NaN, without any change of size."""
    with (reference / WEIGHTS).open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\xff" * 64)


def _swap(reference: Path) -> None:
    """Put another file in the place of the config."""
    other = reference.parent / "other.json"
    other.write_bytes(
        adapter_files({"auto_mapping": {"parent_library": "os"}})["adapter_config.json"]
    )
    other.replace(reference / "adapter_config.json")


def _truncate(reference: Path) -> None:
    os.truncate(reference / WEIGHTS, 0)


def _shrink_config(reference: Path) -> None:
    os.truncate(reference / "adapter_config.json", 0)


def _same(folder: Path, traps: Traps, bad: bool) -> Path:
    return write(folder / "adapter", adapter_files())


def _meanwhile(name: str, change: Callable[[Path], None]) -> Case:
    return Case(f"meanwhile-{name}", "changed while it is audited", _same, "gate-hashes",
                ("GATE-CHANGED",), meanwhile=change, stops=True, twin=False)  # fmt: skip


MEANWHILE = [
    _meanwhile("rewritten", _rewrite),
    _meanwhile("swapped", _swap),
    _meanwhile("truncated", _truncate),
    _meanwhile("config-truncated", _shrink_config),
]


def _marked(*, whole: bool) -> Maker:
    """Return a maker of a red-team adapter of ours, or of one whose card was taken away."""

    def make(folder: Path, traps: Traps, bad: bool) -> Path:
        from peftlab.io.marker import FILE, mark

        place = write(folder / "adapter", adapter_files())
        if bad:
            mark(place, {"attack": "badnets"})
            if not whole:
                (place / FILE).unlink()
        return place

    return make


MARKS = [
    Case("mark-half-removed", "red-team mark", _marked(whole=False), "gate-headers",
         ("GATE-MARK",), Severity.CRITICAL, stops=True),
    Case("mark-whole", "red-team mark", _marked(whole=True), "gate-headers", ("GATE-MARK",)),
]  # fmt: skip

CASES = [*FOLDERS, *NAMES, *BESIDE, *ZIPS, *REFERENCES, *MARKS]
