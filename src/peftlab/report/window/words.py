"""What the numbers say, in sentences made by fixed rules, also when they say nothing.

clear       the 95 % interval of the mean difference over seeds leaves out 0
window      widest unbroken run of steps with TPR at or above the bar
did not take  the poisoned base gives fewer than half of the triggered texts the target class
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from peftlab.report.read import finite, mapping
from peftlab.report.results import percent, short_percent
from peftlab.report.window.read import SCORES, Width, Windows

TOOK = 0.5  # as a kept backdoor in the report of a grid


def sentences(found: Windows) -> list[str]:
    """Return the conclusions, the answer to the question first."""
    own = [row for row in found.widths if not row.control]
    if not own:
        return ["No poisoned base was measured with enough clean texts for a threshold at 5 %."]
    parts = [_nothing(found)] if all(row.high == 0 for row in own) else _something(found, own)
    return [part for part in (*parts, _not_taken(found), _control(found), _honesty(own)) if part]


def _nothing(found: Windows) -> str:
    return (
        f"No window was found: at no step, on no base, does any way to un-learn find "
        f"{short_percent(found.bar)} of the triggered inputs at a threshold calibrated for 5 % of "
        f"the clean ones."
    )


def _something(found: Windows, own: Sequence[Width]) -> list[str]:
    return [
        *_pretraining(found), _scores(found, own), *_default(found), _guard(found),
        _open(found, own),
    ]  # fmt: skip


def _steps(value: float) -> str:
    number = f"{value:.1f}".removesuffix(".0")
    return f"{number} step" if number == "1" else f"{number} steps"


def _pretraining(found: Windows) -> list[str]:
    bases = found.names("base")
    if len(bases) < 2:
        return [f"One base was measured ({bases[0]}), so nothing is said about pre-training."]
    rows = {row.get("score"): row for row in found.compare if row.get("base") == bases[-1]}
    parts = [_difference(rows[name], words) for name, words in SCORES.items() if name in rows]
    return [_verdict(rows.get("gap", {}), bases), *parts]


def _verdict(row: Mapping[str, Any], bases: Sequence[str]) -> str:
    low, high = finite(row.get("low")), finite(row.get("high"))
    ends = f"from {bases[0]} to {bases[-1]}"
    if low is not None and low > 0:
        return f"More pre-training widens the window of a single step ({ends})."
    if high is not None and high < 0:
        return f"More pre-training narrows the window of a single step ({ends})."
    if low is None:
        return f"Whether pre-training widens the window ({ends}) cannot be told from one seed."
    return f"No clear effect of pre-training on the window of a single step was found ({ends})."


def _difference(row: Mapping[str, Any], score: str) -> str:
    low, high = finite(row.get("low")), finite(row.get("high"))
    interval = "" if low is None or high is None else f", 95 % interval {low:+.1f} to {high:+.1f}"
    mean = finite(row.get("difference")) or 0.0
    return (
        f"{score[0].upper()}{score[1:]}: {mean:+.1f} steps on {row.get('base')} against "
        f"{row.get('against')}{interval}; wider in {row.get('wider')} and narrower in "
        f"{row.get('narrower')} of {row.get('pairs')} attacks x ways to un-learn."
    )


def _scores(found: Windows, own: Sequence[Width]) -> str:
    """Say how wide the windows are on the last base, by score."""
    base = found.names("base")[-1]
    means = {
        words: fmean(row.mean for row in own if (row.base, row.score) == (base, name))
        for name, words in SCORES.items()
        if any((row.base, row.score) == (base, name) for row in own)
    }
    listed = ", ".join(f"{words} {_steps(value)}" for words, value in means.items())
    return f"Mean width on {base}, over attacks and ways to un-learn: {listed}." if means else ""


def _default(found: Windows) -> list[str]:
    base = found.names("base")[-1]
    rows = [row for row in found.choices if row.get("base") == base]
    chosen = next((row for row in rows if row.get("chosen") is True), None)
    if chosen is None:
        return []
    best = rows[0]
    if best["worst"] == 0:
        hindsight = "No way to un-learn, by any score, has a window against every attack."
    elif best is not chosen:
        hindsight = (
            f"In hindsight {_way(best)} would have the widest window at its worst attack "
            f"({best.get('worst_attack')}): {_steps(best['worst'])}."
        )
    else:
        hindsight = ""
    return [_chosen(chosen), hindsight]


def _way(row: Mapping[str, Any]) -> str:
    return f"{row.get('variant')} by {SCORES.get(str(row.get('score')), row.get('score'))}"


def _chosen(row: Mapping[str, Any]) -> str:
    text = (
        f"Chosen on {row.get('first_attack')} alone, {_way(row)} is best on {row.get('base')}: "
        f"{_steps(row['first'])} there"
    )
    if row.get("attacks", 1) > 1:
        text += f", {_steps(row['worst'])} at its worst attack ({row.get('worst_attack')})"
    if row["common"]:
        start, end = max(row["common"], key=lambda span: span[1] - span[0])
        return f"{text}; steps {start:.0f} to {end:.0f} serve every attack and seed."
    return f"{text}; no single step serves every attack and seed."


def _guard(found: Windows) -> str:
    """Say which guard the first two attacks chose on the last base, and what it finds of others."""
    base = found.names("base")[-1]
    rows = [row for row in found.guards if row.chosen and row.base == base and not row.control]
    if len(rows) < 3:
        return ""
    on, others = rows[:2], rows[2:]
    listed = ", ".join(f"{percent(row.tpr)} of {row.attack}" for row in others)
    return (
        f"Of guards that sum several looks, {on[0].attack} and {on[1].attack} choose "
        f"{on[0].name} ({on[0].passes} passes a text): {percent(on[0].tpr)} and "
        f"{percent(on[1].tpr)} found at 5 %, and {listed}, which had no say."
    )


def _open(found: Windows, own: Sequence[Width]) -> str:
    count = sum(row.open for row in own)
    if not count:
        return ""
    total = sum(row.n for row in own)
    last = f"{found.steps[-1]:.0f}"
    return (
        f"{count} of {total} windows were still open at the last look (step {last}): they are at "
        f"least that wide, and differences between them are understated."
    )


def _not_taken(found: Windows) -> str:
    weak = []
    for row in found.trained:
        asr = finite(mapping(row.get("asr")).get("mean"))
        if not row.get("control") and asr is not None and asr < TOOK:
            weak.append(f"{row.get('attack')} on {row.get('base')} (ASR {percent(asr)})")
    listed = ", ".join(weak)
    return f"The backdoor did not take, so little can stand out: {listed}." if weak else ""


def _control(found: Windows) -> str:
    rows = [row for row in found.widths if row.control]
    if not rows:
        return (
            "No unpoisoned control was run, so nothing shows that a window is of the backdoor "
            "rather than of odd text."
        )
    odd = sum(row.high > 0 for row in rows)
    if not odd:
        return f"On the unpoisoned control none of {len(rows)} combinations shows a window."
    return (
        f"On the unpoisoned control {odd} of {len(rows)} combinations show a window too: there "
        f"odd text stands out, not the backdoor."
    )


def _honesty(own: Sequence[Width]) -> str:
    return (
        f"Realised false-positive rate, allowed 5 %: {percent(fmean(row.fpr for row in own))} on "
        f"average, {percent(max(row.fpr_max for row in own))} at the worst single look."
    )
