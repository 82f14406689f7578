"""Rewrites that were made elsewhere: what a translator or a paraphraser made of each text.

Three forms of table are read (JSON, JSON lines, tsv, csv, each also gzipped):

    text, rewrite      each text with its rewrite
    id, rewrite        with a second table of ``id`` and ``text``
    idx, sentence      as published with shuaizhao95/PSIM (``test_back.json``, ``test_spcn.json``):
                       the rewrite stands where the sentence stood; with the table that was
                       rewritten (``test.json``) as the second one

``idx`` and ``id``, ``sentence`` and ``text`` mean the same. Where both tables have a ``label``
they must agree row by row, which catches tables that do not belong together. An empty rewrite is
none. A text is found again whatever its capitals and spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.rows import Table
from peftlab.io.tables import read_table

KINDS = ("json", "jsonl", "tsv", "csv")
LIMIT_BYTES = 64 * 2**20  # ours, after decompression
LIMIT_ROWS = 500_000  # ours
LONGEST = 100_000  # characters of one text; ours
IDS, TEXTS = ("id", "idx"), ("text", "sentence")


@dataclass(frozen=True)
class Rewrites:
    """Texts with their rewrites.

    Attributes:
        pairs: rewrite by key of the original; see ``key_of``.
        empty: rows without a rewrite, which are left out.
        again: rows whose original stood in an earlier row, which counts.
    """

    pairs: Mapping[str, str]
    empty: int = 0
    again: int = 0

    def of(self, text: str) -> str | None:
        """Return the rewrite of a text, or None."""
        return self.pairs.get(key_of(text))


def key_of(text: str) -> str:
    """Return what a text is found by: small letters, single spaces.

    Examples:
        >>> key_of("  A  Fine Film .")
        'a fine film .'
    """
    return " ".join(text.casefold().split())


def read_rewrites(path: Path, originals: Path | None = None) -> Rewrites:
    """Return the rewrites of one table, checked.

    Args:
        path: table of rewrites, in one of the forms of this module.
        originals: the table that was rewritten, for the forms that do not hold it.

    Raises:
        InputRejected: ``REWRITES-FILE`` for a kind of file that is not read; ``REWRITES-COLUMN``,
            ``REWRITES-ID``, ``REWRITES-LABEL``, ``REWRITES-TEXT`` or ``REWRITES-LARGE`` for what
            is in it; and the codes of ``io.tables``.
    """
    table = _table(path)
    if "rewrite" in table.columns and _first(table, TEXTS) is not None:
        before = _texts(table, _needed(table, TEXTS))
        return _paired(zip(before, _texts(table, "rewrite", gaps=True), strict=True))
    after_column = "rewrite" if "rewrite" in table.columns else _needed(table, TEXTS)
    if originals is None:
        raise InputRejected(
            f"{table.where} does not hold the texts that were rewritten",
            code="REWRITES-COLUMN", got="columns: " + ", ".join(table.columns)[:200],
            allowed="columns text and rewrite, or a second table",
            fix="name the table that was rewritten as `originals`",
        )  # fmt: skip
    return _joined(table, after_column, _table(originals))


def _table(path: Path) -> Table:
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in KINDS:
        raise InputRejected(
            f"{path.name}: this kind of file is not read here",
            code="REWRITES-FILE", got=kind[:40] or "no suffix",
            allowed=", ".join(f".{each}" for each in KINDS) + ", also .gz",
            fix="check the path, or save the table in one of these forms",
        )  # fmt: skip
    try:
        table = read_table(path, limit_bytes=LIMIT_BYTES)
    except OSError as error:  # a name that no system takes
        raise InputRejected(
            f"{path.name[:200]} cannot be read", code="REWRITES-FILE", got=error.strerror,
            fix="check the path",
        ) from None  # fmt: skip
    if len(table.rows) > LIMIT_ROWS:
        raise InputRejected(
            f"{table.where} has too many rows", code="REWRITES-LARGE", got=len(table.rows),
            allowed=LIMIT_ROWS, fix="keep the rows that are going to be judged",
        )  # fmt: skip
    return table


def _first(table: Table, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in table.columns), None)


def _needed(table: Table, names: tuple[str, ...]) -> str:
    found = _first(table, names)
    if found is None or len(set(table.columns)) < len(table.columns):
        raise InputRejected(
            f"{table.where}: a column is missing or named twice",
            code="REWRITES-COLUMN", got="columns: " + ", ".join(table.columns)[:200],
            allowed=" or ".join(names), fix="name each column once, as the documentation has it",
        )  # fmt: skip
    return found


def _cells(table: Table, name: str) -> list[Any]:
    place = table.columns.index(name)
    return [row[place] for row in table.rows]


def _texts(table: Table, name: str, *, gaps: bool = False) -> list[str]:
    """Return one column of texts; with ``gaps`` a missing one is empty."""
    found = []
    for row, cell in enumerate(_cells(table, name)):
        text = "" if cell is None and gaps else cell
        wrong = _flaw(text)
        if wrong:
            raise InputRejected(
                f"{name} is not a text: {table.place(row)}", code="REWRITES-TEXT", got=wrong,
                allowed=f"a string of at most {LONGEST} characters, valid as UTF-8",
                fix="mend that row",
            )  # fmt: skip
        found.append(str(text).strip())
    return found


def _flaw(text: Any) -> str:
    """Return what is wrong with a text, or nothing."""
    if not isinstance(text, str):
        return f"a value of type {type(text).__name__}"
    if len(text) > LONGEST:
        return f"{len(text)} characters"
    # a JSON escape such as \ud800 is legal JSON, but no tokenizer can read it
    return "half a character" if any("\ud800" <= char <= "\udfff" for char in text) else ""


def _ids(table: Table) -> dict[str, int]:
    """Return the row of each id."""
    found: dict[str, int] = {}
    for row, cell in enumerate(_cells(table, _needed(table, IDS))):
        name = "" if isinstance(cell, bool) or cell is None else str(cell).strip()
        if not name or len(name) > LONGEST or name in found:
            raise InputRejected(
                f"an id is missing or stands twice: {table.place(row)}", code="REWRITES-ID",
                got=repr(cell)[:80], fix="give every row an id of its own",
            )  # fmt: skip
        found[name] = row
    return found


def _joined(table: Table, after_column: str, originals: Table) -> Rewrites:
    """Return the rewrites of ``table``, joined by id to the texts of ``originals``."""
    rows, known = _ids(table), _ids(originals)
    after = _texts(table, after_column, gaps=True)
    before = _texts(originals, _needed(originals, TEXTS))
    unknown = next((name for name in rows if name not in known), None)
    if unknown is not None:
        raise InputRejected(
            f"an id is not in {originals.where}: {table.place(rows[unknown])}", code="REWRITES-ID",
            got=unknown[:80], fix="name the table that these rewrites were made from",
        )  # fmt: skip
    if "label" in table.columns and "label" in originals.columns:
        ours, theirs = _cells(table, "label"), _cells(originals, "label")
        for name, row in rows.items():
            if str(ours[row]).strip() != str(theirs[known[name]]).strip():
                raise InputRejected(
                    f"a label differs from that in {originals.where}: {table.place(row)}",
                    code="REWRITES-LABEL", got=f"{ours[row]!r} and {theirs[known[name]]!r}"[:80],
                    fix="name the table that these rewrites were made from",
                )  # fmt: skip
    return _paired((before[known[name]], after[row]) for name, row in rows.items())


def _paired(pairs: Iterable[tuple[str, str]]) -> Rewrites:
    found: dict[str, str] = {}
    empty = again = 0
    for before, after in pairs:
        key = key_of(before)
        if not after:
            empty += 1
        elif key in found:
            again += 1
        else:
            found[key] = after
    return Rewrites(found, empty, again)
