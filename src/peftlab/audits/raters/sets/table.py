"""Read the columns of a rating file that an audit needs, and no other: texts never get past here.

A loader names its columns; whatever else the file holds, such as the posts, is dropped as soon as
the file is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.audits.raters.ratings import MISSING, Ratings
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.printable import printable
from peftlab.core.rows import Table
from peftlab.io.tables import FORMATS, read_table

Columns = dict[str, list[str | None]]
CELL_MOST = 200  # ours: a longer id or attribute is a text in the wrong column
_WHOLE = re.compile(r"(-?[0-9]{1,9})\.0+")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from.

    Attributes:
        title: its name for people.
        home: where it is released.
        licence: as the source states it.
        files: stems of the names that its ratings file goes by, without the ending.
    """

    title: str
    home: str
    licence: str
    files: tuple[str, ...]

    def note(self) -> str:
        """Return the line that names the source."""
        return f"{self.title}, {self.home}, {self.licence}"


def locate(path: Path, stems: Sequence[str], source: Source) -> Path:
    """Return the file itself, or the one in a folder that has one of the names.

    Raises:
        InputRejected: ``RATERS-FILE`` if there is none, or its format is not a table.
    """
    found = path
    if path.is_dir():
        names = [f"{stem}.{kind}{gz}" for stem in stems for kind in FORMATS for gz in ("", ".gz")]
        present = [path / name for name in names if (path / name).is_file()]
        if not present:
            raise InputRejected(
                f"there is no ratings file of {source.title} in this folder", code="RATERS-FILE",
                got=path, allowed=", ".join(f"{stem}.csv" for stem in stems),
                fix=f"put the released file there, from {source.home}",
            )  # fmt: skip
        found = present[0]
    kind = found.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in FORMATS or not found.is_file():
        raise InputRejected(
            f"{found.name} is not a table file that can be read", code="RATERS-FILE", got=found,
            allowed=", ".join(f".{kind}" for kind in FORMATS) + ", each also with .gz",
            fix=f"name the released file of {source.title}, from {source.home}",
        )  # fmt: skip
    return found


def read_columns(
    path: Path, needed: Sequence[str], source: Source, *,
    also: Callable[[str], bool] | None = None,
) -> Columns:  # fmt: skip
    """Return some columns of a table file as clean text, None where a cell is empty.

    Args:
        path: the file.
        needed: columns that must be there.
        source: the data set, for messages.
        also: tells of any other column whether to read it too.

    Raises:
        InputRejected: ``RATERS-FILE`` (a column is missing or there twice), ``RATERS-CELL`` (a
            cell that is no id, label or attribute), and the codes of ``io.tables``.
    """
    table = read_table(path)
    known = table.columns
    wanted = [*needed]
    if also is not None:
        wanted += [name for name in known if name not in needed and also(name)]
    absent = [name for name in needed if name not in known]
    if absent or any(known.count(name) > 1 for name in wanted):
        raise _wrong_file(table, absent, source)
    return {name: clean_column(table, known.index(name)) for name in wanted}


def without(
    ratings: Ratings, raters: Collection[str], known: Collection[str | None]
) -> Ratings:  # fmt: skip
    """Return the ratings without some raters, and say so in the notes.

    Args:
        ratings: of all raters.
        raters: ids to leave out.
        known: the ids in the file, also of raters none of whose ratings counts.

    Raises:
        ConfigError: ``RATERS-DROP`` if one of them is not in the file, or nobody is left.
    """
    dropped = {str(rater).strip() for rater in raters} - {""}
    if not dropped:
        return ratings
    if strange := sorted(dropped - {name for name in known if name is not None}):
        raise ConfigError(
            f"{len(strange)} of the raters to drop are not in the file", code="RATERS-DROP",
            got=", ".join(name[:40] for name in strange[:5]),
            fix="check that the list belongs to this data set: one rater id each",
        )  # fmt: skip
    keep = np.array([name not in dropped for name in ratings.raters])
    if not keep.any():
        raise ConfigError(
            "no rater is left", code="RATERS-DROP", got=f"all {len(keep)} raters to drop",
            fix="name fewer raters to drop",
        )  # fmt: skip
    return noted(ratings.pick(keep), [f"{len(dropped)} raters were left out as asked"])


def noted(ratings: Ratings, notes: Sequence[str], *, first: bool = False) -> Ratings:
    """Return the ratings with further notes, before or behind those that they have."""
    both = (notes, ratings.notes) if first else (ratings.notes, notes)
    return replace(ratings, notes=(*both[0], *both[1]))


def folded(column: Sequence[str | None], known: Collection[str]) -> list[str | None]:
    """Return a column with every value outside ``known`` as ``Other``.

    What raters typed into a free field may name a person as surely as a text does.
    """
    return [cell if cell is None or cell in known else "Other" for cell in column]


def joined(
    keys: Sequence[str | None], table: Mapping[str, list[str | None]], key: str,
) -> Columns:  # fmt: skip
    """Return the further columns of ``table`` for each of ``keys``, None where it has no row.

    Raises:
        InputRejected: ``RATERS-ATTRIBUTE`` if ``table`` names a key twice.
    """
    place = {name: i for i, name in enumerate(table[key]) if name is not None}
    if len(place) < sum(name is not None for name in table[key]):
        raise InputRejected(
            f"the raters file has more than one row for a {key}", code="RATERS-ATTRIBUTE",
            fix="keep one row for each rater",
        )  # fmt: skip
    rows = [None if name is None else place.get(name) for name in keys]
    return {
        name: [None if i is None else column[i] for i in rows]
        for name, column in table.items()
        if name != key
    }


def _wrong_file(table: Table, absent: Sequence[str], source: Source) -> InputRejected:
    known = ", ".join(name[:60] for name in table.columns[:20]) or "none"
    more = len(table.columns) - 20
    return InputRejected(
        f"{table.where} is not the ratings file of {source.title}",
        code="RATERS-FILE",
        got=f"columns: {known}" + (f" and {more} more" if more > 0 else ""),
        allowed=f"missing: {', '.join(absent)}" if absent else "each column once",
        fix=f"take the file as it is released at {source.home}; for a table of your own name its "
        "columns for items, raters and labels instead of a data set",
    )


def clean_column(table: Table, at: int) -> list[str | None]:
    """Return one column as clean text, None where a cell is empty.

    Raises:
        InputRejected: ``RATERS-CELL`` for what is no id, label or attribute.
    """
    cells = [_cell(row[at], table, i) for i, row in enumerate(table.rows)]
    for value in set(cells) - {None}:
        if _unfit(str(value)):
            raise _bad_cell(table, at, cells.index(value))
    return cells


def _cell(value: Any, table: Table, index: int) -> str | None:
    """Return a cell as text; whole numbers in their shortest form, as data frames write 1.0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputRejected(
            f"a cell is neither text nor number: {table.place(index)}", code="RATERS-CELL",
            got=type(value).__name__, fix="write ids, labels and attributes as text or numbers",
        )  # fmt: skip
    text = str(value).strip()
    if whole := _WHOLE.fullmatch(text):
        text = whole[1]
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value))
    return None if text.lower() in MISSING else text


def _unfit(text: str) -> bool:
    # These values stand in every table and page of a report: nothing in them may steer it.
    return len(text) > CELL_MOST or "\n" in text or "\t" in text or printable(text) != text


def _bad_cell(table: Table, at: int, index: int) -> InputRejected:
    # Its beginning only, and not at all if it is long: it may be a text that must not be shown.
    cell = str(table.rows[index][at])
    shown = f"{len(cell)} characters" if len(cell) > CELL_MOST else cell
    return InputRejected(
        f"a cell of {table.columns[at][:60]} is no id, label or attribute: {table.place(index)}",
        code="RATERS-CELL", got=shown,
        allowed=f"up to {CELL_MOST} characters on one line, no control characters",
        fix="check that the columns of the file are in their places",
    )  # fmt: skip
