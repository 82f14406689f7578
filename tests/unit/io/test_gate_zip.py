"""Zip archives: sound ones of all writers are opened, others are refused before any is unpacked."""

import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from zip_tools import File, archive, deflated, wide

from peftlab.io.gate import Limits, open_artefact
from peftlab.io.gate.archive import _inflated
from peftlab.io.gate.zip_directory import BadZip, TooMany, read_directory

FILES = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "pad": "x" * 500}).encode(),
    "adapter_model.safetensors": save({"q.lora_A.weight": np.ones((2, 4), np.float32)}),
    "README.md": b"# x\n",
}
FULL = 0xFFFFFFFF
STREAM = {"crc": 0, "packed": 0, "size": 0}


def members(content, most=64):
    return read_directory(memoryview(content), most)


def descriptor(content, *, form="<3L", mark=b"PK\x07\x08", packed=None):
    return mark + struct.pack(form, zlib.crc32(content), packed or len(content), len(content))


def written(kind=zipfile.ZIP_DEFLATED, prefix="", folders=(), out=None, **more):
    out = io.BytesIO() if out is None else out
    with zipfile.ZipFile(out, "w", kind, **more) as zipped:
        for folder in folders:
            zipped.mkdir(folder)
        for name, content in FILES.items():
            zipped.writestr(prefix + name, content)
    return out


class Pipe(io.BytesIO):
    """What cannot be rewound: sizes then follow the data."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError

    def tell(self):
        raise OSError


def opened(tmp_path, content, **limits):
    path = tmp_path / "adapter.zip"
    path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    artefact, checks = open_artefact(str(path), limits=Limits(**limits))
    assert sorted(tmp_path.rglob("*")) == before
    return artefact, checks


def refused(tmp_path, content, step, *codes, **limits):
    artefact, checks = opened(tmp_path, content, **limits)
    assert artefact is None
    check = next(check for check in checks if check.status == "stopped")
    assert check.name == step
    assert {finding.code for finding in check.findings} == set(codes)
    return check.findings[0]


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("prefix", ["", "my-adapter/"])
@pytest.mark.parametrize("out", [io.BytesIO, Pipe])
def test_what_python_writes(tmp_path, kind, prefix, out):
    folders = [prefix] if prefix else []
    content = written(kind, prefix, folders, out()).getvalue()
    artefact, checks = opened(tmp_path, content)
    assert {name: artefact.read(name) for name in artefact.files} == FILES
    assert artefact.kind == "zip"
    assert checks[0].facts["folder"] == prefix
    assert [check.status for check in checks] == ["passed"] * 4
    artefact.close()


def test_large_format_and_a_comment(tmp_path):
    """Python writes 64-bit sizes when it cannot know better."""
    out = Pipe()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.comment = b"made by a test"
        for name, content in FILES.items():
            with zipped.open(name, "w", force_zip64=True) as file:
                file.write(content)
    artefact, _ = opened(tmp_path, out.getvalue())
    assert {name: artefact.read(name) for name in artefact.files} == FILES
    artefact.close()


def test_the_folder_of_a_mac(tmp_path):
    files = [File(b"my adapter/" + name.encode(), content) for name, content in FILES.items()]
    extra = File(b"__MACOSX/my adapter/._README.md", b"x")
    artefact, checks = opened(tmp_path, archive(*files, extra))
    assert set(artefact.files) == set(FILES)
    assert artefact.recorded == {"__MACOSX/my adapter/._README.md": 1}
    assert checks[2].findings == ()
    artefact.close()


@pytest.mark.parametrize("top", ["..", ".", "", "a\\b", "\x1b", "C:"])
def test_a_common_folder_is_only_taken_off_a_plain_name(tmp_path, top):
    files = [File(f"{top}/{name}".encode(), content) for name, content in FILES.items()]
    refused(tmp_path, archive(*files), "gate-names", "GATE-NAME")


SOUND = {
    "stored": archive(File(b"a")),
    "deflated": archive(File(b"a", method=8)),
    "empty": archive(),
    "empty file": archive(File(b"a", b"")),
    "comment": archive(File(b"a"), comment=b"hello"),
    "UTF-8 name": archive(File("é".encode(), flags=0x0800)),
    "large directory": archive(File(b"a"), large=True),
    "large sizes": archive(File(b"a", extra=wide(5, 5), local_extra=wide(5, 5),
                                local={"size": FULL, "packed": FULL},
                                central={"size": FULL, "packed": FULL})),
    "streamed": archive(File(b"a", flags=8, local=STREAM, after=descriptor(b"hello"))),
    "streamed, no mark": archive(File(b"a", flags=8, local=STREAM,
                                      after=descriptor(b"hello", mark=b""))),
    "streamed, large": archive(File(b"a", flags=8, local=STREAM,
                                    after=descriptor(b"hello", form="<LQQ"))),
    "same name in Unicode": archive(File(b"a", extra=struct.pack("<HHBL", 0x7075, 6, 1, 0) + b"a")),
}  # fmt: skip
BAD = {
    "nothing": b"",
    "no zip": b"x" * 1000,
    "end only in part": archive(File(b"a"))[:-3],
    "bytes before": archive(File(b"a"), before=b"#!/bin/sh\n"),
    "bytes before, hidden": b"#!/bin/sh\n" + archive(File(b"a")),
    "bytes between": archive(File(b"a", after=b"xxxx"), File(b"b")),
    "bytes before the directory": archive(File(b"a"), gap=b"xxxx"),
    "bytes after": archive(File(b"a"), after=b"x"),
    "bytes in place of a comment": archive(File(b"a"), comment=b"x")[:-1] + b"xy",
    "an end in the comment": archive(File(b"a"), comment=archive(File(b"b"))[-22:]),
    "two disks": archive(File(b"a"), disk=1),
    "file on another disk": archive(File(b"a", central={"disk": 1})),
    "fewer here": archive(File(b"a"), here=0),
    "more listed": archive(File(b"a"), count=2),
    "fewer listed": archive(File(b"a"), File(b"b"), count=1),
    "directory elsewhere": archive(File(b"a"), start=3),
    "large count without its directory": archive(File(b"a"), count=0xFFFF),
    "for a later program": archive(File(b"a", central={"needed": 244})),  # found by fuzzing
    "for a later program, before its data": archive(File(b"a", local={"needed": 63})),
    "encrypted": archive(File(b"a", flags=1)),
    "strongly encrypted": archive(File(b"a", flags=0x40)),
    "masked headers": archive(File(b"a", flags=0x2000)),
    "unknown method": archive(File(b"a", method=12)),
    "stored with two sizes": archive(File(b"a", local={"size": 6}, central={"size": 6})),
    "other local name": archive(File(b"a", local={"name": b"b"})),
    "other local size": archive(File(b"a", method=8, local={"size": 6})),
    "other local packed size": archive(File(b"a", method=8, local={"packed": 6})),
    "other local checksum": archive(File(b"a", local={"crc": 6})),
    "other local method": archive(File(b"a", local={"method": 8})),
    "other local flags": archive(File(b"a", local={"flags": 0x0800})),
    "sizes left out without a stream": archive(File(b"a", local=STREAM)),
    "a stream with nothing after": archive(File(b"a", flags=8, local=STREAM)),
    "a stream that disagrees": archive(File(b"a", flags=8, local=STREAM,
                                            after=descriptor(b"hullo"))),
    "same place twice": archive(File(b"a"), File(b"a", central={"at": 0})),
    "overlapping": archive(File(b"a", packed=b"hello" * 20, local={"size": 100},
                                central={"size": 100}), File(b"b", central={"at": 40})),
    "header past the end": archive(File(b"a", central={"at": 10**6})),
    "data past the directory": archive(File(b"a", local={"packed": 50, "size": 50},
                                            central={"packed": 50, "size": 50})),
    "folder with content": archive(File(b"a/")),
    "name that is no UTF-8": archive(File(b"\xff", flags=0x0800)),
    "name of an unknown encoding": archive(File(b"\x82")),
    "second name": archive(File(b"a", extra=struct.pack("<HHBL", 0x7075, 6, 1, 0) + b"b")),
    "second local name": archive(File(b"a", local_extra=struct.pack("<HHBL", 0x7075, 6, 1, 0)
                                      + b"b")),
    "extra field cut short": archive(File(b"a", extra=b"\x01\x00\x08\x00\x00")),
    "large size written nowhere": archive(File(b"a", central={"size": FULL})),
    "large sizes disagree": archive(File(b"a", method=8, extra=wide(5, 7), local_extra=wide(6, 7),
                                         local={"size": FULL, "packed": FULL},
                                         central={"size": FULL, "packed": FULL})),
    "large offset past all": archive(File(b"a", extra=wide(2**63), central={"at": FULL})),
    "large directory disagrees": archive(File(b"a"), large=True, small_count=2),
    "large directory on two disks": archive(File(b"a"), large=True, here=0),
}  # fmt: skip
for _at, _name in ((8, "large directory elsewhere"), (16, "large directory of many disks")):
    _raw = bytearray(SOUND["large directory"])
    _raw[_raw.rfind(b"PK\x06\x07") + _at] += 1 if _at == 8 else 2
    BAD[_name] = bytes(_raw)


@pytest.mark.parametrize("name", SOUND)
def test_sound_archives_are_read(name):
    found = members(SOUND[name])
    assert all(member.size in {0, 5} for member in found)
    with zipfile.ZipFile(io.BytesIO(SOUND[name])) as zipped:
        assert [member.name for member in found] == zipped.namelist()


@pytest.mark.parametrize("name", BAD)
def test_other_archives_are_refused(name):
    with pytest.raises(BadZip):
        members(BAD[name])


def test_too_many_entries_are_not_read():
    content = archive(*(File(b"%d" % number) for number in range(5)))
    assert len(members(content, 5)) == 5
    with pytest.raises(TooMany):
        members(content, 4)
    with pytest.raises(TooMany):
        members(archive(File(b"a"), large=True, count=2**60))


@pytest.mark.parametrize(
    ("attributes", "made", "kind"),
    [
        (0o100644 << 16, 3, "file"), (0, 0, "file"), (0o120777 << 16, 3, "link"),
        (0o120777 << 16, 0, "link"), (0o020666 << 16, 3, "device"), (0o010666 << 16, 3, "device"),
        (0o140666 << 16, 3, "device"), (0o040755 << 16, 3, "folder"), (0x10, 0, "folder"),
        (0x10, 3, "file"),
    ],
)  # fmt: skip
def test_kinds(attributes, made, kind):
    (found,) = members(archive(File(b"a", b"", attributes=attributes, made=made << 8)))
    assert found.kind == kind


def test_links_and_devices_stop_the_gate(tmp_path):
    files = [File(name.encode(), content) for name, content in FILES.items()]
    link = File(b"tokenizer.json", b"/etc/passwd", attributes=0o120777 << 16)
    device = File(b"tokenizer.json", b"", attributes=0o020777 << 16)
    refused(tmp_path, archive(*files, link), "gate-names", "GATE-LINK")
    refused(tmp_path, archive(*files, device), "gate-names", "GATE-KIND")


def test_names_and_nesting_stop_the_gate(tmp_path):
    files = [File(name.encode(), content) for name, content in FILES.items()]
    for name in (b"../x", b"/x", b"a\0b", b"..\\x"):
        refused(tmp_path, archive(*files, File(name)), "gate-names", "GATE-NAME")
    for name in (b"readme.md", b"README.md"):
        refused(tmp_path, archive(*files, File(name)), "gate-names", "GATE-CASE")
    refused(tmp_path, archive(*files, File(b"in.zip")), "gate-names", "GATE-NESTED")


def test_limits_of_an_archive(tmp_path):
    content = written().getvalue()
    refused(tmp_path, content, "gate-names", "GATE-COUNT", files=2)
    refused(tmp_path, content, "gate-names", "GATE-SIZE", total_bytes=100)
    refused(tmp_path, content, "gate-names", "GATE-SIZE", file_bytes=300)
    bomb = archive(File(b"tokenizer.json", bytes(8 * 2**20), method=8))
    refused(tmp_path, bomb, "gate-names", "GATE-BOMB")


def test_what_is_no_zip(tmp_path):
    refused(tmp_path, b"hello", "gate-source", "GATE-ZIP")
    refused(tmp_path, written().getvalue()[:-40], "gate-source", "GATE-ZIP")
    refused(tmp_path, b"x" + written().getvalue(), "gate-names", "GATE-ZIP")


def test_a_zip_of_pickles(tmp_path):
    files = File(b"adapter_config.json", b"{}"), File(b"adapter_model.bin", b"\x80\x04")
    refused(tmp_path, archive(*files), "gate-files", "GATE-PICKLE")


LIES = {
    "inflates to more": File(b"README.md", b"x" * 9, packed=deflated(b"x" * 10), method=8),
    "inflates to far more": File(b"README.md", b"x" * 9, packed=deflated(bytes(10**6)), method=8),
    "inflates to less": File(b"README.md", b"x" * 9, packed=deflated(b"x" * 8), method=8),
    "other content": File(b"README.md", b"hello", packed=b"hullo"),
    "other content, packed": File(b"README.md", b"hello", packed=deflated(b"hullo"), method=8),
    "no deflate": File(b"README.md", b"hello", packed=b"\xff" * 20, method=8),
    "cut short": File(b"README.md", b"hello" * 9, packed=deflated(b"hello" * 9)[:-2], method=8),
    "bytes after": File(b"README.md", b"hello", packed=deflated(b"hello") + b"x", method=8),
}


@pytest.mark.parametrize("name", LIES)
def test_content_that_is_not_as_announced(tmp_path, name):
    files = [File(key.encode(), content) for key, content in FILES.items()]
    refused(tmp_path, archive(*files[:2], LIES[name]), "gate-names", "GATE-ZIP")


def test_inflating_is_lazy_and_exact():
    content = np.random.default_rng(0).bytes(2**20) + bytes(3 * 2**20)
    blocks = list(_inflated(memoryview(deflated(content))))
    assert b"".join(blocks) == content
    assert max(map(len, blocks)) <= 2**20
    first = next(iter(_inflated(memoryview(deflated(bytes(2**25))))))
    assert len(first) <= 2**20


def test_what_the_unpacker_holds_back_is_asked_for():
    """At a full block of output it can have taken all input and still owe some bytes."""
    content = bytes(2**20 + 10)
    assert b"".join(_inflated(memoryview(deflated(content)))) == content


def test_much_behind_the_packed_data_costs_nothing():
    with pytest.raises(BadZip, match="after"):
        list(_inflated(memoryview(deflated(b"hello") + bytes(2**24))))


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_archive_never_ends_in_another_error(data):
    content = bytearray(data.draw(st.sampled_from(list(SOUND.values()))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        found = members(kept)
    except (BadZip, TooMany):
        return
    with zipfile.ZipFile(io.BytesIO(kept)) as zipped:  # what passes is read alike elsewhere
        listed = {info.filename: (info.file_size, info.CRC) for info in zipped.infolist()}
    assert {member.name.split("\0")[0]: (member.size, member.crc) for member in found} == listed


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", min_codepoint=48), min_size=1, max_size=8),
        st.binary(max_size=200),
        max_size=5,
    ),
    st.booleans(),
    st.booleans(),
)
def test_whatever_python_packs_is_unpacked_alike(files, packed, stream):
    out = Pipe() if stream else io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    listed = {} if not files else {m.name: m.size for m in members(out.getvalue())}
    assert listed == {name: len(content) for name, content in files.items()}
