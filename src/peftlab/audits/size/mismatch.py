"""Recipe mismatch, shown: banks of several recipes, each asked about each.

For every pair the head learns from one recipe and is asked about adapters of another, of concepts
that it has not seen: MAE as it is, share that the recipe gate flags, and MAE once 1, 3 or 6
references of known size, of the target's recipe and of training concepts, have mended the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from peftlab.audits.size import splits
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.evaluate import short
from peftlab.audits.size.features import DEFAULT, Kind
from peftlab.audits.size.heads import make
from peftlab.audits.size.recipe_gate import RecipeGate
from peftlab.audits.size.references import scale_factors
from peftlab.audits.size.table import Table, table_of
from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.core.types import Ints

REFERENCES = (1, 3, 6)
DRAWS = 3  # of the references, a split


def mismatch(
    banks: Mapping[str, SpectraBank], *, head: str = "vote", features: Sequence[Kind] = DEFAULT,
    train: int | None = None, repeats: int = 10, seed: int = 42,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one row per pair of banks: what a bank of one recipe says about another.

    Args:
        banks: by a short name of the recipe; the same layers, ranks and concepts.
        head: which head.
        features: kinds of matrix.
        train: concepts to train on, see ``splits.by_name``.
        repeats: random splits.
        seed: of splits and references.

    Raises:
        ConfigError: ``SIZE-SPLIT`` if the banks do not hold the same concepts.
    """
    first = next(iter(banks.values()))
    if any(b.concepts != first.concepts or b.layers != first.layers for b in banks.values()):
        raise ConfigError(
            "the banks differ in more than their recipe", code="SIZE-SPLIT",
            allowed="the same concepts, layers and ranks", fix="farm them with the same seed",
        )  # fmt: skip
    tables = {name: table_of(bank, features) for name, bank in banks.items()}
    parts: dict[tuple[str, str], list[_Part]] = {}
    for repeat, (rows, rest) in enumerate(splits.by_name(first.names, train, repeats, seed)):
        splits.check(first.names, rows, rest)
        known = {first.names[i] for i in rows}
        for source, bank in banks.items():
            own = _rows(bank, known, inside=True)
            asked = _Asked(head, tables[source].pick(own), bank, own)
            for target, other in banks.items():
                numbers = partial(stream, seed, "size/references", repeat)
                parts.setdefault((source, target), []).append(
                    asked.about(tables[target], other, known, numbers)
                )
    return [
        {"bank": source, "target": target, "head": head, **_mean(found)}
        for (source, target), found in parts.items()
    ]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one split gives: MAE, share flagged, MAE with references (by their number)."""

    mae: float
    flagged: float
    mended: dict[int, float]


class _Asked:
    """A head and a gate of one recipe's training concepts."""

    def __init__(self, head: str, table: Table, bank: SpectraBank, rows: Ints) -> None:
        self.table, self.sizes = table, bank.sizes[rows]
        concepts = [bank.names[i] for i in rows]
        self.head = make(head).fit(table, self.sizes, concepts)
        self.gate = RecipeGate.fit(table, self.sizes, concepts)

    def about(
        self, theirs: Table, other: SpectraBank, known: set[str],
        numbers: Callable[..., np.random.Generator],
    ) -> _Part:  # fmt: skip
        """Return what they say of another recipe's adapters of unknown concepts."""
        test, spare = (_rows(other, known, inside=inside) for inside in (False, True))
        truth, targets = other.sizes[test], theirs.pick(test)

        def error(table: Table) -> float:
            return float(np.abs(self.head.guess(table).size - truth).mean())

        mended = {}
        for count in REFERENCES:
            errors = []
            for draw in range(DRAWS):
                picked = spare[numbers(count, draw).permutation(len(spare))[:count]]
                factors = scale_factors(
                    self.table, self.sizes, theirs.pick(picked), other.sizes[picked].tolist()
                )
                errors.append(error(targets.times(factors)))
            mended[count] = float(np.mean(errors))
        flags = [notice.flagged for notice in self.gate.look(targets)]
        return _Part(error(targets), float(np.mean(flags)), mended)


def _rows(bank: SpectraBank, known: set[str], *, inside: bool) -> Ints:
    return np.flatnonzero([(name in known) is inside for name in bank.names])


def _mean(parts: Sequence[_Part]) -> dict[str, Any]:
    return {
        "mae": short(float(np.mean([part.mae for part in parts]))),
        "flagged": short(float(np.mean([part.flagged for part in parts]))),
        "calibrated": {
            str(count): short(float(np.mean([part.mended[count] for part in parts])))
            for count in REFERENCES
        },
    }
