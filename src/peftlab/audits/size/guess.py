"""What a head is: it learns sizes from labelled adapters and guesses those of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from peftlab.audits.size.table import Table
from peftlab.core.types import Floats, Ints

FOLDS = 5
Setting = TypeVar("Setting")


@dataclass(frozen=True, slots=True)
class Guess:
    """Sizes of n adapters.

    Attributes:
        size: (n,) best guess; a real number for regressions.
        shares: (n, K) weight of each size that the bank knows; rows sum to 1.
    """

    size: Floats
    shares: Floats


class Head(Protocol):
    """Guesses sizes. Constructed without arguments; the same data give the same guesses."""

    def fit(self, table: Table, sizes: Ints, concepts: Sequence[str]) -> Self:
        """Learn from labelled adapters; settings are chosen by concept, if there are enough."""

    def guess(self, table: Table) -> Guess:
        """Return guesses, each independent of the other rows."""


def one_hot(columns: Ints, levels: int) -> Floats:
    """Return rows with a single 1."""
    return np.asarray(np.eye(levels)[columns])


def nearest_level(size: Floats, levels: Ints) -> Ints:
    """Return the known size nearest to each guess, the smaller one of two."""
    far = np.abs(np.asarray(size)[:, None] - levels[None, :])
    return np.asarray(levels[far.argmin(axis=1)])


def middle(shares: Floats, levels: Ints) -> Floats:
    """Return the (lower) median size of each row: the guess with the least expected distance."""
    reached = np.cumsum(shares, axis=1) >= 0.5 - 1e-12
    return np.asarray(levels[reached.argmax(axis=1)], dtype=float)


def concept_folds(concepts: Sequence[str], folds: int = FOLDS) -> list[Ints]:
    """Return the rows of each fold; all adapters of a concept are in one.

    Examples:
        >>> [rows.tolist() for rows in concept_folds(["b", "a", "b"], 2)]
        [[1], [0, 2]]
    """
    known = {name: place for place, name in enumerate(sorted(set(concepts)))}
    place = np.array([known[name] for name in concepts])
    return [np.flatnonzero(place % folds == k) for k in range(min(folds, len(known)))]


def choose(
    settings: Sequence[Setting], concepts: Sequence[str],
    errors: Callable[[Ints, Ints], Sequence[float]],
) -> Setting:  # fmt: skip
    """Return the setting with the least error over folds of concepts; of one concept the middle.

    Args:
        settings: from weak to strong; of equal ones the stronger is taken.
        concepts: of each row.
        errors: called with (train rows, test rows); sum of errors on the test rows a setting.
    """
    folds = concept_folds(concepts)
    if len(folds) < 2:
        return settings[len(settings) // 2]
    everything = np.arange(len(concepts))
    total = np.zeros(len(settings))
    for test in folds:
        total += np.asarray(errors(np.setdiff1d(everything, test), test))
    best: Any = np.flatnonzero(total <= total.min() * (1 + 1e-9))[-1]
    return settings[int(best)]
