"""The few curves that the figures need: ROC, histograms, and the band of a calibrated rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from peftlab.core.types import Floats

WIDEST_LINEAR = 30.0  # spread beyond which a histogram takes a log axis; ours


def finite_array(values: object) -> Floats:
    """Return the finite numbers of a sequence as an array; anything else is dropped.

    Numbers are held within 1e300, so that their differences are numbers too.
    """
    if values is None:
        return np.empty(0)
    try:
        array = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        return np.empty(0)
    return np.clip(array[np.isfinite(array)], -1e300, 1e300)


def roc(clean: Floats, triggered: Floats) -> tuple[Floats, Floats]:
    """Return (FPR, TPR) for every threshold, from (0, 0) to (1, 1).

    Args:
        clean: (n,) scores of clean texts, n >= 1.
        triggered: (m,) scores of triggered texts, m >= 1; larger is more suspicious.

    Examples:
        >>> fpr, tpr = roc(np.array([0.0]), np.array([1.0]))
        >>> tpr.tolist()
        [0.0, 1.0, 1.0]
    """
    cuts = np.unique(np.concatenate([clean, triggered]))[::-1]
    fpr = (len(clean) - np.searchsorted(np.sort(clean), cuts, side="left")) / len(clean)
    tpr = (len(triggered) - np.searchsorted(np.sort(triggered), cuts, "left")) / len(triggered)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])


def tpr_at(fpr: Floats, tpr: Floats, grid: Floats) -> Floats:
    """Return the best TPR that a threshold with FPR <= grid reaches, for each grid point."""
    last = np.searchsorted(fpr, grid, side="right") - 1
    return tpr[np.maximum(last, 0)]


def bins(clean: Floats, triggered: Floats, count: int = 28) -> tuple[Floats, bool]:
    """Return common bin edges and whether the axis is logarithmic.

    Squared distances spread over decades; where the middle 99 % of all (positive) scores spans
    more than a factor of 30 the edges are spaced evenly in the logarithm. The outermost bins
    reach to the outermost 0.5 %; the figure puts all that lies beyond into them.
    """
    both = np.concatenate([clean, triggered])
    low, high = (float(x) for x in np.quantile(both, [0.005, 0.995]))
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, count + 1), False
    if low > 0 and high / low > WIDEST_LINEAR:
        return np.geomspace(low, high, count + 1), True
    return np.linspace(low, high, count + 1), False


def shares(scores: Floats, edges: Floats) -> Floats:
    """Return the share of scores in each bin, scores beyond the edges in the outermost bins."""
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), bins=edges)
    return counts / max(len(scores), 1)


@cache
def rate_band(alpha: float, n: int, calibration: int | None) -> tuple[float, float]:
    """Return the range that holds a realised FPR in 95 % of the cases if the claim is true.

    With m calibration scores and k = floor(alpha (m + 1)) the FPR of a conformal threshold is
    Beta(k, m + 1 - k), so the flagged among n clean texts are beta-binomial. Without m the
    threshold counts as exact and they are binomial (a narrower band).

    Args:
        alpha: claimed FPR.
        n: clean texts it was measured on, >= 1.
        calibration: m, if known.

    Source:
        Vovk, Conditional validity of inductive conformal predictors, 2012, prop. 2a.

    Examples:
        >>> low, high = rate_band(0.05, 1000, None)
        >>> low < 0.05 < high
        True
    """
    counts = range(n + 1)
    if calibration is None:
        log_p = [_log_binomial(n, x) + x * math.log(alpha) + (n - x) * math.log1p(-alpha)
                 for x in counts]  # fmt: skip
    else:
        k = math.floor(alpha * (calibration + 1) + 1e-9)
        if k == 0:
            return 0.0, 0.0
        rest = calibration + 1 - k
        log_p = [_log_binomial(n, x) + _log_beta(x + k, n - x + rest) - _log_beta(k, rest)
                 for x in counts]  # fmt: skip
    below = np.cumsum(np.exp(log_p))
    low = int(np.searchsorted(below, 0.025))
    high = int(np.searchsorted(below, 0.975))
    return low / n, min(high, n) / n


def _log_binomial(n: int, x: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(x + 1) - math.lgamma(n - x + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def mean_curve(curves: Sequence[tuple[Floats, Floats]], grid: Floats) -> tuple[Floats, ...]:
    """Return mean, lowest and highest TPR over seeds on a common grid of FPRs."""
    stack = np.stack([tpr_at(fpr, tpr, grid) for fpr, tpr in curves])
    return stack.mean(axis=0), stack.min(axis=0), stack.max(axis=0)
