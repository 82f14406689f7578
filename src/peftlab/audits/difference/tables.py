"""Tables and drawings of the changes, for the report."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from peftlab.audits.difference.compare import Compared, Ranks, Update
from peftlab.core.findings import Chart, Table
from peftlab.io.layer_names import kind_of

MOST_LINES = 8


def changes(changed: Sequence[Compared], ranks: Ranks, most: int) -> Table:
    """Return one row for each changed tensor, the most changed first."""
    ordered = sorted(changed, key=lambda each: (-each.change.relative, each.name))
    rows = tuple(
        (
            each.name, _rounded(each.change.relative), int(each.change.changed.sum()),
            len(each.change.changed), _rank(ranks.get(each.name)),
        )
        for each in ordered[:most]
    )  # fmt: skip
    header = ("tensor", "change over weight", "rows changed", "rows", "rank of the change")
    return Table("Changed tensors, the most changed first", header, rows)


def of_updates(sizes: Sequence[Update], most: int) -> Table:
    """Return one row for each low-rank update."""
    rows = tuple(
        (
            each.layer, each.weight or "not found", _rounded(each.norm),
            None if each.share is None else _rounded(each.share),
        )
        for each in sizes[:most]
    )  # fmt: skip
    header = ("layer", "weight", "norm of the update", "over that of the weight")
    return Table("Updates against the base", header, rows)


def along_the_model(shares: Sequence[tuple[str, float]]) -> tuple[Chart, ...]:
    """Return how much was changed along the model, a line for each of the commonest kinds."""
    kinds: defaultdict[str, list[float]] = defaultdict(list)
    for name, share in shares:
        if math.isfinite(share):
            kinds[kind_of(name)].append(share)
    often = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:MOST_LINES]
    if not often:
        return ()
    lines = {kind: tuple((float(n), x) for n, x in enumerate(kinds[kind])) for kind in often}
    caption = "Size of the change over that of the weight, by kind of layer, along the model"
    return (
        Chart("Changes along the model", caption, "layer of its kind", "share", lines, "point"),
    )


def _rank(rank: tuple[int | None, int] | None) -> str | int | None:
    if rank is None:
        return None
    return rank[0] if rank[0] is not None else "over 64"


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
