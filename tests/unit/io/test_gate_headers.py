"""Step 7 of the gate: headers, names, shapes, metadata, indexes and our own mark."""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from zip_tools import File, archive

from peftlab.core.findings import Severity
from peftlab.io.artefact import Artefact
from peftlab.io.gate import Limits, open_artefact
from peftlab.io.gate.headers import check_headers
from peftlab.io.marker import FILE, KEY, mark
from peftlab.io.snapshot import Snapshots

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
A = "base_model.model.q.lora_A.weight"
INDEX = "model.safetensors.index.json"


def raw(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def artefact_of(files, kind="folder"):
    keeper = Snapshots()
    made = Artefact("x", kind)
    for name, content in files.items():
        made.files[name] = keeper.keep(name, [content], len(content))
    return made


def checked(content, *, model=False, kind="folder", **limits):
    """Check one file as an adapter's or as a model's weights."""
    files = {"config.json": b"{}"} if model else {"adapter_config.json": b"{}"}
    files["w.safetensors"] = content
    with artefact_of(files, kind) as artefact:
        return check_headers(artefact, Limits(**limits))


def codes(content, **more):
    return [finding.code for finding in checked(content, **more).findings]


def stopped(content, **more):
    check = checked(content, **more)
    assert check.status == "stopped"
    assert {finding.code for finding in check.findings} == {"GATE-HEADER"}
    return check.findings[-1].evidence


def named(name):
    return raw({name: ONE})


def shaped(*shape, dtype="U8"):
    size = int(np.prod([int(x) for x in shape], dtype=object))
    return raw({A: {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}}, bytes(size))


def test_a_sound_file_fills_the_artefact():
    tensors = {A: np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
    with artefact_of({"w.safetensors": save(tensors, {"format": "pt"})}) as artefact:
        check = check_headers(artefact, Limits())
        assert (check.status, check.findings) == ("passed", ())
        assert check.facts == {"tensors": 2, "values": 8, "types": {"F32": 1, "F16": 1}}
        assert artefact.metadata == {"w.safetensors": {"format": "pt"}}
        for name, tensor in tensors.items():
            info = artefact.tensors[name]
            assert (info.file, info.shape) == ("w.safetensors", tensor.shape)
            assert bytes(artefact.tensor_bytes(name)) == tensor.tobytes()


@pytest.mark.parametrize("data", [b"", b"\0" * 8, raw({A: ONE}) + b"x", raw({A: {**ONE, "x": 1}})])
def test_what_is_not_the_format_stops_the_gate(data):
    assert stopped(data)


def test_limits_of_the_operator():
    content = raw({str(number): {**ONE, "data_offsets": [8 * number, 8 * number + 8]}
                   for number in range(5)}, bytes(40))  # fmt: skip
    assert codes(content, tensors=5) == []
    assert "5 tensors" in stopped(content, tensors=4)
    assert "more values" in stopped(content, tensors=1)
    assert "header length" in stopped(content, header_bytes=100)


@pytest.mark.parametrize(
    "name",
    [A, "unet:0:up", "text_encoder:11:down", "<s1>", "<my-token>", "lora_te1_x.alpha", "a" * 512],
)
def test_names_of_published_formats_pass(name):
    assert codes(named(name)) == []


@pytest.mark.parametrize("name", ["a b", "a,b", "w[0]", "a+b", "emb@1", "#"])
def test_other_printable_names_are_said(name):
    check = checked(named(name))
    (finding,) = check.findings
    assert (finding.code, finding.severity) == ("GATE-TENSOR-NAME", Severity.LOW)


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a..b", "/etc/passwd", "a\\b", "", "a" * 513, "a\n", "a\x1b[31m", "é", "a\u202eb",
        "\ud800", "<script>x", "<img src=x>", "a>b", 'a"b', "a'b", "a&b", "`id`", "$(id)", "a;b",
        "a|b", "{{x}}",
    ],
)  # fmt: skip
def test_names_that_steer_something_stop_the_gate(name):
    assert "name" in stopped(named(name))


def test_shapes_of_adapters_are_bounded():
    for shape in ((2, 3), (2, 3, 1, 1), (2, 1, 1, 1, 1), (1,), ()):
        assert codes(shaped(*shape)) == []
    assert "6 dimensions" in stopped(shaped(1, 1, 1, 1, 1, 2))
    assert "each size" in stopped(shaped(0, 5))
    assert "each size" in stopped(shaped(2**24 + 1))
    assert codes(shaped(2**24)) == []
    large = [{"dtype": "U8", "shape": [2**16, 2**16], "data_offsets": [0, 2**32]}]
    assert "tensors end" in stopped(raw({A: large[0]}))


def test_more_values_than_any_layer_has(monkeypatch):
    monkeypatch.setattr("peftlab.io.gate.headers.MOST_VALUES", 5)
    assert "more than 5 values" in stopped(shaped(2, 3))


def test_models_have_other_shapes_and_types():
    for shape in ((0, 5), (1, 1, 1, 1, 1, 2), (2**24 + 1,)):
        assert codes(shaped(*shape), model=True) == []
    assert codes(shaped(2, dtype="BOOL"), model=True) == []
    assert codes(shaped(2, dtype="BOOL")) == ["GATE-DTYPE"]
    assert "type" in stopped(shaped(2, dtype="F4"), model=True)
    assert codes(shaped(2, dtype="F8_E8M0")) == []


def test_a_file_alone_is_held_to_the_limits_of_adapters():
    with artefact_of({"w.safetensors": shaped(0, 5)}, "file") as artefact:
        assert check_headers(artefact, Limits()).status == "stopped"


def noted(notes):
    return raw({"__metadata__": notes, A: ONE})


def test_metadata():
    assert codes(noted({f"k{number}": "v" for number in range(64)})) == []
    assert codes(noted({f"k{number}": "v" for number in range(65)})) == ["GATE-METADATA"]
    assert codes(noted({"k": "x" * 4096})) == []
    assert codes(noted({"k": "x" * 4097})) == ["GATE-METADATA"]
    assert codes(noted({"k": "x" * 4097}), metadata_bytes=5000) == []
    assert codes(noted({"k": "two\nlines\tand <tags>"})) == []
    for notes in ({"k": "\x1b[2J"}, {"a\n": "x"}, {"k": "a\u202eb"}):
        (finding,) = checked(noted(notes)).findings
        assert (finding.code, finding.severity) == ("GATE-METADATA", Severity.LOW)
        assert "\x1b" not in finding.where + finding.evidence


def test_a_format_that_notes_something_for_each_layer_passes():
    """Cloneofsimo's trainer writes the rank of each layer there."""
    tensors = {f"unet:{number}:up": np.ones(1, np.float32) for number in range(80)}
    assert codes(save(tensors, {f"unet:{number}:rank": "1" for number in range(80)})) == []


def held(inside):
    """Return the codes for a file with one tensor that is these bytes."""
    entry = {"dtype": "U8", "shape": [len(inside)], "data_offsets": [0, len(inside)]}
    return codes(raw({A: entry}, inside))


def test_a_file_that_is_a_zip_as_well():
    zipped = archive(File(b"__main__.py", b"print(1)"), comment=b"x" * 100)
    for inside in (zipped, b"\0" * 10**5 + zipped, zipped + b"\0" * 60_000):
        assert zipfile.is_zipfile(io.BytesIO(inside))
        assert held(inside) == ["GATE-POLYGLOT"]
    large = b"PK\6\7" + bytes(16) + b"PK\5\6" + b"\xff" * 16 + bytes(2)
    assert held(large) == ["GATE-POLYGLOT"]


@pytest.mark.parametrize("inside", [b"PK\5\6", b"PK\5\6" + bytes(9), b"PK\5\6" + bytes(30)])
def test_numbers_that_look_like_the_end_of_a_zip(inside):
    """A signature with less behind it than the rest of an end once was an OverflowError."""
    assert held(inside) == []
    assert held(bytes(500) + inside) == []


SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def sharded(index, second="b"):
    files = {
        "config.json": b"{}",
        INDEX: index if isinstance(index, bytes) else json.dumps(index).encode(),
    }
    files |= {name: named(key) for name, key in zip(SHARDS, ("a", second), strict=True)}
    with artefact_of(files) as artefact:
        return check_headers(artefact, Limits())


def test_an_index_lists_what_is_in_the_files():
    assert sharded({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).status == "passed"
    for index in (
        {}, [], {"weight_map": []}, {"weight_map": {"a": SHARDS[0]}}, b"{", b"[" * 100_000,
        {"weight_map": {"a": SHARDS[1], "b": SHARDS[1]}},
        {"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": "evil.bin"}},
        {"weight_map": {"a": ["x"], "b": {}}},
    ):  # fmt: skip
        check = sharded(index)
        assert check.status == "stopped"
        assert check.findings[0].where.startswith(INDEX)


def test_an_index_that_is_too_large(monkeypatch):
    monkeypatch.setattr("peftlab.io.gate.headers.INDEX_LIMIT", 5)
    assert sharded({"weight_map": {}}).status == "stopped"


def test_a_tensor_in_two_files():
    check = sharded({"weight_map": {"a": SHARDS[0]}}, second="a")
    assert check.status == "stopped"
    assert "same tensor" in check.findings[0].evidence


@pytest.fixture
def marked(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(named(A))
    mark(tmp_path, {"attack": "x"})
    return tmp_path


def marks(folder):
    artefact, _ = open_artefact(str(folder))
    with artefact:
        check = check_headers(artefact, Limits())
    return check.status, [(finding.code, finding.severity) for finding in check.findings]


def test_a_red_team_artefact_is_named_and_still_audited(marked):
    assert marks(marked) == ("found", [("GATE-MARK", Severity.HIGH)])
    assert marks(marked / "adapter_model.safetensors") == ("found", [("GATE-MARK", Severity.HIGH)])


def test_half_a_mark_stops_the_gate(marked):
    (marked / FILE).unlink()
    assert marks(marked) == ("stopped", [("GATE-MARK", Severity.CRITICAL)])


def test_the_mark_of_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(named("w"))
    assert marks(tmp_path) == ("passed", [])
    mark(tmp_path, {"attack": "x"})
    assert marks(tmp_path)[0] == "found"
    assert KEY in (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text("{}")
    assert marks(tmp_path)[0] == "stopped"


def test_published_files_pass_without_a_finding():
    data = Path(os.environ.get("PEFTLAB_DATA", "../shared/data")) / "sd_lora_examples"
    if not data.is_dir():
        pytest.skip(f"no published adapters at {data}")
    for path in sorted(data.glob("*.safetensors")):
        artefact, _ = open_artefact(str(path))
        with artefact:
            check = check_headers(artefact, Limits())
        assert (check.status, check.findings) == ("passed", ())


NAMES = st.text(st.sampled_from("abAB01_.-:"), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(1, 4), max_size=4)
TYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.uint8, np.int64])


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.tuples(SHAPES, TYPES), min_size=1, max_size=6))
def test_what_the_library_writes_is_read_alike(about):
    tensors = {name: np.ones(shape, kind) for name, (shape, kind) in about.items()}
    content = save(tensors)
    with artefact_of({"w.safetensors": content}, "file") as artefact:
        check = check_headers(artefact, Limits())
        odd = any(".." in name for name in tensors)
        assert check.status == ("stopped" if odd else "passed")
        if not odd:
            assert {x: i.shape for x, i in artefact.tensors.items()} == {
                x: y.shape for x, y in load(content).items()
            }
            assert {x: bytes(artefact.tensor_bytes(x)) for x in tensors} == {
                x: y.tobytes() for x, y in tensors.items()
            }
