"""Adapters as rows of numbers: the spectra of all matrices side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.features import Kind
from peftlab.core.types import Floats, Ints

FLOOR = 1e-6  # of a column's largest value: below it a singular value counts as 0


@dataclass(frozen=True, slots=True)
class Table:
    """Features of n adapters.

    Attributes:
        values: (n, P), matrix by matrix.
        names: M matrices, ``"<layer>/<kind>"``.
        widths: M numbers of columns, P together.
    """

    values: Floats
    names: tuple[str, ...]
    widths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def parts(self) -> list[slice]:
        """Return the columns of each matrix."""
        ends = np.cumsum(self.widths).tolist()
        return [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]

    def pick(self, rows: Sequence[int] | Ints) -> Table:
        """Return some adapters."""
        return replace(self, values=self.values[np.asarray(rows)])

    def norms(self) -> Table:
        """Return the Frobenius norm of each matrix in place of its spectrum."""
        columns = [np.linalg.norm(self.values[:, part], axis=1) for part in self.parts]
        return Table(np.stack(columns, axis=1), self.names, (1,) * len(self.names))

    def times(self, factors: Mapping[str, float]) -> Table:
        """Return the table with some matrices multiplied."""
        column = np.repeat([factors.get(name, 1.0) for name in self.names], self.widths)
        return replace(self, values=self.values * column)


def table_of(bank: SpectraBank, kinds: Sequence[Kind]) -> Table:
    """Return the features of all adapters of a bank."""
    names = bank.names_of(kinds)
    return _joined({name: bank.matrices[name] for name in names}, names)


def row_table(vectors: Mapping[str, Floats], names: Sequence[str]) -> Table:
    """Return the features of one adapter, matrices in the order of ``names``."""
    return _joined({name: vectors[name][None] for name in names}, names)


def _joined(matrices: Mapping[str, Floats], names: Sequence[str]) -> Table:
    return Table(
        np.concatenate([matrices[name] for name in names], axis=1), tuple(names),
        tuple(matrices[name].shape[1] for name in names),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Standard:
    """Columns with mean 0 and deviation 1, and what made them so.

    Attributes:
        log: logarithms are taken first, of values of at least ``floor``.
        floor, mean, deviation: (P,).
    """

    log: bool
    floor: Floats
    mean: Floats
    deviation: Floats

    @classmethod
    def fit(cls, values: Floats, *, log: bool) -> Standard:
        """Return what makes these columns standard; a constant column becomes 0."""
        floor = np.maximum(FLOOR * np.abs(values).max(axis=0), np.finfo(float).tiny)
        plain = np.log(np.maximum(values, floor)) if log else values
        deviation: Any = plain.std(axis=0)
        constant = deviation <= 1e-12 * (1 + np.abs(plain).max(axis=0))
        return cls(log, floor, plain.mean(axis=0), np.where(constant, np.inf, deviation))

    def apply(self, values: Floats) -> Floats:
        """Return standard columns."""
        plain = np.log(np.maximum(values, self.floor)) if self.log else values
        return np.asarray((plain - self.mean) / self.deviation)
