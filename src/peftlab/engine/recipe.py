"""A recipe: one TOML file that says what to attack, tune and defend, and nothing else.

    name = "badnets-lora"
    data = "reviews"
    seeds = [0, 1, 2]

    [[attack]]
    name = "badnets"
    options = {trigger = "cf"}

    [[tuner]]
    name = "lora"

    [[defence]]
    name = "psim"

Every option is checked and filled in when the recipe is read, so that a loaded recipe is a full
account of the run; two recipes that resolve to the same values are the same recipe.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from peftlab.core import registry
from peftlab.core.applicability import NONE
from peftlab.core.contracts import Scenario
from peftlab.core.errors import ConfigError, suggest
from peftlab.core.options import Options, option, parse_options
from peftlab.core.prompt import Prompt
from peftlab.engine.overrides import apply_overrides
from peftlab.engine.steps import AttackerOptions
from peftlab.io.files import dump_json

SIZE_LIMIT = 1024 * 1024  # ours


class Strict(BaseModel):
    """Base of the parts of a recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Choice(Strict):
    """One attack, tuner or defence with its options.

    Attributes:
        name: as registered, or ``none``.
        options: all of its options; defaults are filled in when the recipe is read.
        label: tells variants of one method apart in results; the name unless given.
    """

    name: str
    options: dict[str, Any] = {}
    label: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+=-]{0,63}$")


class Limits(Options):
    """How much of each split is used; None is all of it."""

    max_train: int | None = option(None, "training texts", source="ours", ge=2)
    max_dev: int | None = option(None, "dev texts", source="ours", ge=2)
    max_test: int | None = option(None, "test texts", source="ours", ge=2)


class Experiment(Strict):
    """What the recipes of all kinds of experiment have.

    Attributes:
        name: short name, used in titles.
        question: what the run should answer, in words.
        data: name of a data set, folder, or ``hf:NAME``.
        data_options: all options of the data set.
        seeds: one full pipeline per seed.
        attacker: training of the poisoned base.
        attack: who poisons it.
        limits: sizes of the splits.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    question: str = Field("", max_length=2000)
    data: str = Field("reviews", min_length=1)
    data_options: dict[str, Any] = {}
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, max_length=1000)
    attacker: AttackerOptions = AttackerOptions()
    attack: tuple[Choice, ...] = Field(min_length=1)
    limits: Limits = Limits()

    def digest(self) -> str:
        """Return a hash of the resolved recipe."""
        return hashlib.sha256(dump_json(self.model_dump(mode="json")).encode()).hexdigest()


class Recipe(Experiment):
    """One grid, fully resolved.

    Attributes:
        base: folder, hub id or ``builtin:...`` of the clean base.
        control: run the same pipeline at poisoning rate 0 beside every attack.
        control_tuners: labels of the tuners that the control is run for; None is all of them.
            (A guard sees the base alone, so its control is the same for all tuners.)
        control_defences: labels of the defences that the control is run for; None is all of them.
            (``none`` alone gives the rate at which clean victims name the target.)
        scenario: what somebody else made and nobody vouches for: the ``base``, or the training
            ``data`` of a victim whose base is sound.
        prompt: makes a classifier of a causal language model; None for all other bases.
        chosen_on: labels of the attacks on which settings were chosen; all others are unseen.
        tuner, defence: the rest of the grid.
    """

    base: str = Field("builtin:encoder", min_length=1)
    scenario: Scenario = "base"
    prompt: Prompt | None = None
    chosen_on: tuple[str, ...] = ()
    control: bool = True
    control_tuners: tuple[str, ...] | None = None
    control_defences: tuple[str, ...] | None = None
    tuner: tuple[Choice, ...] = Field(min_length=1)
    defence: tuple[Choice, ...] = Field(min_length=1)


AnyExperiment = TypeVar("AnyExperiment", bound=Experiment)


def _choice(kind: str, given: object, where: str) -> dict[str, Any]:
    """Resolve one ``[[attack]]`` table, or a bare name, to name, label and all options."""
    table = {"name": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise ConfigError(
            f"{where}: each {kind} is a table with a name",
            code="RECIPE-VALUE",
            got=repr(given),
            fix='write [[attack]] (or [[tuner]], [[defence]]) with name = "..." under it',
        )
    known = {"name", "options", "label"}
    check_keys(table, known, f"{where}: {kind} {table['name']}")
    options = table.get("options", {})
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"{where}: options of {kind} {table['name']} are not a table",
            code="RECIPE-VALUE",
            got=repr(options),
            fix="write options = {key = value}",
        )
    name = table["name"]
    if name == NONE and kind != "attack":
        resolved = parse_options(Options, options, f"{kind} none")
    else:
        resolved = parse_options(registry.get(kind, name).options, options, f"{kind} {name}")
    return {
        "name": name,
        "label": table.get("label", name),
        "options": resolved.model_dump(mode="json"),
    }


def check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    """Refuse a key that is not known.

    Raises:
        ConfigError: ``RECIPE-KEY`` with the nearest names.
    """
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{where}: there is no key {key!r}", code="RECIPE-KEY", fix=suggest(key, known)
            )


def _choices(kind: str, given: object, where: str) -> tuple[dict[str, Any], ...]:
    items = given if isinstance(given, list | tuple) else [given]
    found = tuple(_choice(kind, item, where) for item in items)
    check_labels(kind, [item["label"] for item in found], where)
    return found


def check_labels(kind: str, labels: Sequence[str], where: str) -> None:
    """Refuse two entries of one kind with the same label.

    Raises:
        ConfigError: ``RECIPE-LABEL``.
    """
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{where}: two {kind}s are called {twice[0]!r}",
            code="RECIPE-LABEL",
            fix=f'give one of them another name in the results: label = "{twice[0]}-2"',
        )


def dataset_name(data: str) -> str:
    """Return the registered data set that loads ``data``: its own name, ``hf`` or ``folder``."""
    if data.startswith("hf:"):
        return "hf"
    named = {entry.name for entry in registry.entries("dataset")} - {"hf"}
    return data if data in named else "folder"


def _data_options(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    data = values.get("data", Experiment.model_fields["data"].default)
    given = values.get("data_options", {})
    if not isinstance(data, str) or not isinstance(given, Mapping):
        raise ConfigError(
            f"{where}: data is a text and data_options a table",
            code="RECIPE-VALUE",
            got=f"{data!r}, {given!r}",
            fix='write data = "NAME" and [data_options] with key = value lines',
        )
    name = dataset_name(data)
    cls = registry.get("dataset", name).options
    return parse_options(cls, given, f"dataset {name}").model_dump(mode="json")


def build(cls: type[AnyExperiment], values: Mapping[str, Any], where: str) -> AnyExperiment:
    """Build a recipe from tables whose methods, options and data are resolved.

    Raises:
        ConfigError: ``RECIPE-VALUE``.
    """
    try:
        recipe = cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{where}: {key!r} is not valid: {first['msg']}",
            code="RECIPE-VALUE",
            got=repr(first.get("input")),
            fix="mend that value; the recipes that ship with peftlab are good examples",
        ) from None
    if len(set(recipe.seeds)) < len(recipe.seeds) or min(recipe.seeds) < 0:
        raise ConfigError(
            f"{where}: seeds must be different and not negative",
            code="RECIPE-VALUE",
            got=list(recipe.seeds),
            fix="write for example seeds = [0, 1, 2]",
        )
    return recipe


def make_recipe(
    values: Mapping[str, Any], overrides: Sequence[str] = (), where: str = "recipe"
) -> Recipe:
    """Build a recipe from plain values, as a TOML file holds them.

    Args:
        values: the tables of the recipe.
        overrides: ``key=value`` texts, as given to ``--set``.
        where: what to call the recipe in messages.

    Raises:
        ConfigError: ``RECIPE-KEY``, ``RECIPE-VALUE``, ``RECIPE-LABEL``, ``RECIPE-SET``,
            ``REGISTRY-NAME``, ``OPTION-UNKNOWN`` or ``OPTION-VALUE``.
    """
    check_keys(values, set(Recipe.model_fields), where)
    full = {"tuner": NONE, "defence": NONE, **values}
    full = apply_overrides(full, overrides, set(Recipe.model_fields))
    full = resolve_common(full, where)
    for kind in ("tuner", "defence"):
        full[kind] = _choices(kind, full[kind], where)
    for key in ("control_tuners", "control_defences", "chosen_on"):
        if isinstance(full.get(key), list):
            full[key] = tuple(full[key])
    if full.get("prompt") is not None:
        full["prompt"] = parse_options(Prompt, table_of(full, "prompt", where), f"{where}: prompt")
    recipe = build(Recipe, full, where)
    labels = {one.label for one in recipe.attack}
    for label in recipe.chosen_on:
        if label not in labels:
            raise ConfigError(
                f"{where}: chosen_on names {label!r}, which is no attack of the recipe",
                code="RECIPE-VALUE", fix=suggest(label, labels),
            )  # fmt: skip
    return recipe


def resolve_common(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the tables with all that ``Experiment`` names checked and filled in.

    Raises:
        ConfigError: ``RECIPE-KEY``, ``RECIPE-VALUE``, ``RECIPE-LABEL``, ``REGISTRY-NAME``,
            ``OPTION-UNKNOWN`` or ``OPTION-VALUE``.
    """
    full = dict(values)
    if not full.get("attack"):
        raise ConfigError(
            f"{where}: no attack is listed", code="RECIPE-KEY", fix="add an [[attack]] table"
        )
    full["attack"] = _choices("attack", full["attack"], where)
    for part, cls in (("attacker", AttackerOptions), ("limits", Limits)):
        full[part] = parse_options(cls, table_of(full, part, where), f"{where}: {part}")
    full["data_options"] = _data_options(full, where)
    if isinstance(full.get("seeds"), list):
        full["seeds"] = tuple(full["seeds"])
    return full


def table_of(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return the table at ``key``, an empty one if there is none.

    Raises:
        ConfigError: ``RECIPE-VALUE`` if something else stands there.
    """
    given = values.get(key, {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{where}: {key} is not a table",
            code="RECIPE-VALUE",
            got=repr(given),
            fix="write it as a [table] with key = value lines",
        )
    return given


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: a TOML file.
        overrides: ``key=value`` texts, as given to ``--set``.

    Raises:
        ConfigError: ``RECIPE-FILE`` (no such file, too large), ``RECIPE-TOML`` (not TOML), or as
            ``make_recipe``.
    """
    return make_recipe(read_toml(path), overrides, Path(path).name)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: ``RECIPE-FILE`` (no such file, too large) or ``RECIPE-TOML`` (not TOML).
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            content = handle.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read the recipe {path}",
            code="RECIPE-FILE",
            got=error.strerror,
            fix="check the path; `peftlab bench run --help` tells what a recipe is",
        ) from error
    if len(content) > SIZE_LIMIT:
        raise ConfigError(
            f"the recipe {path} is too large",
            code="RECIPE-FILE",
            allowed=f"at most {SIZE_LIMIT} bytes",
            fix="this is not a recipe; check the path",
        )
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid TOML",
            code="RECIPE-TOML",
            got=str(error),
            fix="mend that line; the recipes that ship with peftlab are good examples",
        ) from None
