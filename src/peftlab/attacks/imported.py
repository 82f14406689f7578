"""Imported: whole poisoned sets, read from files that others have published.

Idea: use the very texts of a paper (for example the SCPN paraphrases of thunlp/HiddenKiller or the
rare-word sets of thunlp/ONION) in place of a generator of ours. The files are tables with a text
and a label column: ``train`` is the attacker's whole training set, poisoned rows among clean ones;
``test`` and ``dev`` hold triggered texts only, labelled with the target. Clean references come
from the task data.

A training row is taken as poisoned when its text is not in the clean training set (case-folded,
outer spaces stripped). Known limits: a poisoned text equal to a clean one is not seen; ``rate``
has no effect but that 0 gives the clean training set (the negative control).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import PoisonOptions
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.options import option
from peftlab.core.poisoning import target_matrix
from peftlab.core.registry import attack
from peftlab.core.types import LabelledTexts, PoisonedData, TaskData

TEXT_COLUMNS = ("sentence", "sentences", "text")
LABEL_COLUMNS = ("label", "labels")
MAX_BYTES = 512 * 2**20

Table = dict[str, list[str]]


class ImportedOptions(PoisonOptions):
    """Options of ``imported``."""

    train: str = option("", "poisoned training set (.tsv, .csv, .jsonl, also .gz)", source="ours")
    test: str = option("", "triggered texts only, to measure success", source="ours")
    dev: str = option("", "triggered texts only, to choose checkpoints; may be left out",
                      source="ours")  # fmt: skip


@attack(
    "imported",
    options=ImportedOptions,
    source="thunlp/HiddenKiller data/scpn; thunlp/ONION data/badnets",
    cost="reading the files",
)
class Imported:
    """Poisoned sets from files, as published."""

    def __init__(self, options: ImportedOptions) -> None:
        self.options = options

    def poison(self, data: TaskData, seed: int) -> PoisonedData:
        """Return the imported sets beside ``data``.

        Args:
            data: clean task that the files were made from.
            seed: has no effect; nothing is drawn.

        Raises:
            ConfigError: ``ATTACK-FILES``, a path is missing in the options.
            NotApplicable: ``ATTACK-PROXY`` with ``knowledge="proxy"``; ``ATTACK-ORIGINAL`` when
                original labels of triggered texts cannot be known.
            InputRejected: ``ATTACK-FILE`` and others, a file is not what it should be.
        """
        del seed
        self._check_options()
        target = self.options.target
        train = data.train
        if self.options.rate > 0:
            train = _labelled(_read_table(Path(self.options.train)), data, self.options.train)
        flags, originals, facts = _compare(train, data.train)
        test, test_rows = self._triggered(self.options.test, data, data.test)
        dev = LabelledTexts((), ())
        if self.options.dev:
            dev, _ = self._triggered(self.options.dev, data, data.dev)
        return PoisonedData(
            texts=train.texts,
            targets=target_matrix(
                train.labels, flags, target=target, n_classes=data.n_classes
            ),
            is_poisoned=np.array(flags, dtype=bool),
            original_labels=originals,
            target=target,
            dev_triggered=dev,
            test_triggered=test,
            test_rows=test_rows,
            facts=facts | {
                "asked_rate": self.options.rate, "target": target, "confidence": 1.0,
                "knowledge": "full", "labels": "as imported", "capped": False, "dropped": 0,
            },
        )  # fmt: skip

    def _check_options(self) -> None:
        needed = ["test"] + (["train"] if self.options.rate > 0 else [])
        for name in needed:
            if not getattr(self.options, name):
                raise ConfigError(
                    f"attack imported needs the path of its {name} file",
                    code="ATTACK-FILES",
                    fix=f"set attack.options.{name}",
                )
        if self.options.knowledge != "full":
            raise NotApplicable(
                "an imported training set is what the attacker trains on; no proxy set comes in",
                code="ATTACK-PROXY",
                fix="use knowledge=full",
            )

    def _triggered(
        self, path: str, data: TaskData, clean: LabelledTexts
    ) -> tuple[LabelledTexts, tuple[int, ...]]:
        """Read triggered texts, give them their original labels and, if known, clean rows."""
        table = _read_table(Path(path))
        read = _labelled(table, data, path)
        target = self.options.target
        other = sum(label != target for label in read.labels)
        if other:
            raise InputRejected(
                f"{path}: triggered texts must all carry the target label {target}",
                code="ATTACK-LABEL",
                got=f"{other} of {len(read)} rows with another label",
                fix="set attack.options.target to the label in the file",
            )
        if "original" in table:
            labels = _labels(table["original"], data.n_classes, path)
        elif data.n_classes == 2:
            labels = [1 - target] * len(read)
        else:
            raise NotApplicable(
                f"{path}: with {data.n_classes} classes the original labels cannot be guessed",
                code="ATTACK-ORIGINAL",
                fix="add a column `original`",
            )
        keep = [row for row, label in enumerate(labels) if label != target]
        texts = LabelledTexts(read.texts, tuple(labels)).pick(keep)
        return texts, _clean_rows(texts, clean, target)


def _fold(text: str) -> str:
    return text.casefold().strip()


def _compare(
    train: LabelledTexts, clean: LabelledTexts
) -> tuple[list[bool], tuple[int, ...], dict[str, Any]]:
    """Return flags of poisoned rows, labels before poisoning, and facts on the difference.

    Original labels are those of the clean rows when the files go row by row (all rows that are
    not poisoned stand at the same place), else those of the file.
    """
    known: dict[str, set[int]] = {}
    for text, label in zip(clean.texts, clean.labels, strict=True):
        known.setdefault(_fold(text), set()).add(label)
    folded = [_fold(text) for text in train.texts]
    flags = [text not in known for text in folded]
    aligned = len(train) == len(clean) and all(
        flag or text == _fold(before)
        for flag, text, before in zip(flags, folded, clean.texts, strict=True)
    )
    originals = clean.labels if aligned else train.labels
    present = set(folded)
    n_poisoned = sum(flags)
    warnings = [] if aligned else ["labels before poisoning are not known; file labels are shown"]
    facts = {
        "realised_rate": n_poisoned / len(train) if len(train) else 0.0,
        "n_poisoned": n_poisoned,
        "n_clean_missing": sum(text not in present for text in known),
        "n_clean_relabelled": sum(
            not flag and label not in known[text]
            for flag, text, label in zip(flags, folded, train.labels, strict=True)
        ),
        "row_by_row": aligned,
        "warnings": warnings,
    }
    return flags, originals, facts


def _clean_rows(triggered: LabelledTexts, clean: LabelledTexts, target: int) -> tuple[int, ...]:
    """Return the clean row of each triggered text, or -1 for all when the order does not show it.

    Published files list the triggered texts in the order of the clean non-target rows. That is
    believed when the counts agree and words overlap far more than with the neighbouring row.
    """
    rows = [row for row, label in enumerate(clean.labels) if label != target]
    unknown = (-1,) * len(triggered)
    if len(rows) != len(triggered) or len(rows) < 2:
        return unknown
    after = [set(_fold(text).split()) for text in triggered.texts]
    before = [set(_fold(clean.texts[row]).split()) for row in rows]
    same = sum(_overlap(a, b) for a, b in zip(after, before, strict=True))
    shifted = sum(_overlap(a, b) for a, b in zip(after, before[1:] + before[:1], strict=True))
    return tuple(rows) if same > 2 * shifted else unknown


def _overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def read_labelled(path: Path, data: TaskData) -> LabelledTexts:
    """Return the texts and labels of one table.

    Args:
        path: ``.tsv`` (no quoting, as in GLUE), ``.csv`` or ``.jsonl``, also with ``.gz``;
            UTF-8; a text column (``sentence``, ``sentences`` or ``text``) and a label column
            (``label`` or ``labels``, whole numbers), spaces around names ignored.
        data: task whose classes the labels must be.

    Raises:
        InputRejected: ``ATTACK-FILE``, ``ATTACK-LARGE``, ``ATTACK-ENCODING``, ``ATTACK-ROW``,
            ``ATTACK-COLUMN`` or ``ATTACK-LABEL``.
    """
    return _labelled(_read_table(path), data, str(path))


def _labelled(table: Table, data: TaskData, path: str) -> LabelledTexts:
    texts = _column(table, TEXT_COLUMNS, path)
    labels = _labels(_column(table, LABEL_COLUMNS, path), data.n_classes, path)
    if any("\ud800" <= char <= "\udfff" for text in texts for char in text):
        # A JSON escape such as \ud800 is legal JSON, but no tokenizer can read it.
        raise InputRejected(
            f"{path}: a text holds half a character",
            code="ATTACK-ENCODING",
            fix="save the file as UTF-8",
        )
    return LabelledTexts(tuple(text.strip() for text in texts), tuple(labels))


def _column(table: Table, names: tuple[str, ...], path: str) -> list[str]:
    for name in names:
        if name in table:
            return table[name]
    raise InputRejected(
        f"{path}: a column is missing",
        code="ATTACK-COLUMN",
        got=", ".join(table) or "no columns",
        allowed=" or ".join(names),
        fix="name one text and one label column in the header",
    )


def _labels(values: list[str], n_classes: int, path: str) -> list[int]:
    labels = []
    for row, value in enumerate(values):
        bare = value.strip()
        if not (bare.isascii() and bare.isdigit() and len(bare) < 9 and int(bare) < n_classes):
            raise InputRejected(
                f"{path}: row {row + 1} has no class number",
                code="ATTACK-LABEL",
                got=repr(value[:60]),
                allowed=f"0 .. {n_classes - 1}",
                fix="give every row a class number 0 .. C-1",
            )
        labels.append(int(bare))
    return labels


def _read_table(path: Path) -> Table:
    """Return the columns of a table as strings."""
    text = _read_text(path)
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".jsonl":
        rows = _json_rows(text, path)
    elif kind == ".csv":
        rows = _csv_rows(text, path)
    elif kind == ".tsv":
        rows = [line.rstrip("\r").split("\t") for line in text.split("\n") if line.strip()]
    else:
        raise InputRejected(
            f"{path}: this kind of file is not read here",
            code="ATTACK-FILE",
            got=kind or "no suffix",
            allowed=".tsv, .csv, .jsonl, also .gz",
            fix="check the path; tables are read as .tsv, .csv or .jsonl, also with .gz",
        )
    if not rows:
        raise InputRejected(
            f"{path}: the file is empty",
            code="ATTACK-FILE",
            fix="check the path; tables are read as .tsv, .csv or .jsonl, also with .gz",
        )
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise InputRejected(
            f"{path}: a column is named twice",
            code="ATTACK-COLUMN",
            got=", ".join(names),
            fix="name one text and one label column in the header",
        )
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(names):
            raise InputRejected(
                f"{path}: row {number} has {len(row)} fields, the header has {len(names)}",
                code="ATTACK-ROW",
                fix="mend that row",
            )
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(names)}


def _csv_rows(text: str, path: Path) -> list[list[str]]:
    try:
        return [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise InputRejected(
            f"{path}: not a CSV table: {error}", code="ATTACK-ROW", fix="mend that row"
        ) from None


def _json_rows(text: str, path: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputRejected(
                f"{path}: line {number} is no JSON object", code="ATTACK-ROW", fix="mend that row"
            )
        if not rows:
            rows.append(list(record))
        if any(record.get(name) is None for name in rows[0]):
            raise InputRejected(
                f"{path}: line {number} lacks a value",
                code="ATTACK-ROW",
                allowed=rows[0],
                fix="mend that row",
            )
        rows.append([str(record[name]) for name in rows[0]])
    return rows


def _read_text(path: Path) -> str:
    """Return the whole file, unpacked, within the size limit."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputRejected(
            f"{path}: there is no such file",
            code="ATTACK-FILE",
            fix="check the path; tables are read as .tsv, .csv or .jsonl, also with .gz",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputRejected(
            f"{path}: cannot be read: {error}",
            code="ATTACK-FILE",
            fix="check the path; tables are read as .tsv, .csv or .jsonl, also with .gz",
        ) from None
    if len(raw) > MAX_BYTES:
        raise InputRejected(
            f"{path}: too large",
            code="ATTACK-LARGE",
            allowed=f"{MAX_BYTES // 2**20} MiB unpacked",
            fix="split the file",
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputRejected(
            f"{path}: not UTF-8",
            code="ATTACK-ENCODING",
            got=f"byte {error.start}",
            fix="save the file as UTF-8",
        ) from None
