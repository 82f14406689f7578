"""D3CODE: is a post offensive, by 4,309 raters of 21 countries in eight regions.

Raw ratings go from 0 (not offensive at all) to 4; 2 or more is offensive, the cut of the file's own
``rating_binary``. -1 is "did not understand" and does not count.

Source: Davani et al. 2024, arXiv 2404.10857; columns of ``d3-raters.csv`` read from the file, those
of ``d3-ratings.csv`` from the README and from public code that reads it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.sets.table import (
    Columns,
    Source,
    joined,
    locate,
    noted,
    read_columns,
    without,
)
from peftlab.core.errors import InputRejected
from peftlab.io.tables import FORMATS

D3CODE = Source(
    "D3CODE", "https://github.com/google-research-datasets/D3code", "CC BY 4.0",
    ("d3-ratings", "ratings"),
)  # fmt: skip
RATERS = ("d3-raters", "raters")
ATTRIBUTES = ("Age", "Gender", "Region", "Country", "SES")  # the moral scores are no groups
LABELS = ("not offensive", "offensive")
LOST = "not understood"  # a raw rating of -1: counted and left out
OFFENSIVE_FROM = 2  # README of the data set: binary is 1 for a raw rating of 2 or higher
_RAW = ("0", "1", "2", "3", "4")
_BINARY = {"0": LABELS[0], "1": LABELS[1]}


def load(path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
    """Return the ratings of D3CODE, offensive or not.

    Args:
        path: ``d3-ratings.csv``, or its folder. Unless it holds the attributes of its raters,
            ``d3-raters.csv`` must lie beside it.
        drop_raters: ids to leave out.

    Raises:
        InputRejected: ``RATERS-FILE``, ``RATERS-LABELS`` (a rating outside -1 to 4) and the codes
            of ``table`` and ``Ratings.from_long``.
        ConfigError: ``RATERS-DROP``.
    """
    file = locate(path, D3CODE.files, D3CODE)
    columns = read_columns(file, ["item_id", "rater_id", "rating_raw"], D3CODE, also=_wanted)
    notes = [D3CODE.note()]
    if not set(ATTRIBUTES) & set(columns):
        columns |= _attributes(file, columns["rater_id"], notes)
    columns["label"] = _labels(columns["rating_raw"], notes)
    notes.extend(_binary_note(columns))
    ratings = Ratings.from_long(
        columns, item="item_id", rater="rater_id", label="label",
        attrs=[name for name in ATTRIBUTES if name in columns], labels=LABELS,
        drop_labels=(LOST,),
    )  # fmt: skip
    return without(noted(ratings, notes, first=True), drop_raters, columns["rater_id"])


def _wanted(column: str) -> bool:
    return column in (*ATTRIBUTES, "rating_binary")


def _attributes(file: Path, raters: Sequence[str | None], notes: list[str]) -> Columns:
    table = read_columns(_raters_file(file), ["rater_id", *ATTRIBUTES], D3CODE)
    known = set(table["rater_id"])
    strangers = {rater for rater in raters if rater is not None} - known
    if strangers:
        notes.append(f"{len(strangers)} raters are not in the raters file: groups not known")
    return joined(raters, table, "rater_id")


def _raters_file(ratings: Path) -> Path:
    names = [f"{stem}.{kind}{gz}" for stem in RATERS for kind in FORMATS for gz in ("", ".gz")]
    found = [ratings.parent / name for name in names if (ratings.parent / name).is_file()]
    if not found:
        raise InputRejected(
            f"there is no raters file beside {ratings.name}", code="RATERS-FILE",
            got=ratings.parent, allowed="d3-raters.csv, or the columns " + ", ".join(ATTRIBUTES),
            fix=f"put d3-raters.csv there, from {D3CODE.home}",
        )  # fmt: skip
    return found[0]


def _labels(raw: Sequence[str | None], notes: list[str]) -> list[str | None]:
    if strange := sorted({cell for cell in raw if cell is not None} - {"-1", *_RAW}):
        raise InputRejected(
            f"{len(strange)} ratings are not on the scale of D3CODE", code="RATERS-LABELS",
            got=", ".join(cell[:40] for cell in strange[:5]), allowed="0 to 4, or -1",
            fix="check that the column rating_raw is the released one",
        )  # fmt: skip
    notes.append(f"offensive is {OFFENSIVE_FROM} or more on the scale 0 to 4")
    names = {cell: LABELS[int(cell) >= OFFENSIVE_FROM] for cell in _RAW} | {"-1": LOST}
    return [None if cell is None else names[cell] for cell in raw]


def _binary_note(columns: Columns) -> list[str]:
    """Return a note if the file's own binary rating is another cut than ours."""
    pairs = zip(columns["label"], columns.get("rating_binary", []), strict=False)
    other = sum(
        ours is not None and theirs is not None and ours != LOST and _BINARY.get(theirs) != ours
        for ours, theirs in pairs
    )
    return [f"rating_binary of the file differs on {other} ratings"] if other else []
