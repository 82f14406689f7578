"""Singular values and their statistics of a low-rank update B A, from its factors alone.

The product (d_out x d_in) is never formed. Write B = Q L and A = K M, with orthonormal Q and K:
the singular values of B A are those of the r x r core of L and M. Two ways to the core, both in
float64:

    Gram   Cholesky factors of B^T B and A A^T: one matrix product and an r x r factorisation each.
    QR     Householder QR of B and of A^T: three to six times the time, safe for any factors.

A Gram matrix squares the condition number. Let m be the least singular value of a factor once its r
columns have length 1; rounding then moves each singular value of the product, the small ones too,
by a share of at most d r eps / (2 m^2) (multiplicative perturbation; Demmel and Veselic, SIAM J.
Matrix Anal. Appl. 13, 1992). m is bounded from the Cholesky factor itself, and a pair goes by QR
where the share could pass 1e-7: dependent columns, factors of zeros, r > d, and numbers that
overflow when squared.

Source of the QR form: the equations of arXiv 2406.19395; of the list of statistics: Puertolas
Merenciano et al. 2026 (arXiv 2602.15195), whose exact definitions we have not read.

Covered: updates s B A with one number s, that is alpha / r (LoRA) or alpha / sqrt(r) (rsLoRA).
Not covered: DoRA's magnitudes, which rescale the columns of base plus update and so need the base;
LoHa, LoKr, VeRA and other products; convolutions, unless reshaped to two axes by the caller.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import torch

from peftlab.core.errors import InputRejected, ResourceLimit
from peftlab.core.types import Bools, Floats

EPS = float(np.finfo(np.float64).eps)
MOST_RANK = 1024
MOST_NUMBERS = 2**27  # of one pair of factors: 1 GiB in float64
BLOCK = 2**17  # numbers in the Gram matrices of A that are held at once: 1 MiB
ROOM = 2**16  # numbers of the factors held in float64 at once, unless one layer has more
ENTRIES = 2**17  # entries of a product, or of a table of pairs, that exist at once: 1 MiB
TRUSTED = 1e-7  # relative error up to which the Gram matrices are taken
CONSTANT = 1e-20  # variance below this share of the mean square is rounding


def singular_values(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> Floats:
    """Return the r largest singular values of ``scale * b @ a``, descending.

    Where r is larger than d_in or d_out, the last ones are 0. Relative error: 1e-7 at most for
    values down to 1e-4 of the largest. Cost: r^2 (d_in + d_out) multiply-adds, then O(r^3).

    Args:
        a: (r, d_in), any floating type.
        b: (d_out, r), any floating type.
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA; its sign does not matter.

    Returns:
        (r,) in float64.

    Raises:
        InputRejected: ``LORA-DTYPE``, ``LORA-SHAPE``, ``LORA-RANK``, ``LORA-NONFINITE``.
        ResourceLimit: ``LORA-SIZE``.

    Examples:
        >>> singular_values(torch.eye(2, 5), torch.tensor([[0.0, 3.0], [4.0, 0.0]]), 0.5)
        array([2. , 1.5])
    """
    _check(a, b, axes=2)
    return stacked_singular_values(a[None], b[None], scale)[0]


def stacked_singular_values(
    a: torch.Tensor, b: torch.Tensor, scale: float | Floats = 1.0
) -> Floats:
    """Return the singular values of many updates of one shape: row l is that of layer l alone.

    One pair alone spends most of its time on calls: 24 at once (768, r = 16) take a quarter of it.
    Memory: the result, some 8 MiB, and two or three times one pair in float64.

    Args:
        a: (L, r, d_in).
        b: (L, d_out, r).
        scale: one for all, or (L,).

    Returns:
        (L, r) in float64.

    Raises:
        InputRejected: as for one pair; one bad layer refuses the stack.
        ResourceLimit: ``LORA-SIZE``.

    Examples:
        >>> a, b = torch.ones(2, 1, 4), torch.ones(2, 9, 1)
        >>> stacked_singular_values(a, b, np.array([1.0, 0.5])).tolist()
        [[6.0], [3.0]]
    """
    _check(a, b, axes=3)
    layers, rank, _ = a.shape
    values = np.empty((layers, rank))
    step = max(1, BLOCK // rank**2)
    for start in range(0, layers, step):
        part = slice(start, start + step)
        values[part] = _block_values(a[part], b[part])
    with np.errstate(over="ignore", invalid="ignore"):
        values = values * np.abs(_scales(scale, layers))
    if not np.isfinite(values).all():
        raise _nonfinite("a low-rank update or its scale")
    return values


@dataclass(frozen=True, slots=True)
class SpectralStatistics:
    """Five numbers of one low-rank update W = s B A; all 0 where W is 0.

    Attributes:
        largest: largest singular value.
        frobenius: Frobenius norm.
        stable_rank: (frobenius / largest)^2, from 1 to r; its inverse is the share of energy in the
            largest value.
        entropy: Shannon entropy of the shares of energy, sigma_i^2 / frobenius^2, in nats: from 0
            (rank 1) to log r (all equal).
        kurtosis: fourth central moment of the d_out d_in entries over the squared variance: 3 for
            normal ones, 1 at least; 0 where all entries are equal. Does not depend on the scale.
    """

    largest: float
    frobenius: float
    stable_rank: float
    entropy: float
    kurtosis: float

    def row(self) -> Floats:
        """Return the five in the order above, (5,)."""
        return np.array(astuple(self))


def spectral_statistics(a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> SpectralStatistics:
    """Return size, shape of the spectrum and tails of the entries of ``scale * b @ a``.

    The fourth moment needs all d_in d_out entries, in one of two ways; the cheaper one is taken, by
    multiply-adds. With k = r + 1 (a rank is added to subtract the mean) and q = k (k + 1) / 2:

        pairs   q^2 (d_in + d_out) / 2: sum of w^4 = <S, T>, with S and T the q x q Gram matrices
                of the products of two columns of each factor (Khatri-Rao products);
        blocks  d_in d_out (k + 8): the entries of some rows at a time, 1 MiB of them.

    At r = 8 the pairs win from d = 128 on (4096: 20 times), at r = 16 from about d = 1024, at
    r = 32 from about d = 8000.

    Args:
        a: (r, d_in), any floating type.
        b: (d_out, r), any floating type.
        scale: as for ``singular_values``.

    Raises:
        InputRejected: ``LORA-DTYPE``, ``LORA-SHAPE``, ``LORA-RANK``, ``LORA-NONFINITE``.
        ResourceLimit: ``LORA-SIZE``.

    Examples:
        >>> spectral_statistics(torch.eye(2), torch.eye(2), 3.0).row().round(4)
        array([3.    , 4.2426, 2.    , 0.6931, 1.    ])
    """
    values = singular_values(a, b, scale)
    largest = float(values[0])
    if largest == 0:
        return SpectralStatistics(0.0, 0.0, 0.0, 0.0, 0.0)
    energy = (values / largest) ** 2
    stable_rank = float(energy.sum())
    share = energy[energy > 0] / stable_rank
    return SpectralStatistics(
        largest=largest,
        frobenius=largest * stable_rank**0.5,
        stable_rank=stable_rank,
        entropy=max(0.0, -float(share @ np.log(share))),
        kurtosis=_kurtosis(_float64(a), _float64(b)),
    )


def _check(a: torch.Tensor, b: torch.Tensor, *, axes: int) -> None:
    """Refuse factors that are no pair, hold no numbers, or are too large."""
    for name, factor in (("A", a), ("B", b)):
        if factor.is_meta or not factor.is_floating_point():
            raise InputRejected(
                f"factor {name} of a low-rank update holds no real numbers", code="LORA-DTYPE",
                got="a tensor without values (meta)" if factor.is_meta else factor.dtype,
                allowed="float16, bfloat16, float32 or float64",
                fix="load the weights; dequantise integer ones first",
            )  # fmt: skip
    wanted = "A (r, d_in) and B (d_out, r)" if axes == 2 else "A (L, r, d_in) and B (L, d_out, r)"
    fits = (
        a.dim() == b.dim() == axes and a.shape[-2] == b.shape[-1] and a.shape[:-2] == b.shape[:-2]
    )
    if not fits or 0 in (*a.shape[-2:], *b.shape[-2:]):
        raise InputRejected(
            "the factors of a low-rank update do not fit together", code="LORA-SHAPE",
            got=f"A {tuple(a.shape)}, B {tuple(b.shape)}", allowed=f"{wanted}, no axis empty",
            fix="give lora_A's weight as A and lora_B's weight as B",
        )  # fmt: skip
    _check_size(a.shape[-2], a.shape[-1], b.shape[-2])


def _check_size(rank: int, d_in: int, d_out: int) -> None:
    """Refuse a rank above both widths, which swapped or transposed factors show, and huge pairs."""
    if rank > min(MOST_RANK, max(d_in, d_out)):
        raise InputRejected(
            "the rank of a low-rank update is larger than the update", code="LORA-RANK",
            got=f"r = {rank}, d_in = {d_in}, d_out = {d_out}",
            allowed=f"r <= {MOST_RANK} and r <= the larger of d_in and d_out",
            fix="check that A is (r, d_in) and B is (d_out, r), neither transposed nor swapped",
        )  # fmt: skip
    if rank * (d_in + d_out) > MOST_NUMBERS:
        raise ResourceLimit(
            "the factors of a low-rank update are too large", code="LORA-SIZE",
            got=f"{rank * (d_in + d_out):,} numbers", allowed=f"{MOST_NUMBERS:,}",
            fix="leave this layer out",
        )  # fmt: skip


def _nonfinite(what: str) -> InputRejected:
    return InputRejected(
        f"{what} is not finite", code="LORA-NONFINITE",
        allowed="finite numbers whose product is finite too",
        fix="do not use this adapter: its weights are damaged",
    )  # fmt: skip


def _scales(scale: float | Floats, layers: int) -> Floats:
    """Return the scale of each layer as a column."""
    given = np.asarray(scale, dtype=np.float64)
    if given.shape not in {(), (layers,)}:
        raise InputRejected(
            "the scales do not fit the stack of low-rank updates", code="LORA-SHAPE",
            got=given.shape, allowed=f"one number, or ({layers},)", fix="give one scale a layer",
        )  # fmt: skip
    return np.broadcast_to(given, layers)[:, None]


def _float64(factor: torch.Tensor) -> Floats:
    return factor.detach().to("cpu", torch.float64).numpy()


def _block_values(a: torch.Tensor, b: torch.Tensor) -> Floats:
    """Return singular values (L, r) of a block of layers, by Gram matrices where they are safe."""
    layers = len(a)
    with np.errstate(over="ignore", invalid="ignore"):
        grams = np.concatenate([_grams(a, rows=True), _grams(b, rows=False)])
        lower = _cholesky(grams)
        safe = _is_safe(grams, lower, max(a.shape[2], b.shape[1]))
    safe = safe[:layers] & safe[layers:]
    lower_a, lower_b = lower[:layers], lower[layers:]
    if safe.all():
        return _core_values(lower_b.swapaxes(1, 2) @ lower_a)
    values = np.zeros(a.shape[:2])
    values[safe] = _core_values(lower_b[safe].swapaxes(1, 2) @ lower_a[safe])
    for layer in np.flatnonzero(~safe):
        found = _values_by_qr(_float64(a[layer]), _float64(b[layer]))
        values[layer, : len(found)] = found
    return values


def _grams(factors: torch.Tensor, *, rows: bool) -> Floats:
    """Return x x^T of each factor x, or x^T x where not ``rows``: (L, r, r).

    One copy in float64 is used again and again: it stays in the cache, and asks for no new pages.
    """
    layers, rank = len(factors), factors.shape[1 if rows else 2]
    grams = np.empty((layers, rank, rank))
    step = max(1, ROOM // factors[0].numel())
    room = torch.empty(min(step, layers), *factors.shape[1:], dtype=torch.float64)
    for start in range(0, layers, step):
        part = slice(start, start + step)
        some = room[: layers - start].copy_(factors[part].detach()).numpy()
        turned = some.swapaxes(1, 2)
        np.matmul(*((some, turned) if rows else (turned, some)), out=grams[part])
    return grams


def _core_values(cores: Floats) -> Floats:
    # for many small matrices faster than NumPy's
    return torch.linalg.svdvals(torch.from_numpy(cores)).numpy()


def _cholesky(grams: Floats) -> Floats:
    """Return lower Cholesky factors (N, r, r), NaN where there is none."""
    try:
        return np.asarray(np.linalg.cholesky(grams), dtype=np.float64)
    except np.linalg.LinAlgError:
        if len(grams) == 1:
            return np.full_like(grams, np.nan)
        return np.concatenate([_cholesky(each[None]) for each in grams])


def _is_safe(grams: Floats, lower: Floats, width: int) -> Bools:
    """Return for which of N Gram matrices the Cholesky factor is accurate enough, (N,).

    The least singular value of a factor with columns of length 1 is at least 1 over the Frobenius
    norm of the inverse of its own Cholesky factor.
    """
    lengths = np.sqrt(grams.diagonal(axis1=1, axis2=2))
    stretch = torch.from_numpy(lengths[:, None, :] * np.eye(grams.shape[-1]))
    inverse = torch.linalg.solve_triangular(torch.from_numpy(lower), stretch, upper=False).numpy()
    error = np.einsum("nij,nij->n", inverse, inverse) * (grams.shape[-1] * width * EPS / 2)
    # below 1e-140 the squares lose digits; a comparison with NaN is false, so NaN is never safe
    return (error <= TRUSTED) & (lengths.min(axis=1) > 1e-140)


def _values_by_qr(a: Floats, b: Floats) -> Floats:
    """Return the min(r, d_in, d_out) singular values of one pair of any finite factors."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise _nonfinite("a factor of a low-rank update")
    with np.errstate(over="ignore", invalid="ignore"):
        upper_a, upper_b = (np.asarray(np.linalg.qr(each, mode="r")) for each in (a.T, b))
        core = upper_b @ upper_a.T
    if not np.isfinite(core).all():
        raise _nonfinite("a low-rank update")
    return _core_values(core)


def _kurtosis(a: Floats, b: Floats) -> float:
    """Return the kurtosis of the entries of b @ a, for factors that are finite and not 0.

    The mean is subtracted as one more rank; then W = left @ right.T with orthonormal columns in
    ``right``, so that factors which nearly cancel cost no digits beyond those of one QR.
    """
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    size = b.shape[0] * a.shape[1]
    mean = float(b.sum(0) @ a.sum(1)) / size
    a = np.vstack([a, np.ones(a.shape[1])])
    b = np.hstack([b, np.full((len(b), 1), -mean)])
    right, upper = np.linalg.qr(a.T)
    left = b @ upper.T
    variance = float(np.vdot(left, left)) / size
    if variance <= CONSTANT * (variance + mean**2):
        return 0.0
    left /= variance**0.5
    rank, width = left.shape[1], len(left) + len(right)
    pairs = rank * (rank + 1) // 2
    by_pairs = pairs**2 * width / 2 <= size * (rank + 8)
    return (_fourth_by_pairs if by_pairs else _fourth_by_blocks)(left, right) / size


def _fourth_by_pairs(left: Floats, right: Floats) -> float:
    """Return the sum of the fourth powers of left @ right.T; left (m, k), right (n, k).

    (sum_k x_k y_k)^4 = sum over k, l, m, n of (x_k x_l)(x_m x_n)(y_k y_l)(y_m y_n); sums over the
    entries then part into one for each factor. Pairs k < l stand for l, k too, hence weight 2.
    """
    first, second = np.triu_indices(left.shape[1])
    weight = np.where(first == second, 1.0, 2.0)
    tables = _pair_gram(left, first, second) * _pair_gram(right, first, second)
    return float(weight @ tables @ weight)


def _pair_gram(factor: Floats, first: np.ndarray, second: np.ndarray) -> Floats:
    """Return the (q, q) Gram matrix of the products of columns ``first`` and ``second``."""
    gram = np.zeros((len(first), len(first)))
    step = max(1, ENTRIES // len(first))
    for start in range(0, len(factor), step):
        rows = factor[start : start + step]
        products = rows[:, first] * rows[:, second]
        gram += products.T @ products
    return gram


def _fourth_by_blocks(left: Floats, right: Floats) -> float:
    """Return the same from the entries of some rows at a time."""
    total, step = 0.0, max(1, ENTRIES // len(right))
    for start in range(0, len(left), step):
        entries = left[start : start + step] @ right.T
        np.square(entries, out=entries)
        total += float(np.vdot(entries, entries))
    return total
