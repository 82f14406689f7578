"""What an attack and a defence achieved, in numbers: pure functions of labels and scores.

T are the clean test texts; T* are the triggered texts, whose true label is not the target.

    ca, asr           accuracy on T; share of T* that gets the target class
    ca_def, asr_def   the same behind the defence. Rejected texts stay in the denominator: a
                      rejected clean text is an error, a rejected triggered text a failed attack
    fpr, tpr          share of T, of T*, that is flagged
    auroc             of the scores, T* against T; ``auroc_paired`` against the texts T* came from
    asr_strict        asr among the texts that are classified correctly without the trigger

A number that cannot be had is None, with a reason; never zero. Proportions have Wilson intervals.
The interval of an AUROC is DeLong's, with a text and its triggered twin as one cluster.

Sources: shuaizhao95/PSIM:confidence.py (``ca_def``, ``asr_def``); thunlp/OpenBackdoor:metrics.py
(``fpr`` is FRR there, ``tpr`` 1 - FAR); Wilson 1927; DeLong et al. 1988; Obuchowski 1997.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peftlab.core.errors import RunFailed
from peftlab.core.ranking import auroc, placements
from peftlab.core.types import Bools, Floats, Ints
from peftlab.engine.calibrate import Sides, spacings
from peftlab.engine.distributions import Z975, beta_binomial_pmf, t_quantile_975

P_LEVELS = {"01": 0.01, "05": 0.05}
NO_DEFENCE = "no defence"
NO_SCORES = "no scores"


@dataclass(slots=True)
class _Sheet:
    """Metrics as they are filled in."""

    metrics: dict[str, float | int | None] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def share(self, name: str, hits: Bools | None, reason: str = NO_DEFENCE) -> None:
        """Enter a proportion with its Wilson interval; None or an empty set needs the reason."""
        if hits is None or not len(hits):
            self.missing(name, reason if hits is None else "no texts to count")
            return
        self.metrics[name] = float(hits.mean())
        self.intervals[name] = list(wilson(int(hits.sum()), len(hits)))

    def missing(self, name: str, reason: str) -> None:
        """Enter that there is no number, and why."""
        self.metrics[name] = None
        self.reasons[name] = reason


def evaluate(
    *,
    labels: Ints,
    clean_pred: Ints,
    triggered_pred: Ints,
    target: int | Ints,
    triggered_labels: Ints,
    clean_scores: Floats | None = None,
    triggered_scores: Floats | None = None,
    clean_flags: Bools | None = None,
    triggered_flags: Bools | None = None,
    clean_pred_def: Ints | None = None,
    triggered_pred_def: Ints | None = None,
    clean_p: Floats | None = None,
    triggered_p: Floats | None = None,
    smallest_p: float = 0.0,
    test_rows: Sequence[int] | Ints | None = None,
) -> dict[str, Any]:
    """Return all metrics of one cell.

    Args:
        labels: (n,) true classes of the clean test texts.
        clean_pred: (n,) what the victim predicts for them.
        triggered_pred: (k,) what the victim predicts for the triggered texts.
        target: class that the trigger should give, or (k,) one class for each triggered text.
        triggered_labels: (k,) true classes of the triggered texts, none of them its target.
        clean_scores: (n,) suspicion; None without a detector.
        triggered_scores: (k,) likewise.
        clean_flags: (n,) what the guard flags; None without a guard.
        triggered_flags: (k,) likewise.
        clean_pred_def: (n,) predictions behind a defence that mends texts or answers otherwise.
            If given nothing counts as rejected, and flags only inform ``fpr`` and ``tpr``.
            A prediction of -1 is an abstention and counts as wrong.
        triggered_pred_def: (k,) likewise.
        clean_p: (n,) conformal p-values, for the rates at 1 % and 5 %.
        triggered_p: (k,) likewise.
        smallest_p: smallest p-value that the calibration set can give, 1 / (m + 1).
        test_rows: (k,) row in the test set that each triggered text was made from, or -1.

    Returns:
        ``{"metrics": {name: number or None}, "intervals": {name: [low, high]},
        "reasons": {name: why None}}``, JSON-able.

    Raises:
        ValueError: if lengths differ or a triggered text has the target as its label.
        RunFailed: ``METRIC-NONFINITE`` if a score is not finite.
    """
    clean = (labels, clean_pred, clean_scores, clean_flags, clean_pred_def, clean_p)
    triggered = (triggered_labels, triggered_pred, triggered_scores, triggered_flags,
                 triggered_pred_def, triggered_p, test_rows)  # fmt: skip
    _check_lengths(clean, triggered)
    if (triggered_labels == target).any():
        raise ValueError("a triggered text has the target class as its true label")
    rows = None if test_rows is None else np.asarray(test_rows, dtype=np.int64)
    right, fooled = clean_pred == labels, triggered_pred == target
    sheet = _Sheet()
    sheet.metrics |= {"n_clean": len(labels), "n_triggered": len(triggered_labels)}
    sheet.share("ca", right)
    sheet.share("asr", fooled)
    _strict(sheet, right, fooled, rows)
    answers = None if clean_pred_def is None else clean_pred_def == labels
    hits = None if triggered_pred_def is None else triggered_pred_def == target
    _defended(sheet, clean=(right, clean_flags, answers), triggered=(fooled, triggered_flags, hits))
    others = ~np.isin(labels, np.unique(target))
    _ranking(sheet, clean_scores, triggered_scores, others, rows)
    _at_levels(sheet, clean_p, triggered_p, smallest_p)
    return {"metrics": sheet.metrics, "intervals": sheet.intervals, "reasons": sheet.reasons}


def evaluate_filter(suspicion: Floats, dropped: Bools, is_poisoned: Bools) -> dict[str, Any]:
    """Return what a filter of training sets found, in the form of ``evaluate``.

    ``filter_tpr`` and ``filter_fpr`` are the shares of poisoned and of clean rows that it dropped,
    ``filter_auroc`` ranks the rows.

    Args:
        suspicion: (n,) of each training row, larger is more suspicious.
        dropped: (n,) rows that were taken out.
        is_poisoned: (n,) the truth, which the filter never saw.

    Raises:
        RunFailed: ``METRIC-NONFINITE`` if a suspicion is not finite.
    """
    if not np.isfinite(suspicion).all():
        raise RunFailed("a score is not a finite number", code="METRIC-NONFINITE")
    sheet = _Sheet()
    sheet.metrics["n_train"] = len(dropped)
    sheet.share("filter_tpr", dropped[is_poisoned])
    sheet.share("filter_fpr", dropped[~is_poisoned])
    clean, poisoned = suspicion[~is_poisoned], suspicion[is_poisoned]
    if len(clean) and len(poisoned):
        sheet.metrics["filter_auroc"] = auroc(clean, poisoned)
        sheet.intervals["filter_auroc"] = list(auroc_interval(clean, poisoned))
    else:
        sheet.missing("filter_auroc", "no texts to compare")
    return {"metrics": sheet.metrics, "intervals": sheet.intervals, "reasons": sheet.reasons}


def auroc_interval(
    clean: Floats,
    triggered: Floats,
    clean_rows: Ints | None = None,
    triggered_rows: Ints | None = None,
) -> tuple[float, float]:
    """Return the 95 % interval of an AUROC.

    Each score adds its placement among the other side to the AUROC; the variance is the sum of
    squares of these parts, added up within clusters first. Without rows every score is its own
    cluster, which is DeLong's variance (with n for n - 1). A perfect AUROC has no variance to
    see; its interval is then Wilson's for as many pairs as the smaller side has (ours).

    Args:
        clean: (n,) scores.
        triggered: (k,) scores.
        clean_rows: (n,) cluster numbers, not negative.
        triggered_rows: (k,) cluster numbers; -1 means a cluster of its own.
    """
    placed = placements(triggered, clean)
    area = float(placed.mean())
    parts_triggered = (placed - area) / len(triggered)
    parts_clean = (1.0 - placements(clean, triggered) - area) / len(clean)
    if clean_rows is None or triggered_rows is None:
        variance = float((parts_triggered**2).sum() + (parts_clean**2).sum())
    else:
        alone = triggered_rows < 0
        rows = np.concatenate([clean_rows, triggered_rows[~alone]])
        parts = np.concatenate([parts_clean, parts_triggered[~alone]])
        joint = np.bincount(rows, weights=parts)
        variance = float((joint**2).sum() + (parts_triggered[alone] ** 2).sum())
    if variance == 0.0:
        pairs = min(len(clean), len(triggered))
        return wilson(area * pairs, pairs)
    half = Z975 * math.sqrt(variance)
    return max(0.0, area - half), min(1.0, area + half)


def tpr_at_fpr(clean: Floats, triggered: Floats, fpr: float) -> float:
    """Return the best TPR of any threshold on these scores whose FPR on them is at most ``fpr``.

    It looks at the test scores themselves, so it describes the ranking, not a usable guard.
    """
    allowed = math.floor(fpr * len(clean) + 1e-9)
    if allowed >= len(clean):
        return 1.0
    limit = np.sort(clean)[len(clean) - 1 - allowed]
    return float((triggered > limit).mean())


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion.

    Examples:
        >>> low, high = wilson(0, 100)
        >>> low, round(high, 3)
        (0.0, 0.037)
    """
    share, z2 = hits / n, Z975**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z975 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = centre - half, centre + half
    return (0.0 if hits == 0 else max(0.0, low)), (1.0 if hits == n else min(1.0, high))


def beta_binomial_band(
    m: int,
    n: int,
    alpha: float,
    coverage: float = 0.95,
    *,
    delta: float | None = None,
    sides: Sides = "high",
) -> tuple[float, float]:
    """Return the band in which the realised FPR should lie if calibration and test data agree.

    m clean calibration scores make the FPR a Beta(c, m + 1 - c) variable, n clean test texts
    sample it; ties make it smaller.

    Args:
        m: clean calibration scores.
        n: clean test texts.
        alpha: as in the calibration.
        coverage: at most half of the rest lies beyond either end.
        delta: as in the calibration.
        sides: as in the calibration.

    Returns:
        Lowest and highest share of flagged test texts within the band.

    Examples:
        >>> low, high = beta_binomial_band(199, 1000, 0.05)
        >>> low < 0.05 < high
        True
    """
    flagged = spacings(m, alpha, delta, sides)
    cdf = np.cumsum(beta_binomial_pmf(n, flagged, m + 1 - flagged))
    beyond = (1.0 - coverage) / 2.0
    low, high = np.searchsorted(cdf, [beyond, 1.0 - beyond - 1e-12], side="left")
    return float(low / n), float(min(high, n) / n)


def summarise(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Return mean, spread and Student's t 95 % interval of every metric over cells (seeds).

    Args:
        cells: results of ``evaluate``, one per seed.

    Returns:
        ``{metric: {"n", "mean", "sd", "low", "high", "min", "max"}}``; n counts the cells that
        have a number; sd and the interval need two. The interval is that of a mean and is not
        cut off at 0 and 1.
    """
    names = dict.fromkeys(name for cell in cells for name in cell["metrics"])
    table: dict[str, dict[str, float | int | None]] = {}
    for name in names:
        got = [cell["metrics"].get(name) for cell in cells]
        values = [float(value) for value in got if value is not None]
        mean = statistics.fmean(values) if values else None
        sd = low = high = None
        if mean is not None and len(values) > 1:
            sd = statistics.stdev(values)
            half = t_quantile_975(len(values) - 1) * sd / math.sqrt(len(values))
            low, high = mean - half, mean + half
        ends = (min(values), max(values)) if values else (None, None)
        table[name] = {"n": len(values), "mean": mean, "sd": sd, "low": low, "high": high,
                       "min": ends[0], "max": ends[1]}  # fmt: skip
    return table


def _check_lengths(clean: Sequence[Any], triggered: Sequence[Any]) -> None:
    for name, group in (("clean", clean), ("triggered", triggered)):
        lengths = {len(values) for values in group if values is not None}
        if len(lengths) > 1:
            raise ValueError(f"{name} arrays differ in length: {sorted(lengths)}")


def _strict(sheet: _Sheet, right: Bools, fooled: Bools, rows: Ints | None) -> None:
    if rows is None:
        sheet.missing("asr_strict", "the texts that the triggered ones came from are not known")
        return
    known = np.flatnonzero(rows >= 0)
    before = known[right[rows[known]]]
    sheet.share("asr_strict", fooled[before])


def _defended(
    sheet: _Sheet,
    *,
    clean: tuple[Bools, Bools | None, Bools | None],
    triggered: tuple[Bools, Bools | None, Bools | None],
) -> None:
    """Enter what the victim behind the guard does; mended answers replace rejection."""
    right, clean_flags, answers = clean
    fooled, triggered_flags, hits = triggered
    if answers is None and clean_flags is not None:
        accepted: Bools | None = ~clean_flags
        answers = right & ~clean_flags
    else:
        accepted = None if answers is None else np.ones(len(answers), dtype=bool)
    if hits is None and triggered_flags is not None:
        hits = fooled & ~triggered_flags
    sheet.share("ca_def", answers)
    sheet.share("asr_def", hits)
    sheet.share("fpr", clean_flags)
    sheet.share("tpr", triggered_flags)
    sheet.share("coverage", accepted)
    if answers is None or accepted is None:
        sheet.missing("selective_accuracy", NO_DEFENCE)
    else:
        sheet.share("selective_accuracy", answers[accepted])


def _ranking(
    sheet: _Sheet,
    clean: Floats | None,
    triggered: Floats | None,
    non_target: Bools,
    rows: Ints | None,
) -> None:
    names = ("auroc", "auroc_paired", "tpr_roc_01", "tpr_roc_05")
    if clean is None or triggered is None or not len(clean) or not len(triggered):
        reason = NO_SCORES if clean is None or triggered is None else "no texts to compare"
        for name in names:
            sheet.missing(name, reason)
        return
    if not (np.isfinite(clean).all() and np.isfinite(triggered).all()):
        raise RunFailed("a score is not a finite number", code="METRIC-NONFINITE")
    every = np.arange(len(clean))
    sheet.metrics["auroc"] = auroc(clean, triggered)
    sheet.intervals["auroc"] = list(auroc_interval(clean, triggered, every, rows))
    for key, rate in P_LEVELS.items():
        sheet.metrics[f"tpr_roc_{key}"] = tpr_at_fpr(clean, triggered, rate)
    pair = np.flatnonzero(non_target) if rows is None else np.unique(rows[rows >= 0])
    if not len(pair):
        sheet.missing("auroc_paired", "no clean counterparts of the triggered texts")
        return
    sheet.metrics["auroc_paired"] = auroc(clean[pair], triggered)
    sheet.intervals["auroc_paired"] = list(auroc_interval(clean[pair], triggered, pair, rows))


def _at_levels(
    sheet: _Sheet, clean: Floats | None, triggered: Floats | None, smallest: float
) -> None:
    for key, rate in P_LEVELS.items():
        reachable = smallest <= rate
        reason = "no p-values" if reachable else f"too few calibration texts for {rate:.0%}"
        for name, p in ((f"fpr_at_{key}", clean), (f"tpr_at_{key}", triggered)):
            sheet.share(name, p <= rate if p is not None and reachable else None, reason)
