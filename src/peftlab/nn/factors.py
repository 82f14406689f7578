"""Tensors of an open artefact as torch tensors, over the mapped bytes where that is possible."""

from __future__ import annotations

import math
import threading
import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch

from peftlab.core.errors import InputRejected

if TYPE_CHECKING:
    from peftlab.io.adapter_layout import Pair
    from peftlab.io.artefact import Artefact

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}  # fmt: skip
_first = threading.Lock()


def tensor_of(artefact: Artefact, name: str) -> torch.Tensor:
    """Return a tensor of an artefact that passed the gate; it shares the mapped bytes.

    It is read-only, although torch does not know: writing to it ends the process. It must be gone
    before the artefact is closed.

    Args:
        artefact: open, headers checked.
        name: of the tensor.

    Raises:
        InputRejected: ``TENSOR-BYTES`` where only the shape is known.
    """
    info = artefact.tensors[name]
    if info.file not in artefact.files:
        raise InputRejected(
            f"tensor {name} has a shape but no values", code="TENSOR-BYTES",
            fix="give the weights too, not the header alone",
        )  # fmt: skip
    dtype, count = DTYPES[info.dtype], math.prod(info.shape)
    if count == 0:
        return torch.empty(info.shape, dtype=dtype)
    view = artefact.tensor_bytes(name)
    if info.start % dtype.itemsize:  # a file may be packed so; processors may not read it
        view = memoryview(bytearray(view))
    _warned_once()
    return torch.frombuffer(view, dtype=dtype, count=count).reshape(info.shape)


def factors_of(artefact: Artefact, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A (r, d_in) and B (d_out, r) of a pair, kernels flattened, in a floating type.

    AdaLoRA's diagonal is multiplied into A. The scale is not.

    Args:
        artefact: open, headers checked.
        pair: of its layout.

    Raises:
        InputRejected: ``TENSOR-BYTES``.
    """
    a = _float(tensor_of(artefact, pair.a)).reshape(pair.rank, pair.d_in)
    b = _float(tensor_of(artefact, pair.b)).reshape(pair.d_out, pair.rank)
    if pair.diagonal is not None:
        a = a.float() * _float(tensor_of(artefact, pair.diagonal)).float().reshape(-1, 1)
    return a, b


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor  # few operations know those


@cache
def _warn_now() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.frombuffer(bytes(8), dtype=torch.uint8)


def _warned_once() -> None:
    """Use up torch's one warning about read-only memory, which callers can do nothing about."""
    with _first:
        _warn_now()
