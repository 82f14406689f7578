"""How wide a window is: stretches of un-learning steps on which a rate reaches a bar.

Between two looks the rate is taken to be a straight line, so that the width does not depend on
where the looks happen to stand. A stretch that reaches the last look is open: it may go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Stretch:
    """A run of steps.

    Attributes:
        start, end: first and last step, between looks if need be.
        open: whether it ends only because nobody looked further.
    """

    start: float
    end: float
    open: bool

    @property
    def width(self) -> float:
        """Return the number of steps from start to end."""
        return self.end - self.start


def stretches(steps: Sequence[int], rates: Sequence[float], bar: float) -> list[Stretch]:
    """Return the stretches on which the interpolated rate is at least ``bar``, in order.

    A single point that touches the bar is no stretch.

    Args:
        steps: K + 1 rising steps.
        rates: the rate at each.
        bar: smallest rate that counts.

    Examples:
        >>> [(s.start, s.end) for s in stretches([0, 10, 20], [0.0, 1.0, 0.0], 0.5)]
        [(5.0, 15.0)]
    """
    parts: list[tuple[float, float]] = []
    for i in range(len(steps) - 1):
        part = _above(steps[i], steps[i + 1], rates[i], rates[i + 1], bar)
        if part is None:
            continue
        if parts and parts[-1][1] == part[0]:
            parts[-1] = (parts[-1][0], part[1])
        else:
            parts.append(part)
    return [Stretch(a, b, open=b == steps[-1]) for a, b in parts if b > a]


def _above(x0: float, x1: float, y0: float, y1: float, bar: float) -> tuple[float, float] | None:
    """Return where the line from (x0, y0) to (x1, y1) is at or above the bar."""
    if y0 < bar and y1 < bar:
        return None
    if y0 >= bar and y1 >= bar:
        return float(x0), float(x1)
    cross = x0 + (x1 - x0) * (bar - y0) / (y1 - y0)
    return (float(x0), cross) if y0 >= bar else (cross, float(x1))


def widest(steps: Sequence[int], rates: Sequence[float], bar: float) -> Stretch | None:
    """Return the widest stretch, the first of equals; None if the bar is never reached."""
    return max(stretches(steps, rates, bar), key=lambda found: found.width, default=None)


def mean_rate(steps: Sequence[int], rates: Sequence[float]) -> float:
    """Return the mean of the interpolated rate over all steps: what a blind choice of step gives.

    Examples:
        >>> mean_rate([0, 10, 20], [0.0, 1.0, 0.0])
        0.5
    """
    return float(np.trapezoid(rates, steps) / (steps[-1] - steps[0]))
