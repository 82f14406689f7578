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


def parts_table(comparisons: Sequence[Blocks], *, whole: bool) -> Floats:
    """Return what each unit adds to D of each comparison: (units, comparisons).

    Args:
        comparisons: differences by block, of each comparison.
        whole: a unit is a whole block, else one case.

    Examples:
        >>> parts_table([{"badnets": [0.2, 0.4], "insent": [0.1]}], whole=False).ravel().tolist()
        [0.05, 0.1, 0.05]
    """
    columns = [_parts(blocks, whole=whole) for blocks in comparisons]
    units = dict.fromkeys(unit for column in columns for unit in column)
    rows = [[column.get(unit, 0.0) for column in columns] for unit in units]
    return np.array(rows, dtype=np.float64).reshape(len(units), len(comparisons))


def _parts(blocks: Blocks, *, whole: bool) -> dict[tuple[str, int], float]:
    n = len(blocks)
    if whole:
        return {(name, 0): float(np.mean(cases)) / n for name, cases in blocks.items()}
    return {
        (name, index): float(case) / (n * len(cases))
        for name, cases in blocks.items()
        for index, case in enumerate(cases)
    }


def sign_flip_p(parts: Floats, draws: np.random.Generator) -> Floats:
    """Return two-sided p values of sums whose parts could each have had the other sign.

    Args:
        parts: (n, k), for k comparisons what each of n units adds to D, as of ``parts_table``;
            0 for a unit that a comparison lacks.
        draws: source of randomness, used beyond 16 units.

    Returns:
        (k,), each at least 2^(1 - n) if exact, 1 / (draws + 1) if drawn; 1 if all parts are zero.

    Examples:
        >>> float(sign_flip_p(np.array([[0.1], [0.2], [0.1]]), np.random.default_rng(0))[0])
        0.25
    """
    n = len(parts)
    bars = np.abs(parts.sum(axis=0)) - _SAME * np.abs(parts).sum(axis=0)
    exact = n <= EXACT_UNITS
    # All vectors: |sum| is the same for s and -s, so the last sign may stay. Drawn ones: the
    # observed signs are one of the draws.
    total, seen = (2 ** max(n - 1, 0), 0) if exact else (DRAWS + 1, 1)
    hits = np.full(parts.shape[1], seen, dtype=np.int64)
    for start in range(seen, total, _CHUNK):
        count = min(_CHUNK, total - start)
        if exact:
            bits = (np.arange(start, start + count)[:, None] >> np.arange(n)) & 1
        else:
            bits = draws.integers(0, 2, size=(count, n), dtype=np.int8)
        hits += (np.abs((1.0 - 2.0 * bits) @ parts) >= bars).sum(axis=0)
    p: Floats = hits / total
    return p


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
