"""In a cage: pickles are read as tensors only, and written as one safetensors file.

stdin: ``{"files": [descriptors], "most_bytes": ..., "metadata": {...}}``. The result is written to
the current folder. stdout: one JSON object, with ``tensors`` and ``dropped``, or with ``refused``
and ``got``.

The only reader is ``torch.load`` with ``weights_only``: it calls nothing but constructors of
tensors. Its result is data that an attacker chose, down to what an attribute of a dict says.
"""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

RESULT = "converted.safetensors"
NAME = re.compile(r"[A-Za-z0-9_.\-]{1,512}")
# where trainers keep the weights among other things
NESTED = ("state_dict", "model_state_dict", "model", "module", "adapter", "params_ema", "params")
KINDS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64",
         "int32", "int16", "int8", "uint8", "bool")  # fmt: skip
SHOWN = 50  # names


class _Refused(Exception):
    """What is refused, by a word that the other side knows, and why."""

    def __init__(self, kind: str, got: str) -> None:
        super().__init__(got)
        self.kind, self.got = kind, got


def main() -> None:
    """Convert, and say what happened; what the libraries print goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    asked = json.load(sys.stdin)
    try:
        found = _convert(asked)
    except _Refused as error:
        found = {"refused": error.kind, "got": error.got}
    json.dump(found, answer)
    answer.close()


def _convert(asked: dict[str, Any]) -> dict[str, Any]:
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    dropped: list[str] = []
    left = asked["most_bytes"]
    for descriptor in asked["files"]:
        for name, value in _entries(_load(f"/dev/fd/{descriptor}"), dropped):
            if name in tensors:
                raise _Refused("content", f"two tensors are called {name}")
            left -= _checked_bytes(name, value)
            if left < 0:
                raise _Refused("size", f"more than {asked['most_bytes']} bytes of tensors")
            tensors[name] = value.detach().clone(memory_format=_contiguous())
    if not tensors:
        raise _Refused("content", "no tensors")
    save_file(tensors, RESULT, metadata=asked["metadata"])
    return {"tensors": len(tensors), "dropped": dropped[:SHOWN], "dropped_count": len(dropped)}


def _contiguous() -> Any:
    import torch

    return torch.contiguous_format


def _load(path: str) -> Any:
    """Read a pickle as tensors; one of the old format cannot be mapped and is read whole."""
    import torch

    try:
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  a hostile file can fail in any way
        raise _Refused("unsafe", _told(error)) from None


def _told(error: Exception) -> str:
    """Return what a file wanted, without advice on how to let it."""
    text = " ".join(str(error).split())
    named = re.search(r"GLOBAL (\S+)", text)
    if named:
        return f"it names {named[1]}"[:400]
    reason = text.rpartition("WeightsUnpickler error:")[2]
    for advice in ("Check the documentation", "In PyTorch 2.6"):
        reason = reason.partition(advice)[0]
    return f"{type(error).__name__}: {reason.strip()}"[:400]


def _entries(loaded: Any, dropped: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the named tensors of a checkpoint; note the names of all else."""
    if not _is_dict(loaded):
        raise _Refused("content", f"a {type(loaded).__name__} instead of named tensors")
    items = list(dict.items(loaded))  # an attribute of an OrderedDict may hide its methods
    if not any(_is_tensor(value) for _, value in items):
        inner = next(
            (key for key in NESTED for name, value in items if name == key and _is_dict(value)),
            None,
        )
        if inner is None:
            raise _Refused("content", "no named tensors, and no state_dict with some")
        dropped += [str(name)[:80] for name, _ in items if name != inner]
        items = list(dict.items(dict.__getitem__(loaded, inner)))
    for name, value in items:
        if not _is_tensor(value):
            dropped.append(str(name)[:80])
        elif not isinstance(name, str) or not NAME.fullmatch(name):
            raise _Refused("names", repr(name)[:100])
        else:
            yield name, value


def _is_dict(value: Any) -> bool:
    return type(value) in {dict, OrderedDict}


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _checked_bytes(name: str, value: Any) -> int:
    """Return the bytes of a plain tensor; a view can be far larger than what it shows."""
    import torch

    kind = str(value.dtype).removeprefix("torch.")
    plain = type(value) in {torch.Tensor, torch.nn.Parameter} and value.layout is torch.strided
    if not plain or value.device.type != "cpu" or kind not in KINDS:
        raise _Refused("content", f"{name}: {kind}, {value.layout}, {value.device.type}"[:200])
    return int(value.numel() * value.element_size())


if __name__ == "__main__":
    main()
