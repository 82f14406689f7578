"""Data-set size on the command line, the side that makes adapters: size farm, size defend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.apps.cli.console import bar, out_json
from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.size import write_report
from peftlab.core.errors import ConfigError
from peftlab.core.options import parse_options

if TYPE_CHECKING:
    from peftlab.audits.size.farm.recipe import FarmOptions


def farm(
    flags: dict[str, Any], option: Sequence[str], out: Path, *, overwrite: bool, as_json: bool
) -> None:
    """Train a farm of adapters and write it as a bank; the same command goes on after a kill."""
    from peftlab.apps.cli.steps import read_pairs
    from peftlab.audits.size.farm.recipe import FarmOptions
    from peftlab.io.files import check_target

    options = parse_options(FarmOptions, flags | read_pairs(FarmOptions, option), "size farm")
    check_target(out, overwrite=overwrite)
    from peftlab.audits.size.farm.run import clear_work, run_farm
    from peftlab.audits.size.farm.write import write_bank

    work = out.with_name(f"{out.name}-work")
    with bar("size farm") as tell:
        made = run_farm(options, work=work, progress=tell)
    files = write_bank(made, out, overwrite=overwrite)
    clear_work(work)
    facts = {
        "bank": str(out), "adapters": len(made.jobs), "concepts": options.concepts,
        "sizes": list(options.sizes), "steps": list(options.kept), "files": files,
        "recipe": made.recipe(),
    }  # fmt: skip
    if as_json:
        out_json(facts)
        return
    sizes = ", ".join(map(str, options.sizes))
    put(f"{facts['adapters']} adapters of {options.concepts} concepts, sizes {sizes}")
    if not any(name.endswith(".parquet") for name in files):
        put('spectra only; for the adapters themselves: pip install "peftlab[parquet]"')
    put(f"bank: {out}")


def numbers(text: str) -> tuple[int, ...]:
    """Return whole numbers written with commas.

    Raises:
        ConfigError: ``CLI-OPTION``.

    Examples:
        >>> numbers("125, 250")
        (125, 250)
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(
            "steps are not whole numbers with commas", code="CLI-OPTION", got=text,
            fix="write for example --snapshots 125,250",
        )  # fmt: skip
    return tuple(map(int, parts))


def defend(
    bank: str, defences: str, option: Sequence[str], train: int | None, repeats: int, seed: int,
    out: Path | None, *, as_json: bool,
) -> None:  # fmt: skip
    """Measure what each defence takes from an attacker and what it costs."""
    from peftlab.apps.cli.steps import read_pairs
    from peftlab.audits.size.defences import DefenceOptions
    from peftlab.audits.size.defend import defend as run

    strength = parse_options(DefenceOptions, read_pairs(DefenceOptions, option), "size defend")
    names = [part.strip() for part in defences.split(",") if part.strip()]
    if not names:
        raise ConfigError(
            "no defence was named", code="SIZE-DEFENCE", fix="write --defence flip,rescale"
        )
    options = recipe_of(bank)
    with bar("size defend") as tell:
        found = run(
            options, names, strength, train=train, repeats=repeats, seed=seed, progress=tell
        )
    if out is not None:
        write_report(found, out)
    if as_json:
        out_json(found)
        return
    put(table(found))
    if out is not None:
        put(f"\nnumbers: {out / 'size.json'}")
        put(f"report:  {out / 'report.html'}")


def recipe_of(bank: str) -> FarmOptions:
    """Return the options with which a bank was farmed.

    Raises:
        ConfigError: ``SIZE-DEFEND-BANK`` for a bank that no farm made.
    """
    from peftlab.audits.size import SpectraBank
    from peftlab.audits.size.farm.recipe import FarmOptions

    loaded = SpectraBank.load(bank)
    known = {key: value for key, value in loaded.recipe.items() if key in FarmOptions.model_fields}
    if "backbone" not in loaded.recipe:
        raise ConfigError(
            f"{bank} was not made by `peftlab size farm`, so its adapters cannot be made again",
            code="SIZE-DEFEND-BANK", fix="farm a bank, or name one that ships: builtin:NAME",
        )  # fmt: skip
    return parse_options(FarmOptions, known | {"concepts": len(loaded.concepts)}, "size farm")


def table(found: dict[str, Any]) -> str:
    """Return results of ``defend`` as text."""
    head = found["heads"]
    bare = f"{found['base_loss_seen']:.4f}, {found['base_loss']:.4f}"
    rows = [["defence", "attacker", *head, "bits", "loss", "held out", "gain kept"]]
    for row in found["defences"]:
        gain = "-" if row["gain_kept"] is None else f"{row['gain_kept']:.0%}"
        cost = [f"{row['loss_seen']:.4f}", f"{row['loss']:.4f}", gain]
        for attacker, bits in (("naive", row["naive_bits"]), ("adaptive", row["bits"])):
            if attacker == "naive" and row["defence"] == "none":
                continue
            errors = [f"{row[attacker][name]:.3f}" for name in head]
            rows.append([row["defence"], attacker, *errors, f"{bits:.2f}", *cost])
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    guess = found["chance"]
    chance = (
        f"MAE by head; guessing: uniform {guess['uniform_mae']:.3f}, best constant "
        f"{guess['best_constant_mae']:.3f}; bits of at most {found['most_bits']:.2f}"
    )
    return "\n".join([
        *lines, "",
        chance,
        f"loss on the training examples and held out; the bare base: {bare}",
        "the adaptive attacker's bank has the same defence: read those rows",
    ])  # fmt: skip
