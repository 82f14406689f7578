"""``--set key=value``: change one thing of a recipe from the command line.

``attack=NAME`` replaces the whole list by one attack with its default options (likewise ``tuner``
and ``defence``); ``attack.options.KEY=VALUE`` goes to every listed attack that has that option.
What was said of an attack that is no longer listed (``chosen_on``) goes with it.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from peftlab.core import registry
from peftlab.core.errors import ConfigError, suggest
from peftlab.core.options import Options

_KINDS = ("attack", "tuner", "defence")
_TABLES = ("attacker", "limits", "data_options")
_LABELS = ("chosen_on", "control_tuners", "control_defences")


def parse_value(text: str) -> Any:
    """Read a TOML scalar or array; what is neither is a string.

    Examples:
        >>> parse_value("0.05"), parse_value("true"), parse_value("cf"), parse_value("[1, 2]")
        (0.05, True, 'cf', [1, 2])
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = found.get("value")
    if len(found) > 1 or not isinstance(value, bool | int | float | str | list):
        return text
    return value


def _parse_list(text: str) -> list[Any]:
    value = parse_value(text)
    if isinstance(value, list):
        return value
    return [parse_value(part.strip()) for part in text.split(",")]


def _takes_list(annotation: object) -> bool:
    origin = get_origin(annotation) or annotation
    if origin in (list, tuple):
        return True
    return any(_takes_list(part) for part in get_args(annotation))


def _takes_words(annotation: object) -> bool:
    """Tell whether an option is a text, a choice among texts, or either of these or None."""
    parts = get_args(annotation)
    if not parts:
        return annotation is str or isinstance(annotation, str)
    return all(part is type(None) or _takes_words(part) for part in parts)


def _split(text: str) -> tuple[list[str], str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            "--set needs key=value", code="RECIPE-SET", got=text, fix="write --set seeds=0,1,2"
        )
    return key.strip().split("."), value.strip()


def _unknown(path: Sequence[str], known: set[str], part: str) -> ConfigError:
    return ConfigError(
        f"--set: the recipe has no key {'.'.join(path)!r}",
        code="RECIPE-SET",
        fix=suggest(part, known),
    )


def _options_class(kind: str, name: str) -> type[BaseModel]:
    if name == "none" and kind != "attack":
        return Options
    return registry.get(kind, name).options


def _set_option(kind: str, tables: list[dict[str, Any]], key: str, text: str) -> None:
    """Set one option on all tables whose method has it."""
    known: set[str] = set()
    hit = False
    for table in tables:
        cls = _options_class(kind, table["name"])
        known |= set(cls.model_fields)
        if key not in cls.model_fields:
            continue
        hit = True
        options = table.setdefault("options", {})
        options[key] = fit_value(cls, key, text)
    if not hit:
        names = ", ".join(table["name"] for table in tables)
        raise ConfigError(
            f"--set: no {kind} of the recipe ({names}) has an option {key!r}",
            code="OPTION-UNKNOWN",
            fix=suggest(key, known),
        )


def fit_value(cls: type[BaseModel], key: str, text: str) -> Any:
    """Read ``text`` as the option wants it: a list, a word as it stands, or any TOML value.

    Args:
        cls: the options class.
        key: name of the option; one that ``cls`` lacks is read as TOML, to be refused later.
        text: what the user typed.
    """
    if key not in cls.model_fields:
        return parse_value(text)
    annotation = cls.model_fields[key].annotation
    if _takes_list(annotation):
        return _parse_list(text)
    value = parse_value(text)
    if _takes_words(annotation) and not isinstance(value, str):
        return text  # a trigger such as 2024 or true is a word
    return value


def _as_tables(given: object) -> list[dict[str, Any]]:
    """Return a kind's entry of the recipe as a list of tables with names."""
    items = given if isinstance(given, list | tuple) else [given]
    tables: list[dict[str, Any]] = []
    for item in items:
        table = {"name": item} if isinstance(item, str) else item
        if not isinstance(table, dict) or not isinstance(table.get("name"), str):
            raise ConfigError(
                "--set: the recipe has an entry without a name",
                code="RECIPE-VALUE",
                got=table,
                fix='give every [[attack]], [[tuner]] and [[defence]] a name = "..."',
            )
        tables.append(table)
    return tables


def _set_kind(values: dict[str, Any], path: list[str], text: str) -> None:
    kind = path[0]
    if len(path) == 1:
        names = [name.strip() for name in text.split(",")]
        values[kind] = [{"name": name} for name in names]
        if kind == "attack" and isinstance(values.get("chosen_on"), list):
            values["chosen_on"] = [label for label in values["chosen_on"] if label in names]
    elif len(path) == 3 and path[1] == "options":
        values[kind] = _as_tables(values.get(kind, []))
        _set_option(kind, values[kind], path[2], text)
    else:
        raise _unknown(path, {f"{kind}.options.KEY"}, ".".join(path))


def _set_plain(values: dict[str, Any], path: list[str], text: str, known: set[str]) -> None:
    head = path[0]
    if head in _TABLES and len(path) == 2:
        table = values.setdefault(head, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"{head} is not a table",
                code="RECIPE-VALUE",
                got=repr(table),
                fix="write it as a [table] with key = value lines",
            )
        table[path[1]] = parse_value(text)
    elif len(path) > 1 or head in _TABLES:
        wanted = {f"{table}.KEY" for table in _TABLES} | {f"{kind}.options.KEY" for kind in _KINDS}
        raise _unknown(path, wanted | (known - set(_TABLES)), ".".join(path))
    elif head == "seeds":
        values[head] = _parse_list(text)
    elif head in _LABELS:
        values[head] = [label.strip() for label in text.split(",")] if text else []
    elif head == "control":
        values[head] = parse_value(text)
    else:
        values[head] = text  # names, folders and questions are texts, whatever they look like


def apply_overrides(
    values: Mapping[str, Any], overrides: Sequence[str], known: set[str]
) -> dict[str, Any]:
    """Return the recipe's tables with ``overrides`` applied.

    Names of methods are set first, so that ``attack.options.x=1 attack=y`` works in any order;
    apart from that a later override wins.

    Args:
        values: the tables; not changed.
        overrides: ``key=value`` texts.
        known: top-level keys of a recipe.

    Raises:
        ConfigError: ``RECIPE-SET``, ``OPTION-UNKNOWN``, ``REGISTRY-NAME``.
    """
    changed = copy.deepcopy(dict(values))
    pairs = [_split(text) for text in overrides]
    for path, text in sorted(pairs, key=lambda pair: len(pair[0]) > 1):
        if path[0] in _KINDS:
            _set_kind(changed, path, text)
        elif path[0] in known:
            _set_plain(changed, path, text, known)
        else:
            raise _unknown(path, known, path[0])
    return changed
