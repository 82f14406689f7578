"""Ordinal logistic regression: proportional odds on log-spectra, with a ridge penalty.

    P(size <= level k | x) = 1 / (1 + exp(-(t_k - b x))),    t_1 < ... < t_{K-1}

The negative log-likelihood is convex in (t, b); it is minimised by Newton steps with halving. x are
the coordinates of the standard log-spectra in the space that the bank spans. The penalty is chosen
over folds of concepts. Ours; the model is McCullagh's, J. R. Stat. Soc. B 42, 1980.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from peftlab.audits.size.guess import Guess, choose, middle
from peftlab.audits.size.table import Standard, Table
from peftlab.core.types import Floats, Ints

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of |b|^2 / 2, a row, coordinates of variance 1 a column
STEPS = 40
CLOSE = 1e-8  # decrement at which the search ends
TINY = 1e-12


class Ordinal:
    """Proportional odds."""

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Choose the penalty, then fit on everything."""
        self.levels = np.unique(sizes)
        values, columns = table.values, np.searchsorted(self.levels, sizes)
        count = len(self.levels)

        def fold(train: Ints, test: Ints) -> list[float]:
            if len(np.unique(columns[train])) < count:
                return [0.0] * len(PENALTIES)
            space = _Space(values[train])
            found, start = [], None
            for penalty in reversed(PENALTIES):  # from strong to weak, each from the last
                start = _newton(space.points, columns[train], count, penalty, start)
                shares = _shares(space.of(values[test]), start, count)
                found.append(-float(np.log(shares[np.arange(len(test)), columns[test]]).sum()))
            return found[::-1]

        penalty = choose(PENALTIES, concepts, fold)
        self.space = _Space(values)
        self.parameters = _newton(self.space.points, columns, count, penalty, None)
        return self

    def guess(self, table: Table) -> Guess:
        """Return the distribution over sizes, and its median."""
        shares = _shares(self.space.of(table.values), self.parameters, len(self.levels))
        return Guess(middle(shares, self.levels), shares)


class _Space:
    """Coordinates along the directions that the bank spans, scaled so that b x has unit order."""

    def __init__(self, values: Floats) -> None:
        self.standard = Standard.fit(values, log=True)
        own = self.standard.apply(values)
        _, lengths, turn = np.linalg.svd(own, full_matrices=False)
        kept = lengths > 1e-9 * max(lengths[0], TINY)
        self.turn = turn[kept].T / np.sqrt(max(own.shape[1], 1))
        self.points = own @ self.turn

    def of(self, values: Floats) -> Floats:
        return np.asarray(self.standard.apply(values) @ self.turn)


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def _shares(points: Floats, parameters: Floats, count: int) -> Floats:
    cuts, slope = parameters[: count - 1], parameters[count - 1 :]
    below = _sigmoid(cuts[None, :] - (points @ slope)[:, None])
    edges = np.concatenate([np.zeros((len(points), 1)), below, np.ones((len(points), 1))], axis=1)
    shares = np.maximum(np.diff(edges, axis=1), TINY)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _newton(
    points: Floats, columns: Ints, count: int, penalty: float, start: Floats | None
) -> Floats:
    """Return cuts and slope."""
    if start is None:
        shares = np.cumsum(np.bincount(columns, minlength=count))[:-1] / len(columns)
        start = np.concatenate([np.log(shares / (1 - shares)), np.zeros(points.shape[1])])
    at, value = start, _loss(points, columns, count, penalty, start)
    for _ in range(STEPS):
        slope, curve = _derivatives(points, columns, count, penalty, at)
        step = np.linalg.solve(curve, slope)
        if slope @ step < CLOSE:
            break
        size = 1.0
        while size > 1e-6:
            trial = at - size * step
            now = _loss(points, columns, count, penalty, trial)
            if now <= value - 1e-4 * size * float(slope @ step):
                at, value = trial, now
                break
            size /= 2
        else:
            break
    return at


def _loss(points: Floats, columns: Ints, count: int, penalty: float, at: Floats) -> float:
    cuts, slope = at[: count - 1], at[count - 1 :]
    if (np.diff(cuts) <= 0).any():
        return np.inf
    shares = _shares(points, at, count)[np.arange(len(points)), columns]
    return float(-np.log(shares).mean() + penalty * (slope @ slope) / 2)


def _derivatives(
    points: Floats, columns: Ints, count: int, penalty: float, at: Floats
) -> tuple[Floats, Floats]:
    """Return gradient and Hessian of the loss.

    With upper = s(t_y - b x) and lower = s(t_{y-1} - b x): the derivative of -log(upper - lower)
    needs the densities s(1 - s) at both ends and theirs; each row touches two cuts at most.
    """
    n, dims = points.shape
    cuts, slope = at[: count - 1], at[count - 1 :]
    line = points @ slope
    upper_z = np.append(cuts, np.inf)[columns] - line
    lower_z = np.insert(cuts, 0, -np.inf)[columns] - line
    upper, lower = _sigmoid(upper_z), _sigmoid(lower_z)
    share = np.maximum(upper - lower, TINY)
    dense_up, dense_low = upper * (1 - upper), lower * (1 - lower)
    bend_up, bend_low = dense_up * (1 - 2 * upper), dense_low * (1 - 2 * lower)
    first_up, first_low = -dense_up / share, dense_low / share  # by upper_z and by lower_z
    up_up = first_up**2 - bend_up / share
    low_low = first_low**2 + bend_low / share
    up_low = first_up * first_low
    design_up = _design(points, columns, count)
    design_low = _design(points, columns - 1, count)
    gradient = (design_up.T @ first_up + design_low.T @ first_low) / n
    cross = design_up.T @ (up_low[:, None] * design_low)
    hessian = (
        design_up.T @ (up_up[:, None] * design_up)
        + design_low.T @ (low_low[:, None] * design_low)
        + cross + cross.T
    ) / n  # fmt: skip
    gradient[count - 1 :] += penalty * slope
    hessian[count - 1 :, count - 1 :] += penalty * np.eye(dims)
    hessian[: count - 1, : count - 1] += 1e-9 * np.eye(count - 1)
    return gradient, hessian


def _design(points: Floats, cut: Ints, count: int) -> Floats:
    """Return d(t_cut - b x) by all parameters; rows without such a cut are 0 in the cuts."""
    cuts = np.zeros((len(points), count - 1))
    there = (cut >= 0) & (cut < count - 1)
    cuts[np.flatnonzero(there), cut[there]] = 1.0
    return np.concatenate([cuts, -points * there[:, None]], axis=1)
