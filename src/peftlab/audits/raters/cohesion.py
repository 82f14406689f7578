"""How much raters agree within a group and across: the statistics of GRASP, from counts alone.

For an item i and a group, n_k ratings with label k and m = sum_k n_k; for everybody else n'_k, m'.
d(a, b)^2 is the distance of two labels (nominal: 0 or 1).

    within   irr               Krippendorff's alpha:  1 - D_o / D_e  over pairs of ratings
             plurality         mean over items of  max_k n_k / m
             negentropy        mean over items of  ln K - H(n / m)
    across   xrr               kappa_x:  1 - d_o / d_e  over pairs of one rating from each side
             voting            alpha between the two plurality labels of each item
             cross_negentropy  mean over items of  ln K + sum_k p_k ln q_k,  q smoothed
    both     gai  = irr / xrr        gap = irr - xrr

gai > 1: a perspective of their own; < 1: they agree more with others than among themselves.
Sources: arXiv 2311.05074 section 3.4; xrr: arXiv 2106.07393 (Wong, Paritosh, Aroyo); Krippendorff's
alpha by coincidences. Ours: smoothing of q, lowest label on ties, gap, all levels for xrr.
A bootstrap draws a rater twice now and then; pairs of a rater with itself never count.
Cost: O(items x K) for any number of ratings.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from peftlab.audits.raters.counts import Counts
from peftlab.core.types import Floats

Level = Literal["nominal", "ordinal", "interval"]
Ties = Literal["lowest", "drop"]
Metric = Literal[
    "irr", "xrr", "plurality", "voting", "negentropy", "cross_negentropy", "gai", "gap"
]
METRICS: tuple[Metric, ...] = get_args(Metric)
SMOOTHING = 0.5  # added to each label's count in cross_negentropy; ours
_TINY = 1e-12  # an expected disagreement below this is none: one label only


def distances(level: Level, totals: Floats, values: Floats) -> Floats:
    """Return squared distances (..., K, K) between labels.

    Args:
        level: nominal: 0 or 1; interval: of the numbers; ordinal: of the mean ranks.
        totals: (..., K) how often each label was given; ordinal distances depend on it.
        values: (K,) the labels as numbers, for interval.
    """
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    ranks = np.cumsum(totals, axis=-1) - totals / 2
    # in units of the range, so that no unit of the labels is too small to tell
    at = ranks if level == "ordinal" else values / max(float(np.ptp(values)), _TINY * _TINY)
    return np.asarray((at[..., :, None] - at[..., None, :]) ** 2)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, NaN where there is nothing below."""
    some = below > _TINY
    return np.where(some, above / np.where(some, below, 1.0), np.nan)


def _mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean over items, (..., G); NaN without any."""
    return _ratio((values * weights).sum(axis=-1), weights.sum(axis=-1))


def _apart(pairs: Floats, d2: Floats) -> Floats:
    """Return the mean squared distance of pairs of labels, counted in (..., K, K)."""
    return _ratio((pairs * d2).sum(axis=(-1, -2)), pairs.sum(axis=(-1, -2)))


def _over_items(n: Floats, weights: Floats) -> Floats:
    """Return (..., K): counts (..., K, I) summed with item weights (..., I)."""
    return np.asarray((n @ weights[..., None])[..., 0])


def _diagonal(values: Floats) -> Floats:
    return np.asarray(values[..., None] * np.eye(values.shape[-1]))


def _values(n: Floats, values: Floats | None) -> Floats:
    return np.arange(n.shape[-2], dtype=np.float64) if values is None else values


def irr(counts: Counts, level: Level = "nominal", values: Floats | None = None) -> Floats:
    """Return Krippendorff's alpha of each group, (..., G).

    Items with fewer than two raters of the group say nothing and are left out. NaN where all
    ratings that are left are one label.

    Args:
        counts: (..., G, K, I).
        level: of measurement.
        values: (K,) labels as numbers; 0 .. K-1 when not given.

    Examples:
        >>> import numpy as np
        >>> two_raters = np.array([[[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]])
        >>> irr(Counts.plain(two_raters)).round(3)
        array([0.444])
    """
    n, squares, weights = counts.n, counts.squares, counts.weights
    m = n.sum(axis=-2)
    own = m if squares is n else squares.sum(axis=-2)  # pairs of a rater with itself
    pairs = m * m - own
    some = pairs > _TINY
    share = weights * some
    scale = share * m / np.where(some, pairs, 1.0)
    totals = _over_items(n, share)
    if level == "nominal":
        alone = (share * weights * own).sum(axis=-1)
        agreed = _ratio((scale * (_same(n, n) - own)).sum(axis=-1), totals.sum(axis=-1))
        return _beyond_chance(agreed, totals, totals, alone)
    observed = (n * scale[..., None, :]) @ np.swapaxes(n, -1, -2)
    observed -= _diagonal(_over_items(squares, scale))
    expected = totals[..., :, None] * totals[..., None, :]
    expected -= _diagonal(_over_items(squares, share * weights))
    d2 = distances(level, totals, _values(n, values))
    return np.asarray(1.0 - _ratio(_apart(observed, d2), _apart(expected, d2)))


def _same(one: Floats, other: Floats) -> Floats:
    """Return (..., I): pairs of equal labels of each item."""
    return np.asarray(np.einsum("...ki,...ki->...i", one, other))


def _beyond_chance(
    agreed: Floats, one: Floats, other: Floats, alone: float | Floats = 0.0
) -> Floats:
    """Return 1 - D_o / D_e for nominal labels.

    Args:
        agreed: (...,) share of pairs with equal labels.
        one: (..., K) label totals of one side.
        other: of the other side.
        alone: expected pairs of a rating with itself, which do not count.
    """
    size, size_other = one.sum(axis=-1), other.sum(axis=-1)
    expected = size * size_other - alone
    apart = _ratio(expected - ((one * other).sum(axis=-1) - alone), expected)
    return np.asarray(1.0 - _ratio(1.0 - agreed, apart))


def xrr(
    one: Floats, other: Floats, weights: Floats, level: Level = "nominal",
    values: Floats | None = None,
) -> Floats:  # fmt: skip
    """Return kappa_x between each group and its counterpart, (..., G); symmetric.

    Items that one side has not rated say nothing. With one rater a side it is Cohen's kappa.

    Args:
        one: counts (..., G, K, I) of one side.
        other: of the other side.
        weights: (..., 1, I) of the items.
        level: of measurement.
        values: (K,) labels as numbers; 0 .. K-1 when not given.
    """
    m, m_other = one.sum(axis=-2), other.sum(axis=-2)
    product = m * m_other
    both = product > 0
    share = weights * both
    scale = share * (m + m_other) / np.where(both, product, 1.0)
    totals, totals_other = _over_items(one, share), _over_items(other, share)
    if level == "nominal":
        size = totals.sum(axis=-1) + totals_other.sum(axis=-1)
        agreed = _ratio((scale * _same(one, other)).sum(axis=-1), size)
        return _beyond_chance(agreed, totals, totals_other)
    observed = (one * scale[..., None, :]) @ np.swapaxes(other, -1, -2)
    expected = totals[..., :, None] * totals_other[..., None, :]
    d2 = distances(level, totals + totals_other, _values(one, values))
    return np.asarray(1.0 - _ratio(_apart(observed, d2), _apart(expected, d2)))


def _shares(n: Floats) -> tuple[Floats, Floats]:
    """Return label shares (..., K, I) and which items were rated at all, as 0 and 1."""
    m = n.sum(axis=-2)
    rated = m > 0
    return n / np.where(rated, m, 1.0)[..., None, :], rated.astype(np.float64)


def plurality(counts: Counts) -> Floats:
    """Return the mean share of the most frequent label, (..., G)."""
    shares, rated = _shares(counts.n)
    return _mean(shares.max(axis=-2), counts.weights * rated)


def negentropy(counts: Counts) -> Floats:
    """Return the mean of ln K - H, in nats, (..., G)."""
    shares, rated = _shares(counts.n)
    inside = shares * np.log(np.where(shares > 0, shares, 1.0))
    return _mean(np.log(shares.shape[-2]) + inside.sum(axis=-2), counts.weights * rated)


def cross_negentropy(
    one: Floats, other: Floats, weights: Floats, smoothing: float = SMOOTHING
) -> Floats:
    """Return the mean of ln K + sum p ln q, in nats, (..., G); q is smoothed.

    Not comparable with the published column, whose treatment of q = 0 is not known.
    """
    shares, rated = _shares(one)
    labels, m = one.shape[-2], other.sum(axis=-2)
    log_q = np.log((other + smoothing) / (m + smoothing * labels)[..., None, :])
    inside = (shares * log_q).sum(axis=-2)
    return _mean(np.log(labels) + inside, weights * rated * (m > 0))


def votes(n: Floats, ties: Ties = "lowest") -> Floats:
    """Return (..., K, I): 1 at the plurality label of each item, 0 elsewhere.

    Args:
        n: counts.
        ties: the ``lowest`` label wins, or the item is left out (``drop``).
    """
    most = n.max(axis=-2, keepdims=True)
    top = (n == most) & (most > 0)
    if ties == "drop":
        return np.asarray(top & (top.sum(axis=-2, keepdims=True) == 1)).astype(np.float64)
    found = top.astype(np.float64)
    earlier = np.array(found[..., 0, :])
    for k in range(1, n.shape[-2]):
        found[..., k, :] *= 1.0 - earlier
        earlier += found[..., k, :]
    return np.asarray(found)


def tie_share(n: Floats) -> Floats:
    """Return the share of rated items whose plurality is a tie, (..., G)."""
    most = n.max(axis=-2, keepdims=True)
    rated = most[..., 0, :] > 0
    tied = ((n == most).sum(axis=-2) > 1) & rated
    return _mean(tied.astype(np.float64), rated.astype(np.float64))


def voting(one: Floats, other: Floats, weights: Floats, ties: Ties = "lowest") -> Floats:
    """Return nominal alpha between the plurality labels of the two sides, (..., G)."""
    # an item with the vote of one side only makes no pair, so alpha leaves it out by itself
    both = votes(one, ties) + votes(other, ties)
    return irr(Counts(both, both, weights))


def indices(within: Floats, across: Floats, least: float | Floats = 0.0) -> tuple[Floats, Floats]:
    """Return gai = within / across and gap = within - across.

    Args:
        within: agreement within groups.
        across: with everybody else, of the same shape.
        least: gai is NaN unless across is above it and above 0, since the ratio has a pole there.
    """
    sound = (across > 0) & (across >= least)
    return np.where(sound, within / np.where(sound, across, 1.0), np.nan), within - across


def measure(
    counts: Counts, level: Level = "nominal", values: Floats | None = None,
    ties: Ties = "lowest", smoothing: float = SMOOTHING, metrics: tuple[Metric, ...] = METRICS,
) -> dict[Metric, Floats]:  # fmt: skip
    """Return the metrics asked for, each (..., G); every group against everybody else.

    Args:
        counts: (..., G, K, I).
        level: of measurement, for irr and xrr.
        values: (K,) labels as numbers, for interval.
        ties: what a plurality tie means for voting.
        smoothing: of cross_negentropy.
        metrics: which.
    """
    found: dict[Metric, Floats] = {}
    rest, weights = counts.rest(), counts.weights
    ratio = {"gai", "gap"} & set(metrics)
    if ratio or "irr" in metrics:
        found["irr"] = irr(counts, level, values)
    if ratio or "xrr" in metrics:
        found["xrr"] = xrr(counts.n, rest, weights, level, values)
    if "plurality" in metrics:
        found["plurality"] = plurality(counts)
    if "voting" in metrics:
        found["voting"] = voting(counts.n, rest, weights, ties)
    if "negentropy" in metrics:
        found["negentropy"] = negentropy(counts)
    if "cross_negentropy" in metrics:
        found["cross_negentropy"] = cross_negentropy(counts.n, rest, weights, smoothing)
    if ratio:
        found["gai"], found["gap"] = indices(found["irr"], found["xrr"])
    return {name: found[name] for name in metrics}
