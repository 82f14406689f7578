"""From numbers to pixels, and the few round numbers that stand beside an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from peftlab.core.types import Floats

NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
MOST_DECADES = 6
MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: the numbers at its two ends, and the pixels where the ends are."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, values: Sequence[float] | Floats) -> Floats:
        """Return pixels; what lies beyond an end is drawn at that end, NaN stays NaN."""
        low, high = self.low, self.high
        given = np.clip(np.asarray(values, dtype=np.float64), min(low, high), max(low, high))
        if self.log:
            given, low, high = np.log10(given), math.log10(low), math.log10(high)
        share = (given - low) / (high - low)
        return self.start + share * (self.end - self.start)


def padded(values: Iterable[float], *, log: bool = False) -> tuple[float, float]:
    """Return the ends of an axis that shows all finite values with 5 % of air at both ends.

    Examples:
        >>> padded([0, 100])
        (-5.0, 105.0)
        >>> padded([3.0])
        (2.5, 3.5)
    """
    # Differences of numbers beyond are no numbers.
    known = [min(max(float(value), -1e300), 1e300) for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if log:
        air = math.exp(0.05 * (math.log(high) - math.log(low)))
        return max(low / air, 1e-300), min(high * air, 1e300)
    if high <= low:
        air = max(0.5, 0.05 * abs(low))
        return low - air, high + air
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Return round numbers between two ends, at most ``most`` steps apart.

    Examples:
        >>> ticks(0, 1)
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> ticks(-9.5, 199.5)
        [0.0, 100.0]
    """
    rough = (high - low) / most
    if not 1e-300 < rough < 1e300:
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice for nice in NICE if nice * power >= rough * (1 - 1e-9)) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between two ends, or 1, 2 and 5 times them where these are few.

    Examples:
        >>> log_ticks(0.5, 3000)
        [1.0, 10.0, 100.0, 1000.0]
        >>> log_ticks(3, 90)
        [5.0, 10.0, 20.0, 50.0]
    """
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    every = max(1, math.ceil((last - first) / MOST_DECADES))
    factors = (1, 2, 5) if last - first < 3 else (1,)
    found = [f * 10.0**k for k in range(first, last + 1, every) for f in factors]
    return [value for value in found if low <= value <= high]


def as_numbers(values: Sequence[float]) -> list[str]:
    """Return numbers with as many decimals as the axis needs.

    Examples:
        >>> as_numbers([0.0, 0.5])
        ['0.0', '0.5']
        >>> as_numbers([0.0, 1e7])
        ['0', '10⁷']
    """
    largest = max(map(abs, values), default=0.0)
    if largest and not 1e-3 <= largest < 1e5:
        return [_scientific(value) for value in values]
    needed = (d for d in range(5) if all(abs(round(v, d) - v) < largest * 1e-6 for v in values))
    decimals = next(needed, 5)
    return [f"{value:.{decimals}f}".replace("-", MINUS) for value in values]


def as_powers(values: Sequence[float]) -> list[str]:
    """Return what stands on a log axis: plain numbers near 1, else powers of ten.

    Examples:
        >>> as_powers([0.1, 1.0, 10.0])
        ['0.1', '1', '10']
        >>> as_powers([1e-6, 1.0])
        ['10⁻⁶', '10⁰']
    """
    if all(1e-3 <= value < 1e5 for value in values):
        return [f"{value:.6g}" for value in values]
    return [_scientific(value) for value in values]


def _scientific(value: float) -> str:
    if value == 0:
        return "0"
    digits, power = f"{value:.1e}".split("e")
    shown = digits.removesuffix(".0").replace("-", MINUS)
    ten = f"10{str(int(power)).translate(_RAISED)}"
    return {"1": ten, f"{MINUS}1": MINUS + ten}.get(shown, f"{shown}·{ten}")


def as_percent(values: Sequence[float]) -> list[str]:
    """Return shares in per cent.

    Examples:
        >>> as_percent([0.0, 0.025])
        ['0 %', '2.5 %']
    """
    return [f"{100 * value:.3g} %" for value in values]
