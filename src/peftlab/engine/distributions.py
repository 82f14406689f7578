"""The few probability distributions that calibration and metrics need, without scipy.

All have whole-number parameters, where the incomplete beta function is a binomial tail and every
probability a sum of terms known through ``lgamma``.
"""

from __future__ import annotations

import math

import numpy as np

from peftlab.core.types import Floats

Z975 = 1.959963984540054  # standard normal quantile at 0.975
T975 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004)


def binomial_tails(n: int, p: float) -> Floats:
    """Return P(Binomial(n, p) >= j) for j = 0 .. n."""
    if not 0 < p < 1:
        return np.where(np.arange(n + 1) == 0, 1.0, float(p >= 1))
    j = np.arange(n + 1)
    log_pmf = _log_choose(n) + j * math.log(p) + (n - j) * math.log1p(-p)
    tails: Floats = np.minimum(np.cumsum(np.exp(log_pmf)[::-1])[::-1], 1.0)
    return tails


def beta_cdf(x: float, a: int, b: int) -> float:
    """Return P(Beta(a, b) <= x) for whole a, b >= 1, as the binomial tail that it equals.

    Examples:
        >>> round(beta_cdf(0.5, 2, 2), 6)
        0.5
    """
    return float(binomial_tails(a + b - 1, x)[a])


def beta_binomial_pmf(n: int, a: int, b: int) -> Floats:
    """Return P(X = x) for x = 0 .. n, X being Binomial(n, F) and F being Beta(a, b)."""
    x = np.arange(n + 1.0)
    log_beta = _lgamma(a + x) + _lgamma(b + n - x) - math.lgamma(a + b + n)
    constant = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    pmf: Floats = np.exp(_log_choose(n) + log_beta - constant)
    return pmf


def kolmogorov_tail(x: float) -> float:
    """Return P(K > x) for the Kolmogorov distribution, the limit of sqrt(n) times the distance."""
    if x < 0.2:  # P differs from 1 by less than 1e-12, and the series needs very many terms
        return 1.0
    k = np.arange(1, 101)
    series = (-1.0) ** (k - 1) * np.exp(-2.0 * k**2 * x**2)
    return float(np.clip(2.0 * series.sum(), 0.0, 1.0))


def t_quantile_975(degrees: int) -> float:
    """Return the 0.975 quantile of Student's t: a table up to 8 degrees, then a series.

    The Cornish-Fisher series (Abramowitz and Stegun 26.7.5) is right to 3e-4 from 9 degrees on.

    Examples:
        >>> round(t_quantile_975(2), 3), round(t_quantile_975(30), 3)
        (4.303, 2.042)
    """
    if degrees <= len(T975):
        return T975[degrees - 1]
    z, v = Z975, degrees
    first = (z**3 + z) / (4 * v)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return z + first + second + third


def _lgamma(values: Floats) -> Floats:
    return np.array([math.lgamma(value) for value in values])


def _log_choose(n: int) -> Floats:
    """Return log(n choose j) for j = 0 .. n."""
    logs = _lgamma(np.arange(1.0, n + 2.0))
    choose: Floats = logs[n] - logs - logs[::-1]
    return choose
