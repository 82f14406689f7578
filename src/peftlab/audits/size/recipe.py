"""Whether the target was trained as the bank was: without that, scale says nothing about size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peftlab.core.errors import ConfigError

Status = Literal["declared", "assumed", "calibrated", "unknown", "incomplete", "differs"]
DECISIVE = ("lr", "steps")  # what moves the scale of an update most
CLOSE = 1e-6
LISTED = 5  # keys that a sentence names
UNKNOWN = "recipe unknown: size not identified"


@dataclass(frozen=True, slots=True)
class RecipeView:
    """What is known of the target's recipe.

    Attributes:
        status: ``declared`` (as the bank's), ``assumed`` or ``calibrated`` (by references): the
            size is identified. ``unknown``, ``incomplete`` or ``differs``: it is not.
        words: one sentence.
        differing: key -> (bank, target).
    """

    status: Status
    words: str
    differing: Mapping[str, tuple[Any, Any]]

    @property
    def identified(self) -> bool:
        """Tell whether a size can be read from the scale."""
        return self.status in {"declared", "assumed", "calibrated"}


def look(
    bank: Mapping[str, Any], declared: Mapping[str, Any] | None, *, assumed: bool, references: int
) -> RecipeView:
    """Compare a declared recipe with the bank's.

    Args:
        bank: how the bank was trained.
        declared: what is known of the target, or None.
        assumed: the user takes the recipes to be the same.
        references: adapters of known size with the target's recipe.

    Examples:
        >>> look({"lr": 1e-3, "steps": 500}, None, assumed=False, references=0).words
        'recipe unknown: size not identified'
        >>> look({"lr": 1e-3}, {"lr": 2e-3}, assumed=False, references=0).status
        'differs'
    """
    given = dict(declared or {})
    differing = {
        key: (bank[key], value)
        for key, value in given.items()
        if key in bank and not _same(bank[key], value)
    }
    if references:
        return RecipeView(
            "calibrated", f"scale mended by {references} reference"
            f"{'' if references == 1 else 's'} of known size", differing,
        )  # fmt: skip
    if differing:
        parts = ", ".join(f"{key} {its} in the bank, {own} here"
                          for key, (its, own) in differing.items())  # fmt: skip
        return RecipeView("differs", f"recipe differs ({parts}): size not identified", differing)
    if assumed:
        return RecipeView("assumed", "recipe assumed to be the bank's, not known", {})
    if not given:
        return RecipeView("unknown", UNKNOWN, {})
    missing = [key for key in DECISIVE if key in bank and key not in given]
    if missing:
        return RecipeView(
            "incomplete", f"recipe not declared in {' and '.join(missing)}: size not identified", {}
        )
    strange = [key for key in given if key not in bank]
    left = [key for key in bank if key not in given]
    said = f"recipe declared, and the bank's in {', '.join(key for key in given if key in bank)}"
    if strange:
        said += f"; the bank does not tell its {', '.join(strange)}"
    if left:
        rest = f" and {len(left) - LISTED} more" if len(left) > LISTED else ""
        said += f"; not declared: {', '.join(left[:LISTED])}{rest}"
    return RecipeView("declared", said, {})


def parse(pairs: Sequence[str]) -> dict[str, Any]:
    """Return a recipe of ``KEY=VALUE`` texts; several may stand in one, with commas.

    Raises:
        ConfigError: ``SIZE-RECIPE``.

    Examples:
        >>> parse(["lr=1e-3,steps=500", "augment=none"])
        {'lr': 0.001, 'steps': 500, 'augment': None}
    """
    found: dict[str, Any] = {}
    for pair in (part for text in pairs for part in text.split(",") if part.strip()):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            raise ConfigError(
                "a part of the recipe is not KEY=VALUE", code="SIZE-RECIPE", got=pair,
                fix="write for example --recipe lr=1e-4,steps=1200,batch=1",
            )  # fmt: skip
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _same(its: Any, own: Any) -> bool:
    if isinstance(its, int | float) and isinstance(own, int | float):
        return math.isclose(its, own, rel_tol=CLOSE)
    return str(its).lower() == str(own).lower()
