"""What a publisher can do before an adapter leaves the house, so that it tells less about its size.

    flip     train again with mirrored images (sentences: with hidden words)
    dp       train again with DP-SGD: gradients of single examples cut, noise added to their sum
    noise    add Gaussian noise to both factors, in units of their own root mean square
    clip     cut the singular values of every update to a constant of its layer
    rescale  bring every update to one Frobenius norm, a constant of its layer

clip and rescale write the update with balanced factors, B = U sqrt(S), A = sqrt(S) V^T, since the
factors' own spectra would tell what the update's no longer do. The constants come from adapters
that are not published (here: means over the bank), so they carry nothing of the published one.

Source: flip is the defence of arXiv 2406.19395, table 6; dp is DP-SGD, arXiv 1607.00133; the others
are ours, from the equations. The guarantee of DP-SGD is for one example, not for their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from peftlab.core.options import Options, option

if TYPE_CHECKING:
    import torch

    Pair = tuple[torch.Tensor, torch.Tensor]
    Factors = Mapping[str, Pair]  # layer -> A (N, r, d_in), B (N, d_out, r)

DEFENCES = ("flip", "noise", "clip", "rescale", "dp")
RETRAINED = ("flip", "dp")
DELTA = 1e-5


class DefenceOptions(Options):
    """How strong each defence is."""

    noise: float = option(
        0.5, "deviation of the noise, in root mean squares of each factor", source="ours",
        gt=0, le=100,
    )  # fmt: skip
    clip: float = option(
        0.5, "largest singular value, in means of the largest over the bank", source="ours",
        gt=0, le=10,
    )  # fmt: skip
    dp_clip: float = option(
        0.1, "largest norm of the gradient of one example", source="ours", gt=0, le=1e6
    )
    dp_noise: float = option(
        0.02, "deviation of the noise on each entry, in units of dp_clip", source="ours",
        gt=0, le=1e3,
    )  # fmt: skip


def with_noise(factors: Factors, share: float, seed: int) -> dict[str, Pair]:
    """Add Gaussian noise to every factor; each adapter and layer has its own deviation."""
    import torch

    from peftlab.core.seeds import derive

    def noisy(values: torch.Tensor, name: str) -> torch.Tensor:
        numbers = torch.Generator().manual_seed(derive(seed, "size/noise", name))
        size = values.square().mean(dim=(1, 2), keepdim=True).sqrt()
        drawn = torch.randn(values.shape, generator=numbers, dtype=values.dtype)
        return values + share * size * drawn

    return {
        name: (noisy(a, f"{name}/A"), noisy(b, f"{name}/B")) for name, (a, b) in factors.items()
    }


def with_clipped_spectrum(factors: Factors, share: float) -> dict[str, Pair]:
    """Cut singular values to ``share`` of the mean largest one of the layer."""
    found = {}
    for name, pair in factors.items():
        left, values, right = decompose(*pair)
        found[name] = balanced(left, values.clamp_max(share * values[:, 0].mean()), right)
    return found


def with_one_norm(factors: Factors) -> dict[str, Pair]:
    """Bring every update of a layer to the mean Frobenius norm of that layer."""
    found = {}
    for name, pair in factors.items():
        left, values, right = decompose(*pair)
        norms = values.norm(dim=1, keepdim=True)
        target = norms.mean()
        found[name] = balanced(left, values * (target / norms.clamp_min(1e-12)), right)
    return found


def decompose(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U (N, d_out, r), S (N, r), V^T (N, r, d_in) of each B A, never forming it.

    Examples:
        >>> import torch
        >>> a, b = torch.randn(3, 2, 9), torch.randn(3, 7, 2)
        >>> left, values, right = decompose(a, b)
        >>> torch.allclose((left * values[:, None]) @ right, b @ a, atol=1e-5)
        True
    """
    import torch

    outer, upper = torch.linalg.qr(b)
    inner, lower = torch.linalg.qr(a.transpose(1, 2))
    left, values, right = torch.linalg.svd(upper @ lower.transpose(1, 2), full_matrices=False)
    return outer @ left, values, right @ inner.transpose(1, 2)


def balanced(left: torch.Tensor, values: torch.Tensor, right: torch.Tensor) -> Pair:
    """Return factors whose own singular values are the roots of the update's."""
    root = values.sqrt()
    return root[:, :, None] * right, left * root[:, None, :]


def epsilon(dp_noise: float, steps: int) -> float:
    """Return epsilon at delta = 1e-5 for replacing one example that is seen in ``steps`` steps.

    Each step moves the sum by 2 dp_clip at most: 2 / noise^2 of zero-concentrated privacy, which
    add up to rho; epsilon = rho + 2 sqrt(rho log(1 / delta)) (Bun and Steinke 2016).

    Examples:
        >>> round(epsilon(10.0, 50), 2)
        7.79
    """
    rho = 2 * steps / dp_noise**2
    return rho + 2 * math.sqrt(rho * math.log(1 / DELTA))
