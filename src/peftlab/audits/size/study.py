"""What beside the heads a bench shows: kinds of matrix, layers, number of training concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftlab.audits.size import splits
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.evaluate import score, short
from peftlab.audits.size.features import DEFAULT, Kind
from peftlab.audits.size.table import table_of
from peftlab.audits.size.votes import Votes

MOST_REPEATS = 5  # of the curve: it fits many heads
FEW = (1, 2, 3, 5, 8, 12, 15, 20, 30, 40)  # training concepts (1 to 5: arXiv 2406.19395, figure 5)


def kinds_table(
    bank: SpectraBank, *, train: int | None, repeats: int, seed: int
) -> list[dict[str, Any]]:
    """Return MAE and accuracy of the vote by kind of matrix, and of all together."""
    cuts = splits.by_name(bank.names, train, repeats, seed)
    sets: list[tuple[Kind, ...]] = [(kind,) for kind in bank.kinds]
    if len(sets) > 1:
        sets.append(bank.kinds)
    rows = []
    for kinds in sets:
        found = score("vote", table_of(bank, kinds), bank.sizes, bank.names, cuts)
        rows.append(
            {"kinds": list(kinds), "mae": short(found.mae), "accuracy": short(found.accuracy)}
        )
    return rows


def curve(
    bank: SpectraBank, heads: Sequence[str], *, features: Sequence[Kind] = DEFAULT, repeats: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return MAE and accuracy of each head by number of training concepts, one and up.

    At most 5 splits are used for each number.
    """
    table = table_of(bank, features)
    most = len(bank.concepts) - max(1, min(splits.LEFT, len(bank.concepts) // 4))
    rows = []
    for count in [number for number in FEW if number <= most]:
        cuts = splits.by_name(bank.names, count, min(repeats, MOST_REPEATS), seed)
        for head in heads:
            found = score(head, table, bank.sizes, bank.names, cuts)
            rows.append({
                "train": count, "head": head, "mae": short(found.mae),
                "accuracy": short(found.accuracy),
            })  # fmt: skip
    return rows


def layer_map(
    bank: SpectraBank, *, features: Sequence[Kind] = DEFAULT, train: int | None, repeats: int,
    seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return how often each single matrix is right, and its MAE: which layers leak."""
    table, sizes = table_of(bank, features), bank.sizes
    far = np.zeros(len(table.names))
    hits, count = np.zeros(len(table.names)), 0
    for train_rows, test_rows in splits.by_name(bank.names, train, repeats, seed):
        splits.check(bank.names, train_rows, test_rows)
        concepts = [bank.names[i] for i in train_rows]
        head = Votes().fit(table.pick(train_rows), sizes[train_rows], concepts)
        guess = head.levels[head.votes(table.pick(test_rows))]
        off = np.abs(guess - sizes[test_rows][:, None])
        far += off.sum(axis=0)
        hits += (off == 0).sum(axis=0)
        count += len(test_rows)
    return [
        {
            "layer": name.rpartition("/")[0], "kind": name.rpartition("/")[2],
            "mae": short(float(miss / count)), "accuracy": short(float(hit / count)),
        }
        for name, miss, hit in zip(table.names, far, hits, strict=True)
    ]  # fmt: skip


def shapes(bank: SpectraBank, layers: Sequence[str]) -> dict[str, Any]:
    """Return what the figures of norms and spectra draw.

    Args:
        bank: labelled adapters.
        layers: whose spectra are shown (the best and the worst, say).

    Returns:
        ``norms``: five-number summaries of the mean BA norm by size; ``spectra``: the mean BA
        spectrum by size of each of the layers.
    """
    norms, levels = bank.norms("BA").mean(axis=1), bank.levels.tolist()
    boxes = [
        {
            "size": level, "adapters": int((bank.sizes == level).sum()),
            "mean": short(float(norms[bank.sizes == level].mean())),
            "quantiles": [
                short(float(q))
                for q in np.quantile(norms[bank.sizes == level], (0.05, 0.25, 0.5, 0.75, 0.95))
            ],
        }
        for level in levels
    ]  # fmt: skip
    spectra = [
        {
            "layer": layer, "size": level,
            "values": [
                short(float(v))
                for v in bank.matrices[f"{layer}/BA"][bank.sizes == level].mean(axis=0)
            ],
        }
        for layer in layers for level in levels
    ]  # fmt: skip
    return {"norms": boxes, "spectra": spectra}
