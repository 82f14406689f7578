"""Lengths of the rows and columns of a low-rank update B A, from its factors alone.

    |row i of B A|^2    = b_i (A A^T) b_i^T       b_i: row i of B
    |column j of B A|^2 = a_j^T (B^T B) a_j       a_j: column j of A

Both in float64. The product (d_out x d_in) is never formed; the cost is r^2 (d_in + d_out)
multiply-adds, the memory one copy of the factors.
"""

from __future__ import annotations

import numpy as np
import torch

from peftlab.core.types import Floats
from peftlab.nn.threads import one_thread


def row_norms(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> Floats:
    """Return the Euclidean length of each row of ``scale * b @ a``.

    Args:
        a: (r, d_in), any floating type.
        b: (d_out, r), any floating type.
        scale: its sign does not matter.

    Returns:
        (d_out,) in float64.

    Examples:
        >>> row_norms(torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), 2.0).tolist()
        [10.0, 2.0]
    """
    return _lengths(_float64(b), _float64(a)) * abs(scale)


def column_norms(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> Floats:
    """Return the Euclidean length of each column of ``scale * b @ a``, (d_in,) in float64.

    Examples:
        >>> column_norms(torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 3.0]])).tolist()
        [3.0, 5.0]
    """
    return _lengths(_float64(a).T, _float64(b).T) * abs(scale)


def update_norm(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> float:
    """Return the Frobenius norm of ``scale * b @ a``.

    Examples:
        >>> update_norm(torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 2.0)
        10.0
    """
    return float(np.linalg.norm(row_norms(a, b, scale)))


def _lengths(rows: torch.Tensor, other: torch.Tensor) -> Floats:
    """Return the length of each row of rows (m, r) @ other (r, n)."""
    with one_thread():
        squares = ((rows @ (other @ other.T)) * rows).sum(dim=1)
        return np.asarray(squares.clamp_min(0).sqrt().numpy(), dtype=np.float64)


def _float64(factor: torch.Tensor) -> torch.Tensor:
    return factor.detach().to("cpu", torch.float64)
