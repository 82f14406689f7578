"""From a table of raw cells to a task: columns, classes, splits, hold-out, in one place.

Every loader of outside data (a folder, the hub) hands its tables to ``build_task``; so the same
rules and the same errors hold wherever the data came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftlab.core import hygiene
from peftlab.core.errors import InputRejected
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData

TEXT_COLUMNS = ("text", "sentence")
LABEL_COLUMNS = ("label", "labels")
MAX_CLASSES = 1000  # ours: more distinct labels than this is an id or a number, not a class
HOLD_OUT_MIN, HOLD_OUT_MAX = 100, 1000  # ours
SPLITS = ("train", "dev", "test")
_INTEGER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Table:
    """The raw rows of one split.

    Attributes:
        where: file name or the like, for messages.
        columns: names, spaces stripped.
        rows: one sequence of cells per row, in the order of ``columns``.
        numbers: for each row its number in the file, for messages.
        unit: what the numbers count (``line`` or ``row``).
    """

    where: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    numbers: Sequence[int]
    unit: str = "row"

    def place(self, index: int) -> str:
        """Return where the row at ``index`` is, e.g. ``train.tsv, line 7``."""
        return f"{self.where}, {self.unit} {self.numbers[index]}"


def build_task(
    tables: Mapping[str, Table],
    *,
    name: str,
    source: str,
    licence: str,
    text_column: str = "",
    label_column: str = "",
    label_names: Sequence[str] | None = None,
    dev_share: float = 0.1,
    seed: int = 0,
    notes: Iterable[str] = (),
) -> TaskData:
    """Make a task from the tables of its splits; hygiene findings become notes.

    Args:
        tables: ``train`` and ``test``, and ``dev`` if there is one; without it a part of train is
            held out (``dev_share``, at least 100 and at most 1000 texts, never over half).
        name: as the user gave it.
        source: where the data comes from.
        licence: as the source states it.
        text_column: name of the text column; empty finds ``text`` or ``sentence``.
        label_column: name of the label column; empty finds ``label`` or ``labels``.
        label_names: names of the classes 0 .. C-1, where the source knows them.
        dev_share: share of train that is held out when there is no dev split.
        seed: seed of the hold-out.
        notes: remarks of the loader.

    Returns:
        The task. Integer labels keep their numbers; other labels are sorted and numbered, the
        same way in all splits.

    Raises:
        InputRejected: ``DATA-COLUMN``, ``DATA-EMPTY``, ``DATA-TEXT``, ``DATA-ENCODING``,
            ``DATA-LABEL``, ``DATA-ONECLASS`` or ``DATA-FEW``.

    Examples:
        >>> rows = [("good", "pos"), ("bad", "neg"), ("fine", "pos"), ("dull", "neg")]
        >>> table = Table("demo", ("text", "label"), rows, range(1, 5))
        >>> task = build_task({"train": table, "test": table}, name="demo", source="", licence="")
        >>> task.label_names, len(task.train), len(task.dev)
        (('neg', 'pos'), 2, 2)
    """
    raw: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    remarks = list(notes)
    for split in SPLITS:
        if split in tables:
            raw[split], ignored = _read(tables[split], text_column, label_column)
            if split == "train" and ignored:
                remarks.append(f"columns not used: {', '.join(ignored)}")
    classes = _classes(raw["train"][1], tables["train"], label_names)
    number = {label: index for index, label in enumerate(classes)}
    sets = {
        split: LabelledTexts(texts, _numbers(labels, number, tables[split]))
        for split, (texts, labels) in raw.items()
    }
    if "dev" not in sets:
        whole = len(sets["train"])
        sets["train"], sets["dev"] = hold_out(sets["train"], share=dev_share, seed=seed)
        remarks.append(
            f"no dev split: {len(sets['dev'])} of {whole} training texts held out (seed {seed})"
        )
    names = tuple(label_names) if label_names else classes
    task = TaskData(
        name=name, train=sets["train"], dev=sets["dev"], test=sets["test"], label_names=names,
        source=source, licence=licence,
    )  # fmt: skip
    findings = [str(finding) for finding in hygiene.check(task)]
    return replace(task, notes=(*remarks, *findings))


def hold_out(
    data: LabelledTexts, *, share: float, seed: int
) -> tuple[LabelledTexts, LabelledTexts]:
    """Split off a random part, keeping at least one text of every class in the rest.

    Args:
        data: the texts to split.
        share: share to hold out, bounded to 100 .. 1000 texts and to half of ``data``.
        seed: seed of the choice.

    Returns:
        The rest and the held-out part, both in the original order.

    Raises:
        InputRejected: ``DATA-FEW`` if nothing can be held out.
    """
    n = len(data)
    wanted = min(max(round(share * n), HOLD_OUT_MIN), HOLD_OUT_MAX, n // 2)
    kept: set[int] = set()
    free: list[int] = []
    for row in stream(seed, "data/hold-out").permutation(n).tolist():
        label = data.labels[row]
        if label in kept:
            free.append(row)
        kept.add(label)
    chosen = set(free[:wanted])
    if not chosen:
        raise InputRejected(
            "too few training texts to hold out a dev split",
            code="DATA-FEW", got=f"{n} training texts", fix="add a dev file, or more train rows",
        )  # fmt: skip
    return (
        data.pick([row for row in range(n) if row not in chosen]),
        data.pick(sorted(chosen)),
    )


def _read(
    table: Table, text_column: str, label_column: str
) -> tuple[tuple[tuple[str, ...], list[str]], list[str]]:
    """Return the texts and raw labels of a table, and the names of the columns not used."""
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if twice:
        raise InputRejected(
            f"{table.where} names a column twice",
            code="DATA-COLUMN", got=", ".join(twice), fix="give each column its own name",
        )  # fmt: skip
    text_at = _column(table, TEXT_COLUMNS, text_column, "text")
    label_at = _column(table, LABEL_COLUMNS, label_column, "label")
    if not table.rows:
        raise InputRejected(
            f"{table.where} has no rows", code="DATA-EMPTY", fix="put at least one row into it"
        )
    texts = tuple(_text(row[text_at], table, i) for i, row in enumerate(table.rows))
    labels = [_label(row[label_at], table, i) for i, row in enumerate(table.rows)]
    ignored = [name for i, name in enumerate(table.columns) if i not in (text_at, label_at)]
    return (texts, labels), ignored


def _column(table: Table, usual: tuple[str, ...], asked: str, kind: str) -> int:
    """Return the position of a column."""
    wanted = (asked,) if asked else usual
    for name in wanted:
        if name in table.columns:
            return table.columns.index(name)
    raise InputRejected(
        f"{table.where} has no {kind} column",
        code="DATA-COLUMN",
        got="columns: " + (", ".join(name[:60] for name in table.columns[:20]) or "none"),
        allowed=" or ".join(wanted),
        fix=f"rename the column, or set the option {kind}_column; "
        "the first line of a tsv or csv file must be the header",
    )


def _text(cell: Any, table: Table, index: int) -> str:
    if not isinstance(cell, str):
        raise InputRejected(
            f"a text is missing or not a string: {table.place(index)}",
            code="DATA-TEXT", got=f"a value of type {type(cell).__name__}",
            fix="give every row a text (it may be empty)",
        )  # fmt: skip
    try:
        cell.encode()
    except UnicodeEncodeError:
        # A JSON escape such as \ud800 is legal JSON, but no tokenizer can read it.
        raise InputRejected(
            f"a text holds half a character (a lone surrogate): {table.place(index)}",
            code="DATA-ENCODING", fix="write the file as UTF-8 without \\ud800 .. \\udfff escapes",
        ) from None  # fmt: skip
    return cell


def _label(cell: Any, table: Table, index: int) -> str:
    """Return a raw label as text; integers in their shortest form."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and math.isfinite(cell) and cell.is_integer():
        cell = int(cell)  # data frames turn a column of integers with a gap into floats
    if isinstance(cell, int) and abs(cell) < 10**9:
        return str(cell)
    if isinstance(cell, str) and cell.strip():
        word = cell.strip()
        return str(int(word)) if _INTEGER.fullmatch(word) else word
    raise InputRejected(
        f"a label is missing or not a class: {table.place(index)}",
        code="DATA-LABEL", got=repr(cell)[:80], allowed="an integer 0 .. C-1, or a class name",
        fix="give every row a class; numbers with fractions are not classes",
    )  # fmt: skip


def _classes(
    labels: Sequence[str], table: Table, label_names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the raw labels of the classes in the order of their numbers."""
    found = set(labels)
    integers = label_names is not None or all(_INTEGER.fullmatch(label) for label in found)
    if len(found) < 2:
        raise InputRejected(
            f"{table.where} holds one class only",
            code="DATA-ONECLASS", got=f"every label is {labels[0][:80]!r}",
            allowed="two classes or more",
            fix="check the label column; a classifier needs texts of every class",
        )  # fmt: skip
    if len(found) > MAX_CLASSES:
        raise InputRejected(
            f"{table.where} has {len(found)} different labels",
            code="DATA-LABEL", allowed=f"at most {MAX_CLASSES} classes",
            fix="check the label column: this looks like an id or a number, not a class",
        )  # fmt: skip
    count = len(label_names) if label_names is not None else len(found)
    wanted = tuple(str(number) for number in range(count))
    if integers and label_names is None and found != set(wanted):
        numbers = sorted(int(label) for label in found)
        raise InputRejected(
            f"the integer labels of {table.where} are not 0 .. C-1",
            code="DATA-LABEL", got=", ".join(map(str, numbers[:20])),
            allowed=", ".join(wanted[:20]),
            fix="number the classes from 0 without a gap, or write their names instead",
        )  # fmt: skip
    return wanted if integers else tuple(sorted(found))


def _numbers(labels: Sequence[str], number: Mapping[str, int], table: Table) -> tuple[int, ...]:
    """Return the class number of every raw label."""
    for index, label in enumerate(labels):
        if label not in number:
            raise InputRejected(
                f"a label is not one of the classes of the training split: {table.place(index)}",
                code="DATA-LABEL", got=label[:80], allowed=", ".join(list(number)[:20]),
                fix="-1 marks hidden labels: use a split with labels"
                if label == "-1" else "use the same labels in every split",
            )  # fmt: skip
    return tuple(number[label] for label in labels)
