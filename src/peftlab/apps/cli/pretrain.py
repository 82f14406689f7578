"""Pre-training on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json, say
from peftlab.apps.cli.steps import read_pairs
from peftlab.core.errors import ConfigError
from peftlab.core.options import parse_options


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options of a flat TOML file.

    Raises:
        ConfigError: ``RECIPE-READ``.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {path}", code="RECIPE-READ", got=str(error).split("\n")[0],
            fix="give a TOML file of KEY = VALUE lines",
        ) from error  # fmt: skip


def pretrain(
    objective: str, out: Path, text: Sequence[Path], held_out: Sequence[Path], work: Path | None,
    start_from: str, recipe: Path | None, option: Sequence[str], licence: str, *, as_json: bool,
) -> None:  # fmt: skip
    """Make a model from text."""
    from peftlab.models.pretraining.pretrain import objective_named
    from peftlab.models.pretraining.pretrain import pretrain as run

    chosen = objective_named(objective)
    values = read_recipe(recipe) if recipe else {}
    values |= read_pairs(chosen.options, option)
    facts = run(
        chosen,
        parse_options(chosen.options, values, f"pretrain {objective}"),
        text=text,
        held_out=held_out,
        work=work or out.with_name(out.name + "-work"),
        out=out,
        start_from=start_from or None,
        licence=licence,
        progress=say,
    )
    if as_json:
        out_json({
            "out": str(out), "objective": facts.objective, "steps": len(facts.curve),
            "tokens_seen": facts.tokens_seen, "held_out": dict(facts.held_out),
        })  # fmt: skip
        return
    for name, loss in facts.held_out.items():
        put(f"{name}\t{loss:.3f} nats")
    put(f"wrote {out}")
