"""The whole bench of a bank as one JSON-able result: heads, chance, control, tables, mismatch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftlab.audits.size import study
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.evaluate import Progress, evaluate
from peftlab.audits.size.features import DEFAULT, Kind
from peftlab.audits.size.mismatch import mismatch

HEADS = ("vote", "frobenius", "nearest", "ridge", "lda", "ordinal")
OWN = "this bank"  # name of the bank among those of other recipes


def bench(
    bank: SpectraBank, heads: Sequence[str] = HEADS, *, features: Sequence[Kind] = DEFAULT,
    train: int | None = None, repeats: int = 10, seed: int = 42,
    others: Mapping[str, SpectraBank] | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure heads on a bank, and all that the report draws; the same bytes for the same input.

    Args:
        bank: labelled adapters.
        heads: names, see ``heads.ABOUT``.
        features: kinds of matrix.
        train: concepts to train on, see ``splits.by_name``.
        repeats: random splits.
        seed: of everything random.
        others: banks of other recipes by name, same concepts: the mismatch is measured with the
            first head.
        progress: called with (done, total, what).

    Returns:
        ``heads`` (head, mae, mape, accuracy), ``chance``, ``control``, ``details``, ``kinds``,
        ``layer_map``, ``curve``, ``norms``, ``spectra``, ``mismatch``, ``steps``.

    Raises:
        ConfigError: ``SIZE-SPLIT``, ``SIZE-HEAD``.
    """
    found = evaluate(
        bank, heads, features=features, train=train, repeats=repeats, seed=seed, progress=progress
    ).to_json()
    protocol: dict[str, Any] = {"train": train, "repeats": repeats, "seed": seed}
    layers = study.layer_map(bank, features=features, **protocol)
    ranked = sorted({row["layer"] for row in layers}, key=lambda name: _mean_mae(layers, name))
    best = min(found["heads"], key=lambda row: row["mae"])["head"]
    found |= {
        "kinds": study.kinds_table(bank, **protocol),
        "layer_map": layers,
        "curve": study.curve(
            bank, list(dict.fromkeys((heads[0], best))), features=features, repeats=repeats,
            seed=seed,
        ),
        **study.shapes(bank, list(dict.fromkeys((ranked[0], ranked[-1])))),
        "mismatch": [],
        "steps": [],
    }  # fmt: skip
    if others:
        banks = {OWN: bank, **others}
        found["mismatch"] = mismatch(banks, head=heads[0], features=features, **protocol)
        found["steps"] = _by_steps(banks, found["mismatch"])
    return found


def _by_steps(
    banks: Mapping[str, SpectraBank], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the error on their own kind of banks that differ from the first in steps only."""
    first = dict(next(iter(banks.values())).recipe)
    errors = {row["bank"]: row["mae"] for row in rows if row["bank"] == row["target"]}
    return [
        {"steps": bank.recipe["steps"], "mae": errors[name]}
        for name, bank in banks.items()
        if "steps" in bank.recipe and {**first, "steps": bank.recipe["steps"]} == dict(bank.recipe)
    ]


def _mean_mae(layers: Sequence[Mapping[str, Any]], name: str) -> float:
    own = [float(row["mae"]) for row in layers if row["layer"] == name]
    return sum(own) / len(own)
