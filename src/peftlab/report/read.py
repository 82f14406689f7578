"""``results.json`` into typed cells: tolerant of gaps, strict about the schema, safe to print.

Everything textual passes ``clean_text`` here, so that no name from a recipe or a data set can
steer a terminal, reverse the reading direction or break the encoding of a page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peftlab.core.errors import InputRejected

SCHEMA = "peftlab.results/1"
NONE = "none"
DASH = "\u2013"  # stands for a value that was not measured
LONGEST_TEXT = 400

# C0 and C1 controls, bidirectional overrides, invisible separators, lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured combination of base, data, attack, tuner, defence and seed.

    Attributes:
        id: key of this cell's arrays.
        base, data, attack, tuner, defence: names as in the recipe; ``"none"`` where left out.
        seed: seed of the whole cell.
        control: True for the negative control (same pipeline, poisoning rate 0).
        metrics: finite values only; what is not in here was not measured.
        intervals: 95 % interval per metric.
        reasons: why a metric is missing.
        cost: seconds, passes and the like; finite values only.
        alpha: false-positive rate that the guard was allowed, None if it claims none.
        bounded: True if the claim is "at most alpha, with confidence" rather than "alpha on
            average".
        not_applicable: why this combination makes no sense; empty if it does. Such a cell has no
            metrics, whatever the file says.
    """

    id: str
    base: str
    data: str
    attack: str
    tuner: str
    defence: str
    seed: int
    control: bool
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    alpha: float | None = None
    bounded: bool = False
    not_applicable: str = ""


def clean_text(value: object) -> str:
    r"""Return ``value`` as text without control characters, at most 400 characters long.

    Examples:
        >>> clean_text("a\x1b[31mb")
        'a�[31mb'
    """
    text = _UNSAFE.sub("\ufffd", str(value))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def clean_tree(value: Any) -> Any:
    """Return a JSON value with every text in it cleaned and every non-finite number named."""
    if isinstance(value, Mapping):
        return {clean_text(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, str):
        return "\n".join(clean_text(line) for line in value.split("\n"))
    if isinstance(value, Sequence):
        return [clean_tree(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    number = finite(value)
    return clean_text(value) if number is None else number


def finite(value: object) -> float | None:
    """Return ``value`` as a finite float, or None if it is anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def _numbers(value: object) -> dict[str, float]:
    found = {clean_text(key): finite(item) for key, item in mapping(value).items()}
    return {key: number for key, number in found.items() if number is not None}


def _intervals(value: object) -> dict[str, tuple[float, float]]:
    found = {}
    for key, pair in mapping(value).items():
        if isinstance(pair, Sequence) and len(pair) == 2:
            low, high = finite(pair[0]), finite(pair[1])
            if low is not None and high is not None:
                found[clean_text(key)] = (low, high)
    return found


def defence_options(recipe: object) -> dict[str, Mapping[str, Any]]:
    """Return the options of each defence of a recipe, by label (or name)."""
    listed = mapping(recipe).get("defence", [])
    tables = [listed] if isinstance(listed, Mapping) else listed
    if not isinstance(tables, Sequence) or isinstance(tables, str):
        return {}
    return {
        clean_text(table.get("label") or table.get("name")): mapping(table.get("options"))
        for table in tables
        if isinstance(table, Mapping)
    }


def _cell(raw: Mapping[str, Any], options: Mapping[str, Mapping[str, Any]]) -> Cell:
    defence = clean_text(raw.get("defence") or NONE)
    senseless = clean_text(raw.get("not_applicable") or "")
    metrics = {} if senseless else mapping(raw.get("metrics"))
    own = options.get(defence, {})
    # A guard with a published threshold of its own reports alpha = null: it claims nothing.
    alpha = metrics["alpha"] if "alpha" in metrics else own.get("alpha")
    seed = finite(raw.get("seed"))
    return Cell(
        id=clean_text(raw.get("id", "")),
        base=clean_text(raw.get("base") or NONE),
        data=clean_text(raw.get("data") or NONE),
        attack=clean_text(raw.get("attack") or NONE),
        tuner=clean_text(raw.get("tuner") or NONE),
        defence=defence,
        seed=0 if seed is None else int(seed),
        control=bool(raw.get("control", False)),
        metrics=_numbers(metrics),
        intervals={} if senseless else _intervals(raw.get("intervals")),
        reasons={
            clean_text(key): clean_text(text)
            for key, text in mapping(raw.get("reasons")).items()
            if text
        },
        cost=_numbers(raw.get("cost")),
        alpha=None if defence == NONE else finite(alpha),
        bounded=own.get("delta") is not None,
        not_applicable=senseless,
    )


def read_cells(results: Mapping[str, Any]) -> list[Cell]:
    """Return the cells of a results dict, in their order.

    Args:
        results: what ``results.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    schema = results.get("schema")
    if schema != SCHEMA:
        raise InputRejected(
            "this is not a results file that the report can read",
            code="REPORT-SCHEMA",
            got=clean_text(schema),
            allowed=SCHEMA,
            fix="give the results.json of a finished run",
        )
    options = defence_options(results.get("recipe"))
    raw = results.get("cells") or []
    return [_cell(cell, options) for cell in raw if isinstance(cell, Mapping)]
