"""Results of the size audit into typed rows: strict about the schema, tolerant of gaps, cleaned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.report.read import clean_text, finite, mapping

SCHEMA = "peftlab.size/1"
KINDS = ("bench", "prediction", "defend")


@dataclass(frozen=True, slots=True)
class Head:
    """What one head reached; None where it was not measured."""

    name: str
    mae: float
    mae_std: float
    mape: float | None
    accuracy: float
    bits: float | None
    coverage: float | None
    set_size: float | None
    confusion: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Box:
    """Norms of the adapters of one size: 5, 25, 50, 75 and 95 %."""

    size: int
    mean: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """What a bank of one recipe says about adapters of another."""

    bank: str
    target: str
    mae: float
    flagged: float | None
    calibrated: dict[str, float]


@dataclass(frozen=True, slots=True)
class Defended:
    """What a defence takes from an attacker and what it costs; None where it was not measured.

    Attributes:
        name: of the defence; ``none`` for undefended adapters.
        setting: how strong it was, in words.
        naive, adaptive: MAE by head of an attacker whose bank is undefended, or defended alike.
        bits: of the adaptive attacker.
        loss: on held-out examples.
        kept: share of the gain over the bare base that is left.
    """

    name: str
    setting: str
    naive: dict[str, float]
    adaptive: dict[str, float]
    bits: float | None
    loss: float | None
    kept: float | None


def check_schema(results: Mapping[str, Any]) -> None:
    """Refuse another file.

    Raises:
        InputRejected: ``REPORT-SCHEMA``.
    """
    if results.get("schema") != SCHEMA or results.get("kind") not in KINDS:
        raise InputRejected(
            "these are not results of the size audit", code="REPORT-SCHEMA",
            got=clean_text(results.get("schema")), allowed=SCHEMA,
            fix="give the JSON of `peftlab size bench`, `predict` or `defend`",
        )  # fmt: skip


def rows(value: object) -> list[Mapping[str, Any]]:
    """Return a list of objects, without what is none."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [row for row in value if isinstance(row, Mapping)]


def heads(results: Mapping[str, Any]) -> list[Head]:
    """Return the heads that have a MAE and an accuracy, the best first."""
    more = {row.get("head"): row for row in rows(results.get("details"))}
    found = []
    for row in rows(results.get("heads")):
        mae, accuracy = finite(row.get("mae")), finite(row.get("accuracy"))
        if mae is None or accuracy is None:
            continue
        own = more.get(row.get("head"), {})
        found.append(Head(
            clean_text(row.get("head", "")), mae, finite(own.get("mae_std")) or 0.0,
            finite(row.get("mape")), accuracy, finite(own.get("bits")),
            finite(own.get("coverage")), finite(own.get("set_size")),
            _matrix(own.get("confusion")),
        ))  # fmt: skip
    return sorted(found, key=lambda head: head.mae)


def _matrix(value: object) -> tuple[tuple[float, ...], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    found = tuple(
        tuple(finite(cell) or 0.0 for cell in row) for row in value if isinstance(row, Sequence)
    )
    return found if all(len(row) == len(found) for row in found) else ()


def chance(results: Mapping[str, Any]) -> dict[str, float]:
    """Return what guessing costs, in words -> MAE."""
    own = mapping(results.get("chance"))
    listed = {
        "best constant": finite(own.get("best_constant_mae")),
        "uniform guess": finite(own.get("uniform_mae")),
    }
    return {name: value for name, value in listed.items() if value is not None}


def sizes(results: Mapping[str, Any]) -> list[int]:
    """Return the known sizes."""
    listed = results.get("sizes") or []
    numbers = [finite(size) for size in listed] if isinstance(listed, Sequence) else []
    return [int(number) for number in numbers if number is not None]


def boxes(results: Mapping[str, Any]) -> list[Box]:
    """Return the norms by size."""
    found = []
    for row in rows(results.get("norms")):
        size, mean = finite(row.get("size")), finite(row.get("mean"))
        quantiles = [finite(q) for q in row.get("quantiles") or []]
        known = [q for q in quantiles if q is not None]
        if size is not None and mean is not None and len(known) == 5:
            found.append(Box(int(size), mean, tuple(known)))
    return found


def pairs(results: Mapping[str, Any]) -> list[Pair]:
    """Return the recipe mismatch."""
    found = []
    for row in rows(results.get("mismatch")):
        mae = finite(row.get("mae"))
        if mae is not None:
            found.append(Pair(
                clean_text(row.get("bank", "")), clean_text(row.get("target", "")), mae,
                finite(row.get("flagged")), _numbers(row.get("calibrated")),
            ))  # fmt: skip
    return found


def defended(results: Mapping[str, Any]) -> list[Defended]:
    """Return the defences that have an adaptive attacker's error, in their order."""
    found = []
    for row in rows(results.get("defences")):
        adaptive = _numbers(row.get("adaptive"))
        if adaptive:
            setting = ", ".join(
                f"{clean_text(key)} {clean_text(value)}"
                for key, value in mapping(row.get("setting")).items()
            )
            found.append(Defended(
                clean_text(row.get("defence", "")), setting, _numbers(row.get("naive")), adaptive,
                finite(row.get("bits")), finite(row.get("loss")), finite(row.get("gain_kept")),
            ))  # fmt: skip
    return found


def _numbers(value: object) -> dict[str, float]:
    found = {clean_text(key): finite(number) for key, number in mapping(value).items()}
    return {key: number for key, number in found.items() if number is not None}


def by_steps(results: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return (steps, MAE) of banks that differ in nothing but their steps, ascending."""
    points = {
        (steps, mae)
        for row in rows(results.get("steps"))
        if (steps := finite(row.get("steps"))) is not None
        and (mae := finite(row.get("mae"))) is not None
    }
    return sorted(points)
