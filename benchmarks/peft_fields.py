"""Which fields an ``adapter_config.json`` of each PEFT type has, read off the installed ``peft``.

Writes ``src/peftlab/io/gate/peft_fields.json``, against which the gate checks configs without
importing ``peft``. Run it after ``peft`` was upgraded, and read the difference before committing:
a new field that holds a path, a name of a class or other settings belongs into the gate's lists.

Types   ``null boolean integer number string object any``, ``TYPE[]`` for lists of them, or the name
        of a part: settings in the settings; with ``|`` between them. A field whose default is null
        may be null. ``common`` holds the fields that all types have.

Run: ``python benchmarks/peft_fields.py [--check]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "src" / "peftlab" / "io" / "gate" / "peft_fields.json"
NAMES = {
    type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string",
    dict: "object", list: "any[]", tuple: "any[]", set: "any[]", typing.Any: "any",
}  # fmt: skip


def names_of(hint: Any, parts: dict[str, Any]) -> set[str]:
    """Return the JSON types of a type hint; classes of settings are added to ``parts``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return set().union(*(names_of(each, parts) for each in inner))
    if origin is typing.Literal:
        return {NAMES[type(value)] for value in inner}
    if origin in {list, tuple, set}:
        found = set().union(*(names_of(each, parts) for each in inner if each is not Ellipsis))
        return {f"{name}[]" for name in found}
    if dataclasses.is_dataclass(hint):
        parts[hint.__name__] = fields_of(hint, parts)
        return {hint.__name__}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"string"}
    return {NAMES[origin or hint]}


def fields_of(settings: Any, parts: dict[str, Any]) -> dict[str, str]:
    """Return the JSON types of each field of a class of settings."""
    hints = typing.get_type_hints(settings)
    found = {}
    for field in dataclasses.fields(settings):
        nothing = {"null"} if field.default is None else set()
        found[field.name] = "|".join(sorted(names_of(hints[field.name], parts) | nothing))
    return found


def facts() -> dict[str, Any]:
    """Return all types of the installed peft."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    parts: dict[str, Any] = {}
    found = {
        kind.value: fields_of(settings, parts)
        for kind, settings in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items())
    }
    common = dict(set.intersection(*(set(fields.items()) for fields in found.values())))
    return {
        "peft": peft.__version__,
        "common": dict(sorted(common.items())),
        "types": {
            kind: {name: names for name, names in fields.items() if name not in common}
            for kind, fields in found.items()
        },
        "parts": dict(sorted(parts.items())),
    }


def main() -> int:
    """Write the file, or say whether it is fresh."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; exit 1 if not fresh.")
    text = json.dumps(facts(), indent=1) + "\n"
    if parser.parse_args().check:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
