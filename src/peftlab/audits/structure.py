"""What an adapter is made of: method, ranks, scales, targets, how much it could change.

Nothing is judged by its values but two things that need none of the base: factors that were never
trained (B = 0) and factors that stand in the file twice. A finding here is an oddity to ask about,
not an accusation: none is above medium.

Cost: one pass over the bytes of the factors.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.findings import Finding, Severity, Table, rule
from peftlab.core.options import Options, option
from peftlab.core.registry import audit
from peftlab.io.adapter_layout import AdapterLayout, Pair, natural_order
from peftlab.io.artefact import Artefact
from peftlab.io.layer_names import block_of, ranges, target_of
from peftlab.io.tensor_roles import role_of

ASK = "ask the publisher how the adapter was made"
RANKS = rule(
    "STRUCT-RANKS", Severity.INFO, "ranks that differ between layers without a field that says so",
    why="usual for adapters that were compressed or merged, odd for ones that were trained",
    fix=ASK,
)  # fmt: skip
ONE_LAYER = rule(
    "STRUCT-ONE-LAYER", Severity.LOW, "only one block is changed, and the config does not say so",
    why="fine-tunes change all blocks unless they are told otherwise; an edit need not", fix=ASK,
)  # fmt: skip
TARGET = rule(
    "STRUCT-TARGET", Severity.LOW, "low-rank updates of embeddings or of the output layer",
    why="a few words can be changed there with no trace elsewhere",
    fix="compare with the base (--against), and ask why these layers were trained",
)  # fmt: skip
TWIN = rule(
    "STRUCT-TWIN", Severity.LOW, "factors that stand in the file twice, byte for byte",
    why="training gives no two layers the same factors; copying does", fix=ASK,
)  # fmt: skip
ZERO = rule(
    "STRUCT-ZERO", Severity.LOW, "updates that are zero: these layers were not trained",
    why="the adapter does less than its config says, or nothing",
    fix="check that the file was written after training",
)  # fmt: skip
SCALE = rule(
    "STRUCT-SCALE", Severity.MEDIUM, "an update is multiplied with an unusually large or negative"
    " number",
    why="a large alpha makes small weights matter; spectra look harmless without it", fix=ASK,
)  # fmt: skip
DTYPES = rule(
    "STRUCT-DTYPES", Severity.INFO, "factors of several number types",
    why="the file was put together from parts", fix="no need, if its publisher merged adapters",
)  # fmt: skip
LISTED = 4  # names that one finding lists
SMALLEST = 16  # numbers; shorter factors may be equal by chance, as vectors of one value are


class StructureOptions(Options):
    """Options of the look at an adapter's structure."""

    scale: float = option(
        64.0, "scale, in size, above which an update is unusual; a published rule of thumb is 2",
        source="ours (LoRA paper: alpha fixed, 1 to 2; rsLoRA 16 / sqrt(16) = 4)", gt=0, le=1000,
    )  # fmt: skip
    targets: int = option(
        256, "most rows of the table of targets", source="ours", ge=1, le=10_000
    )  # fmt: skip


@audit(
    "structure",
    options=StructureOptions,
    source="ours",
    cost="one pass over the factors' bytes, no torch",
)
class StructureAudit:
    """List what an adapter is made of, and what is odd about it."""

    def __init__(self, options: StructureOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return why there is nothing to list."""
        return "" if context.artefact.tensors else "the artefact has no tensors"

    def run(self, context: AuditContext) -> AuditResult:
        """Return tables of targets and of whole tensors, and what is odd about them."""
        layout, artefact = context.layout, context.artefact
        findings = [
            *_uneven(artefact, layout),
            *_place(artefact, layout),
            *_scales(layout, self.options.scale),
            *(_copies(artefact, layout) if _has_bytes(artefact) else ()),
        ]
        tables = [_targets(artefact, layout, self.options.targets)]
        if layout.extra:
            tables.append(_whole(artefact, layout, self.options.targets))
        left_out = (
            [] if _has_bytes(artefact) else ["zero and repeated factors: there are no values"]
        )
        if context.against is None and layout.format != "model":
            left_out.append("share of the base's parameters: no base was given (--against)")
        return AuditResult(
            tuple(findings), _facts(context), tuple(tables), not_checked=tuple(left_out)
        )


def _has_bytes(artefact: Artefact) -> bool:
    return all(info.file in artefact.files for info in artefact.tensors.values())


def _size(artefact: Artefact, names: Iterator[str] | tuple[str, ...]) -> int:
    return sum(math.prod(artefact.tensors[name].shape) for name in names)


def _names(pair: Pair) -> Iterator[str]:
    yield from (pair.a, pair.b)
    yield from (name for name in (pair.magnitude, pair.diagonal) if name)


def _facts(context: AuditContext) -> dict[str, object]:
    artefact, layout = context.artefact, context.layout
    inside = sum(_size(artefact, _names(pair)) for pair in layout.pairs)
    inside += _size(artefact, layout.other)
    beside = _size(artefact, layout.extra)
    if layout.format == "model":
        beside = _size(artefact, tuple(artefact.tensors))
    blocks = {block for pair in layout.pairs if (block := block_of(pair.layer)) is not None}
    facts: dict[str, object] = {
        "format": layout.format,
        "peft_type": layout.peft_type,
        "layers": len(layout.pairs),
        "blocks": ranges(blocks),
        "ranks": _counted(pair.rank for pair in layout.pairs),
        "scales": _counted(float(f"{pair.scale:.6g}") for pair in layout.pairs),
        "targets": _counted(target_of(pair.layer) for pair in layout.pairs),
        "dora": sum(pair.magnitude is not None for pair in layout.pairs),
        "parameters": inside,
        "whole_parameters": beside,
        "tensors": len(artefact.tensors),
        "bytes": sum(info.stop - info.start for info in artefact.tensors.values()),
        "dtypes": _counted(info.dtype for info in artefact.tensors.values()),
    }
    if context.against is not None:
        base = _size(context.against, tuple(context.against.tensors))
        facts |= {"base_parameters": base, "base_share": inside / base if base else None}
    return facts


def _counted(values: Iterator[object]) -> dict[str, int]:
    """Return how often each value occurs, by its name, in natural order."""
    counts = Counter(str(value) for value in values)
    return {name: counts[name] for name in sorted(counts, key=natural_order)}


def _uneven(artefact: Artefact, layout: AdapterLayout) -> Iterator[Finding]:
    """Yield ranks and number types that differ."""
    ranks = Counter(pair.rank for pair in layout.pairs)
    declared = artefact.config.get("rank_pattern") or artefact.config.get("target_parameters")
    if len(ranks) > 1 and not declared:
        words = ", ".join(f"r = {rank}: {count}" for rank, count in sorted(ranks.items()))
        yield RANKS.found(layout.format, words)
    dtypes = Counter(artefact.tensors[name].dtype for p in layout.pairs for name in (p.a, p.b))
    if len(dtypes) > 1:
        words = ", ".join(f"{dtype}: {count}" for dtype, count in sorted(dtypes.items()))
        yield DTYPES.found(layout.format, words)


def _place(artefact: Artefact, layout: AdapterLayout) -> Iterator[Finding]:
    """Yield updates at unusual places."""
    blocks = {block_of(pair.layer) for pair in layout.pairs}
    chosen = artefact.config.get("layers_to_transform") or artefact.config.get("rank_pattern")
    if len(layout.pairs) > 1 and len(blocks) == 1 and None not in blocks and not chosen:
        yield ONE_LAYER.found(layout.pairs[0].layer, f"block {ranges({b or 0 for b in blocks})}")
    for pair in layout.pairs:
        role = role_of(f"{pair.layer}.weight")
        if role in {"embedding", "output"}:
            yield TARGET.found(pair.layer, f"{role}, rank {pair.rank}, {pair.d_out} x {pair.d_in}")


def _scales(layout: AdapterLayout, most: float) -> Iterator[Finding]:
    odd = [pair for pair in layout.pairs if not 0 <= pair.scale <= most]
    if odd:
        worst = max(odd, key=lambda pair: abs(pair.scale))
        yield SCALE.found(worst.layer, f"{worst.scale:g}; {len(odd)} of {len(layout.pairs)} layers")


def _copies(artefact: Artefact, layout: AdapterLayout) -> Iterator[Finding]:
    """Yield updates that are zero, then factors that stand in the file twice."""
    empty = [pair for pair in layout.pairs if _is_zero(artefact, pair.b)]
    if empty:
        words = f"{len(empty)} of {len(layout.pairs)}: {_some([pair.layer for pair in empty])}"
        severity = Severity.LOW if len(empty) == len(layout.pairs) else Severity.INFO
        yield ZERO.found(empty[0].b, words, severity=severity)
    for names in _twins(artefact, [name for p in layout.pairs for name in (p.a, p.b)]):
        yield TWIN.found(names[0], f"{len(names)} times: {_some(names)}")


def _twins(artefact: Artefact, names: list[str]) -> Iterator[list[str]]:
    """Yield groups of tensors of the same bytes; those of a single value apart."""
    alike: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for name in names:
        info, view = artefact.tensors[name], artefact.tensor_bytes(name)
        if math.prod(info.shape) >= SMALLEST and not _constant(view):
            alike[info.shape, info.dtype, zlib.crc32(view)].append(name)
    for members in alike.values():
        if len(members) > 1:  # a checksum can be made to collide
            same: defaultdict[bytes, list[str]] = defaultdict(list)
            for name in members:
                same[hashlib.sha256(artefact.tensor_bytes(name)).digest()].append(name)
            yield from (group for group in same.values() if len(group) > 1)


def _is_zero(artefact: Artefact, name: str) -> bool:
    """Return whether all values of a tensor are 0, of either sign."""
    view = artefact.tensor_bytes(name)
    width = len(view) // math.prod(artefact.tensors[name].shape)
    return not (np.frombuffer(view, f"<u{width}") << 1).any()  # the sign is the topmost bit


def _constant(view: memoryview) -> bool:
    """Return whether the bytes repeat every eight, as those of one value do."""
    if view[8:16] != view[:8]:
        return False
    numbers = np.frombuffer(view, np.uint8)
    return np.array_equal(numbers[8:], numbers[:-8])


def _some(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _targets(artefact: Artefact, layout: AdapterLayout, most: int) -> Table:
    """Return one row for each target and shape: updates first, then other tensors."""
    groups: defaultdict[tuple[str, str], list[tuple[str, int, str, float | None]]]
    groups = defaultdict(list)
    for pair in layout.pairs:
        size = _size(artefact, tuple(_names(pair)))
        where = (target_of(pair.layer), f"{pair.d_out} x {pair.d_in}")
        dtype = artefact.tensors[pair.a].dtype
        groups[where].append((str(pair.rank), size, dtype, pair.scale))
    for name in layout.other:
        info = artefact.tensors[name]
        words = name.removesuffix(".weight").split(".")
        where = (".".join(words[-2:]), " x ".join(map(str, info.shape)))
        groups[where].append(("", math.prod(info.shape), info.dtype, None))
    if layout.format == "model":
        for name, info in artefact.tensors.items():
            where = (role_of(name), f"{len(info.shape)} axes")
            groups[where].append(("", math.prod(info.shape), info.dtype, None))
    rows = [
        (
            target, shape, len(rows), _range(sorted({row[0] for row in rows}, key=natural_order)),
            _range([f"{x:g}" for x in sorted({row[3] for row in rows if row[3] is not None})]),
            sum(row[1] for row in rows), _range(sorted({row[2] for row in rows})),
        )
        for (target, shape), rows in groups.items()
    ]  # fmt: skip
    header = ("target", "shape", "layers", "rank", "scale", "parameters", "type")
    return Table("Targets", header, tuple(rows[:most]))


def _range(values: list[str]) -> str:
    return ", ".join(values) if len(values) <= LISTED else f"{values[0]} to {values[-1]}"


def _whole(artefact: Artefact, layout: AdapterLayout, most: int) -> Table:
    rows = [
        (name, role_of(name), " x ".join(map(str, artefact.tensors[name].shape)),
         artefact.tensors[name].dtype, math.prod(artefact.tensors[name].shape))
        for name in layout.extra
    ]  # fmt: skip
    header = ("tensor", "role", "shape", "type", "parameters")
    return Table("Whole tensors beside the adapter", header, tuple(rows[:most]))
