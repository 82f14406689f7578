"""A farm as a folder: a bank that every verb of ``size`` reads, rows in the public schema, a card.

BANK/                   the last step
README.md             data card
bank.json             sizes, concepts, layers, recipe
spectra.safetensors   singular values
adapters.parquet      the adapters themselves (with pyarrow)
low_4_denoiser_step125/, ...   the same of each snapshot before
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.bank_files import write_files
from peftlab.audits.size.farm.run import LICENCE, Farm, config_name
from peftlab.audits.size.rows import FILE as ROWS
from peftlab.audits.size.rows import write_rows
from peftlab.io.files import new_folder, sha256_file, write_atomic

CARD = "README.md"


def write_bank(
    farm: Farm, out: Path, *, overwrite: bool = False, factors: bool = True
) -> list[str]:
    """Write a farm into a new folder, all of it or nothing.

    Args:
        farm: trained adapters.
        out: the folder.
        overwrite: replace an old one.
        factors: write the adapters too, where pyarrow is there.

    Returns:
        The files, relative to ``out``.

    Raises:
        ConfigError: ``FOLDER-EXISTS``, ``PATH-WRITE``.
        ResourceLimit: ``DISK-FULL``.
    """
    rows = factors and find_spec("pyarrow") is not None
    with new_folder(out, overwrite) as part:
        for step in farm.options.kept:
            last = step == farm.options.steps
            write_step(farm, step, part if last else part / config_name(farm.options, step),
                        rows=rows)  # fmt: skip
        return sorted(str(file.relative_to(part)) for file in part.rglob("*") if file.is_file())


def write_step(farm: Farm, step: int, folder: Path, *, rows: bool) -> None:
    """Write one snapshot into a folder, which is made.

    Args:
        farm: trained adapters.
        step: which snapshot.
        folder: where; its parent is there.
        rows: write the adapters too.
    """
    folder.mkdir(exist_ok=True)
    bank = farm.bank(step)
    write_files(bank, folder)
    if rows:
        count = len(farm.jobs)
        recipe = farm.recipe(step)
        shared = ("rank", "alpha", "lr", "steps", "batch", "augment", "base_sha256")
        columns: dict[str, list[Any]] = {key: [recipe[key]] * count for key in shared}
        columns["seed"] = [job.seed for job in farm.jobs]
        columns["loss_final"] = farm.snapshots[step].losses.tolist()
        write_rows(
            folder / ROWS, farm.factors(step), farm.sizes, farm.names,
            columns=columns, recipe=recipe, about=bank.about,
        )  # fmt: skip
    sums = {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.is_file()}
    write_atomic(folder / CARD, bank_card(bank, sums, farm.options.command()))


def bank_card(bank: SpectraBank, sums: dict[str, str], command: str) -> str:
    """Return the data card of a bank as Markdown with YAML front matter.

    Args:
        bank: what is in it.
        sums: SHA-256 of its files.
        command: what made it.
    """
    files = "\n".join(f"| `{name}` | `{value}` |" for name, value in sums.items())
    recipe = "\n".join(f"| {key} | {value} |" for key, value in bank.recipe.items())
    sizes = ", ".join(map(str, bank.levels.tolist()))
    things = "images" if bank.recipe["backbone"] == "tiny-denoiser" else "sentences"
    made = f"\nMade by `{command}`.\n" if command else ""
    columns = (
        "\n`adapters.parquet` has the schema of the public LoRA-WiSE set: `label` (size), `name`\n"
        "(concept), and `<layer>.lora.down`, `<layer>.lora.up` row by row; shapes are in its "
        "metadata.\n" if ROWS in sums else ""
    )  # fmt: skip
    return f"""---
license: {LICENCE.lower()}
tags: [lora, synthetic-data, peftlab]
pretty_name: mini-WiSE {bank.about["title"]}
---

# mini-WiSE: {bank.about["title"]}

{len(bank)} LoRA adapters of known data-set size: {len(bank.concepts)} made-up concepts, each
trained on {sizes} {things}. For measuring how well the size can be told from the weights.

**No real images, no text by anybody, no people**: everything was drawn by the generator of peftlab
(version {bank.about["generator_version"]}) from seed {bank.recipe["seed"]}. Figures from it are
synthetic and say nothing about a large model.
{made}{columns}
## Recipe

| key | value |
|---|---|
{recipe}

Adapters of one concept share their {things}: split by concept, never by adapter.

## Files

| file | sha256 |
|---|---|
{files}

Licence: {LICENCE}.
"""
