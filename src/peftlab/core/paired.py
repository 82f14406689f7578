"""Is one method better than another on the same cases? Paired differences, interval, p value.

Cases come in blocks: an attack is a block, its seeds are the cases. Two methods differ by

    D = mean over blocks b of the mean over the cases c in b of d(b, c)

so that a block with fewer cases counts no less. If the methods are alike each difference could as
well have had the other sign, hence, over sign vectors s,

    p = share of s with |sum s_i w_i d_i| >= |D|        all of them up to 16 units, else drawn

One unit is one case, or one whole block: cases of a block share what the block is, so only the
latter says something about blocks that nobody has seen. The interval comes from a bootstrap over
blocks (over cases, if there is but one block) that draws n - 1 of n, because n of n gives a spread
that is too small by (n - 1) / n. It is a percentile interval, too short below about ten blocks.

Sources: Fisher 1935, section 21; Efron 1979; McCarthy and Snowden 1985 (n - 1 of n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from peftlab.core.types import Floats

EXACT_UNITS = 16  # up to here all sign vectors are tried
DRAWS = 19_999
RESAMPLES = 4_000
_CHUNK = 2_048
_SAME = 1e-12  # sums closer than this, relatively, are equal up to rounding

Blocks = Mapping[str, Sequence[float]]


def mean_of_blocks(blocks: Blocks) -> float:
    """Return D: the mean over blocks of the mean over their cases.

    Args:
        blocks: differences, or values, of each block; at least one block, none of them empty.

    Examples:
        >>> mean_of_blocks({"badnets": [0.2, 0.4], "insent": [0.1]})
        0.2
    """
    return float(np.mean([np.mean(cases) for cases in blocks.values()]))


def case_parts(blocks: Blocks) -> list[float]:
    """Return what each case adds to D, block by block."""
    n = len(blocks)
    return [float(one) / (n * len(cases)) for cases in blocks.values() for one in cases]


def block_parts(blocks: Blocks) -> list[float]:
    """Return what each block adds to D."""
    return [float(np.mean(cases)) / len(blocks) for cases in blocks.values()]


def sign_flip_p(parts: Sequence[float], draws: np.random.Generator) -> float:
    """Return the two-sided p value of a sum whose parts could each have had the other sign.

    Args:
        parts: (n,) of ``case_parts`` or ``block_parts``; zeros change nothing.
        draws: source of randomness, used beyond 16 parts that are not zero.

    Returns:
        At least 2^(1 - n) if exact, 1 / (draws + 1) if drawn; 1 if all parts are zero.

    Examples:
        >>> sign_flip_p([0.1, 0.2, 0.1], np.random.default_rng(0))
        0.25
    """
    values = np.array([part for part in parts if part], dtype=np.float64)
    n = len(values)
    if n == 0:
        return 1.0
    bar = abs(float(values.sum())) - _SAME * float(np.abs(values).sum())
    if n <= EXACT_UNITS:
        # |sum| is the same for s and -s, so the first sign may stay.
        total, hits, seen = 2 ** (n - 1), 0, 0
    else:
        total, hits, seen = DRAWS + 1, 1, 1  # the observed signs are one of the draws
    for start in range(seen, total, _CHUNK):
        count = min(_CHUNK, total - start)
        if n <= EXACT_UNITS:
            bits = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1
        else:
            bits = draws.integers(0, 2, size=(count, n))
        hits += int((np.abs((1.0 - 2.0 * bits) @ values) >= bar).sum())
    return hits / total


def smallest_p(units: int) -> float:
    """Return the smallest p value that ``sign_flip_p`` can give for so many units."""
    return 2.0 ** (1 - units) if units <= EXACT_UNITS else 1 / (DRAWS + 1)


def bootstrap_interval(blocks: Blocks, draws: np.random.Generator) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of D, or None if nothing tells its spread.

    Args:
        blocks: as ``mean_of_blocks``.
        draws: source of randomness.

    Returns:
        (low, high); None for a single case of a single block.
    """
    if len(blocks) > 1:
        values: Floats = np.array([np.mean(cases) for cases in blocks.values()])
    else:
        values = np.array([one for cases in blocks.values() for one in cases], dtype=np.float64)
    n = len(values)
    if n < 2:
        return None
    means = values[draws.integers(0, n, size=(RESAMPLES, n - 1))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
