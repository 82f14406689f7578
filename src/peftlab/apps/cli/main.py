"""The ``peftlab`` command: every verb, its arguments, and nothing else.

Heavy imports happen inside the verbs, so that ``peftlab --help`` answers at once.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from peftlab import __version__
from peftlab.apps.cli.console import errors_in_words, quiet_libraries

app = typer.Typer(
    name="peftlab",
    help="Know what is in a fine-tune before you ship it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
guard_app = typer.Typer(no_args_is_help=True, help="Fit, use and measure a guard.")
bench_app = typer.Typer(no_args_is_help=True, help="Run grids of attacks, tuners and defences.")
app.add_typer(guard_app, name="guard")
app.add_typer(bench_app, name="bench")
raters_app = typer.Typer(no_args_is_help=True, help="Who agrees with whom: groups of raters.")
app.add_typer(raters_app, name="raters")
size_app = typer.Typer(no_args_is_help=True, help="How much data an adapter was trained on.")
app.add_typer(size_app, name="size")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
Base = Annotated[str, typer.Option("--base", help="builtin:encoder, a folder, or a hub id.")]
Data = Annotated[str, typer.Option("--data", help="A registered name, a folder, or hf:NAME.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")]
Options = Annotated[
    list[str], typer.Option("--option", "-o", help="KEY=VALUE of the method; repeat for more.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what stands at --out.")]
AllowPoisoned = Annotated[
    bool, typer.Option("--allow-poisoned", help="Let a marked red-team model in (experiments).")
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, help="Worker processes, one computing thread each.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show stack traces and warnings; any place in the line.")
    ] = False,
) -> None:
    """Know what is in a fine-tune before you ship it."""
    del debug  # read from the command line by run(), before anything can fail
    if version:
        sys.stdout.write(f"peftlab {__version__}\n")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder; an old one is resumed.")] = Path(
        "runs/demo"
    ),
    workers: Workers = 2,
    json: Json = False,
) -> None:
    """Take the tour on built-in parts: poison, tune, guard, report; under 3 minutes on 2 cores."""
    from peftlab.apps.cli import bench

    bench.demo(out, workers, as_json=json)


@app.command()
def attack(
    out: Out,
    name: Annotated[str, typer.Argument(help="Attack, see `peftlab list`.")] = "badnets",
    base: Base = "builtin:encoder",
    data: Data = "reviews",
    option: Options = [],  # noqa: B006  typer copies it
    epochs: Annotated[float, typer.Option(help="Passes over the poisoned set.", min=0.01)] = 3,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a poisoned base for experiments: a stock transformers folder that carries a mark."""
    from peftlab.apps.cli import steps

    steps.attack(out, name, base, data, option, epochs, seed, overwrite=overwrite, as_json=json)


@app.command()
def tune(
    out: Out,
    base: Base = "builtin:encoder",
    data: Data = "reviews",
    method: Annotated[str, typer.Option("--method", help="Tuner, see `peftlab list`.")] = "lora",
    option: Options = [],  # noqa: B006
    defence: Annotated[
        str, typer.Option("--defence", help="Tune the way of this defence, e.g. fine-pruning.")
    ] = "",
    defence_option: Annotated[
        list[str], typer.Option("--defence-option", help="KEY=VALUE of it; repeat for more.")
    ] = [],  # noqa: B006
    seed: Seed = 0,
    allow_poisoned: AllowPoisoned = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Tune a base on clean data; writes a stock peft adapter folder (or model folder for full)."""
    from peftlab.apps.cli import steps

    steps.tune(
        out, base, data, method, option, defence, defence_option, seed,
        allow_poisoned=allow_poisoned, overwrite=overwrite, as_json=json,
    )  # fmt: skip


@app.command()
def pretrain(
    objective: Annotated[
        str, typer.Argument(help="masked or replaced (encoders), causal (language model).")
    ],
    text: Annotated[
        list[Path], typer.Option("--text", help="File or folder of text; repeat for more.")
    ],
    out: Out,
    held_out: Annotated[
        list[Path], typer.Option("--held-out", help="Text to measure on; never trained on.")
    ] = [],  # noqa: B006
    work: Annotated[
        Path | None, typer.Option(help="Checkpoints, to go on from (default: OUT-work).")
    ] = None,
    start_from: Annotated[
        str, typer.Option("--from", help="Go on from this model, with its tokenizer.")
    ] = "",
    recipe: Annotated[Path | None, typer.Option(help="TOML file of options.")] = None,
    option: Options = [],  # noqa: B006
    licence: Annotated[str, typer.Option(help="Of the text, for the model card.")] = "",
    json: Json = False,
) -> None:
    """Make a small encoder or language model from text; the same command goes on after a kill."""
    from peftlab.apps.cli import pretrain as command

    command.pretrain(
        objective, out, text, held_out, work, start_from, recipe, option, licence, as_json=json
    )


@app.command(name="eval")
def evaluate(
    victim: Annotated[Path, typer.Option("--victim", help="Folder that `tune` wrote.")],
    data: Data = "reviews",
    attack: Annotated[str, typer.Option(help="Attack whose triggered texts are tried too.")] = "",
    option: Options = [],  # noqa: B006
    seed: Seed = 0,
    allow_poisoned: AllowPoisoned = False,
    json: Json = False,
) -> None:
    """Measure a tuned model on the test split: clean accuracy, and attack success if asked."""
    from peftlab.apps.cli import steps

    steps.evaluate(victim, data, attack, option, seed, allow_poisoned=allow_poisoned, as_json=json)


@guard_app.command("fit")
def guard_fit(
    out: Out,
    base: Base = "builtin:encoder",
    data: Data = "reviews",
    defence: Annotated[str, typer.Option("--defence", help="See `peftlab list`.")] = "psim",
    option: Options = [],  # noqa: B006
    seed: Seed = 0,
    allow_poisoned: AllowPoisoned = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fit a guard on an untrusted base and your own clean data; no trigger is known."""
    from peftlab.apps.cli import steps

    steps.guard_fit(
        out, base, data, defence, option, seed,
        allow_poisoned=allow_poisoned, overwrite=overwrite, as_json=json,
    )  # fmt: skip


@guard_app.command("score")
def guard_score(
    guard: Annotated[Path, typer.Argument(help="Folder that `guard fit` wrote.")],
    file: Annotated[
        Path, typer.Option("--file", help="Texts: .jsonl with a text field, or one a line.")
    ],
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="In bf16 where the processor has it, float32 near the threshold."
        ),
    ] = False,
    allow_poisoned: AllowPoisoned = False,
    json: Json = False,
) -> None:
    """Score texts: one line each, in input order, with score, p_value and flagged."""
    from peftlab.apps.cli import steps

    steps.guard_score(guard, file, fast=fast, allow_poisoned=allow_poisoned, as_json=json)


@guard_app.command("filter")
def guard_filter(
    out: Out,
    base: Base = "builtin:encoder",
    data: Data = "reviews",
    defence: Annotated[
        str, typer.Option("--defence", help="Filter of training sets, see `peftlab list`.")
    ] = "activation-clustering",
    option: Options = [],  # noqa: B006
    epochs: Annotated[float, typer.Option(help="Passes over the set before it is judged.")] = 3,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Drop suspect rows of a training set; writes a folder that --data reads."""
    from peftlab.apps.cli import steps

    steps.guard_filter(
        out, base, data, defence, option, epochs, seed, overwrite=overwrite, as_json=json
    )


@guard_app.command("inspect")
def guard_inspect(
    base: Annotated[str, typer.Argument(help="Base to judge: builtin:, folder or hub id.")],
    data: Data = "reviews",
    defence: Annotated[
        str, typer.Option("--defence", help="Inspector of models, see `peftlab list`.")
    ] = "trigger-inversion",
    option: Options = [],  # noqa: B006
    seed: Seed = 0,
    allow_poisoned: AllowPoisoned = False,
    json: Json = False,
) -> None:
    """Say whether a base with a trained head looks backdoored; exit code 1 if it does."""
    from peftlab.apps.cli import steps

    steps.guard_inspect(
        base, data, defence, option, seed, allow_poisoned=allow_poisoned, as_json=json
    )


@guard_app.command("eval")
def guard_eval(
    guard: Annotated[Path, typer.Argument(help="Folder that `guard fit` wrote.")],
    victim: Annotated[Path, typer.Option("--victim", help="Folder that `tune` wrote.")],
    data: Data = "reviews",
    attack: Annotated[str, typer.Option(help="Attack to try.")] = "badnets",
    option: Options = [],  # noqa: B006
    seed: Seed = 0,
    allow_poisoned: AllowPoisoned = False,
    json: Json = False,
) -> None:
    """Measure a guard in front of a tuned model, on clean and on triggered texts."""
    from peftlab.apps.cli import steps

    steps.guard_eval(
        guard, victim, data, attack, option, seed, allow_poisoned=allow_poisoned, as_json=json
    )


@bench_app.command("run")
def bench_run(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; an old one is resumed.")
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE over the recipe; repeat for more.")
    ] = [],  # noqa: B006
    workers: Workers = 2,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Run on Ray: local (with --workers CPUs), or auto or HOST:PORT of a cluster that "
            "this machine belongs to.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and what it may cost only.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a grid, or go on with it; writes results.json and report.html."""
    from peftlab.apps.cli import bench

    bench.run(recipe, out, settings, workers, dry_run=dry_run, as_json=json, ray=ray)


@bench_app.command("table")
def bench_table(
    run: Annotated[Path, typer.Argument(help="Run folder, or a results.json.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write leaderboard.html, .md, .json and scores/ here."),
    ] = None,
    attack: Annotated[
        list[str], typer.Option("--attack", help="This attack only; repeat for more.")
    ] = [],  # noqa: B006
    tuner: Annotated[
        list[str], typer.Option("--tuner", help="This tuner only; repeat for more.")
    ] = [],  # noqa: B006
    defence: Annotated[
        list[str], typer.Option("--defence", help="This defence only; repeat for more.")
    ] = [],  # noqa: B006
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    json: Json = False,
) -> None:
    """Print the table of a run; with --out, rank its defences and say who is better."""
    from peftlab.apps.cli import bench

    wanted = {"attack": attack, "tuner": tuner, "defence": defence}
    bench.table(run, out, wanted, markdown=markdown, as_json=json)


@bench_app.command("compare")
def bench_compare(
    first: Annotated[Path, typer.Argument(help="Run folder, or a results.json.")],
    second: Annotated[Path, typer.Argument(help="The other one.")],
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "tpr",
    json: Json = False,
) -> None:
    """Compare two runs cell by cell, paired over seeds, with intervals."""
    from peftlab.apps.cli import bench

    bench.compare(first, second, metric, as_json=json)


@bench_app.command("window")
def bench_window(
    recipe: Annotated[str, typer.Argument(help="Window recipe: a file, or a shipped one's name.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Run folder; an old one is resumed, or grows.")
    ] = None,
    settings: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE over the recipe; repeat for more.")
    ] = [],  # noqa: B006
    workers: Workers = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    json: Json = False,
) -> None:
    """Measure when un-learning lets triggered inputs stand out; writes window.json and .html."""
    from peftlab.apps.cli import window

    window.window(recipe, out, settings, workers, dry_run=dry_run, as_json=json)


@bench_app.command("bank")
def bench_bank(
    out: Out,
    base: Base = "builtin:encoder",
    data: Data = "reviews",
    attack: Annotated[
        list[str], typer.Option("--attack", help="Attack, see `peftlab list`; repeat for more.")
    ] = ["badnets", "insent"],  # noqa: B006
    option: Annotated[
        list[str], typer.Option("--option", "-o", help="KEY=VALUE: adapters, samples, rate.")
    ] = [],  # noqa: B006
    tuner_option: Annotated[
        list[str], typer.Option("--tuner-option", help="KEY=VALUE of LoRA; repeat for more.")
    ] = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Make a bank of clean and backdoored LoRA adapters for `audit --bank`; keeps no weights."""
    from peftlab.apps.cli import bench

    bench.bank(out, base, data, attack, option, tuner_option, seed, as_json=json)


RatingsFile = Annotated[Path, typer.Argument(help="Table with one row a rating, or see --set.")]
Item = Annotated[str, typer.Option("--item", help="Column with the ids of items.")]
Rater = Annotated[str, typer.Option("--rater", help="Column with the ids of raters.")]
Label = Annotated[str, typer.Option("--label", help="Column with the answers.")]
By = Annotated[str, typer.Option("--by", help="Columns that group the raters: A,B.")]
Cross = Annotated[
    list[str], typer.Option("--cross", help="Intersection of groups, A*B; repeat for more.")
]
Labels = Annotated[str, typer.Option(help="All answers in their order: no,unsure,yes.")]
DropLabel = Annotated[
    list[str], typer.Option("--drop-label", help="Answer that does not count; repeat for more.")
]
Known = Annotated[
    str, typer.Option("--set", help="dices350, dices990, d3code, crehate or popquorn.")
]
DropRaters = Annotated[
    Path | None, typer.Option(help="File of rater ids to leave out, one a line.")
]
KeepFirst = Annotated[
    bool, typer.Option("--keep-first", help="Keep the first of repeated ratings; else an error.")
]
Level = Annotated[str, typer.Option(help="Distance of answers: nominal, ordinal, interval.")]
Permutations = Annotated[int, typer.Option(help="Shuffles of the raters.")]
MinGroup = Annotated[int, typer.Option(help="Smaller groups are suppressed.")]
MergeSmall = Annotated[bool, typer.Option("--merge-small", help="Merge small groups to (other).")]


@raters_app.command("grasp")
def raters_grasp(
    file: RatingsFile,
    item: Item = "",
    rater: Rater = "",
    label: Label = "",
    by: By = "",
    cross: Cross = [],  # noqa: B006
    labels: Labels = "",
    drop_label: DropLabel = [],  # noqa: B006
    known: Known = "",
    drop_raters: DropRaters = None,
    keep_first: KeepFirst = False,
    level: Level = "nominal",
    permutations: Permutations = 2000,
    bootstrap: Annotated[int, typer.Option(help="Draws for the intervals; 0: none.")] = 1000,
    within: Annotated[
        str, typer.Option(help="Test within these too: A,B; items: raters who share items.")
    ] = "",
    min_group: MinGroup = 5,
    merge_small: MergeSmall = False,
    model: Annotated[
        list[str],
        typer.Option("--model", help="NAME=FILE with item and label: a model as one more rater."),
    ] = [],  # noqa: B006
    option: Options = [],  # noqa: B006
    out: Annotated[Path, typer.Option("--out", help="Folder of report and tables.")] = Path(
        "runs/raters"
    ),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Audit groups of raters: agreement within and across, tested; writes a report."""
    from peftlab.apps.cli import raters

    source = raters.Source(
        file, item, rater, label, labels, tuple(drop_label), known, drop_raters, keep_first
    )
    flags = {
        "level": level, "permutations": permutations, "bootstrap": bootstrap, "seed": seed,
        "within": tuple(raters.split(within)), "min_group": min_group, "merge_small": merge_small,
    }  # fmt: skip
    raters.grasp(source, by, cross, model, option, flags, out, as_json=json)


@raters_app.command("load")
def raters_load(
    known: Annotated[str, typer.Argument(help="dices350, dices990, d3code, crehate, popquorn.")],
    path: Annotated[Path, typer.Option("--path", help="The released file, or its folder.")],
    drop_raters: DropRaters = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Table (.csv) to write, without any text.")
    ] = None,
    json: Json = False,
) -> None:
    """Read a public data set of ratings, say what is in it, and write it as a plain table."""
    from peftlab.apps.cli import raters

    raters.load(raters.Source(path, known=known, drop_raters=drop_raters), out, as_json=json)


@raters_app.command("plan")
def raters_plan(
    pilot: Annotated[Path, typer.Option("--pilot", help="Ratings that are there: a table.")],
    budget: Annotated[int, typer.Option("--budget", min=0, help="New ratings to pay for.")],
    item: Item = "",
    rater: Rater = "",
    label: Label = "",
    by: By = "",
    cross: Cross = [],  # noqa: B006
    labels: Labels = "",
    drop_label: DropLabel = [],  # noqa: B006
    known: Known = "",
    drop_raters: DropRaters = None,
    keep_first: KeepFirst = False,
    level: Level = "nominal",
    permutations: Permutations = 2000,
    min_group: MinGroup = 5,
    merge_small: MergeSmall = False,
    option: Options = [],  # noqa: B006
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say for which groups more raters would turn a hint into a finding, within a budget."""
    from peftlab.apps.cli import raters

    source = raters.Source(
        pilot, item, rater, label, labels, tuple(drop_label), known, drop_raters, keep_first
    )
    flags = {
        "level": level, "permutations": permutations, "seed": seed, "min_group": min_group,
        "merge_small": merge_small,
    }  # fmt: skip
    raters.plan(source, by, cross, budget, option, flags, as_json=json)


@raters_app.command("reproduce")
def raters_reproduce(
    path: Annotated[Path, typer.Option("--path", help="DICES-350's released file, or its folder.")],
    permutations: Permutations = 2000,
    all_raters: Annotated[
        bool, typer.Option("--all-raters", help="Keep the raters that the authors left out.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Print your DICES-350 beside table 5 of the GRASP paper, cell by cell."""
    from peftlab.apps.cli import raters

    raters.reproduce(path, permutations, seed, all_raters=all_raters, as_json=json)


@raters_app.command("demo")
def raters_demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of report and tables.")] = Path(
        "runs/raters-demo"
    ),
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Audit a made-up pool in which one group has a view of its own."""
    from peftlab.apps.cli import raters

    raters.demo(out, seed, as_json=json)


SizeBank = Annotated[str, typer.Option("--bank", help="Folder of a bank, or builtin:NAME.")]
Features = Annotated[str, typer.Option(help="Kinds of matrix: A, B, BA, M (DoRA's magnitudes).")]


@size_app.command("fit")
def size_fit(
    bank: SizeBank,
    out: Out,
    head: Annotated[str, typer.Option(help="vote, frobenius, ridge, lda, ordinal, ...")] = "vote",
    features: Features = "A,B,BA",
    alpha: Annotated[float, typer.Option(help="Share of concepts that a set may miss.")] = 0.1,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Learn from a bank of adapters of known data-set size; writes an auditor."""
    from peftlab.apps.cli import size

    size.fit(bank, head, out, features, alpha, overwrite=overwrite, as_json=json)


@size_app.command("predict")
def size_predict(
    auditor: Annotated[Path, typer.Option("--auditor", help="Folder that `size fit` wrote.")],
    adapter: Annotated[
        str, typer.Option("--adapter", help="A folder, a .safetensors file, or a hub id.")
    ],
    recipe: Annotated[
        list[str], typer.Option("--recipe", help="How it was trained: lr=1e-4,steps=1200.")
    ] = [],  # noqa: B006
    assume_recipe: Annotated[
        bool, typer.Option("--assume-recipe", help="Take it to be the bank's recipe.")
    ] = False,
    reference: Annotated[
        list[str],
        typer.Option("--reference", help="FILE=SIZE of the target's recipe; repeat for more."),
    ] = [],  # noqa: B006
    form: Annotated[str, typer.Option("--format", help="text, json or html.")] = "text",
    out: Annotated[Path, typer.Option("--out", help="Page to write with --format html.")] = Path(
        "runs/size/report.html"
    ),
    json: Json = False,
) -> None:
    """Tell how many training examples an adapter was made from; the recipe must be known."""
    from peftlab.apps.cli import size

    size.predict(
        auditor, adapter, recipe, reference, out, form, assume_recipe=assume_recipe, as_json=json
    )


@size_app.command("bench")
def size_bench(
    bank: SizeBank,
    heads: Annotated[
        str, typer.Option("--heads", help="Names, with commas.")
    ] = "vote,frobenius,nearest,ridge,lda,ordinal",
    features: Features = "A,B,BA",
    train: Annotated[
        int | None, typer.Option(min=1, help="Concepts to train on (default: 15, or 3/4 of few).")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Random splits.")] = 10,
    seed: Seed = 42,
    other: Annotated[
        list[str],
        typer.Option("--other", help="NAME=BANK of another recipe, same concepts; repeat."),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of size.json and report.html.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure heads on a bank, split by concept, beside chance and a control."""
    from peftlab.apps.cli import size

    size.bench(bank, heads, features, train, repeats, seed, other, out, as_json=json)


@size_app.command("farm")
def size_farm(
    out: Out,
    backbone: Annotated[
        str, typer.Option(help="tiny-denoiser (images) or tiny-lm (sentences).")
    ] = "tiny-denoiser",
    size_range: Annotated[
        str, typer.Option("--range", help="Sizes: low 1-6, medium 1-50, high 1-500.")
    ] = "low",
    concepts: Annotated[int, typer.Option(help="Made-up concepts; one adapter a size.")] = 50,
    seed: Seed = 0,
    rank: Annotated[int, typer.Option(help="Of every update.")] = 4,
    steps: Annotated[int, typer.Option(help="Of each adapter.")] = 500,
    snapshots: Annotated[
        str, typer.Option(help="Steps to keep too, with commas (default: a quarter, a half).")
    ] = "",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    seeds: Annotated[
        str, typer.Option(help="same or own: start, order and noise of the adapters.")
    ] = "same",
    augment: Annotated[
        str, typer.Option(help="none; flip images; drop words of sentences.")
    ] = "none",
    option: Options = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train hundreds of small adapters of known data-set size at once; writes a bank."""
    from peftlab.apps.cli import size_farm as farms

    flags = {
        "backbone": backbone, "range": size_range, "concepts": concepts, "seed": seed,
        "rank": rank, "steps": steps, "snapshots": farms.numbers(snapshots), "lr": lr,
        "seeds": seeds, "augment": augment,
    }  # fmt: skip
    farms.farm(flags, option, out, overwrite=overwrite, as_json=json)


@size_app.command("defend")
def size_defend(
    bank: SizeBank = "builtin:low_4_denoiser",
    defence: Annotated[
        str, typer.Option("--defence", help="Names, with commas.")
    ] = "flip,noise,clip,rescale,dp",
    option: Options = [],  # noqa: B006
    train: Annotated[
        int | None, typer.Option(min=1, help="Concepts that the attacker knows (default: 15).")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Random splits.")] = 10,
    seed: Seed = 42,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of size.json and report.html.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure defences of a publisher: what leaks before and after, and what it costs."""
    from peftlab.apps.cli import size_farm as farms

    farms.defend(bank, defence, option, train, repeats, seed, out, as_json=json)


@app.command()
def audit(
    artefact: Annotated[
        str, typer.Argument(help="Folder, .safetensors or zip file, or hub id ORG/NAME@COMMIT.")
    ],
    against: Annotated[
        str, typer.Option(help="Base that you trust: builtin:NAME, a folder, or a hub id.")
    ] = "",
    bank: Annotated[
        Path | None, typer.Option(help="Folder of reference adapters, for size and backdoor.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="TOML file that says what may pass.")] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            help="Lowest severity that gives exit code 1: info, low, medium, high, critical or "
            "never; over the policy, else high."
        ),
    ] = "",
    formats: Annotated[
        str, typer.Option("--format", help="Files to write: html,json,sarif; --out alone: all.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of these files (default: runs/audit).")
    ] = None,
    option: Annotated[
        list[str], typer.Option("--option", "-o", help="AUDIT.KEY=VALUE; repeat for more.")
    ] = [],  # noqa: B006
    offline: Annotated[bool, typer.Option("--offline", help="Never ask the hub.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Say what is in an adapter or checkpoint, before anything loads it; exit code for CI."""
    from peftlab.apps.cli import audit as command

    command.audit(
        artefact, against, bank, policy, fail_on, formats, out, option, seed,
        offline=offline, as_json=json,
    )  # fmt: skip


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A .bin or .pt file, or a folder with such weights.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Read it in a cage; needed, for a pickle is a program."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands at OUT.")] = (
        False
    ),
    json: Json = False,
) -> None:
    """Convert pickled weights to safetensors in a cage, and take the result through the gate."""
    from peftlab.apps.cli import convert as command

    command.convert(source, out, sandbox=sandbox, overwrite=overwrite, as_json=json)


@app.command(name="list")
def list_methods(
    kind: Annotated[
        str, typer.Argument(help="attack, tuner, defence, dataset, audit or all.")
    ] = "all",
    json: Json = False,
) -> None:
    """List what there is: data sets, attacks, tuners, defences, audits."""
    from peftlab.apps.cli import about

    about.list_methods(kind, as_json=json)


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="Any name that `peftlab list` prints.")],
    json: Json = False,
) -> None:
    """Describe one method: idea, options with sources and bounds, cost."""
    from peftlab.apps.cli import about

    about.describe(name, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check this installation: versions, device, disk, built-in models, plugins."""
    from peftlab.apps.cli import about

    about.doctor(as_json=json)


def run() -> None:
    """Start the command line; the console script."""
    arguments = [each for each in sys.argv[1:] if each != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    with errors_in_words(debug=debug), nullcontext() if debug else quiet_libraries():
        app(arguments, prog_name="peftlab")
