"""``--set key=value`` for window recipes.

    base=LABEL,LABEL       keep these bases, in this order (likewise variant)
    base.LABEL=REFERENCE   point a base elsewhere, or add one at the end
    variant.options.K=V    set an identifier option of every variant
    steps=0,10,20          other looks

All else as for grids: ``seeds``, ``data``, ``attack``, ``attack.options.K``, ``limits.K``, ...
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from peftlab.core.errors import ConfigError, suggest
from peftlab.engine.overrides import apply_overrides, fit_value, parse_value

OWN = ("base", "variant", "steps", "bar")


def override(
    values: Mapping[str, Any], overrides: Sequence[str], known: set[str], options: type[BaseModel]
) -> dict[str, Any]:
    """Return the recipe's tables with ``overrides`` applied, in the order given.

    Args:
        values: the tables; not changed.
        overrides: ``key=value`` texts.
        known: top-level keys of a window recipe.
        options: class of a variant's options, to read values by.

    Raises:
        ConfigError: ``RECIPE-SET``, ``OPTION-UNKNOWN``, ``REGISTRY-NAME``.
    """
    mine = [text for text in overrides if _head(text) in OWN]
    rest = [text for text in overrides if _head(text) not in OWN]
    changed = apply_overrides(copy.deepcopy(dict(values)), rest, known - set(OWN))
    for text in mine:
        _apply(changed, text, options)
    return changed


def takes_looks(text: str) -> bool:
    """Return whether an override may take steps or ways to un-learn from a recipe."""
    return text.partition("=")[0].strip() in {"steps", "variant"}


def _head(text: str) -> str:
    return text.partition("=")[0].strip().partition(".")[0]


def _apply(values: dict[str, Any], text: str, options: type[BaseModel]) -> None:
    key, equals, value = (part.strip() for part in text.partition("="))
    head, _, rest = key.partition(".")
    if not equals:
        raise ConfigError(
            "--set needs key=value", code="RECIPE-SET", got=text, fix="write --set steps=0,10,20"
        )
    if not rest:
        values[head] = _keep(values, head, value) if head in {"base", "variant"} else _read(value)
    elif head == "base":
        values["base"] = _pointed(_tables(values, "base"), rest, value)
    elif head == "variant" and rest.startswith("options."):
        name = rest.removeprefix("options.")
        for table in _tables(values, "variant"):
            table.setdefault("options", {})[name] = fit_value(options, name, value)
    else:
        raise ConfigError(
            f"--set: the recipe has no key {key!r}", code="RECIPE-SET",
            fix=suggest(key, ["base", "base.LABEL", "variant", "variant.options.KEY", "steps"]),
        )  # fmt: skip


def _read(text: str) -> Any:
    """Return a number or a list of numbers; what is neither is refused with the recipe."""
    value = parse_value(text)
    if isinstance(value, list) or "," not in text:
        return value
    return [parse_value(part.strip()) for part in text.split(",")]


def _tables(values: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    given = values.get(kind, [])
    tables = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    if not tables:
        raise ConfigError(
            f"--set: the recipe lists no {kind}", code="RECIPE-SET", fix=f"add a [[{kind}]] table"
        )
    return tables


def _keep(values: Mapping[str, Any], kind: str, text: str) -> list[dict[str, Any]]:
    known = {str(table.get("label")): table for table in _tables(values, kind)}
    wanted = [label.strip() for label in text.split(",")]
    for label in wanted:
        if label not in known:
            raise ConfigError(
                f"--set: the recipe has no {kind} {label!r}", code="RECIPE-SET",
                fix=suggest(label, known),
            )  # fmt: skip
    return [known[label] for label in wanted]


def _pointed(tables: list[dict[str, Any]], label: str, reference: str) -> list[dict[str, Any]]:
    """Return the bases with one of them pointed elsewhere, or with one more."""
    if label not in {table.get("label") for table in tables}:
        return [*tables, {"label": label, "reference": reference}]
    return [
        {**table, "reference": reference} if table.get("label") == label else table
        for table in tables
    ]
