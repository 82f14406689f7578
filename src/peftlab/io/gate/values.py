"""Step 9: values that are no numbers, found by their bits, block by block, without a copy.

How large the numbers are, and which stand out, is the business of the audits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.io.artefact import Artefact
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded

VALUES = rule(
    "GATE-VALUES",
    Severity.HIGH,
    "values that are not finite",
    why="they spread to every output, or wait in a row that only a trigger uses",
    fix="do not load it; ask for a file without NaN and infinity",
)
TRUTH = rule(
    "GATE-BOOL",
    Severity.MEDIUM,
    "truth values that are neither 0 nor 1",
    why="what a library makes of them is not defined",
    fix="ask the publisher how the file was written",
)
BLOCK = 2**18
FORGET_FROM = 64 * 2**20  # bytes of a file; below that, its memory may as well stay

# type: unsigned integer of its size, the bits that decide, and their value in what is not finite
NOT_FINITE: dict[str, tuple[str, int, int]] = {
    "F64": ("<u8", 0x7FF0 << 48, 0x7FF0 << 48),
    "F32": ("<u4", 0x7F80 << 16, 0x7F80 << 16),
    "F16": ("<u2", 0x7C00, 0x7C00),
    "BF16": ("<u2", 0x7F80, 0x7F80),
    "F8_E5M2": ("u1", 0x7C, 0x7C),
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E8M0": ("u1", 0xFF, 0xFF),
    "F8_E5M2FNUZ": ("u1", 0xFF, 0x80),
    "F8_E4M3FNUZ": ("u1", 0xFF, 0x80),
}
# these have infinity: the deciding bits alone, whatever the sign
INFINITE = ("F64", "F32", "F16", "BF16", "F8_E5M2")


def check_values(artefact: Artefact, limits: Limits) -> Check:
    """Look for NaN and infinity in all tensors."""
    findings: list[Finding] = []
    looked_at = 0
    for name, info in artefact.tensors.items():
        content = artefact.tensor_bytes(name)
        where = f"{info.file}#{name}"
        if info.dtype in NOT_FINITE:
            nan, infinite = count_not_finite(content, info.dtype)
            if nan or infinite:
                findings.append(VALUES.found(where, f"{nan} NaN, {infinite} infinite"))
        elif info.dtype == "BOOL" and any((block > 1).any() for block in _blocks(content, "u1")):
            findings.append(TRUTH.found(where))
        looked_at += len(content)
        if artefact.files[info.file].size >= FORGET_FROM:
            artefact.forget(name)
    facts: dict[str, Any] = {"bytes": looked_at, "tensors": len(artefact.tensors)}
    facts["not_finite"] = sum(finding.code == VALUES.code for finding in findings)
    return concluded("gate-values", findings, facts=facts, most=limits)


def count_not_finite(content: memoryview, dtype: str) -> tuple[int, int]:
    """Return how many values are NaN and how many are infinite.

    Examples:
        >>> content = np.array([1.0, np.nan, -np.inf], "<f4").tobytes()
        >>> count_not_finite(memoryview(content), "F32")
        (1, 1)
    """
    kind, bits, value = NOT_FINITE[dtype]
    odd = [_odd(block, bits, value) for block in _blocks(content, kind)]
    found = np.concatenate([block for block in odd if block.size] or [np.empty(0, kind)])
    if dtype not in INFINITE:
        return found.size, 0
    sign = 1 << (8 * found.dtype.itemsize - 1)
    infinite = int(np.count_nonzero((found & _as(found, sign - 1)) == _as(found, bits)))
    return found.size - infinite, infinite


def _odd(block: npt.NDArray[Any], bits: int, value: int) -> npt.NDArray[Any]:
    """Return the values of a block that are not finite; usually none."""
    hits = (block & _as(block, bits)) == _as(block, value)
    return block[hits] if hits.any() else block[:0]


def _as(block: npt.NDArray[Any], number: int) -> Any:
    return block.dtype.type(number)


def _blocks(content: memoryview, kind: str) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(content), BLOCK):
        yield np.frombuffer(content[start : start + BLOCK], kind)
