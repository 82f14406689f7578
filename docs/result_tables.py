"""The tables of ``results.md``, made from the numbers in ``measured/``, so that none drifts.

A line such as ``<!-- table: psim-sst2 guards lora -->`` says what the table below it shows: the
results, the view, and what the view is of. Means over seeds; per cent, AUROC as is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from peftlab.report.read import DASH, read_cells
from peftlab.report.results import Group, group
from peftlab.report.table import markdown, markdown_table, number, range_of

MEASURED = Path(__file__).resolve().parent / "measured"
PLACE = re.compile(r"(<!-- table: (\S+) (\S+) (\S+) -->\n)(?:\|.*\n)*")
BEFORE = {"asr": "ASR before", "asr_def": "ASR behind", "ca": "CA", "ca_def": "CA behind"}
# At the threshold that the guard was run with: 5 %, and 0.7 where it has one of its own.
RATES = {"fpr": "FPR at 5 %", "tpr": "TPR at 5 %", "tpr_at_01": "TPR at 1 %"}
# Grids whose every cell has a page of its own, and the heading of that page.
CELLS = {
    "psim-sst2": "SST-2",
    "psim-scpn": "The published syntactic set",
    "psim-variants": "What each part of the guard is worth",
}


def _spread(one: Group, metric: str) -> str:
    found = one.spread(metric)
    if found is None:
        return DASH
    return f"{number(metric, found.mean)} {range_of(metric, found)}"


def _mean(one: Group, metric: str) -> str:
    found = one.mean(metric)
    return DASH if found is None else number(metric, found)


def _poisoned(groups: Sequence[Group], kind: str, label: str) -> list[Group]:
    """Return the guarded combinations of one tuner or attack."""
    return [
        one for one in groups
        if getattr(one, kind) == label and one.defence != "none" and not one.control
    ]  # fmt: skip


def _names(groups: Sequence[Group], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(one, field) for one in groups))


def guards(groups: Sequence[Group], tuner: str) -> str:
    """Return every guard against every attack, behind one tuner."""
    metrics = {**BEFORE, **RATES, "auroc": "AUROC"}
    rows = [
        [one.attack, one.defence, *(_spread(one, metric) for metric in metrics)]
        for one in _poisoned(groups, "tuner", tuner)
    ]
    return markdown_table(["attack", "guard", *metrics.values()], rows, names=2)


def tuners(groups: Sequence[Group], defence: str) -> str:
    """Return what each tuner keeps of a backdoor, with no guard and behind one."""
    own = [one for one in groups if one.defence == defence and not one.control]
    attacks = _names(own, "attack")
    found = {(one.tuner, one.attack): one for one in own}
    rows = [
        [tuner]
        + [
            ", ".join(_mean(found[tuner, attack], m) for m in ("ca", "asr", "asr_def"))
            for attack in attacks
        ]
        for tuner in _names(own, "tuner")
    ]
    head = ["tuner", *(f"{attack}: CA, ASR, ASR behind {defence}" for attack in attacks)]
    return markdown_table(head, rows, names=1)


def control(groups: Sequence[Group], tuner: str) -> str:
    """Return the AUROC of each guard on the unpoisoned base."""
    own = [one for one in groups if one.control and one.tuner == tuner and one.defence != "none"]
    attacks = _names(own, "attack")
    found = {(one.defence, one.attack): one for one in own}
    rows = [
        [name, *(_mean(found[name, attack], "auroc") for attack in attacks)]
        for name in _names(own, "defence")
    ]
    return markdown_table(["detector", *attacks], rows, names=1)


def variants(groups: Sequence[Group], attack: str) -> str:
    """Return every guard against one attack, with no tuner."""
    metrics = {"auroc": "AUROC", **RATES, "asr_def": "ASR behind"}
    rows = [
        [one.defence, *(_spread(one, metric) for metric in metrics)]
        for one in _poisoned(groups, "attack", attack)
    ]
    return markdown_table(["variant", *metrics.values()], rows, names=1)


VIEWS: dict[str, Callable[[Sequence[Group], str], str]] = {
    "guards": guards, "tuners": tuners, "control": control, "variants": variants,
}  # fmt: skip


def with_tables(text: str) -> str:
    """Return a page with its tables as the numbers say."""

    def fill(match: re.Match[str]) -> str:
        results = json.loads((MEASURED / f"{match[2]}.json").read_text(encoding="utf-8"))
        return match[1] + VIEWS[match[3]](group(read_cells(results)), match[4]) + "\n"

    return PLACE.sub(fill, text)


def cells_page(name: str) -> str:
    """Return the page with every cell of a grid."""
    results = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    return (
        f"# {CELLS[name]}, every cell\n\nHow it was run: [Measured](../results.md).\n\n"
        + markdown(results)
    )
