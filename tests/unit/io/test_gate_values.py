"""Step 9 of the gate: values that are no numbers, in every type and every place."""

import json
import struct

import numpy as np
import pytest

from peftlab.io.artefact import Artefact
from peftlab.io.gate import Limits
from peftlab.io.gate import values as module
from peftlab.io.gate.headers import check_headers
from peftlab.io.gate.values import NOT_FINITE, check_values, count_not_finite
from peftlab.io.snapshot import Snapshots

# type: bits of (NaN), (infinity), and of what is finite however odd: largest, smallest, -0
BITS = {
    "F64": ([0x7FF8 << 48, (0xFFF0 << 48) + 1], [0x7FF0 << 48, 0xFFF0 << 48],
            [0x7FEFFFFFFFFFFFFF, 1, 1 << 63]),
    "F32": ([0x7FC00000, 0xFF800001], [0x7F800000, 0xFF800000], [0x7F7FFFFF, 1, 1 << 31]),
    "F16": ([0x7E00, 0xFC01], [0x7C00, 0xFC00], [0x7BFF, 1, 1 << 15]),
    "BF16": ([0x7FC0, 0xFF81], [0x7F80, 0xFF80], [0x7F7F, 1, 1 << 15]),
    "F8_E5M2": ([0x7D, 0x7E, 0xFF], [0x7C, 0xFC], [0x7B, 1, 0x80]),
    "F8_E4M3": ([0x7F, 0xFF], [], [0x7E, 0xFE, 0x80, 1]),
    "F8_E8M0": ([0xFF], [], [0xFE, 0x7F, 0x80, 0]),
    "F8_E5M2FNUZ": ([0x80], [], [0xFF, 0x7F, 0x7C, 0]),
    "F8_E4M3FNUZ": ([0x80], [], [0xFF, 0x7F, 0x7E, 0]),
}  # fmt: skip
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "I8": 1, "U8": 1}


def content(dtype, bits):
    return b"".join(number.to_bytes(SIZES.get(dtype, 1), "little") for number in bits)


def counted(dtype, bits):
    return count_not_finite(memoryview(content(dtype, bits)), dtype)


def test_every_type_of_the_parser_that_can_hold_a_nan_is_here():
    assert BITS.keys() == NOT_FINITE.keys()


@pytest.mark.parametrize("dtype", BITS)
def test_each_odd_value_is_counted_and_no_other(dtype):
    nan, infinite, finite = BITS[dtype]
    assert counted(dtype, finite * 50) == (0, 0)
    assert counted(dtype, []) == (0, 0)
    assert counted(dtype, [*finite, *nan, *infinite, *nan]) == (2 * len(nan), len(infinite))


@pytest.mark.parametrize("dtype", ["F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"])
def test_small_types_against_torch(dtype):
    import torch

    names = {"F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu"}
    kind = getattr(torch, names.get(dtype, f"float8_{dtype[3:].lower()}"))
    every = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(kind).float()
    for number in range(256):
        odd = int(torch.isnan(every[number])), int(torch.isinf(every[number]))
        assert counted(dtype, [number]) == odd, number


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_all_of_a_type_against_numpy(dtype):
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    bits = np.random.default_rng(0).integers(0, 256, 2**16, np.uint8)
    values = np.frombuffer(bits, kind)
    expected = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    assert count_not_finite(memoryview(bits.tobytes()), dtype) == expected


def test_bfloat16_against_torch():
    import torch

    bits = np.arange(2**16, dtype="<u2")
    values = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    expected = int(values.isnan().sum()), int(values.isinf().sum())
    assert count_not_finite(memoryview(bits.tobytes()), "BF16") == expected


def checked(tensors):
    """Check tensors of one-dimensional shape, given by type and bytes."""
    header, data = {}, b""
    for name, (dtype, part) in tensors.items():
        length = len(part) // SIZES.get(dtype, 1)
        header[name] = {
            "dtype": dtype, "shape": [length], "data_offsets": [len(data), len(data) + len(part)],
        }  # fmt: skip
        data += part
    text = json.dumps(header).encode()  # not aligned, as files may be
    raw = struct.pack("<Q", len(text)) + text + data
    with Artefact("x", "file") as artefact:
        artefact.files["w.safetensors"] = Snapshots().keep("w.safetensors", [raw], len(raw))
        assert check_headers(artefact, Limits()).status != "stopped"
        return check_values(artefact, Limits())


def test_findings_name_the_tensor():
    check = checked({
        "fine": ("F32", content("F32", [0, 1, 2])),
        "bad": ("F32", content("F32", [0, 0x7FC00000, 0xFF800000])),
        "odd": ("BF16", content("BF16", [0x7F80])),
    })  # fmt: skip
    assert check.status == "found"
    assert [(x.code, x.where, x.evidence) for x in check.findings] == [
        ("GATE-VALUES", "w.safetensors#bad", "1 NaN, 1 infinite"),
        ("GATE-VALUES", "w.safetensors#odd", "0 NaN, 1 infinite"),
    ]
    assert check.facts == {"bytes": 26, "tensors": 3, "not_finite": 2}


def test_whole_numbers_have_no_nan():
    check = checked({"i": ("I8", b"\xff\x7f\x80"), "u": ("U8", b"\xff"), "t": ("BOOL", b"\0\1")})
    assert (check.status, check.findings) == ("passed", ())


def test_truth_values_are_0_or_1():
    check = checked({"t": ("BOOL", b"\0\1\2")})
    assert [finding.code for finding in check.findings] == ["GATE-BOOL"]


@pytest.mark.parametrize("at", [0, 1, module.BLOCK // 4 - 1, module.BLOCK // 4, -1])
def test_one_value_anywhere_is_found(at, monkeypatch):
    monkeypatch.setattr(module, "FORGET_FROM", 0)
    values = np.ones(module.BLOCK // 4 * 2 + 5, "<f4")
    values[at] = np.nan
    assert checked({"w": ("F32", values.tobytes())}).facts["not_finite"] == 1


def test_many_findings_are_cut():
    check = checked({f"t{number}": ("F8_E4M3", b"\xff") for number in range(60)})
    assert len(check.findings) == 50
    assert check.facts["not_finite"] == 60
