"""``raters.json`` into typed rows: strict about the schema, tolerant of gaps, safe to print.

Nothing of a suppressed group but its name gets past this module, whatever the file holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.report.read import clean_text, finite, mapping

SCHEMA = "peftlab.raters/1"
LEVEL = 0.05  # from here on a p-value is no finding
EVERYBODY = "everybody"
TIMES, MINUS = " \u00d7 ", "\u2212"  # the signs, not the letter and the hyphen
# columns in the order of the published table, then the difference that is ours
METRICS = {
    "irr": "IRR", "xrr": "XRR", "negentropy": "NegE", "cross_negentropy": "CrossNegE",
    "plurality": "PlurSize", "voting": "PlurAgree", "gai": "GAI", "gap": "gap",
}  # fmt: skip
CORRECTIONS = {"bh": "Benjamini-Hochberg", "holm": "Holm"}
Key = tuple[str, str]  # axis, group


@dataclass(frozen=True, slots=True)
class Value:
    """One number of one group, with what is known of it.

    Attributes:
        value: None if undefined; ``reason`` says why.
        p, q: raw and corrected; q is None if nothing was corrected.
        side: ``"above"`` or ``"below"`` the middle of the null, or nothing.
        low, high: 95 % bootstrap interval.
        p_within, q_within: the same from the stratified permutation.
    """

    value: float | None = None
    p: float | None = None
    q: float | None = None
    side: str = ""
    low: float | None = None
    high: float | None = None
    p_within: float | None = None
    q_within: float | None = None
    reason: str = ""

    @property
    def mark(self) -> str:
        """Return ``**`` (after correction), ``*`` (before it only) or nothing."""
        if self.value is None or self.p is None or self.p >= LEVEL:
            return ""
        return "**" if self.q is not None and self.q < LEVEL else "*"

    @property
    def arrow(self) -> str:
        """Return the side of the null as an arrow, where p < 0.05."""
        return {"above": "↑", "below": "↓"}.get(self.side, "") if self.mark else ""


NOTHING = Value(reason="not computed")


@dataclass(frozen=True, slots=True)
class Group:
    """One group of raters; of a suppressed one only the names are known.

    Attributes:
        raw: all scalars of the row as they came, for the CSV file.
    """

    axis: str
    name: str
    raters: int | None = None
    tie_share: float | None = None
    suppressed: bool = False
    values: Mapping[str, Value] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return the name with a cross between the parts of an intersection."""
        return crossed(self.name) if "*" in self.axis else self.name

    def of(self, metric: str) -> Value:
        """Return one number, empty if it was not computed."""
        return self.values.get(metric, NOTHING)


@dataclass(frozen=True, slots=True)
class Axis:
    """One attribute, or several crossed.

    Attributes:
        raters, unknown: None where they would give away the size of a suppressed group.
    """

    name: str
    raters: int | None
    unknown: int | None
    suppressed: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return the name with a cross between the parts of an intersection."""
        return crossed(self.name)


@dataclass(frozen=True, slots=True)
class Dsi:
    """The largest GAI of an axis and the largest gap, each with the group that has it."""

    axis: str
    value: float | None
    group: str
    p: float | None
    q: float | None
    gap: float | None
    gap_group: str


@dataclass(frozen=True, slots=True)
class Null:
    """Histogram of one number over permutations."""

    axis: str
    group: str
    metric: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    median: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """How the audit was run."""

    metrics: tuple[str, ...]
    permutations: int
    bootstrap: int
    within: tuple[str, ...]
    correction: str
    paper: bool
    min_group: int

    @property
    def floor(self) -> float:
        """Return the smallest p-value that the permutations can give."""
        return 0.0 if self.paper else 2 / (self.permutations + 1)

    @property
    def corrected(self) -> bool:
        """Return whether p-values were corrected for their number."""
        return self.correction != "none"

    @property
    def correction_name(self) -> str:
        """Return the name of the correction as it is written in papers."""
        return CORRECTIONS.get(self.correction, self.correction)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Agreement of one model with one group; axis ``""`` is the whole pool."""

    model: str
    axis: str
    group: str
    xrr: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Move:
    """How far agreement with a group moved from the first model to the second."""

    axis: str
    group: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Return whether the interval of the change leaves out 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


@dataclass(frozen=True, slots=True)
class Gap:
    """One item on which a group answers unlike everybody else."""

    axis: str
    group: str
    item: str
    gap: float
    ratings: int | None


@dataclass(frozen=True, slots=True)
class Raters:
    """All that the page and the tables show.

    Attributes:
        groups: all groups in the order of the file, suppressed ones as names only.
        pairs: XRR by (axis, a, b).
        power: (sizes, low, median, high), one entry a size.
        gaps, gaps_left_out: items; those with fewer than ``min_group`` ratings are left out.
        models: names of the models, in their order.
    """

    name: str
    settings: Settings
    axes: tuple[Axis, ...]
    groups: tuple[Group, ...]
    dsi: tuple[Dsi, ...]
    pairs: Mapping[tuple[str, str, str], float]
    nulls: tuple[Null, ...]
    power: tuple[tuple[float, float, float, float], ...]
    gaps: tuple[Gap, ...]
    gaps_left_out: int
    models: tuple[str, ...]
    model_rows: tuple[ModelRow, ...]
    moves: tuple[Move, ...]

    @property
    def shown(self) -> list[Group]:
        """Return the groups that are not suppressed."""
        return [group for group in self.groups if not group.suppressed]

    def on(self, axis: str) -> list[Group]:
        """Return the groups of one axis that are not suppressed."""
        return [group for group in self.shown if group.axis == axis]

    def label_of(self, axis: str, group: str) -> str:
        """Return a group's name as it is shown."""
        return crossed(group) if "*" in axis else group


def crossed(name: str) -> str:
    r"""Return a name with crosses, as a star beside a number means something else.

    Examples:
        >>> crossed("race*gender") == crossed("race * gender") == "race \u00d7 gender"
        True
    """
    return TIMES.join(part.strip() for part in name.split("*"))


def rows_of(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings of a list, or nothing."""
    return [row for row in listed(value) if isinstance(row, Mapping)]


def listed(value: object) -> list[Any]:
    """Return a list, or nothing."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def texts(value: object) -> tuple[str, ...]:
    """Return a list of cleaned texts; one text is a list of one."""
    if isinstance(value, str):
        return (clean_text(value),)
    return tuple(clean_text(each) for each in listed(value))


def whole(value: object) -> int | None:
    """Return a count, or None."""
    number = finite(value)
    return None if number is None else int(number)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else clean_text(value)


def _key(row: Mapping[str, Any]) -> Key:
    return _text(row, "axis"), _text(row, "group")


def _settings(raw: Mapping[str, Any]) -> Settings:
    wanted = texts(raw.get("metrics"))
    return Settings(
        metrics=tuple(name for name in METRICS if not wanted or name in wanted),
        permutations=whole(raw.get("permutations")) or 0,
        bootstrap=whole(raw.get("bootstrap")) or 0,
        within=texts(raw.get("within")),
        correction=_text(raw, "correction") or "none",
        paper=raw.get("pvalue") == "paper",
        min_group=whole(raw.get("min_group")) or 0,
    )


def _hidden(results: Mapping[str, Any]) -> set[Key]:
    """Return the suppressed groups: those that an axis names and those that say so."""
    named = {
        (_text(axis, "axis"), name)
        for axis in rows_of(results.get("axes"))
        for name in texts(axis.get("suppressed"))
    }
    return named | {_key(row) for row in rows_of(results.get("groups")) if row.get("suppressed")}


def _value(row: Mapping[str, Any], metric: str, reason: str, *, corrected: bool) -> Value:
    found = {
        key: finite(row.get(f"{key}_{metric}"))
        for key in ("p", "q", "low", "high", "p_within", "q_within")
    }
    if not corrected:  # a q that repeats p must not be taken for a correction
        found |= {"q": None, "q_within": None}
    value = finite(row.get(metric))
    side = _text(row, f"side_{metric}")
    return Value(value=value, side=side, reason=reason if value is None else "", **found)


def _group(row: Mapping[str, Any], hidden: set[Key], settings: Settings) -> Group:
    axis, name = _key(row)
    if (axis, name) in hidden:
        return Group(axis, name, suppressed=True)
    reasons = {
        clean_text(key): clean_text(text)
        for key, text in mapping(row.get("reasons")).items()
        if text
    }
    values = {
        metric: _value(
            row, metric, reasons.get(metric, "no reason is given"), corrected=settings.corrected
        )
        for metric in settings.metrics
    }
    scalars = {
        clean_text(key): value
        for key, value in row.items()
        if value is None or isinstance(value, str | bool | int | float)
    }
    return Group(
        axis, name, whole(row.get("raters")), finite(row.get("tie_share")),
        values=values, reasons=reasons, raw=scalars,
    )  # fmt: skip


def _groups(results: Mapping[str, Any], hidden: set[Key], settings: Settings) -> list[Group]:
    groups = [_group(row, hidden, settings) for row in rows_of(results.get("groups"))]
    known = {(group.axis, group.name) for group in groups}
    missing = sorted(hidden - known)  # named by an axis only
    return groups + [Group(axis, name, suppressed=True) for axis, name in missing]


def _axes(results: Mapping[str, Any], groups: Sequence[Group]) -> list[Axis]:
    raw = {_text(row, "axis"): row for row in rows_of(results.get("axes"))}
    found = []
    for name in dict.fromkeys([*raw, *(group.axis for group in groups)]):
        row = raw.get(name, {})
        suppressed = tuple(g.name for g in groups if g.axis == name and g.suppressed)
        found.append(Axis(
            name=name,
            raters=None if suppressed else whole(row.get("raters")),
            unknown=None if suppressed else whole(row.get("unknown")),
            suppressed=suppressed,
            notes=texts(row.get("notes")),
        ))  # fmt: skip
    return found


def _dsi(results: Mapping[str, Any], axes: Sequence[Axis], settings: Settings) -> list[Dsi]:
    """Return one row per axis; a value that a suppressed group would own is left out."""
    raw = {clean_text(key): mapping(row) for key, row in mapping(results.get("dsi")).items()}
    found = []
    for axis in axes:
        own, gap = raw.get(axis.name, {}), mapping(raw.get(axis.name, {}).get("gap"))
        group, gap_group = _text(own, "group"), _text(gap, "group")
        open_, gap_open = group not in axis.suppressed, gap_group not in axis.suppressed
        found.append(Dsi(
            axis=axis.name,
            value=finite(own.get("value")) if open_ else None,
            group=group if open_ else "",
            p=finite(own.get("p")) if open_ else None,
            q=finite(own.get("q")) if open_ and settings.corrected else None,
            gap=finite(gap.get("value")) if gap_open else None,
            gap_group=gap_group if gap_open else "",
        ))  # fmt: skip
    return found


def _pairs(results: Mapping[str, Any], hidden: set[Key]) -> dict[tuple[str, str, str], float]:
    found = {}
    for row in rows_of(results.get("pairs")):
        axis, a, b = (_text(row, key) for key in ("axis", "a", "b"))
        xrr = finite(row.get("xrr"))
        if xrr is not None and not {(axis, a), (axis, b)} & hidden:
            found[axis, a, b] = xrr
    return found


def _nulls(results: Mapping[str, Any], hidden: set[Key]) -> list[Null]:
    found = []
    for row in rows_of(results.get("nulls")):
        edges = [finite(edge) for edge in listed(row.get("edges"))]
        counts = [finite(count) for count in listed(row.get("counts"))]
        known_edges = tuple(edge for edge in edges if edge is not None)
        known_counts = tuple(count for count in counts if count is not None)
        complete = len(known_edges) == len(edges) == len(counts) + 1 == len(known_counts) + 1
        if complete and counts and _key(row) not in hidden:
            found.append(Null(
                *_key(row), _text(row, "metric"), known_edges, known_counts,
                finite(row.get("median")),
            ))  # fmt: skip
    return found


def _power(raw: Mapping[str, Any]) -> list[tuple[float, float, float, float]]:
    columns = [listed(raw.get(key)) for key in ("sizes", "low", "median", "high")]
    found = []
    for row in zip(*columns, strict=False):
        size, low, median, high = (finite(value) for value in row)
        if size is None or low is None or median is None or high is None or size <= 0:
            continue
        found.append((size, low, median, high))
    return sorted(found)


def _gaps(
    results: Mapping[str, Any], hidden: set[Key], settings: Settings
) -> tuple[list[Gap], int]:
    """Return the items, largest gap first, and how many rest on too few ratings to be shown."""
    found, left_out = [], 0
    for row in rows_of(results.get("gaps")):
        gap, ratings = finite(row.get("gap")), whole(row.get("ratings"))
        if gap is None or _key(row) in hidden:
            continue
        if ratings is not None and ratings < settings.min_group:
            left_out += 1  # a gap of three ratings says what three people answered
            continue
        found.append(Gap(*_key(row), _text(row, "item"), gap, ratings))
    found.sort(key=lambda each: -each.gap)
    return found, left_out


def _model_rows(raw: Mapping[str, Any], hidden: set[Key]) -> list[ModelRow]:
    found = []
    for row in rows_of(raw.get("rows")):
        xrr = finite(row.get("xrr"))
        if xrr is not None and _key(row) not in hidden:
            ends = finite(row.get("low")), finite(row.get("high"))
            found.append(ModelRow(_text(row, "model"), *_key(row), xrr, *ends))
    return found


def _moves(raw: Mapping[str, Any], hidden: set[Key]) -> list[Move]:
    found = []
    for row in rows_of(raw.get("moves")):
        before, after, change = (finite(row.get(key)) for key in ("before", "after", "change"))
        if before is None or after is None or change is None or _key(row) in hidden:
            continue
        ends = finite(row.get("low")), finite(row.get("high"))
        found.append(Move(*_key(row), before, after, change, *ends))
    return found


def read_raters(results: Mapping[str, Any]) -> Raters:
    """Return what a ``raters.json`` holds.

    Args:
        results: schema ``peftlab.raters/1``.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    if results.get("schema") != SCHEMA:
        raise InputRejected(
            "this is not a rater audit that the report can read", code="REPORT-SCHEMA",
            got=clean_text(results.get("schema")), allowed=SCHEMA,
            fix="give the raters.json of an audit",
        )  # fmt: skip
    settings = _settings(mapping(results.get("settings")))
    hidden = _hidden(results)
    groups = _groups(results, hidden, settings)
    axes = _axes(results, groups)
    gaps, left_out = _gaps(results, hidden, settings)
    models = mapping(results.get("models"))
    return Raters(
        name=clean_text(results.get("name") or "raters"),
        settings=settings,
        axes=tuple(axes),
        groups=tuple(groups),
        dsi=tuple(_dsi(results, axes, settings)),
        pairs=_pairs(results, hidden),
        nulls=tuple(_nulls(results, hidden)),
        power=tuple(_power(mapping(results.get("power")))),
        gaps=tuple(gaps),
        gaps_left_out=left_out,
        models=texts(models.get("names")),
        model_rows=tuple(_model_rows(models, hidden)),
        moves=tuple(_moves(models, hidden)),
    )
