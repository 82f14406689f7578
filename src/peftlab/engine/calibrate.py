"""From scores to decisions with a guaranteed false-positive rate: split conformal calibration.

Every detector hands over scores (larger = more suspicious) of m clean texts that it was not
trained on, and all of them share this code. The conformal p-value of a text x is

    p(x) = (1 + #{i : s_i >= s(x)}) / (m + 1)

and x is flagged when p(x) <= alpha. If x is clean and exchangeable with the calibration texts it is
flagged with probability at most alpha. Equivalently s(x) > s_(k), the k-th smallest score.

The m scores cut the line into m + 1 spacings; a rule flags c of them, and given the calibration set
its realised false-positive rate follows Beta(c, m + 1 - c). What is *not* guaranteed: any
true-positive rate, or the rate under a shift of the data (see ``shift_test``).

Sources: Bates et al., "Testing for outliers with conformal p-values", arXiv 2104.08279; Vovk and
Wang, "Combining p-values via averaging", Biometrika 107 (2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats, Ints, Scores
from peftlab.engine.distributions import binomial_tails, kolmogorov_tail

FORMAT = "peftlab.calibration/1"
Sides = Literal["high", "two"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of clean texts, and how to decide by them.

    Attributes:
        scores: (m,) suspicion of the calibration texts.
        alpha: false-positive rate that is allowed.
        groups: (m,) class that was predicted for each, needed if ``conditional``.
        delta: if set, the rate is at most alpha with confidence 1 - delta over calibration sets.
        conditional: calibrate within each predicted class (Mondrian).
        sides: flag high scores, or both tails.

    Raises:
        ConfigError: ``CAL-FEW`` if there are too few scores (of a class) for any text to be
            flagged; ``CAL-GROUPS`` if ``conditional`` and there are no groups; ``CAL-RATE`` if
            alpha or delta is not between 0 and 1.
        RunFailed: ``CAL-NONFINITE`` if a score is not finite.

    Examples:
        >>> clean = Calibration(np.arange(19.0), alpha=0.05)
        >>> flags(clean, Scores(np.array([17.5, 18.0, 18.5]))).tolist()
        [False, False, True]
    """

    scores: Floats
    alpha: float
    groups: Ints | None = None
    delta: float | None = None
    conditional: bool = False
    sides: Sides = "high"

    def __post_init__(self) -> None:
        _check_rate("alpha", self.alpha)
        if self.delta is not None:
            _check_rate("delta", self.delta)
        _check_finite(self.scores)
        for group, scores in _groups_of(self):
            _check_enough(len(scores), self, group)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; ``from_dict`` gives back bit-equal scores."""
        return {
            "format": FORMAT,
            "scores": self.scores.tolist(),
            "alpha": self.alpha,
            "groups": None if self.groups is None else self.groups.tolist(),
            "delta": self.delta,
            "conditional": self.conditional,
            "sides": self.sides,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Calibration:
        """Build the calibration that ``to_dict`` wrote.

        Raises:
            InputRejected: ``CAL-STATE`` if the mapping is not of that form.
            ConfigError, RunFailed: as the constructor.
        """
        try:
            sound = state["format"] == FORMAT and state["sides"] in ("high", "two")
            groups = state["groups"]
            values: dict[str, Any] = {
                "scores": np.array([float(score) for score in state["scores"]], dtype=np.float64),
                "groups": None if groups is None else np.array([int(g) for g in groups], dtype=int),
                "alpha": float(state["alpha"]),
                "delta": None if state["delta"] is None else float(state["delta"]),
                "conditional": bool(state["conditional"]),
                "sides": state["sides"],
            }
        except (KeyError, TypeError, ValueError):
            sound, values = False, {}
        if not sound:
            raise InputRejected(
                "the saved calibration is not sound",
                code="CAL-STATE",
                allowed=f"format {FORMAT!r} with all its fields",
                fix="calibrate again",
            )
        return cls(**values)


def p_values(calibration: Calibration, scores: Scores) -> Floats:
    """Return the conformal p-value of each score; small is suspicious.

    Args:
        calibration: m clean scores.
        scores: n scores; with ``predicted`` if the calibration is conditional.

    Returns:
        (n,) p-values in [1 / (m + 1), 1]; two-sided ones are min(1, 2 min(p_high, p_low)).

    Raises:
        ConfigError: ``CAL-GROUPS`` or ``CAL-FEW`` if a predicted class has no calibration.
        RunFailed: ``CAL-NONFINITE`` if a score is not a number.
    """
    return _p_values(calibration, scores, None)


def randomised_p_values(calibration: Calibration, scores: Scores, seed: int) -> Floats:
    """Return p-values with ties broken at random, exactly uniform on clean data.

    p(x) = (#{s_i > s(x)} + U (1 + #{s_i = s(x)})) / (m + 1) with U uniform on [0, 1].

    Args:
        calibration: m clean scores.
        scores: n scores.
        seed: the n numbers U come from the stream (seed, "calibrate/ties").
    """
    return _p_values(calibration, scores, stream(seed, "calibrate/ties").random(len(scores.values)))


def flags(calibration: Calibration, scores: Scores, *, ties_seed: int | None = None) -> Bools:
    """Return which scores are flagged: p-value at or below the level.

    Args:
        calibration: m clean scores.
        scores: n scores.
        ties_seed: break ties at random under this seed; None is merely conservative on ties.
    """
    if ties_seed is None:
        p = p_values(calibration, scores)
    else:
        p = randomised_p_values(calibration, scores, ties_seed)
    if not calibration.conditional:
        return p <= level(calibration)
    flagged = np.zeros(len(p), dtype=bool)
    for group, members in _members(scores):
        flagged[members] = p[members] <= level(calibration, group)
    return flagged


def level(calibration: Calibration, group: int | None = None) -> float:
    """Return the level that p-values are held against: alpha, or less if ``delta`` is set.

    Args:
        calibration: m clean scores.
        group: predicted class, if the calibration is conditional.
    """
    if calibration.delta is None:
        return calibration.alpha
    m = len(_scores_of(calibration, group))
    return spacings(m, calibration.alpha, calibration.delta, calibration.sides) / (m + 1)


def threshold(calibration: Calibration, group: int | None = None) -> float:
    """Return the score above which (not at which) the deterministic rule flags, on the high side.

    Args:
        calibration: m clean scores.
        group: predicted class, if the calibration is conditional.
    """
    scores = np.sort(_scores_of(calibration, group))
    flagged = spacings(len(scores), calibration.alpha, calibration.delta, calibration.sides)
    return float(scores[len(scores) - flagged // _tails(calibration.sides)])


def smallest_p(calibration: Calibration) -> float:
    """Return the smallest p-value that texts of every group can get; lower rates flag nothing.

    Examples:
        >>> smallest_p(Calibration(np.arange(39.0), alpha=0.1, sides="two"))
        0.05
    """
    fewest = min(len(scores) for _, scores in _groups_of(calibration))
    return _tails(calibration.sides) / (fewest + 1)


def spacings(m: int, alpha: float, delta: float | None = None, sides: Sides = "high") -> int:
    """Return how many of the m + 1 spacings between m clean scores the rule flags; 0 if too few.

    The realised false-positive rate then follows Beta(c, m + 1 - c), c being the value returned.
    Without ``delta`` c is the largest with c / (m + 1) <= alpha; with it the largest for which that
    Beta lies below alpha with probability 1 - delta. Two-sided rules take c / 2 per tail.

    Examples:
        >>> spacings(199, 0.05), spacings(199, 0.05, delta=0.1)
        (10, 6)
    """
    tails = _tails(sides)
    if delta is None:
        count = math.floor(alpha * (m + 1)) + 1  # + 1: the product may fall short of an integer
        while count / (m + 1) > alpha:
            count -= 1
    else:
        # P(Beta(c, m + 1 - c) <= alpha) = P(Binomial(m, alpha) >= c) falls with c
        sound = np.flatnonzero(binomial_tails(m, alpha) >= 1 - delta)
        count = int(sound[-1]) if len(sound) else 0
    return min(count, m) // tails * tails


def smallest_m(alpha: float, delta: float | None = None, sides: Sides = "high") -> int:
    """Return the fewest clean scores with which a rule can flag anything at all.

    Examples:
        >>> smallest_m(0.05), smallest_m(0.01), smallest_m(0.05, sides="two")
        (19, 99, 39)
    """
    low, high = 0, 1
    while not _can_flag(high, alpha, delta, sides):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _can_flag(middle, alpha, delta, sides):
            high = middle
        else:
            low = middle
    return high


def benjamini_hochberg(p: Floats, q: float) -> Bools:
    """Return which of n p-values to reject so that the false-discovery rate is at most q.

    For batches of traffic: among the texts flagged, a share of at most q is clean in expectation
    (independent or positively dependent p-values, as conformal ones are).

    Source: Benjamini and Hochberg 1995; Bates et al., arXiv 2104.08279, section 2.3.
    """
    n = len(p)
    ordered = np.sort(p)
    steps = q * np.arange(1, n + 1) / n
    below = np.flatnonzero(ordered <= steps * (1 + 1e-12))  # rounding must not undo an equality
    return p <= ordered[below[-1]] if len(below) else np.zeros(n, dtype=bool)


def merge_p_values(parts: Sequence[Floats]) -> Floats:
    """Return min(1, 2 mean) of K arrays of p-values: valid under any dependence among them."""
    merged: Floats = np.minimum(1.0, 2.0 * np.mean(np.stack(list(parts)), axis=0))
    return merged


class Shift(NamedTuple):
    """How far recent scores lie from the calibration scores."""

    distance: float
    p_value: float


def shift_test(cal_scores: Floats, recent_scores: Floats) -> Shift:
    """Compare two samples of scores by Kolmogorov and Smirnov; a small p-value says they differ.

    The guarantee holds only for traffic like the calibration texts; this is the alarm.

    Returns:
        The largest distance between the two distribution functions, and the asymptotic p-value.

    Raises:
        RunFailed: ``CAL-NONFINITE`` if a score is not a number, or ``CAL-EMPTY``.
    """
    a, b = np.sort(cal_scores), np.sort(recent_scores)
    if not len(a) or not len(b):
        raise RunFailed(
            "the shift test needs scores on both sides", code="CAL-EMPTY", fix="pass scores of both"
        )
    _check_finite(a)
    _check_finite(b)
    at = np.concatenate([a, b])
    below_a = np.searchsorted(a, at, side="right") / len(a)
    below_b = np.searchsorted(b, at, side="right") / len(b)
    distance = float(np.abs(below_a - below_b).max())
    return Shift(
        distance, kolmogorov_tail(distance * math.sqrt(len(a) * len(b) / (len(a) + len(b))))
    )


def _tails(sides: Sides) -> int:
    return 2 if sides == "two" else 1


def _can_flag(m: int, alpha: float, delta: float | None, sides: Sides) -> bool:
    """Return whether one spacing per tail is sound; as ``spacings``, in closed form."""
    if delta is None:
        return _tails(sides) / (m + 1) <= alpha
    none = (1 - alpha) ** m  # P(Binomial(m, alpha) = 0)
    one = m * alpha * (1 - alpha) ** (m - 1)
    return none + (one if sides == "two" else 0.0) <= delta


def _p_values(calibration: Calibration, scores: Scores, chance: Floats | None) -> Floats:
    """Return p-values; ``chance`` holds the numbers U, None for the deterministic rule."""
    _check_finite(scores.values)
    if not calibration.conditional:
        return _rank(np.sort(calibration.scores), scores.values, chance, calibration.sides)
    p = np.ones(len(scores.values))
    for group, members in _members(scores):
        clean = np.sort(_scores_of(calibration, group))
        part = None if chance is None else chance[members]
        p[members] = _rank(clean, scores.values[members], part, calibration.sides)
    return p


def _rank(clean: Floats, values: Floats, chance: Floats | None, sides: Sides) -> Floats:
    below = np.searchsorted(clean, values, side="left")
    above = len(clean) - np.searchsorted(clean, values, side="right")
    ties = 1 + len(clean) - below - above
    high: Floats = (above + ties * (1.0 if chance is None else chance)) / (len(clean) + 1)
    if sides == "high":
        return high
    # the low side takes 1 - U, so that a text is either high or low among its ties, never both
    low = (below + ties * (1.0 if chance is None else 1.0 - chance)) / (len(clean) + 1)
    both: Floats = np.minimum(1.0, 2.0 * np.minimum(high, low))
    return both


def _groups_of(calibration: Calibration) -> Iterator[tuple[int | None, Floats]]:
    if not calibration.conditional:
        yield None, calibration.scores
        return
    groups = _needed(calibration.groups, "the calibration scores")
    if len(groups) != len(calibration.scores):
        raise ConfigError(
            "calibration scores and their predicted classes differ in number",
            code="CAL-GROUPS",
            got=f"{len(calibration.scores)} scores, {len(groups)} classes",
            fix="pass one predicted class per score",
        )
    for group in np.unique(groups):
        yield int(group), calibration.scores[groups == group]


def _scores_of(calibration: Calibration, group: int | None) -> Floats:
    if not calibration.conditional:
        return calibration.scores
    groups = _needed(calibration.groups, "the calibration scores")
    scores: Floats = calibration.scores[groups == group]
    _check_enough(len(scores), calibration, group)
    return scores


def _members(scores: Scores) -> Iterator[tuple[int, Ints]]:
    predicted = _needed(scores.predicted, "the scores")
    for group in np.unique(predicted):
        yield int(group), np.flatnonzero(predicted == group)


def _needed(groups: Ints | None, owner: str) -> Ints:
    if groups is None:
        raise ConfigError(
            f"conditional calibration needs the predicted classes, and {owner} have none",
            code="CAL-GROUPS",
            fix="use a detector that predicts classes, or set conditional = false",
        )
    return groups


def _check_enough(m: int, calibration: Calibration, group: int | None) -> None:
    if m and spacings(m, calibration.alpha, calibration.delta, calibration.sides):
        return
    needed = smallest_m(calibration.alpha, calibration.delta, calibration.sides)
    kind = "" if group is None else f" predicted as class {group}"
    asked = f"alpha={calibration.alpha:g}"
    if calibration.delta is not None:
        asked += f" with delta={calibration.delta:g}"
    if calibration.sides == "two":
        asked += ", two-sided"
    raise ConfigError(
        f"threshold not calibrated: {m} clean samples{kind}, {needed} needed for {asked}; "
        "pass more calibration data or raise alpha",
        code="CAL-FEW",
    )


def _check_rate(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(
            f"{name} is not a rate",
            code="CAL-RATE",
            got=value,
            allowed="above 0 and below 1",
            fix="choose a rate such as 0.05",
        )


def _check_finite(scores: Floats) -> None:
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise RunFailed(
            "a score is not a finite number",
            code="CAL-NONFINITE",
            got=f"{len(wrong)} of {len(scores)} scores, first at {wrong[0]}",
            fix="check the model and the detector for overflow; nothing was decided",
        )
