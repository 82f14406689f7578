"""Safetensors headers: sound ones are read, every other one is refused with TENSORS-HEADER."""

import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from peftlab.core.errors import InputRejected
from peftlab.io.header import add_metadata, metadata, read_header

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
ZEROS = bytes(8)


def raw(header, data=ZEROS, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


BAD = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "length only": struct.pack("<Q", 0),
    "length beyond the file": raw({"a": ONE}, length=10**6),
    "huge length": raw({"a": ONE}, length=2**63),
    "length over the limit": struct.pack("<Q", 9 * 2**20) + bytes(9 * 2**20),
    "not JSON": raw(b"{'a': 1}"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "not an object": raw([1, 2]),
    "duplicate key": raw(b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2)),
    "not a number": raw(b'{"a": NaN}'),
    "deep": raw(b'{"a":' * 50_000),
    "hole": raw({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)),
    "hole between": raw({"a": ONE, "b": {**ONE, "data_offsets": [12, 20]}}, bytes(20)),
    "overlap": raw({"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}}, bytes(12)),
    "same place twice": raw({"a": ONE, "b": ONE}),
    "truncated data": raw({"a": ONE}, bytes(7)),
    "trailing data": raw({"a": ONE}, bytes(9)),
    "no data": raw({"a": ONE}, b""),
    "path as a name": raw({"../x": ONE}),
    "absolute name": raw({"/etc/passwd": ONE}),
    "empty name": raw({"": ONE}),
    "control character in a name": raw({"a\u001b[31m": ONE}),
    "long name": raw({"a" * 513: ONE}),
    "unknown type": raw({"a": {**ONE, "dtype": "P32"}}),
    "type is a list": raw({"a": {**ONE, "dtype": ["F32"]}}),
    "no type": raw({"a": {"shape": [2], "data_offsets": [0, 8]}}),
    "shape is a number": raw({"a": {**ONE, "shape": 2}}),
    "shape is a text": raw({"a": {**ONE, "shape": "2"}}),
    "negative shape": raw({"a": {**ONE, "shape": [-1, -2]}}),
    "fraction": raw({"a": {**ONE, "shape": [2.0]}}),
    "truth value": raw({"a": {**ONE, "shape": [True, 2]}}),
    "huge dimension": raw({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""),
    "many dimensions": raw({"a": {**ONE, "shape": [1] * 8 + [2]}}),
    "size does not fit": raw({"a": {**ONE, "shape": [3]}}),
    "three offsets": raw({"a": {**ONE, "data_offsets": [0, 8, 8]}}),
    "offsets backwards": raw({"a": {**ONE, "data_offsets": [8, 0]}}),
    "offset is a text": raw({"a": {**ONE, "data_offsets": ["0", "8"]}}),
    "entry is a list": raw({"a": [1]}),
    "metadata is a list": raw({"__metadata__": [], "a": ONE}),
    "metadata of numbers": raw({"__metadata__": {"a": 1}, "a": ONE}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused(tmp_path, name):
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD[name])
    with pytest.raises(InputRejected) as caught:
        read_header(path)
    assert caught.value.code == "TENSORS-HEADER"
    assert caught.value.fix
    assert "model.safetensors" in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="needs named pipes")
def test_what_is_not_a_file_is_refused(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    for path in tmp_path.iterdir():
        with pytest.raises(InputRejected, match="TENSORS-HEADER"):
            read_header(path)


def test_what_the_library_writes_is_sound(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(3, dtype=np.float16),
        "empty": np.zeros((0, 4)),
        "scalar": np.array(3, dtype=np.int64),
        "flags": np.array([True, False]),
        "wide": np.arange(3, dtype=np.uint64),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    assert read_header(path).keys() == {*tensors, "__metadata__"}
    assert metadata(path) == {"format": "pt"}

    add_metadata(path, {"mark": "x" * 100})
    assert metadata(path) == {"format": "pt", "mark": "x" * 100}
    for name, tensor in load_file(path).items():
        np.testing.assert_array_equal(tensor, tensors[name])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200,
          deadline=None)  # fmt: skip
@given(st.data())
def test_a_damaged_file_never_ends_in_another_error(tmp_path, data):
    content = bytearray(raw({"__metadata__": {"a": "b"}, "w": ONE}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_header(path)
    except InputRejected as error:
        assert error.code == "TENSORS-HEADER"  # noqa: PT017  either outcome is fine
