"""Ridge regression of the size on all spectra, or of its logarithm on their logarithms.

Columns are made standard; the penalty is the one with the least error over folds of concepts. The
guess is a real number between the smallest and the largest size of the bank, and is not rounded.
Source: the comparison in arXiv 2406.19395, table 5; folds by concept and the logarithms are ours.
Cost: one eigendecomposition of an N x N matrix a fold, never of P x P.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from peftlab.audits.size.guess import Guess, choose
from peftlab.audits.size.table import Standard, Table
from peftlab.core.types import Floats, Ints

PENALTIES = tuple(10.0**k for k in range(-5, 3))  # in units of the mean eigenvalue times N
LEAST_SPREAD = 0.25  # of the gap between sizes: no guess is surer than that


class Ridge:
    """Ridge regression, in plain numbers or in logarithms."""

    def __init__(self, *, log: bool = False) -> None:
        self.log = log

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Choose the penalty, then fit on everything."""
        self.levels = np.unique(sizes)
        target = self._scale(sizes)
        errors: dict[tuple[int, ...], list[Floats]] = {}

        def fold(train: Ints, test: Ints) -> list[float]:
            found = [
                guess - target[test]
                for guess in _paths(
                    table.values[train], target[train], table.values[test], self.log
                )
            ]
            errors[tuple(test.tolist())] = found
            return [float(np.abs(each).sum()) for each in found]

        self.penalty = choose(PENALTIES, concepts, fold)
        place = PENALTIES.index(self.penalty)
        residuals = [each[place] for each in errors.values()]
        gap = float(np.diff(self._scale(self.levels)).mean())
        spread = float(np.sqrt(np.mean(np.concatenate(residuals) ** 2))) if residuals else gap
        self.spread = max(spread, LEAST_SPREAD * gap)
        self.bank, self.target = table.values, target
        return self

    def guess(self, table: Table) -> Guess:
        """Return real-valued guesses; shares are those of a normal error."""
        path = _paths(self.bank, self.target, table.values, self.log, (self.penalty,))[0]
        levels = self._scale(self.levels)
        found = np.clip(path, levels[0], levels[-1])
        weight = np.exp(-(((found[:, None] - levels[None, :]) / self.spread) ** 2) / 2)
        weight = np.maximum(weight, np.finfo(float).tiny)
        size = np.expm1(found) if self.log else found
        return Guess(size, weight / weight.sum(axis=1, keepdims=True))

    def _scale(self, sizes: Ints) -> Floats:
        plain = sizes.astype(float)
        return np.log1p(plain) if self.log else plain


def _paths(
    train: Floats, target: Floats, test: Floats, log: bool,  # noqa: FBT001
    penalties: Sequence[float] = PENALTIES,
) -> list[Floats]:  # fmt: skip
    """Return the guesses for ``test`` with each penalty, from one eigendecomposition."""
    standard = Standard.fit(train, log=log)
    own = standard.apply(train)
    values, vectors = np.linalg.eigh(own @ own.T)
    values = np.maximum(values, 0)
    middle = target.mean()
    turned = vectors.T @ (target - middle)
    cross = standard.apply(test) @ own.T @ vectors
    unit = max(float(values.sum()), np.finfo(float).tiny)
    return [middle + cross @ (turned / (values + penalty * unit)) for penalty in penalties]
