"""Recipe mismatch, shown: banks of several recipes, each asked about each.

For every pair the head learns from one recipe and is asked about adapters of another, of concepts
that it has not seen: MAE as it is, share that the recipe gate flags, and MAE once 1, 3 or 6
references of known size, of the target's recipe and of training concepts, have mended the scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from peftlab.audits.size import splits
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.evaluate import short
from peftlab.audits.size.features import DEFAULT, Kind
from peftlab.audits.size.heads import make
from peftlab.audits.size.recipe_gate import RecipeGate
from peftlab.audits.size.references import scale_factors
from peftlab.audits.size.table import table_of
from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream

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
    rows = []
    for source, bank in banks.items():
        for target, other in banks.items():
            rows.append({
                "bank": source, "target": target, "head": head,
                **_pair(bank, other, head, features, (train, repeats, seed)),
            })  # fmt: skip
    return rows


def _pair(
    bank: SpectraBank, other: SpectraBank, head: str, features: Sequence[Kind],
    protocol: tuple[int | None, int, int],
) -> dict[str, Any]:  # fmt: skip
    train, repeats, seed = protocol
    own, theirs = table_of(bank, features), table_of(other, features)
    plain, flags = [], []
    mended: dict[int, list[float]] = {count: [] for count in REFERENCES}
    for repeat, (rows, rest) in enumerate(splits.by_name(bank.names, train, repeats, seed)):
        splits.check(bank.names, rows, rest)
        concepts = [bank.names[i] for i in rows]
        inside = np.isin(other.names, concepts)
        test, known = np.flatnonzero(~inside), np.flatnonzero(inside)
        table, sizes, truth = own.pick(rows), bank.sizes[rows], other.sizes[test]
        fitted = make(head).fit(table, sizes, concepts)
        targets = theirs.pick(test)
        plain.append(float(np.abs(fitted.guess(targets).size - truth).mean()))
        notices = RecipeGate.fit(table, sizes, concepts).look(targets)
        flags.append(float(np.mean([notice.flagged for notice in notices])))
        for count in REFERENCES:
            for draw in range(DRAWS):
                numbers = stream(seed, "size/references", repeat, count, draw)
                picked = known[numbers.permutation(len(known))[:count]]
                factors = scale_factors(
                    table, sizes, theirs.pick(picked), other.sizes[picked].tolist()
                )
                guess = fitted.guess(targets.times(factors))
                mended[count].append(float(np.abs(guess.size - truth).mean()))
    return {
        "mae": short(float(np.mean(plain))),
        "flagged": short(float(np.mean(flags))),
        "calibrated": {str(n): short(float(np.mean(each))) for n, each in mended.items()},
    }
