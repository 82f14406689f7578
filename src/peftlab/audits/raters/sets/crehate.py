"""CREHate: is a post hateful, by 1,064 raters of five English-speaking countries.

Two forms of the file are known: ``CREHate_raw_annotations.csv`` as released, and a shorter one
without the posts (item_id, rater_id, nationality, gender, age_band, label). Neither holds texts.
A country's label of a post is the plurality of its raters' votes.

Source: Lee et al. 2024, arXiv 2308.16705; the released file read at commit 777ceeb3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.sets.table import (
    Columns,
    Source,
    folded,
    locate,
    noted,
    read_columns,
    without,
)
from peftlab.core.errors import ConfigError, InputRejected, suggest

CREHATE = Source(
    "CREHate", "https://github.com/nlee0212/CREHate", "CC BY-SA 4.0 by its data set card",
    ("CREHate_raw_annotations", "ratings"),
)  # fmt: skip
LABELS = ("0", "1")  # not hate, hate
DONT_KNOW = "2"
SHORT = ("item_id", "rater_id", "nationality", "gender", "age_band", "label")
RELEASED = {
    "item_id": "ID", "rater_id": "annotator_id", "nationality": "nationality", "gender": "gender",
    "age_band": "age", "label": "annotation", "ethnicity": "ethnicity", "politic": "politic",
    "religion": "religion",
}  # fmt: skip
# Values of the released file that look ticked; the others begin with "Other" and were typed.
TICKED = {
    "ethnicity": ("White", "Asian", "Black", "Middle_Eastern"),
    "politic": (
        "Liberal/Progressive", "Moderate_liberal", "Independent", "Moderate_conservative",
        "Conservative",
    ),
    "religion": (
        "None", "Christian", "Buddhism", "Islam", "Irreligion", "Hinduism", "Judaism",
    ),
}  # fmt: skip
Votes = Mapping[str, Mapping[str, str]]


def load(path: Path, *, drop_raters: Collection[str] = (), keep_dont_know: bool = False) -> Ratings:
    """Return the ratings of CREHate, 1 is hate; of repeated ratings the first counts.

    Args:
        path: either form of the file, or its folder.
        drop_raters: ids to leave out.
        keep_dont_know: keep "don't know" (2) as a third label.

    Raises:
        InputRejected: ``RATERS-FILE`` and the codes of ``table`` and ``Ratings.from_long``.
        ConfigError: ``RATERS-DROP``.
    """
    columns = _columns(locate(path, CREHATE.files, CREHATE))
    ratings = Ratings.from_long(
        columns, item="item_id", rater="rater_id", label="label",
        attrs=[name for name in columns if name not in ("item_id", "rater_id", "label")],
        labels=(*LABELS, DONT_KNOW) if keep_dont_know else LABELS,
        drop_labels=() if keep_dont_know else (DONT_KNOW,), duplicates="first",
    )  # fmt: skip
    return without(noted(ratings, [CREHATE.note()], first=True), drop_raters, columns["rater_id"])


def country_votes(ratings: Ratings, axis: str = "nationality") -> dict[str, dict[str, str]]:
    """Return each country's plurality label of each item; a tie goes to the lowest label.

    Args:
        ratings: of items by raters whose ``axis`` is known.
        axis: attribute whose groups vote.

    Returns:
        For each item the label of every country that has rated it.

    Raises:
        ConfigError: ``RATERS-COLUMN`` if there is no such attribute.
    """
    if axis not in ratings.attributes:
        raise ConfigError(
            f"the raters have no attribute {axis!r}", code="RATERS-COLUMN",
            fix=suggest(axis, ratings.attributes),
        )  # fmt: skip
    groups = ratings.attributes[axis]
    group = groups.codes[ratings.rater]
    rows = group >= 0
    items, _, labels = ratings.shape
    counts = np.zeros((items, len(groups.values), labels), dtype=np.int64)
    np.add.at(counts, (ratings.item[rows], group[rows], ratings.label[rows]), 1)
    best, rated = counts.argmax(axis=2), counts.sum(axis=2) > 0
    return {
        name: {
            groups.values[g]: ratings.labels[best[i, g]] for g in np.flatnonzero(rated[i]).tolist()
        }
        for i, name in enumerate(ratings.items)
    }


def consensus(votes: Votes) -> float:
    """Return the share of items with one label in all countries that voted."""
    return sum(len(set(each.values())) == 1 for each in votes.values()) / len(votes)


def largest_difference(votes: Votes) -> tuple[str, str, float]:
    """Return the two countries that differ most, and on which share of the items both rated."""
    countries = sorted({country for each in votes.values() for country in each})
    shares = {(a, b): _difference(votes, a, b) for a, b in combinations(countries, 2)}
    (a, b), most = max(shares.items(), key=lambda pair: pair[1])
    return a, b, most


def _difference(votes: Votes, a: str, b: str) -> float:
    both = [each[a] != each[b] for each in votes.values() if a in each and b in each]
    return sum(both) / len(both) if both else 0.0


def _columns(file: Path) -> Columns:
    """Return the columns of either form under the names of the short one."""
    every = {*SHORT, *RELEASED.values()}
    found = read_columns(file, [], CREHATE, also=every.__contains__)
    if set(found) >= set(SHORT):
        return {name: found[name] for name in SHORT}
    # Asked again by name, so that a wrong file is refused with what it lacks.
    found = read_columns(file, list(RELEASED.values()), CREHATE)
    columns = {name: found[theirs] for name, theirs in RELEASED.items()}
    columns["age_band"] = [_band(age) for age in columns["age_band"]]
    return columns | {name: folded(columns[name], known) for name, known in TICKED.items()}


def _band(age: str | None) -> str | None:
    """Return the band of an age in years; the youngest are 17 and count with the first."""
    if age is None:
        return None
    if not age.isdecimal() or not 0 < len(age) < 4:
        raise InputRejected(
            "an age is not a number of years", code="RATERS-ATTRIBUTE", got=age[:40],
            fix="check the column age",
        )  # fmt: skip
    years = int(age)
    starts: Sequence[int] = (30, 40, 50)
    if years >= 60:
        return "60+"
    low = max((start for start in starts if start <= years), default=18)
    return f"{low}-{29 if low == 18 else low + 9}"
