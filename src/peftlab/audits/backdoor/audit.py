"""Is this adapter backdoored? Spectral statistics of its updates, judged by known adapters.

Five statistics of each low-rank update (largest singular value, Frobenius norm, stable rank,
entropy of the spectrum, kurtosis of the entries) go into a logistic regression that is fitted on a
bank of clean and backdoored adapters of the same layers. The score is turned into a p-value by the
cross-validated scores of the bank's clean adapters: among adapters made like those, at most alpha
are called backdoored.

Sources: Puertolas Merenciano et al. 2026 (arXiv 2602.15195) for statistics and logistic
regression (their exact list was not read); PEFTGuard (arXiv 2411.17453) for the task. Different
here: a p-value instead of a probability, and no verdict on an adapter unlike the whole bank, since
another learning rate or number of steps moves these numbers as much as a backdoor does.
It judges adapters that others made. An adapter that you trained yourself on a poisoned base is
clean by this measure, and the base is not: fit a guard (`peftlab guard fit`) for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftlab.audits.backdoor.bank import ABOUT, AdapterBank, layer_names, statistics_of
from peftlab.audits.backdoor.classifier import cross_scores, fit, p_value, strangeness
from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.errors import PeftlabError
from peftlab.core.findings import Chart, Severity, Table, rule
from peftlab.core.options import Options, option
from peftlab.core.ranking import auroc
from peftlab.core.registry import audit
from peftlab.core.types import Floats

LIKE = rule(
    "BACKDOOR-LIKE", Severity.MEDIUM,
    "the adapter looks like the backdoored ones of the bank",
    why="its weights moved as those of adapters that were trained on triggered texts",
    fix="do not ship it before you asked its maker and put a guard in front of it",
)  # fmt: skip
UNLIKE = rule(
    "BACKDOOR-UNLIKE", Severity.INFO,
    "the adapter is unlike every adapter of the bank, so there is no verdict",
    why="another recipe changes the statistics as much as a backdoor does",
    fix="give a bank made with the recipe of this adapter: `peftlab bench bank`",
)  # fmt: skip
FEWEST = 10  # adapters of each kind: below that a p-value of 0.1 cannot be reached


class BackdoorOptions(Options):
    """Options of the backdoor verdict."""

    alpha: float = option(
        0.05, "share of clean adapters that may be called backdoored", source="ours",
        gt=0, lt=1,
    )  # fmt: skip
    certain: float = option(
        0.01, "p-value at or below which the finding is high; needs 99 clean adapters",
        source="ours", ge=0, lt=1,
    )  # fmt: skip
    strange: float = option(
        0.95, "quantile of the bank's own distances above which an adapter is unlike it",
        source="ours", gt=0, le=1,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the bank says about one adapter.

    Attributes:
        score: log odds of being backdoored.
        p: share of clean adapters at least as suspicious.
        distance, reach: to the nearest adapter of the bank, and the limit for a verdict.
        auroc: of the bank itself, cross-validated.
        scores: cross-validated scores of the bank, (N,).
    """

    score: float
    p: float
    distance: float
    reach: float
    auroc: float
    scores: Floats

    @property
    def known(self) -> bool:
        """Whether the bank reaches as far as this adapter."""
        return self.distance <= self.reach


def judge(bank: AdapterBank, statistics: Floats, *, strange: float, seed: int) -> Verdict:
    """Return the verdict on one adapter.

    Args:
        bank: at least 10 adapters of each kind.
        statistics: (P, 5), from ``statistics_of``.
        strange: quantile of the bank's distances to their nearest neighbours.
        seed: of the folds.
    """
    rows, one = bank.rows.reshape(len(bank), -1), statistics.reshape(1, -1)
    scores = cross_scores(rows, bank.backdoored, seed)
    distance, among = strangeness(rows, one)
    score = float(fit(rows, bank.backdoored).scores(one)[0])
    return Verdict(
        score=score,
        p=p_value(score, scores[~bank.backdoored]),
        distance=float(distance[0]),
        reach=float(np.quantile(among, strange)),
        auroc=auroc(scores[~bank.backdoored], scores[bank.backdoored]),
        scores=scores,
    )


@audit(
    "backdoor",
    options=BackdoorOptions,
    source="arXiv 2602.15195; arXiv 2411.17453",
    cost="the spectra of the adapter, and a small regression on the bank",
)
class BackdoorAudit:
    """Compare an adapter with known clean and backdoored ones."""

    def __init__(self, options: BackdoorOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return why there can be no verdict: no pairs, no bank, or one of other adapters."""
        found = _bank_for(context)
        return found if isinstance(found, str) else ""

    def run(self, context: AuditContext) -> AuditResult:
        """Return the verdict, the bank's own figures beside it."""
        bank = _bank_for(context)
        if isinstance(bank, str):
            return AuditResult(not_checked=(bank,))
        found = judge(
            bank, statistics_of(context.artefact, context.layout),
            strange=self.options.strange, seed=context.seed,
        )  # fmt: skip
        words = f"p = {found.p:.3g}, score {found.score:.2f}, AUROC of the bank {found.auroc:.2f}"
        findings = []
        if not found.known:
            findings.append(UNLIKE.found(
                "adapter", f"distance {found.distance:.2f}, the bank reaches {found.reach:.2f}"
            ))  # fmt: skip
        elif found.p <= self.options.alpha:
            high = Severity.HIGH if found.p <= self.options.certain else LIKE.severity
            findings.append(LIKE.found("adapter", words, severity=high))
        return AuditResult(
            findings=tuple(findings),
            facts={
                "p_value": found.p if found.known else None, "score": found.score,
                "distance": found.distance, "reach": found.reach, "bank_auroc": found.auroc,
                "bank_clean": int((~bank.backdoored).sum()),
                "bank_backdoored": int(bank.backdoored.sum()),
            },
            tables=(_by_attack(bank, found),),
            charts=(_chart(bank, found),),
            not_checked=("attacks and recipes that are not in the bank",),
        )  # fmt: skip


def _bank_for(context: AuditContext) -> AdapterBank | str:
    """Return the bank that can judge this adapter, or why there is none."""
    if not context.layout.pairs:
        return "no low-rank updates in it"
    if context.bank is None or not (context.bank / ABOUT).is_file():
        return "no bank of clean and backdoored adapters was given"
    try:
        bank = AdapterBank.load(context.bank)
    except PeftlabError as error:
        return error.what
    if bank.layers != layer_names(context.layout):
        return "the bank holds adapters of other layers or shapes"
    fewest = min(int(bank.backdoored.sum()), int((~bank.backdoored).sum()))
    return bank if fewest >= FEWEST else f"the bank has fewer than {FEWEST} adapters of a kind"


def _by_attack(bank: AdapterBank, found: Verdict) -> Table:
    """Return how well the bank's own adapters are told apart, by attack."""
    made = bank.about.get("adapters")
    names = [str(each.get("attack") or "") for each in made] if isinstance(made, list) else []
    clean = found.scores[~bank.backdoored]
    rows = []
    for name in sorted({each for each in names if each}):
        members = np.array([each == name for each in names]) & bank.backdoored
        above = round(auroc(clean, found.scores[members]), 3)
        rows.append((name, int(members.sum()), above))
    return Table("The bank by attack", ("attack", "adapters", "AUROC against clean"), tuple(rows))


def _chart(bank: AdapterBank, found: Verdict) -> Chart:
    lines = {
        name: tuple((float(score), float(place)) for score in np.sort(found.scores[members]))
        for place, (name, members) in enumerate(
            (("clean", ~bank.backdoored), ("backdoored", bank.backdoored))
        )
    }
    return Chart(
        "Scores of the bank and of this adapter",
        "Each point is an adapter, scored by a classifier that has not seen it.",
        "log odds of being backdoored", "kind",
        {**lines, "this adapter": ((found.score, 2.0),)}, "point",
    )  # fmt: skip
