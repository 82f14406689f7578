"""What the numbers say, in sentences made by fixed rules, also when they say nothing.

differs     p < 0.05, after correction within number and axis where there is one
above/below the side of the null's median on which the number lies
moved       the 95 % interval of a change leaves out 0
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from peftlab.report.raters.read import (
    EVERYBODY,
    LEVEL,
    METRICS,
    MINUS,
    TIMES,
    Axis,
    Dsi,
    Group,
    Move,
    Raters,
    Value,
    read_raters,
)
from peftlab.report.read import DASH

MOST_NAMED = 5  # groups that a sentence names
IN_WORDS, LONGEST = 60, 22  # characters of a name in a sentence, in a figure
LEADING = ("gai", "gap", "irr", "xrr")  # the first of them that was computed leads the verdict
_RATIO = {
    "above": "They agree more among themselves than with the others (a perspective of their own)",
    "below": "They agree more with the others than among themselves (a split inside the group)",
}
_SIDES = {
    "gai": _RATIO,
    "gap": _RATIO,
    "irr": {
        "above": "They agree more among themselves than random groups of their size",
        "below": "They agree less among themselves than random groups of their size",
    },
    "xrr": {
        "above": "They agree more with the others than random groups of their size",
        "below": "They agree less with the others than random groups of their size",
    },
}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of an audit, the answer to the question first.

    Args:
        results: what ``raters.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    return verdict(read_raters(results))


def verdict(found: Raters) -> list[str]:
    """Return the conclusions of an audit that was read."""
    if not found.groups:
        return ["No group was found, so there is no result."]
    if not found.shown:
        return [
            f"There is no result: every group has fewer than {found.settings.min_group} raters.",
            _suppressed(found),
        ]
    few = _too_few(found)
    leading = next((name for name in LEADING if name in found.settings.metrics), None)
    parts = [few] if few else []
    if leading is not None:
        parts += [*_leading(found, leading), _within(found, leading)]
    parts += [_others(found, leading), _dsi(found), *_models(found), _suppressed(found)]
    return [part for part in (*parts, *_honesty(found)) if part]


def decimal(value: float, metric: str = "gai") -> str:
    """Return a number as the published table has it: GAI in full, shares without the 0.

    Examples:
        >>> decimal(0.975), decimal(0.166, "irr"), decimal(0.07, "gap")
        ('0.975', '.166', '+.070')
    """
    text = f"{value:+.3f}" if metric == "gap" else f"{value:.3f}"
    if metric != "gai":
        text = text.replace("0.", ".", 1) if abs(value) < 0.9995 else text
    return text.replace("-", MINUS)


def short(name: str, most: int = LONGEST) -> str:
    """Return a name that fits, cut in the middle, for names often differ at one end only.

    Of an intersection the longest part is cut first.

    Examples:
        >>> short("a name that is far too long for a figure", 16)
        'a name tha…igure'
    """
    if len(name) <= most:
        return name
    parts = name.split(TIMES)
    lengths = [len(part) for part in parts]
    room = max(most - len(TIMES) * (len(parts) - 1), 3 * len(parts))
    while sum(lengths) > room:
        lengths[lengths.index(max(lengths))] -= 1
    return TIMES.join(
        part if len(part) <= length else _cut(part, length)
        for part, length in zip(parts, lengths, strict=True)
    )


def _cut(text: str, most: int) -> str:
    end = (most - 1) // 3
    return text[: most - 1 - end] + "…" + text[len(text) - end :]


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals, or one digit if it is smaller.

    Examples:
        >>> p_text(2 / 2001), p_text(0.00012)
        ('0.001', '0.0001')
    """
    if p is None:
        return DASH
    return f"{p:.3f}" if p >= 0.0005 or p == 0 else f"{p:.1g}"


def _named(
    found: Raters, groups: Sequence[Group], word: Callable[[Group], str], between: str = ", "
) -> str:
    """Return names with a word each, the axis too where there are several, five at most."""
    several = len(found.axes) > 1
    names = []
    for group in groups[:MOST_NAMED]:
        inside = [
            text for text in (group_axis(found, group) if several else "", word(group)) if text
        ]
        label = short(group.label, IN_WORDS)
        names.append(f"{label} ({', '.join(inside)})" if inside else label)
    more = len(groups) - MOST_NAMED
    return between.join(names) + (f" and {more} more" if more > 0 else "")


def group_axis(found: Raters, group: Group) -> str:
    """Return the name of a group's axis as it is shown."""
    return next((axis.label for axis in found.axes if axis.name == group.axis), group.axis)


def _differs(value: Value, found: Raters) -> bool:
    return value.mark == ("**" if found.settings.corrected else "*")


def _leading(found: Raters, metric: str) -> list[str]:
    name = METRICS[metric]
    known = [group for group in found.shown if group.of(metric).value is not None]
    tested = [group for group in known if group.of(metric).p is not None]
    if not tested:
        return [f"{name} could not be tested for any group, so no group is said to differ."]
    strong = [group for group in tested if _differs(group.of(metric), found)]
    strong.sort(key=lambda group: (group.of(metric).p or 0.0, group.axis, group.name))
    weak = [group for group in tested if group.of(metric).mark == "*" and group not in strong]
    how = (
        f"after correction ({found.settings.correction_name})" if found.settings.corrected
        else f"at p < {LEVEL} (nothing was corrected for the number of tests)"
    )  # fmt: skip
    count = f"{len(strong)} of {len(tested)} groups" if strong else "No group"
    verb = "differs" if len(strong) <= 1 else "differ"
    parts = [f"{count} {verb} from chance in {name} {how}."]
    for side, words in _SIDES[metric].items():
        own = [group for group in strong if group.of(metric).side == side]
        if own:
            parts.append(f"{words}: {_named(found, own, _number(metric))}.")
    if weak:
        parts.append(
            f"Before correction only, which is a hint and no more: "
            f"{_named(found, weak, _arrow_and_p(metric))}."
        )
    lost = [group for group in found.shown if group not in known]
    if lost:
        parts.append(f"{name} is undefined for {_named(found, lost, lambda _: '')}; see the table.")
    return parts


def _number(metric: str) -> Callable[[Group], str]:
    def word(group: Group) -> str:
        value = group.of(metric).value
        return "" if value is None else decimal(value, metric)

    return word


def _arrow_and_p(metric: str) -> Callable[[Group], str]:
    return lambda group: f"{group.of(metric).arrow} p = {p_text(group.of(metric).p)}"


def _within(found: Raters, metric: str) -> str:
    """Say whether the stratified test agrees with the plain one."""
    if not found.settings.within:
        return ""
    key = "q_within" if found.settings.corrected else "p_within"
    inside = {}
    for group in found.shown:
        p = getattr(group.of(metric), key)
        if p is not None:
            inside[group.axis, group.name] = p < LEVEL
    plain = [g for g in found.shown if _differs(g.of(metric), found)]
    both = [g for g in plain if inside.get((g.axis, g.name))]
    lost = [g for g in plain if inside.get((g.axis, g.name)) is False]
    new = [g for g in found.shown if inside.get((g.axis, g.name)) and g not in plain]
    start = f"The test stratified by {' and '.join(found.settings.within)}"
    if not inside:
        return f"{start} has no result for {METRICS[metric]}."
    if not plain and not new:
        return f"{start} finds none either."
    text = f"{start} confirms {len(both)} of {len(plain)}" if plain else f"{start} disagrees"
    if lost:
        text += f"; not {_named(found, lost, lambda _: '')}, where " + (
            "too few permutations may be why"
            if _too_few(found)
            else "the difference may belong to the strata"
        )
    if new:
        text += f"; it alone finds {_named(found, new, lambda _: '')}"
    return f"{text}."


def _others(found: Raters, leading: str | None) -> str:
    """Name what differs in the other numbers, the groups with most of them first."""
    names = [name for name in found.settings.metrics if name != leading]
    if not names:
        return ""
    differing = {
        (group.axis, group.name): [name for name in names if _differs(group.of(name), found)]
        for group in found.shown
    }
    own = [group for group in found.shown if differing[group.axis, group.name]]
    if not own:
        return "In none of the other numbers does a group differ from chance."
    own.sort(key=lambda group: -len(differing[group.axis, group.name]))

    def word(group: Group) -> str:
        listed = differing[group.axis, group.name]
        return ", ".join(f"{METRICS[name]} {group.of(name).arrow}" for name in listed)

    return f"In other numbers these differ from chance: {_named(found, own, word, '; ')}."


def _dsi(found: Raters) -> str:
    known = [(row.value, row) for row in found.dsi if row.value is not None]
    if not known:
        return (
            "No axis has a DSI, for no group has a GAI." if "gai" in found.settings.metrics else ""
        )
    value, row = max(known, key=lambda pair: pair[0])
    most = "largest of all axes" if len(known) > 1 else "the only one"
    text = (
        f"DSI, {most}: {_axis(found, row.axis).label}, {decimal(value)}, "
        f"from {short(found.label_of(row.axis, row.group), IN_WORDS)} ({_dsi_p(row)})."
    )
    without = [_axis(found, row.axis).label for row in found.dsi if row.value is None]
    return text + (f" No DSI: {', '.join(without[:MOST_NAMED])}." if without else "")


def _dsi_p(row: Dsi) -> str:
    if row.p is None:
        return "not tested"
    text = f"p = {p_text(row.p)}"
    if row.q is not None:
        text += f", {p_text(row.q)} after correction"
    last = row.p if row.q is None else row.q
    return text if last < LEVEL else f"{text}: no more than chance gives"


def _axis(found: Raters, name: str) -> Axis:
    return next(axis for axis in found.axes if axis.name == name)


def _models(found: Raters) -> list[str]:
    """Say towards whom the model moved."""
    if not found.models:
        return []
    if not found.moves:
        return _nearest(found)
    first, last = found.models[0], found.models[-1]
    everybody = next((move for move in found.moves if not move.axis), None)
    own = sorted((move for move in found.moves if move.axis), key=lambda move: -move.change)
    parts = []
    if everybody is not None:
        parts.append(f"From {first} to {last}, agreement with {EVERYBODY}: {_change(everybody)}.")
    if own:
        ends = own[:1] if len(own) == 1 else [own[0], own[-1]]
        named = " and ".join(
            f"{short(found.label_of(move.axis, move.group), IN_WORDS)} {_change(move)}"
            for move in ends
        )
        word = "with its only group" if len(ends) == 1 else "most and least"
        parts.append(f"From {first} to {last}, agreement changed {word}: {named}.")
    return parts


def _nearest(found: Raters) -> list[str]:
    parts = []
    for model in found.models:
        own = [row for row in found.model_rows if row.model == model and row.axis]
        if own:
            best = max(own, key=lambda row: row.xrr)
            name = short(found.label_of(best.axis, best.group), IN_WORDS)
            parts.append(f"{model} agrees most with {name} (XRR {decimal(best.xrr, 'xrr')}).")
    return parts


def _change(move: Move) -> str:
    text = decimal(move.change, "gap")
    if move.low is None or move.high is None:
        return f"{text} (no interval)"
    unclear = "" if move.clear else "; not clear of 0"
    return f"{text} [{decimal(move.low, 'gap')}, {decimal(move.high, 'gap')}{unclear}]"


def _suppressed(found: Raters) -> str:
    own = [group for group in found.groups if group.suppressed]
    if not own:
        return _left_out(found)
    verb = "group is" if len(own) == 1 else "groups are"
    return (
        f"{len(own)} {verb} suppressed for having fewer than {found.settings.min_group} raters: "
        f"{_named(found, own, lambda _: '')}."
    )


def _left_out(found: Raters) -> str:
    """Say where groups of an intersection are left out, of which not even the names are given."""
    named = [f"{', '.join(axis.suppressed)} of {axis.name}" for axis in found.axes
             if axis.suppressed]  # fmt: skip
    if not named:
        return ""
    return (
        f"Suppressed for having fewer than {found.settings.min_group} raters: {'; '.join(named)}."
    )


def _honesty(found: Raters) -> list[str]:
    """Say what the numbers cannot say."""
    settings = found.settings
    parts = []
    if settings.paper:
        parts.append(
            "The published rule for p was used. It chooses its tail after looking, so it finds "
            "about twice as many differences by chance as 0.05 allows, and it can return 0."
        )
    elif settings.permutations:
        parts.append(
            f"With {settings.permutations} permutations no p can be below 2/(N + 1) = "
            f"{p_text(settings.floor)}."
        )
    else:
        parts.append("No permutation was run, so nothing was tested.")
    if not settings.bootstrap:
        parts.append("No bootstrap was run, so no number has an interval.")
    return parts


def _too_few(found: Raters) -> str:
    """Say if the correction could not have found a single group; then that comes first."""
    if found.settings.paper or not found.settings.permutations:
        return ""
    most = max((len(found.on(axis.name)) for axis in found.axes), default=0)
    if not found.settings.corrected or found.settings.floor * most < LEVEL:
        return ""
    needed = ceil(2 * most / LEVEL)
    return (
        f"{found.settings.permutations} permutations are too few for {most} groups on one axis: a "
        f"single one that differs cannot pass the correction, so nothing can be concluded from "
        f"none that does. {needed} permutations would do."
    )
