"""Options of every method: flat, typed, bounded, strict, each default with its source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftlab.core.errors import ConfigError, suggest


class Options(BaseModel):
    """Base of all option classes: unknown keys are errors, values never change after parsing.

    Infinity and NaN are refused: they pass open bounds, and have no place in a recipe or in JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def digest(self) -> str:
        """Return a hash of all values; part of the identity of everything made with them."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


AnyOptions = TypeVar("AnyOptions", bound=BaseModel)


def option(
    default: Any,
    help: str,
    *,
    source: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    max_length: int | None = None,
) -> Any:
    """Declare one option: its default, one line of help, the source of the default, its bounds.

    Args:
        default: value when the user says nothing.
        help: one line, shown by ``peftlab describe``.
        source: paper section, ``owner/name:path``, or ``"ours"``.
        ge: smallest value.
        gt: value that it must exceed.
        le: largest value.
        lt: value that it must stay under.
        max_length: longest string or list.

    Examples:
        >>> class Demo(Options):
        ...     rate: float = option(0.1, "share of the training set", source="ours", gt=0, le=1)
        >>> Demo().rate
        0.1
    """
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt, "max_length": max_length}
    set_bounds: dict[str, Any] = {key: value for key, value in bounds.items() if value is not None}
    return Field(default, description=help, json_schema_extra={"source": source}, **set_bounds)


def parse_options(cls: type[AnyOptions], values: Mapping[str, Any], owner: str) -> AnyOptions:
    """Build ``cls`` from a mapping; every mistake becomes one ``ConfigError`` in plain words.

    Args:
        cls: the options class of a method.
        values: what the user gave (recipe, command line, Python).
        owner: what the options belong to, for the message (``"attack badnets"``).

    Raises:
        ConfigError: ``OPTION-UNKNOWN`` with suggestions, or ``OPTION-VALUE`` with the bound.
    """
    known = set(cls.model_fields)
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{owner} has no option {unknown[0]!r}",
            code="OPTION-UNKNOWN",
            got=", ".join(unknown),
            fix=suggest(unknown[0], known),
        )
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or owner
        name = owner.rsplit(maxsplit=1)[-1]
        raise ConfigError(
            f"{owner}: option {where!r} is not valid: {first['msg']}",
            code="OPTION-VALUE",
            got=repr(first.get("input")),
            fix=f"see `peftlab describe {name}` for types, bounds and defaults",
        ) from None


def _type_words(about: Mapping[str, Any]) -> str:
    if "type" in about:
        return str(about["type"])
    return " or ".join(str(part.get("type", "?")) for part in about.get("anyOf", [{}]))


def option_table(cls: type[BaseModel]) -> list[dict[str, Any]]:
    """Return one row per option: name, type, default, help, source, bounds (for describe, docs)."""
    schema = cls.model_json_schema().get("properties", {})
    rows = []
    for name, field in cls.model_fields.items():
        about = schema.get(name, {})
        bounds = {
            word: about[key]
            for key, word in (
                ("minimum", ">="), ("exclusiveMinimum", ">"),
                ("maximum", "<="), ("exclusiveMaximum", "<"), ("enum", "one of"),
            )
            if key in about
        }  # fmt: skip
        rows.append(
            {
                "name": name,
                "type": _type_words(about),
                "default": field.get_default(call_default_factory=True),
                "help": field.description or "",
                "source": about.get("source", ""),
                "bounds": bounds,
            }
        )  # fmt: skip
    return rows
