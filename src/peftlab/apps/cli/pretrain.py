"""Pre-training on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json, say
from peftlab.apps.cli.steps import read_pairs
from peftlab.core.options import parse_options


def pretrain(
    objective: str, out: Path, text: Sequence[Path], held_out: Sequence[Path], work: Path | None,
    start_from: str, recipe: Path | None, option: Sequence[str], licence: str, *, as_json: bool,
) -> None:  # fmt: skip
    """Make a model from text."""
    from peftlab.engine.recipe import read_toml
    from peftlab.models.pretraining.pretrain import objective_named
    from peftlab.models.pretraining.pretrain import pretrain as run

    chosen = objective_named(objective)
    values = read_toml(recipe) if recipe else {}
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
