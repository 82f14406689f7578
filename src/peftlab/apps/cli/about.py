"""What there is and whether it works: list, describe, doctor."""

from __future__ import annotations

import inspect
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json
from peftlab.core import registry
from peftlab.core.contracts import stage_of
from peftlab.core.errors import ConfigError, suggest
from peftlab.core.options import option_table

ALL = "all"
PACKAGES = (
    "torch", "transformers", "peft", "safetensors", "huggingface_hub", "numpy", "pydantic",
    "typer", "rich", "jinja2", "matplotlib",
)  # fmt: skip
OPTIONAL = {"pyarrow": "parquet", "datasets": "hub"}


def list_methods(kind: str, *, as_json: bool) -> None:
    """List methods."""
    if kind not in (ALL, *registry.FOLDERS):
        raise ConfigError(
            f"there is no kind {kind!r}", code="CLI-KIND",
            fix=suggest(kind, [ALL, *registry.FOLDERS]),
        )  # fmt: skip
    found = registry.entries(None if kind == ALL else kind)
    if as_json:
        out_json({"items": [_item(entry) for entry in found]})
        return
    for group in dict.fromkeys(entry.kind for entry in found):
        put(f"{group}s")
        for entry in found:
            if entry.kind == group:
                put(f"  {entry.name:22} {entry.summary}")


def _item(entry: registry.Entry) -> dict[str, Any]:
    item = {
        "kind": entry.kind, "name": entry.name, "summary": entry.summary,
        "source": entry.source, "cost": entry.cost,
    }  # fmt: skip
    if entry.kind == "defence":
        item["acts_on"] = stage_of(entry.cls)
    return {**item, "licence": entry.licence} if entry.licence else item


def describe(name: str, *, as_json: bool) -> None:
    """Describe every method of that name."""
    found = [entry for entry in registry.entries() if entry.name == name]
    if not found:
        known = {entry.name for entry in registry.entries()}
        raise ConfigError(
            f"there is nothing called {name!r}", code="REGISTRY-NAME", fix=suggest(name, known)
        )
    if as_json:
        rows = [{**_item(entry), "options": option_table(entry.options)} for entry in found]
        out_json(rows[0] if len(rows) == 1 else {"items": rows})
        return
    put("\n\n".join(_described(entry) for entry in found))


def _described(entry: registry.Entry) -> str:
    idea = inspect.getdoc(sys.modules[entry.cls.__module__]) or entry.summary
    kind = entry.kind if entry.kind != "defence" else f"defence ({stage_of(entry.cls)})"
    lines = [f"{kind} {entry.name}", "", idea.strip(), "", f"source: {entry.source}",
             f"cost:   {entry.cost}"]  # fmt: skip
    if entry.licence:
        lines.append(f"licence: {entry.licence}")
    lines += ["", "options"]
    for row in option_table(entry.options):
        bounds = ", ".join(f"{word} {value}" for word, value in row["bounds"].items())
        lines.append(f"  {row['name']} = {row['default']!r}" + (f"  ({bounds})" if bounds else ""))
        lines.append(f"      {row['help']}; source: {row['source']}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def doctor(*, as_json: bool) -> None:
    """Check the installation; exits 5 when something needed is missing."""
    from peftlab.models.load import BUILTIN, pick_device
    from peftlab.nn.text import has_fast_bf16

    found = {name: _version(name) for name in PACKAGES}
    facts: dict[str, Any] = {
        "peftlab": _version("peftlab"),
        "python": platform.python_version(),
        "packages": found,
        "extras": {f"peftlab[{extra}]": _version(name) for name, extra in OPTIONAL.items()},
        "device": pick_device(),
        "fast_bf16": has_fast_bf16(),
        "cpus": os.cpu_count(),
        "free_disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "builtin_models": sorted(p.parent.name for p in BUILTIN.glob("*/model.safetensors")),
        "methods": len(registry.entries()),
        "broken_plugins": registry.broken_plugins(),
    }
    problems = [f"{name} is not installed" for name, got in found.items() if got is None]
    if not facts["builtin_models"]:
        problems.append("the built-in encoder is missing from this installation")
    facts["problems"] = problems
    if as_json:
        out_json(facts)
    else:
        for key, value in facts.items():
            put(f"{key:15} {_shown(value)}")
    if problems:
        sys.exit(5)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each or 'not installed'}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value)
