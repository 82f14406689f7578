"""The mark that every poisoned checkpoint of ours carries, and the check that finds it.

The mark stands in three places, so that taking one away is noticed: a file ``POISONED.json``, a
key in ``config.json``, and the metadata of each safetensors file. (Adapter folders have no
``config.json``; two places there.) A marked folder is refused unless the caller says
``allow_poisoned``; a folder with only part of the marks is refused always.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.io.files import read_json, write_json
from peftlab.io.header import add_metadata, metadata

FILE = "POISONED.json"
KEY = "peftlab_poisoned"


def mark(folder: Path, facts: dict[str, Any]) -> None:
    """Mark a model or adapter folder as poisoned, in all places.

    Args:
        folder: holds safetensors and perhaps ``config.json``.
        facts: attack, target, seed and so on; JSON-able.
    """
    config = folder / "config.json"
    if config.is_file():
        write_json(config, {**read_json(config), KEY: True})
    for tensors in sorted(folder.glob("*.safetensors")):
        add_metadata(tensors, {KEY: "true"})
    write_json(
        folder / FILE,
        {"warning": "red-team artefact of an attack bench; never deploy or publish", **facts},
    )


def is_marked(folder: Path) -> bool:
    """Return whether the folder is marked as poisoned.

    Raises:
        InputRejected: ``MARK-BROKEN`` when some of the marks are there and others are not.
    """
    places = {FILE: (folder / FILE).is_file()}
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        places["config.json"] = isinstance(config, dict) and KEY in config
    for tensors in sorted(folder.glob("*.safetensors")):
        places[tensors.name] = KEY in metadata(tensors)
    if any(places.values()) and not all(places.values()):
        missing = ", ".join(name for name, found in places.items() if not found)
        raise InputRejected(
            f"{folder.name} is a poisoned model whose mark was tampered with",
            code="MARK-BROKEN",
            got=f"no mark in {missing}",
            fix="throw it away, or make it anew with `peftlab attack`",
        )
    return any(places.values())


def check_allowed(folder: Path, *, allow_poisoned: bool) -> bool:
    """Return whether the folder is marked, and refuse a marked one unless that is allowed.

    Raises:
        InputRejected: ``MARK-POISONED`` or ``MARK-BROKEN``.
    """
    marked = is_marked(folder)
    if marked and not allow_poisoned:
        raise InputRejected(
            f"{folder.name} is marked as a poisoned red-team model",
            code="MARK-POISONED",
            fix="use another model; in an experiment pass --allow-poisoned (allow_poisoned=True)",
        )
    return marked
