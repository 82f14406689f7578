"""The Markdown page of the built-in models, from the results of their units alone."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from _builtin_tasks import TASKS

Results = Sequence[Mapping[str, Any]]
Groups = dict[tuple[str, str, str], list[Mapping[str, Any]]]
Chosen = Mapping[tuple[str, str], Mapping[str, Any]]

TUNERS = ("full", "lora")
NOTHING = "-"
LEAK = "HYGIENE-LEAK-TEST-TRAIN"  # of what the loader found, this alone flatters a figure
SEEDS = 3  # fewer are said to be fewer
FIRST = ("encoder", "embeddings", "scratch")  # order in the tables; other bases follow
# (task, tuner, bar, whether to reach it is enough)
BARS = (
    ("sst2-67349", "full", 0.86, True),
    ("sst2-6920", "full", 0.83, True),
    ("sst2-6920", "lora", 0.81, True),
    ("cola", "full", 0.10, False),
)
METRICS = {"accuracy": "Accuracy", "matthews": "Matthews correlation"}
# what must not differ within a row of a table
SAME = ("reference", "base_fingerprint", "options", "data_sha256")

HEAD = """# The built-in models, measured

How much the small models that ship with peftlab know, by what they add when they are tuned. Made by
`benchmarks/builtin_models.py`, which says how to make it again.

- `encoder` is `builtin:encoder`. The two controls have its architecture: `scratch` is
  `builtin:encoder-random`, every weight drawn; `embeddings` has the encoder's embeddings under a
  body that is drawn anew for each seed.
- A cell is the mean over the seeds [smallest to largest]. Then follows each seed with its 95 %
  interval over the test texts: Wilson's for accuracy, a bootstrap of the test texts for Matthews
  correlation. The seed decides new weights, the order of the data and dropout.
- `cut` is the share of the test texts that are longer than the model's input and lose their end.
- Options are fixed for each tuner and kind of base; how they were chosen stands below. Test was
  measured once for each seed.
- LoRA trains the adapter, the head and, for `encoder` and `embeddings`, the pooler, which they do
  not bring. The pooler of `scratch` stays as it was drawn: a small advantage of the other two.
"""
NOTES = {
    "sst2-67349": (
        "Same dev and test as above; training rows that are word for word in dev or test are "
        "left out. Most rows are phrases of the training sentences, not sentences."
    ),
    "cola": (
        "The test labels were never published: the test here is both public dev sets, in and out "
        "of domain (GLUE's dev), and dev is held out of train."
    ),
    "agnews": "A subset of the training set; dev is cut to 1,000 texts.",
    "rte": (
        "The test labels are hidden: the test here is the validation set, and dev is held out of "
        "train. A pair is one text, hypothesis first, with the tokenizer's separator token "
        "between; it has no segment numbers."
    ),
}


def page(units: Results, choices: Results, chosen: Chosen) -> str:
    """Return the page.

    Args:
        units: results on test.
        choices: results on dev of the candidates, if any.
        chosen: the options in use.
    """
    groups = grouped(units)
    parts = [HEAD, _bars(groups)]
    parts += [_task(name, groups) for name in TASKS]
    parts += ["## Options\n", choice_table(choices, chosen), _machines(units)]
    return "\n".join(parts).rstrip() + "\n"


def grouped(units: Results) -> Groups:
    """Return the units of each (task, base, tuner), by seed."""
    groups: Groups = defaultdict(list)
    for unit in sorted(units, key=lambda unit: int(unit["key"]["seed"])):
        key = unit["key"]
        groups[key["task"], key["base"], key["tuner"]].append(unit)
    return dict(groups)


def _values(units: Results | None, split: str = "test") -> list[float]:
    return [unit[split]["value"] for unit in units or () if split in unit]


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    return f"{mean(values):.3f} [{min(values):.3f} to {max(values):.3f}]"


def _few(values: Sequence[float]) -> str:
    """Return a remark when fewer seeds than promised were measured."""
    if len(values) >= SEEDS:
        return ""
    return f" ({len(values)} seed{'s' if len(values) > 1 else ''} only)"


def _bars(groups: Groups) -> str:
    lines = ["## Bars\n", "| bar | measured | |", "|---|---|---|"]
    for task, tuner, bar, reach in BARS:
        values = _values(groups.get((task, "encoder", tuner)))
        ok = bool(values) and (mean(values) >= bar if reach else mean(values) > bar)
        word = "not measured" if not values else "met" if ok else "**MISSED**"
        if ok and min(values) < bar:
            word = "met by the mean, not by every seed"
        sign = "at least" if reach else "above"
        what = f"{TASKS[task].title}, {tuner}: {sign} {bar:.2f}"
        lines.append(f"| {what} | {_over_seeds(values)} | {word}{_few(values) if values else ''} |")
    for task in TASKS:
        lines += [_against_scratch(groups, task, tuner) for tuner in TUNERS]
    return "\n".join(lines) + "\n"


def _against_scratch(groups: Groups, task: str, tuner: str) -> str:
    ours = _values(groups.get((task, "encoder", tuner)))
    control = _values(groups.get((task, "scratch", tuner)))
    what = f"| {TASKS[task].title}, {tuner}: encoder above scratch"
    if not ours or not control:
        return f"{what} | {NOTHING} | not measured |"
    gain = mean(ours) - mean(control)
    if gain <= 0:
        word = "**MISSED**"
    elif min(ours) > max(control):
        word = "met, by every seed against every seed"
    else:
        word = "met by the mean; the seeds overlap"
    few = min(ours, control, key=len)
    return f"{what} | {gain:+.3f} | {word}{_few(few)} |"


def _task(name: str, groups: Groups) -> str:
    task = TASKS[name]
    lines = [f"## {task.title}\n"]
    if name in NOTES:
        lines.append(NOTES[name] + "\n")
    mine = {key: units for key, units in groups.items() if key[0] == name}
    if not mine:
        return "\n".join([*lines, "Not measured.\n"])
    one = next(iter(mine.values()))[0]
    if task.epochs is not None:
        lines.append(f"Trained for {task.epochs} epochs, whatever the options below say.\n")
    counts = " / ".join(f"{one['texts'][split]:,}" for split in ("train", "dev", "test"))
    lines += [
        *(f"Data: {note}.\n" for note in one["notes"] if LEAK in note),
        f"{METRICS[task.metric]}; {counts} texts. {one['chance']:.3f} of the test is one class.\n",
        "| base | tuner | dev | test | each seed [95 %] | cut | trained | CPU min |",
        "|---|---|---|---|---|---:|---:|---:|",
    ]
    bases = sorted({base for _, base, _ in mine}, key=_place)
    rows = [(base, tuner) for base in bases for tuner in TUNERS if (name, base, tuner) in mine]
    lines += [_row(base, tuner, mine[name, base, tuner]) for base, tuner in rows]
    remarks = [remark for key, units in mine.items() for remark in _remarks(key, units)]
    return "\n".join([*lines, *(f"\n{remark}" for remark in remarks)]) + "\n"


def _place(base: str) -> tuple[int, str]:
    return (FIRST.index(base) if base in FIRST else len(FIRST), base)


def _row(base: str, tuner: str, units: Results) -> str:
    done = [unit for unit in units if "test" in unit]
    tests = _values(done)
    each = "; ".join(
        f"{u['test']['value']:.3f} [{u['test']['low']:.3f} to {u['test']['high']:.3f}]"
        for u in done
    )
    cut = f"{100 * mean(u['cut_share'] for u in done):.1f} %" if done else NOTHING
    trained = _range(sorted({u["trainable"] for u in done}))
    minutes = mean(u["cpu_seconds"] for u in units) / 60
    return (
        f"| {base} | {tuner} | {_over_seeds(_values(done, 'dev'))} | {_over_seeds(tests)}"
        f"{_few(tests)} | {each or NOTHING} | {cut} | {trained} | {minutes:.1f} |"
    )


def _range(values: Sequence[int]) -> str:
    return (
        " to ".join(f"{value:,}" for value in dict.fromkeys((*values[:1], *values[-1:]))) or NOTHING
    )


def _remarks(key: tuple[str, str, str], units: Results) -> Iterable[str]:
    """Yield what a reader must know of a row: failed seeds, and seeds that are no set."""
    _, base, tuner = key
    for unit in units:
        if "failed" in unit:
            yield f"{base}, {tuner}, seed {unit['key']['seed']}: failed ({unit['failed']})."
    for name in SAME:
        if len({json.dumps(unit["key"][name], sort_keys=True) for unit in units}) > 1:
            yield f"**{base}, {tuner}: the seeds differ in {name}; measure them again.**"


def choice_table(choices: Results, chosen: Chosen) -> str:
    """Return how the candidates did on dev, and whether the options in use are the best of them.

    A candidate's score is the mean of its dev results over the tasks and bases that were tried.
    """
    lines = ["In use:\n", "| tuner | kind of base | options |", "|---|---|---|"]
    lines += [f"| {tuner} | {kind} | {_words(o)} |" for (tuner, kind), o in chosen.items()]
    if not choices:
        lines += ["\nNo candidates were compared on dev: these options are those of earlier work."]
        return "\n".join(lines) + "\n"
    scores: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for unit in choices:
        key = unit["key"]
        of_kind = scores.setdefault((key["tuner"], key["kind"]), {})
        of_kind.setdefault(_words(key["options"]), []).append(unit)
    tasks = sorted({unit["key"]["task"] for unit in choices})
    seeds = sorted({unit["key"]["seed"] for unit in choices})
    lines += [
        f"\nCandidates on dev (tasks {', '.join(tasks)}; seed {', '.join(map(str, seeds))}):\n",
        "| tuner | kind of base | options | mean on dev | trainings | |",
        "|---|---|---|---|---:|---|",
    ]
    for (tuner, kind), candidates in sorted(scores.items()):
        lines += _ranked(tuner, kind, candidates, _words(chosen.get((tuner, kind), {})))
    return "\n".join(lines) + "\n"


def _ranked(tuner: str, kind: str, candidates: Mapping[str, Results], in_use: str) -> Iterable[str]:
    most = max(len(units) for units in candidates.values())
    # A candidate that failed, or was not tried everywhere, cannot win.
    score = {
        words: mean(_values(units, "dev")) if len(_values(units, "dev")) == most else float("-inf")
        for words, units in candidates.items()
    }
    best = max(score, key=lambda words: score[words])
    for words, units in sorted(candidates.items(), key=lambda pair: -score[pair[0]]):
        marks = [*(["best"] if words == best else []), *(["in use"] if words == in_use else [])]
        value = f"{score[words]:.3f}" if score[words] > float("-inf") else "incomplete or failed"
        yield f"| {tuner} | {kind} | {words} | {value} | {len(units)} | {', '.join(marks)} |"
    if best != in_use:
        yield f"| {tuner} | {kind} | {in_use} | | | **in use, but not the best on dev** |"


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items())


def _machines(units: Results) -> str:
    lines = ["## Machine\n"]
    seen = {json.dumps(unit["machine"], sort_keys=True): unit["machine"] for unit in units}
    lines += [
        "- " + "; ".join(f"{name} {value}" for name, value in about.items())
        for about in seen.values()
    ]
    return "\n".join(lines if seen else [*lines, "Nothing was measured."]) + "\n"
