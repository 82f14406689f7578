"""DICES: how safe is the last answer of a chatbot, by 123 or 173 raters whose groups are known.

DICES-350 has every conversation rated by every rater; DICES-990 was rated in two phases, a part
each. The label is ``Q_overall``, which the data set's authors made from the reasons: unsafe if any
of the questions 2 to 6 is Yes, else unsure if any is Unsure. That is checked on the way in.

Source: Aroyo et al. 2023, arXiv 2306.11247; columns as in the README files of the repository.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.sets.table import (
    Columns,
    Source,
    locate,
    noted,
    read_columns,
    without,
)

HOME = "https://github.com/google-research-datasets/dices-dataset"
LICENCE = "CC BY 4.0"
DICES_350 = Source("DICES-350", HOME, LICENCE, ("diverse_safety_adversarial_dialog_350",))
DICES_990 = Source("DICES-990", HOME, LICENCE, ("diverse_safety_adversarial_dialog_990",))
LABELS = ("No", "Unsure", "Yes")  # is the answer unsafe
AXES_350 = ("rater_gender", "rater_race", "rater_age", "rater_education")
AXES_990 = (*AXES_350, "rater_locale")
BATCH = "phase"  # in DICES-990 only: all of DICES-350 is one phase
PAPER_RATERS = {"350": 104, "990": 160}  # README: after the authors' check of rater quality

# The raters of DICES-350 that the authors left out. The README lists them under "Removed raters"
# since some time after the commit that we read; the ids here stand in public projects that quote
# that section and agree, and they leave the published group sizes (47 men, 57 women).
REMOVED_350 = (
    "296709543131761", "296709611112092", "297059995361243", "297060365288109",
    "297514543980607", "297514565398139", "297515609163939", "297515617432733",
    "297515629971478", "297515729806999", "297515750682315", "297540556928761",
    "297540562350921", "297540983991638", "297541271027233", "297541321453321",
    "297541515566649", "297541515769980", "297541522412126",
)  # fmt: skip

# By prefix, not by name: the files differ from their README in several of the names.
_REASON = re.compile(r"Q[2-6]_\w+(?<!_overall)")


@dataclass(frozen=True, slots=True)
class OverallCheck:
    """How far the file's label is the aggregate of its reasons.

    Attributes:
        questions: number of reason columns.
        rows: rows with a label and at least one reason.
        same: rows in which both agree.
        differing: how often (label of the file, aggregate of the reasons) differ.
    """

    questions: int
    rows: int
    same: int
    differing: Mapping[tuple[str, str], int]

    @property
    def share(self) -> float:
        """Return the share of rows that agree."""
        return self.same / self.rows if self.rows else 0.0

    def note(self) -> str:
        """Return the finding in words."""
        if not self.rows:
            return "Q_overall was not checked: there are no reason columns"
        said = f"Q_overall equals the aggregate of the {self.questions} reasons on "
        said += f"{100 * self.share:.1f} % of rows ({self.same} of {self.rows})"
        pairs = sorted(self.differing.items(), key=lambda pair: (-pair[1], pair[0]))
        rest = ", ".join(f"{ours} instead of {file} ({n})" for (file, ours), n in pairs)
        return f"{said}; the reasons give {rest}; Q_overall counts" if rest else said


def load_350(path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
    """Return the ratings of DICES-350.

    Args:
        path: ``diverse_safety_adversarial_dialog_350.csv``, or its folder.
        drop_raters: ids to leave out, such as ``REMOVED_350``.

    Raises:
        InputRejected: ``RATERS-FILE`` and the codes of ``table`` and ``Ratings.from_long``.
        ConfigError: ``RATERS-DROP``.
    """
    ratings = _load(path, DICES_350, AXES_350, drop_raters)
    items, raters, _ = ratings.shape
    whole = items * raters
    gaps = "" if len(ratings) == whole else f", {whole - len(ratings)} of {whole} ratings missing"
    return noted(ratings, [_comparable(ratings, "350"), f"{items} items x {raters} raters{gaps}"])


def load_paper_350(path: Path) -> Ratings:
    """Return the ratings of DICES-350 without the raters that its authors left out.

    Args:
        path: as for ``load_350``.

    Raises:
        InputRejected: as for ``load_350``.
    """
    found = load_350(path)
    there = [rater for rater in REMOVED_350 if rater in found.raters]
    return load_350(path, drop_raters=there)


def load_990(path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
    """Return the ratings of DICES-990; the attribute ``phase`` is the batch.

    Args:
        path: ``diverse_safety_adversarial_dialog_990.csv``, or its folder.
        drop_raters: ids to leave out.

    Raises:
        InputRejected: ``RATERS-FILE`` and the codes of ``table`` and ``Ratings.from_long``.
        ConfigError: ``RATERS-DROP``.
    """
    ratings = _load(path, DICES_990, AXES_990, drop_raters)
    return noted(ratings, [_comparable(ratings, "990")])


def is_reason(column: str) -> bool:
    """Return whether a column holds one of the reasons: questions 2 to 6, no aggregate."""
    return _REASON.fullmatch(column) is not None


def overall(reasons: Mapping[str, Sequence[str | None]]) -> list[str | None]:
    """Return the label of each row from its reasons: any Yes, else any Unsure, else No.

    Args:
        reasons: columns of answers; a cell may be None, and a row of None only gives None.

    Source: README of DICES-350 on ``Q_overall``; Prabhakaran et al. 2024, section 4.1.
    """
    return [_worst(set(row) - {None}) for row in zip(*reasons.values(), strict=True)]


def check_overall(columns: Mapping[str, Sequence[str | None]]) -> OverallCheck:
    """Return how far ``Q_overall`` is the aggregate of the reason columns."""
    reasons = {name: column for name, column in columns.items() if is_reason(name)}
    made = overall(reasons)
    pairs = Counter(
        (file, ours)
        for file, ours in zip(columns["Q_overall"], made, strict=bool(made))
        if file is not None and ours is not None
    )
    same = sum(n for (file, ours), n in pairs.items() if file == ours)
    differing = {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
    return OverallCheck(len(reasons), sum(pairs.values()), same, differing)


def _load(
    path: Path, source: Source, axes: tuple[str, ...], drop_raters: Collection[str]
) -> Ratings:
    batch = [BATCH] if source is DICES_990 else []
    needed = ["item_id", "rater_id", "Q_overall", *axes, *batch]
    columns = read_columns(locate(path, source.files, source), needed, source, also=is_reason)
    notes = [source.note(), check_overall(columns).note()]
    if batch and _changes(columns):
        # A rater in both phases has no batch; the other attributes must still be one each.
        notes.append("phase changes within a rater, so it was left out")
        batch = []
    ratings = Ratings.from_long(
        columns, item="item_id", rater="rater_id", label="Q_overall", attrs=[*axes, *batch],
        labels=LABELS,
    )  # fmt: skip
    return without(noted(ratings, notes, first=True), drop_raters, columns["rater_id"])


def _worst(answers: set[str | None]) -> str | None:
    if not answers:
        return None
    return next((label for label in ("Yes", "Unsure") if label in answers), "No")


def _changes(columns: Columns) -> bool:
    pairs = set(zip(columns["rater_id"], columns[BATCH], strict=True))
    return len(pairs) > len({rater for rater, _ in pairs})


def _comparable(ratings: Ratings, which: str) -> str:
    raters, paper = len(ratings.raters), PAPER_RATERS[which]
    if which == "350" and raters == paper and not set(ratings.raters) & set(REMOVED_350):
        return f"{raters} raters, those of the papers"
    if raters == paper:
        return f"{raters} raters, as many as in the papers, if the right ones were left out"
    return f"{raters} raters, not comparable with the paper's {paper}"
