"""The recipe of a window experiment: bases, attacks, ways to un-learn, and when to look.

    name = "window"
    steps = [0, 10, 20, 40]

    [[base]]
    label = "full"
    reference = "builtin:encoder"

    [[attack]]
    name = "badnets"

    [[variant]]
    label = "lora"
    options = { family = "lora", labels = "random", head = "inherit" }

As strict as the recipe of a grid, and resolved the same way when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from peftlab.core import registry
from peftlab.core.errors import ConfigError
from peftlab.core.options import Options, parse_options
from peftlab.engine.recipe import (
    Experiment,
    Strict,
    build,
    check_keys,
    check_labels,
    read_toml,
    resolve_common,
    table_of,
)
from peftlab.engine.steps import AttackerOptions
from peftlab.engine.window.overrides import override, takes_looks

# Of the options of the defence psim, those that say how an identifier is made.
IDENTIFIER = ("family", "labels", "head", "lr", "batch", "rank", "virtual_tokens")
STEPS = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 240)  # ours
LABEL = r"^[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}$"


class BaseChoice(Strict):
    """One clean base; bases are listed from the least to the most pre-trained.

    Attributes:
        label: its name in the results.
        reference: folder, hub id or ``builtin:...``.
        attacker: training of this base by the attacker; the recipe's own unless given.
    """

    label: str = Field(pattern=LABEL)
    reference: str = Field(min_length=1)
    attacker: AttackerOptions


class Variant(Strict):
    """One way to un-learn.

    Attributes:
        label: its name in the results.
        options: all of ``IDENTIFIER``, resolved.
    """

    label: str = Field(pattern=LABEL)
    options: dict[str, Any]


class GuardChoice(Strict):
    """Looks that a guard sums, at each way to un-learn alone unless some are named.

    Attributes:
        looks: steps at which it looks; 0 always is one.
        together: labels of the ways to un-learn that it sums over.
    """

    looks: tuple[int, ...] = Field(min_length=1)
    together: tuple[str, ...] = ()


class WindowRecipe(Experiment):
    """One window experiment, fully resolved.

    An attack with rate 0 is the negative control: triggered texts of an unpoisoned base.

    Attributes:
        base: from the least to the most pre-trained.
        variant: ways to un-learn.
        guard: looks to sum as a guard does, after the run.
        steps: when to look; 0, the untouched base, comes first.
        bar: true-positive rate from which triggered inputs count as standing out.
        precision: of the looks; bf16 is off by about 1 %, faster where the hardware has it and
            70 times slower where it is emulated; auto: bf16 where the hardware has it.
    """

    base: tuple[BaseChoice, ...] = Field(min_length=1)
    variant: tuple[Variant, ...] = Field(min_length=1)
    guard: tuple[GuardChoice, ...] = ()
    steps: tuple[int, ...] = Field(STEPS, min_length=2, max_length=64)
    bar: float = Field(0.8, gt=0, le=1)
    precision: Literal["fp32", "bf16", "auto"] = "fp32"


def _base(given: object, common: Mapping[str, Any], where: str) -> dict[str, Any]:
    table = _labelled("base", given, where)
    check_keys(table, set(BaseChoice.model_fields), f"{where}: base {table['label']}")
    own = table_of(table, "attacker", f"{where}: base {table['label']}")
    attacker = parse_options(AttackerOptions, {**common, **own}, f"{where}: attacker")
    return {**table, "attacker": attacker}


def _variant(given: object, where: str) -> dict[str, Any]:
    from peftlab.nn.unlearning import RATES

    table = _labelled("variant", given, where)
    name = f"{where}: variant {table['label']}"
    check_keys(table, set(Variant.model_fields), name)
    options = table_of(table, "options", name)
    check_keys(options, set(IDENTIFIER), name)
    parsed = parse_options(psim_options(), options, name).model_dump(mode="json")
    if parsed["family"] not in RATES:
        raise ConfigError(
            f"{name}: a way to un-learn is one family",
            code="RECIPE-VALUE", got=f"family = {options.get('family')!r}",
            allowed=", ".join(RATES), fix="list the two as variants, and a guard over both",
        )  # fmt: skip
    resolved = {key: parsed[key] for key in IDENTIFIER}
    if resolved["lr"] is None:
        resolved["lr"] = RATES[resolved["family"]]
    if resolved["family"] == "all":
        resolved["head"] = "inherit"  # all weights are all weights
    return {"label": table["label"], "options": resolved}


def psim_options() -> type[Options]:
    """Return the options class of the defence psim: names, bounds and defaults are its own."""
    return registry.get("defence", "psim").options


def _labelled(kind: str, given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or not isinstance(given.get("label"), str):
        raise ConfigError(
            f"{where}: each {kind} is a table with a label",
            code="RECIPE-VALUE",
            got=repr(given),
            fix=f'write [[{kind}]] with label = "..." under it',
        )
    return given


def _listed(values: Mapping[str, Any], key: str, where: str) -> list[object]:
    given = values.get(key)
    items = list(given) if isinstance(given, list | tuple) else [given] if given else []
    if not items:
        raise ConfigError(
            f"{where}: no {key} is listed", code="RECIPE-KEY", fix=f"add a [[{key}]] table"
        )
    return items


def make_window_recipe(
    values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe"
) -> WindowRecipe:
    """Build a window recipe from plain values, as a TOML file holds them.

    Args:
        values: the tables of the recipe.
        overrides: ``key=value`` texts, as given to ``--set``.
        where: what to call the recipe in messages.

    Raises:
        ConfigError: ``RECIPE-KEY``, ``RECIPE-VALUE``, ``RECIPE-LABEL``, ``RECIPE-SET``,
            ``REGISTRY-NAME``, ``OPTION-UNKNOWN`` or ``OPTION-VALUE``.
    """
    known = set(WindowRecipe.model_fields)
    check_keys(values, known, where)
    changed = override(values, overrides, known, psim_options())
    check_keys(changed, known, where)
    full = resolve_common(changed, where)
    common = full["attacker"].model_dump(mode="json")
    for kind in ("base", "variant"):
        tables = [
            _base(item, common, where) if kind == "base" else _variant(item, where)
            for item in _listed(full, kind, where)
        ]
        check_labels(kind, [table["label"] for table in tables], where)
        full[kind] = tuple(tables)
    if isinstance(full.get("steps"), list):
        full["steps"] = tuple(full["steps"])
    full["guard"] = _guards(full.get("guard", []), where)
    recipe = build(WindowRecipe, full, where)
    steps = recipe.steps
    if steps[0] != 0 or list(steps) != sorted(set(steps)) or steps[-1] > 100_000:
        raise ConfigError(
            f"{where}: steps must begin with 0 and rise, to 100000 at most",
            code="RECIPE-VALUE", got=list(steps), fix="write for example steps = [0, 10, 20, 40]",
        )  # fmt: skip
    return _with_guards(recipe, where, overridden=any(map(takes_looks, overrides)))


def _guards(given: object, where: str) -> tuple[dict[str, Any], ...]:
    listed = list(given) if isinstance(given, list | tuple) else [given]
    found = []
    for table in listed:
        if not isinstance(table, Mapping):
            raise ConfigError(
                f"{where}: each guard is a table with looks", code="RECIPE-VALUE", got=repr(given),
                fix="write [[guard]] with looks = [4, 12] under it",
            )  # fmt: skip
        check_keys(table, set(GuardChoice.model_fields), f"{where}: guard")
        found.append(
            {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in table.items()
            }
        )
    return tuple(found)


def _with_guards(recipe: WindowRecipe, where: str, *, overridden: bool) -> WindowRecipe:
    """Return the recipe with the guards that its steps and ways to un-learn allow.

    What ``--set`` took from a recipe may leave a guard without its looks; nothing else may.
    """
    steps, labels = recipe.steps[1:], {variant.label for variant in recipe.variant}
    kept: list[GuardChoice] = []
    for guard in recipe.guard:
        sound = list(guard.looks) == sorted(set(guard.looks)) and guard not in kept
        sound = sound and len(set(guard.together)) == len(guard.together)
        if sound and set(guard.looks) <= set(steps) and set(guard.together) <= labels:
            kept.append(guard)
        elif not sound or not overridden:
            raise ConfigError(
                f"{where}: a guard looks at what the recipe has not, or at something twice",
                code="RECIPE-VALUE", got=f"looks = {list(guard.looks)}, together = "
                f"{list(guard.together)}", allowed=f"rising steps of {list(steps)}; "
                f"{', '.join(sorted(labels))}", fix="write for example looks = [4, 12, 20]",
            )  # fmt: skip
    return recipe.model_copy(update={"guard": tuple(kept)})


def load_window_recipe(path: Path, overrides: Sequence[str] = ()) -> WindowRecipe:
    """Read a window recipe file.

    Args:
        path: a TOML file.
        overrides: ``key=value`` texts, as given to ``--set``.

    Raises:
        ConfigError: ``RECIPE-FILE``, ``RECIPE-TOML``, or as ``make_window_recipe``.
    """
    return make_window_recipe(read_toml(path), overrides, Path(path).name)
