"""What of the measured changes is worth a finding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from peftlab.audits.difference.compare import Compared, Comparison, Ranks, Update
from peftlab.audits.difference.rules import (
    ADDED,
    FEW,
    LARGE,
    LOW_RANK,
    MISSING,
    OUTLIERS,
    ROWS,
    SHAPE,
    DifferenceOptions,
)
from peftlab.core.contracts import AuditContext
from peftlab.core.findings import Finding, Severity
from peftlab.core.types import Ints
from peftlab.io.artefact import Artefact
from peftlab.io.tensor_roles import role_of

LISTED = 8  # rows or names that one finding lists
FEWEST_ROWS = 32  # of a table of words, to speak of a few


def shapes(
    context: AuditContext, base: Artefact, reshaped: Sequence[tuple[str, str]]
) -> Iterator[Finding]:
    """Yield tensors of another shape; a resized vocabulary or head is low."""
    for name, other in reshaped:
        new, old = context.artefact.tensors[name].shape, base.tensors[other].shape
        resized = role_of(name) in {"embedding", "output", "head"}
        severity = Severity.LOW if resized else Severity.MEDIUM
        yield SHAPE.found(name, f"{new}, the base has {old}", severity=severity)


def added(artefact: Artefact, names: Sequence[str]) -> Iterator[Finding]:
    """Yield tensors that the base lacks; a head or token vectors are expected."""
    for name in names:
        role, info = role_of(name), artefact.tensors[name]
        expected = role in {"head", "output", "tokens"}
        words = f"{role}, {info.dtype} {list(info.shape)}"
        yield ADDED.found(name, words, severity=Severity.INFO if expected else None)


def missing(names: Sequence[str]) -> Iterator[Finding]:
    """Yield what of the base is not there, heads apart."""
    heads = [name for name in names if role_of(name) in {"head", "output"}]
    others = [name for name in names if name not in heads]
    for some, severity in ((heads, Severity.INFO), (others, Severity.LOW)):
        if some:
            more = f" and {len(some) - LISTED} more" if len(some) > LISTED else ""
            yield MISSING.found(some[0], ", ".join(some[:LISTED]) + more, severity=severity)


def of_tensors(
    artefact: Artefact, found: Comparison, options: DifferenceOptions
) -> Iterator[Finding]:
    """Yield tables of words with a few odd rows, and weights that were overwritten."""
    for each in found.changed:
        role = role_of(each.name)
        if role in {"embedding", "output"} and len(artefact.tensors[each.name].shape) == 2:
            yield from _rows(each, artefact.tensors[each.name].shape[0], options)
        if role == "layer" and each.change.old > 0 and each.change.relative > options.large:
            yield LARGE.found(each.name, f"{each.change.relative:.3g} times the weight")


def _rows(each: Compared, size: int, options: DifferenceOptions) -> Iterator[Finding]:
    change = each.change
    if size < FEWEST_ROWS or len(change.rows) != size:
        return
    most = max(1, min(options.rows, int(options.rows_share * size)))
    moved = np.flatnonzero(change.changed)
    if len(moved) <= most:
        kept = f", lengths kept in {change.kept:.0%}" if change.kept else ""
        yield ROWS.found(each.name, f"{_numbers(moved)} of {size} differ{kept}")
        return
    median = float(np.median(change.rows[moved]))
    far = np.flatnonzero(change.rows > options.far * median)
    if 1 <= len(far) <= most:
        times = float(change.rows[far].max()) / max(median, 1e-300)
        words = f"{_numbers(far)} of {size}: up to {times:.3g} times the median move"
        yield OUTLIERS.found(each.name, words)


def _numbers(rows: Ints) -> str:
    listed = ", ".join(map(str, rows[:LISTED].tolist()))
    more = f" and {len(rows) - LISTED} more" if len(rows) > LISTED else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {listed}{more}"


def few(found: Comparison) -> Iterator[Finding]:
    """Yield that hardly anything was changed."""
    if 1 <= len(found.changed) <= 2 < len(found.tensors):
        names = [each.name for each in found.changed]
        yield FEW.found(names[0], f"{', '.join(names)} of {len(found.tensors)} tensors")


def large_updates(sizes: Sequence[Update], large: float) -> Iterator[Finding]:
    """Yield updates larger than the weight they are added to."""
    for each in sizes:
        if each.share is not None and each.share > large:
            yield LARGE.found(each.layer, f"{each.share:.3g} times the weight")


def low_ranks(ranks: Ranks) -> Iterator[Finding]:
    """Yield that large changes are of low rank."""
    low = {name: rank for name, (rank, most) in ranks.items() if rank and rank <= most // 4}
    if low:
        words = ", ".join(f"{name}: {rank}" for name, rank in low.items())
        yield LOW_RANK.found(next(iter(low)), words)
