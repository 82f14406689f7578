"""Your own ratings: a table with one row a rating, its columns named by you.

Columns that are not named are never looked at, so texts of items stay where they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from peftlab.audits.raters.ratings import Duplicates, Ratings
from peftlab.audits.raters.sets.table import Columns, clean_column, without
from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.io.tables import FORMATS, read_table

ITEM, LABEL = "item", "label"  # columns of a model's labels


def load_long(
    path: Path, *, item: str, rater: str, label: str, attrs: Sequence[str] = (),
    labels: Sequence[str] | None = None, drop_labels: Iterable[str] = (),
    duplicates: Duplicates = "error", drop_raters: Collection[str] = (),
) -> Ratings:  # fmt: skip
    """Return the ratings of a long table (tsv, csv, jsonl, json, parquet, each also with .gz).

    Args:
        path: the file.
        item: column with the ids of items.
        rater: column with the ids of raters.
        label: column with the answers.
        attrs: columns with what is known of the raters.
        labels: the answer domain in its order, see ``Ratings.from_long``.
        drop_labels: answers that do not count.
        duplicates: what several ratings of an item by one rater mean.
        drop_raters: ids of raters to leave out.

    Raises:
        ConfigError: ``RATERS-COLUMN``, ``RATERS-DROP``, ``RATERS-LABELS``.
        InputRejected: ``RATERS-FILE``, ``RATERS-CELL`` and the codes of ``io.tables`` and
            ``Ratings.from_long``.
    """
    columns = _columns(path, dict.fromkeys((item, rater, label, *attrs)))
    dropped = tuple(drop_labels)
    given = {cell for cell in columns[label] if cell is not None}
    if strange := [name for name in dropped if name.strip() not in given]:
        raise ConfigError(
            f"no rating has the label {strange[0]!r} that is to be dropped", code="RATERS-LABELS",
            fix=suggest(strange[0], sorted(given)[:50]),
        )  # fmt: skip
    ratings = Ratings.from_long(
        columns, item=item, rater=rater, label=label, attrs=attrs, labels=labels,
        drop_labels=dropped, duplicates=duplicates,
    )  # fmt: skip
    return without(ratings, drop_raters, columns[rater])


def read_labels(path: Path) -> dict[str, str]:
    """Return item -> label of a table with the columns ``item`` and ``label``: a model's answers.

    Raises:
        ConfigError: ``RATERS-COLUMN``.
        InputRejected: as ``load_long``; ``RATERS-DUPLICATE`` if an item has two labels.
    """
    columns = _columns(path, (ITEM, LABEL))
    found: dict[str, str] = {}
    for name, label in zip(columns[ITEM], columns[LABEL], strict=True):
        if name is None or label is None:
            continue
        if found.setdefault(name, label) != label:
            raise InputRejected(
                f"{path.name} has two labels for an item", code="RATERS-DUPLICATE", got=name,
                fix="keep one label for each item",
            )  # fmt: skip
    return found


def read_ids(path: Path) -> tuple[str, ...]:
    """Return the ids in a text file, one a line.

    Raises:
        InputRejected: ``RATERS-FILE``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputRejected(
            f"{path.name} cannot be read as a list of ids", code="RATERS-FILE",
            got=str(error)[:200], fix="give a text file with one id a line",
        ) from None  # fmt: skip
    return tuple(line.strip() for line in lines if line.strip())


def _columns(path: Path, names: Iterable[str]) -> Columns:
    if path.name.removesuffix(".gz").rpartition(".")[2] not in FORMATS or not path.is_file():
        raise InputRejected(
            f"{path.name} is not a table file that can be read", code="RATERS-FILE", got=path,
            allowed=", ".join(f".{kind}" for kind in FORMATS) + ", each also with .gz",
            fix="check the path; the first line of a csv or tsv file names its columns",
        )  # fmt: skip
    table = read_table(path)
    for name in names:
        if table.columns.count(name) != 1:
            times = "twice" if name in table.columns else "not"
            raise ConfigError(
                f"the column {name!r} is {times} in {path.name}", code="RATERS-COLUMN",
                fix=suggest(name, table.columns),
            )  # fmt: skip
    return {name: clean_column(table, table.columns.index(name)) for name in names}
