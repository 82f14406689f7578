"""The leaderboard in sentences, made by fixed rules: ``better`` is said of claims alone."""

from __future__ import annotations

from collections.abc import Sequence

from peftlab.report.leaderboard.board import Board
from peftlab.report.leaderboard.claims import LEVEL, Claim, Comparison
from peftlab.report.leaderboard.rows import Row, Summary
from peftlab.report.leaderboard.units import MEASURES
from peftlab.report.read import DASH, NONE
from peftlab.report.results import percent, short_percent

MINUS = "\u2212"
MOST_NAMED = 6  # names that a sentence lists


def value(measure: str, number: float | None) -> str:
    """Return a number of a measure as people read it.

    Examples:
        >>> value("tpr", 0.913), value("auroc", 0.913)
        ('91.3 %', '0.913')
    """
    if number is None:
        return DASH
    text = f"{number:.3f}" if MEASURES[measure].kind == "auroc" else percent(number)
    return text.replace("-", MINUS)


def signed(measure: str, number: float | None) -> str:
    """Return a difference in points (AUROC as is), with its sign.

    Examples:
        >>> signed("tpr", 0.052), signed("auroc", 0.01)
        ('+5.2', '+0.010')
    """
    if number is None:
        return DASH
    text = f"{number:+.3f}" if MEASURES[measure].kind == "auroc" else f"{100 * number:+.1f}"
    return text.replace("-", MINUS)


def interval(measure: str, low: float | None, high: float | None) -> str:
    """Return ``[low, high]`` of a difference, or a dash."""
    if low is None or high is None:
        return DASH
    return f"[{signed(measure, low)}, {signed(measure, high)}]"


def p_text(p: float) -> str:
    """Return a p value with two digits that count.

    Examples:
        >>> p_text(0.0018), p_text(1.0)
        ('0.0018', '1')
    """
    return f"{p:.2g}"


def percent_range(measure: str, summary: Summary) -> str:
    """Return the interval of a mean without per cent signs; empty if its spread is not known."""
    if summary.low is None or summary.high is None:
        return ""
    ends = (value(measure, end).removesuffix(" %") for end in (summary.low, summary.high))
    return "[{}, {}]".format(*ends)


def claim_cells(measure: str, claim: Claim) -> list[str]:
    """Return a claim as a table has it, the word that it comes down to last."""
    word = "not shown"
    if claim.better:
        word = "better" if claim.everywhere else "better, these attacks"
    return [
        signed(measure, claim.difference), interval(measure, claim.low, claim.high),
        p_text(claim.p), p_text(claim.p_attacks), str(claim.attacks), str(claim.cases), word,
    ]  # fmt: skip


def count(number: int, what: str) -> str:
    """Return a number with its noun.

    Examples:
        >>> count(1, "attack"), count(3, "attack")
        ('1 attack', '3 attacks')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """Return names as a list in words, cut off where there are many."""
    shown = list(names[:MOST_NAMED])
    if len(names) > MOST_NAMED:
        shown.append(f"{len(names) - MOST_NAMED} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def sentences(board: Board) -> list[str]:
    """Return the conclusions: who finds most, what is left, who is better, what is not known."""
    grid = board.grid
    if not board.rows:
        return ["No cell of a poisoned base has finished, so there is no leaderboard."]
    if all(row.defence == NONE for row in board.rows):
        return ["No defence was tried, so there is no leaderboard."]
    tuner = grid.main_tuner
    one_seed = "" if grid.seeds > 1 else (
        "One seed only: no claim is possible that one defence is better than another."
    )  # fmt: skip
    others = "" if len(grid.tuners) == 1 else (
        f"These sentences are about {tuner}; the tables have all tuners."
    )  # fmt: skip
    only = f"Only a part of the run is in here: {grid.only}." if grid.only else ""
    basis = (_chosen(board), _not_taken(board), _senseless(board), others, only)
    parts = [
        _found(board, tuner), _compared(board, "tpr", tuner),
        _left(board, tuner), _compared(board, "asr_left", tuner), one_seed,
        *(one.words for one in board.verdicts),
        " ".join(part for part in basis if part),
    ]  # fmt: skip
    return [part for part in parts if part]


def _on(summary: Summary, board: Board, tuner: str) -> str:
    """Return how many triggers a mean is over, and of how many, where others were tried on more."""
    unseen = "unseen " if board.grid.told and board.grid.unseen != board.grid.attacks else ""
    most = max(
        one.attacks for row in board.rows if row.tuner == tuner for one in row.unseen.values()
    )
    of = "" if summary.attacks == most else f"{summary.attacks} of "
    return of + count(most, f"{unseen}trigger")


def _worst(measure: str, summary: Summary) -> str:
    if summary.attacks < 2:
        return ""
    return f" (worst: {summary.worst_on}, {value(measure, summary.worst)})"


def _found(board: Board, tuner: str) -> str:
    """Say who finds the largest share of triggered inputs."""
    best = _best(board, "tpr", tuner)
    if best is None:
        return "No defence here flags inputs, so none has a true-positive rate."
    tpr = best.unseen["tpr"]
    rate = "" if board.grid.level is None else (
        f" at an FPR calibrated for {short_percent(board.grid.level)}"
    )  # fmt: skip
    fpr = best.unseen.get("fpr")
    spent = "" if fpr is None else f"; it flags {percent(fpr.mean)} of clean inputs"
    return (
        f"{best.defence} finds most: {_with_range(tpr)} of triggered inputs{rate}, mean over "
        f"{_on(tpr, board, tuner)}{_worst('tpr', tpr)}{spent}."
    )


def _with_range(tpr: Summary) -> str:
    return f"{percent(tpr.mean)} {percent_range('tpr', tpr)}".rstrip()


def _left(board: Board, tuner: str) -> str:
    """Say which defence leaves least of the attacks, and at what cost."""
    best = _best(board, "asr_left", tuner)
    if best is None:
        return ""
    excess = best.unseen.get("excess")
    left = best.unseen["asr_left"]
    shown = f"{percent(left.mean)} of triggered inputs still succeed"
    bare = next((r for r in board.rows if (r.defence, r.tuner) == (NONE, tuner)), None)
    if bare is not None and "asr_left" in bare.unseen:
        shown += f" (without a defence {percent(bare.unseen['asr_left'].mean)})"
    if excess is not None and excess.mean > 0:
        shown += f", {100 * excess.mean:.1f} points above what honest error explains"
    elif excess is not None:
        shown += ", no more than honest error explains"
    cost = best.unseen.get("ca_cost")
    price = "" if cost is None else f", for {100 * cost.mean:.1f} points of clean accuracy"
    return f"With {best.defence} least is left: {shown}{_worst('asr_left', left)}{price}."


def _best(board: Board, measure: str, tuner: str) -> Row | None:
    """Return the best row: that of the comparison, else the only one that has the measure."""
    compared = board.compared(measure, tuner)
    if compared is not None:
        return board.row(compared.best, tuner)
    rows = [row for row in board.rows if row.tuner == tuner and row.defence != NONE]
    return next((row for row in rows if measure in row.unseen), None)


def _compared(board: Board, measure: str, tuner: str) -> str:
    """Say whom the best is better than, and of whom that is not shown."""
    found = board.compared(measure, tuner)
    if found is None or not found.claims:
        return ""
    better = [claim for claim in found.claims if claim.better]
    unsure = [claim for claim in found.claims if not claim.better]
    parts = [_better(found, better)] if better else []
    if unsure:
        who = "it" if better else found.best
        by = "" if better else f", by {MEASURES[measure].title},"
        parts.append(
            f"That {who} is better than {named([claim.rival for claim in unsure])}{by} is not "
            f"shown: the interval holds 0, or p is above {LEVEL}."
        )
    return " ".join(parts)


def _better(found: Comparison, claims: Sequence[Claim]) -> str:
    least = min(claims, key=lambda claim: abs(claim.difference))
    by = MEASURES[found.measure].title
    open_ = [claim.rival for claim in claims if not claim.everywhere]
    reach = (
        " The same holds when whole attacks are flipped, so for attacks like these." if not open_
        else " Against all of them it is a claim about these attacks only."
        if len(open_) == len(claims)
        else f" Against {named(open_)} it is a claim about these attacks only."
    )  # fmt: skip
    p = max(claim.p for claim in claims)
    return (
        f"By {by} {found.best} is better than {named([claim.rival for claim in claims])}: least "
        f"against {least.rival}, by {signed(found.measure, least.difference)} "
        f"{interval(found.measure, least.low, least.high)} "
        f"({count(least.attacks, 'attack')}, {count(least.cases, 'pair')}; Holm-corrected p at "
        f"most {p_text(p)}).{reach}"
    )


def _chosen(board: Board) -> str:
    grid = board.grid
    if not grid.told:
        return (
            "The recipe does not say on which attacks settings were chosen (chosen_on), so nothing "
            "here is known to be unseen."
        )
    if not grid.chosen:
        return "None of the attacks that settings were chosen on has finished."
    names = named([attack for attack in grid.attacks if attack in grid.chosen])
    if grid.unseen == grid.attacks:
        return f"Settings were chosen on all of these attacks ({names}): no trigger is unseen."
    best = _best(board, "tpr", grid.main_tuner)
    known = None if best is None else best.chosen.get("tpr")
    if best is None or known is None:
        return f"Settings were chosen on {names}, which no mean contains."
    return (
        f"Settings were chosen on {names}, which no mean contains; there {best.defence} finds "
        f"{percent(known.mean)}."
    )


def _not_taken(board: Board) -> str:
    gone = [one for one in board.grid.not_taken if one.tuner == board.grid.main_tuner]
    if not gone:
        return ""
    return (
        f"Left out of every mean, because the backdoor did not take: "
        f"{named([one.attack for one in gone])}."
    )


def _senseless(board: Board) -> str:
    made = len([one for one in board.groups if not one.control])
    none = len(board.senseless)
    if not none:
        return ""
    return f"{none} of {made} combinations make no sense; they have a reason and no number."
