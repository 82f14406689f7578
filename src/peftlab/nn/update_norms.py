"""The size of a low-rank update B A, from its factors alone.

    |B A|_F^2 = sum over the rows b_i of B of b_i (A A^T) b_i^T

in float64. The product (d_out x d_in) is never formed; the cost is r^2 (d_in + d_out)
multiply-adds, the memory one copy of the factors.
"""

from __future__ import annotations

import torch

from peftlab.nn.threads import one_thread


def update_norm(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> float:
    """Return the Frobenius norm of ``scale * b @ a``.

    Args:
        a: (r, d_in), any floating type.
        b: (d_out, r), any floating type.
        scale: its sign does not matter.

    Examples:
        >>> update_norm(torch.eye(2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 2.0)
        10.0
    """
    with one_thread():
        wide, tall = (factor.detach().to("cpu", torch.float64) for factor in (a, b))
        square = ((tall @ (wide @ wide.T)) * tall).sum()
        return abs(scale) * float(square.clamp_min(0)) ** 0.5
