"""Who is better than whom: the best defence against each rival, on the attacks that count.

Differences are paired by attack and seed (``core.paired``). The best is picked by the numbers that
it is then compared by, so the p values are corrected (Holm) for all pairs of defences, not only
for those with the best. Two p values are given: one flips the sign of each attack and seed and
speaks of these very attacks; the other flips whole attacks and speaks of others like them.

better      the interval leaves out 0 and the corrected p over attacks and seeds is at most 0.05
everywhere  the corrected p over whole attacks is, too
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from peftlab.core.corrections import corrected
from peftlab.core.paired import (
    Blocks,
    bootstrap_interval,
    mean_of_blocks,
    parts_table,
    sign_flip_p,
)
from peftlab.core.seeds import stream
from peftlab.report.leaderboard.grid import Grid
from peftlab.report.leaderboard.units import MEASURES, Unit, blocks_of, differences
from peftlab.report.read import NONE

COMPARED = ("tpr", "auroc", "asr_left")
LEVEL = 0.05
ENOUGH = 0.5  # ours: share of the attacks that a defence must have been tried on to be the best
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Claim:
    """The best defence against one rival.

    Attributes:
        rival: its label.
        difference: best minus rival, mean over attacks of the mean over seeds.
        low, high: its 95 % interval, None if nothing tells the spread.
        p, p_attacks: over attacks and seeds, and over whole attacks; Holm-corrected.
        attacks, cases: that both have.
        better: the claim can be made, on these attacks.
        everywhere: it can be made for attacks like these.
    """

    rival: str
    difference: float
    low: float | None
    high: float | None
    p: float
    p_attacks: float
    attacks: int
    cases: int
    better: bool
    everywhere: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """The best defence by one measure through one tuner, against all others.

    Attributes:
        measure: key of ``MEASURES``.
        tuner: label.
        best: label of the defence with the best mean.
        mean: its mean over the attacks that count.
        family: pairs of defences that the p values are corrected for.
        claims: one per rival, smallest lead first; empty with one seed.
    """

    measure: str
    tuner: str
    best: str
    mean: float
    family: int
    claims: tuple[Claim, ...]


def comparisons_of(grid: Grid) -> list[Comparison]:
    """Return one comparison per tuner and measure that two defences have."""
    found = (_compare(grid, tuner, key) for tuner in grid.tuners for key in COMPARED)
    return [one for one in found if one is not None]


def _compare(grid: Grid, tuner: str, measure: str) -> Comparison | None:
    units = {
        defence: grid.of(defence, tuner) for defence in grid.defences if defence != NONE
    }  # fmt: skip
    blocks = {name: blocks_of(own, measure) for name, own in units.items()}
    tried = len({attack for own in blocks.values() for attack in own})
    fit = [name for name, own in blocks.items() if own and len(own) >= ENOUGH * tried]
    if len(fit) < 2:
        return None
    sign = 1.0 if MEASURES[measure].up else -1.0
    means = {name: mean_of_blocks(blocks[name]) for name in fit}
    best = max(fit, key=lambda name: sign * means[name])
    pairs = _pairs({name: units[name] for name in fit}, measure) if grid.seeds > 1 else {}
    claims = _claims(best, pairs, measure, sign=sign)
    claims.sort(key=lambda claim: sign * claim.difference)
    return Comparison(measure, tuner, best, means[best], len(pairs), tuple(claims))


def _pairs(units: Mapping[str, Sequence[Unit]], measure: str) -> dict[Pair, Blocks]:
    """Return the differences of every pair of defences that share an attack and seed."""
    found = {}
    for first, second in combinations(units, 2):
        apart = differences(units[first], units[second], measure)
        if apart:
            found[first, second] = apart
    return found


def _claims(best: str, pairs: Mapping[Pair, Blocks], measure: str, *, sign: float) -> list[Claim]:
    by_case = _p_values(pairs, measure, whole=False)
    by_attack = _p_values(pairs, measure, whole=True)
    found = []
    for (first, second), p, p_attacks in zip(pairs, by_case, by_attack, strict=True):
        if best not in {first, second}:
            continue
        rival = second if first == best else first
        turn = 1.0 if first == best else -1.0
        blocks = {
            attack: [turn * one for one in values]
            for attack, values in pairs[first, second].items()
        }
        draws = stream(0, "report/leaderboard/claim", measure, best, rival)
        low, high = bootstrap_interval(blocks, draws) or (None, None)
        difference = mean_of_blocks(blocks)
        ahead = low is not None and high is not None and (low > 0 if sign > 0 else high < 0)
        better = ahead and p <= LEVEL
        found.append(
            Claim(
                rival, difference, low, high, p, p_attacks, len(blocks),
                sum(map(len, blocks.values())), better, better and p_attacks <= LEVEL,
            )
        )  # fmt: skip
    return found


def _p_values(pairs: Mapping[Pair, Blocks], measure: str, *, whole: bool) -> list[float]:
    """Return the Holm-corrected p value of every pair."""
    table = parts_table(list(pairs.values()), whole=whole)
    draws = stream(0, "report/leaderboard/flip", measure, str(whole))
    return corrected([float(p) for p in sign_flip_p(table, draws)], "holm")
