"""How a weight differs from the weight it came from, some rows at a time.

A table of a gigabyte is never copied: both weights are read in blocks of 1 M numbers. The rank of a
change comes from a randomised range finder (Halko, Martinsson and Tropp, SIAM Review 53, 2011,
algorithm 4.1): with Y = D Omega, Q = qr(Y), the energy of D that Q^T D does not hold is what a
change of rank q or less cannot have. Two passes over D, 2 q d_out d_in multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from peftlab.core.types import Bools, Floats

BLOCK = 2**20  # numbers of each weight that are looked at at once
MOST_RANK, SPARE = 64, 8  # rank that is told apart, and directions beyond it
WIDEST = 2**18  # sides of a weight whose change is looked through for its rank
ENERGY = 0.99  # of a change that counts as all of it: rounding to bfloat16 adds some
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class Change:
    """What changed between two weights of one shape.

    Attributes:
        old: Frobenius norm of the old weight.
        change: Frobenius norm of the difference.
        rows: (m,), length of the difference of each row (of each entry of a vector); rows of over
            1 M numbers are several rows here.
        changed: (m,), which rows differ in any bit.
        kept: among the changed rows, the share whose own length is kept to 0.1 %.
    """

    old: float
    change: float
    rows: Floats
    changed: Bools
    kept: float

    @property
    def relative(self) -> float:
        """Return the size of the change over that of the old weight; infinite if that was 0."""
        if self.old == 0:
            return 0.0 if self.change == 0 else float("inf")
        return self.change / self.old


def weight_change(new: torch.Tensor, old: torch.Tensor) -> Change:
    """Compare two weights of one shape.

    An old weight of a wider type is rounded to the type of the new one first: saving in half
    precision is no change.

    Args:
        new: (m, ...), any floating type.
        old: of the same shape.

    Examples:
        >>> old = torch.ones(4, 3)
        >>> new = old.clone()
        >>> new[2] = 0
        >>> found = weight_change(new, old)
        >>> found.relative, found.changed.tolist()
        (0.5, [False, False, True, False])
    """
    squares, rows, changed, lengths = 0.0, [], [], []
    for one, other in _blocks(new, old):
        differs = (_bits(one) != _bits(other)).any(dim=1)
        a, b = one.double(), other.double()
        squares += float((b * b).sum())
        rows.append((a - b).norm(dim=1).numpy())
        changed.append(differs.numpy())
        ratio = a[differs].norm(dim=1) / b[differs].norm(dim=1).clamp_min(1e-300)
        lengths.append(((ratio - 1).abs() <= 1e-3).numpy())
    moved = np.concatenate(rows) if rows else np.zeros(0)
    kept = np.concatenate(lengths) if lengths else np.zeros(0)
    return Change(
        old=squares**0.5,
        change=float(np.linalg.norm(moved)),
        rows=moved,
        changed=np.concatenate(changed) if changed else np.zeros(0, dtype=bool),
        kept=float(kept.mean()) if len(kept) else 0.0,
    )


def norm_of(weight: torch.Tensor) -> float:
    """Return the Frobenius norm of a weight, in float64.

    Examples:
        >>> norm_of(torch.full((2, 2), 2.0))
        4.0
    """
    return float(sum(float((x * x).sum()) for x in map(torch.Tensor.double, _rows(weight)))) ** 0.5


def rank_of_change(new: torch.Tensor, old: torch.Tensor, *, seed: int) -> int | None:
    """Return how many singular directions hold 99 % of the energy of the change.

    Args:
        new: (m, ...), two axes or more.
        old: of the same shape.
        seed: of the random directions; global generators are left alone.

    Returns:
        0 to 64; None if more are needed, or if a side is over 262,144.

    Examples:
        >>> old = torch.zeros(200, 100)
        >>> rank_of_change(torch.outer(torch.arange(200.0), torch.ones(100)), old, seed=0)
        1
    """
    width = new[0].numel()
    if max(width, len(new)) > WIDEST:
        return None
    directions = min(MOST_RANK + SPARE, len(new), width)
    draw = torch.Generator().manual_seed(seed)
    omega = torch.randn(width, directions, generator=draw, dtype=torch.float32)
    images, total = [], 0.0
    for one, other in _blocks(new, old):
        change = one.float() - other.float()
        total += float((change.double() ** 2).sum())
        images.append(change @ omega)
    if total == 0:
        return 0
    basis, _ = torch.linalg.qr(torch.cat(images))
    core, start = torch.zeros(directions, width), 0
    for one, other in _blocks(new, old):
        part = basis[start : start + len(one)]
        core += part.T @ (one.float() - other.float())
        start += len(one)
    energy = torch.linalg.svdvals(core).double().numpy() ** 2
    inside = np.cumsum(energy) / total
    enough = np.flatnonzero(inside >= ENERGY)
    rank = int(enough[0]) + 1 if len(enough) else MOST_RANK + 1
    return rank if rank <= MOST_RANK else None


def _rows(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a weight as blocks of rows, (m, n); a vector as rows of one number.

    A row that is longer than a block is several rows.
    """
    table = weight.detach().reshape(len(weight), -1) if weight.dim() else weight.reshape(1, 1)
    if table.shape[1] > BLOCK:
        yield from (part.reshape(1, -1) for part in table.reshape(-1).split(BLOCK))
        return
    step = max(1, BLOCK // max(1, table.shape[1]))
    for start in range(0, len(table), step):
        yield table[start : start + step]


def _blocks(new: torch.Tensor, old: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for one, other in zip(_rows(new), _rows(old), strict=True):
        yield one, other.to(one.dtype)


def _bits(block: torch.Tensor) -> torch.Tensor:
    """Return the numbers as integers: NaN equals itself, and 0 is not -0."""
    return block.contiguous().view(INTEGERS[block.dtype.itemsize])
