"""The tasks that the built-in models are measured on: published files in, ``TaskData`` out.

Nothing ships; the files are looked for in one data folder. What is held out is said here, once:

    sst2-6920   SST-2, 6,920 / 872 / 1,821 sentences, as Hidden Killer, ONION and PSIM use it
    sst2-67349  the same dev and test with GLUE's 67,349 training sentences and phrases; the rows
                that are word for word in dev or test are dropped
    cola        CoLA 1.1. The test labels were never published, so the two public dev sets (in and
                out of domain, 1,043 sentences, GLUE's dev) are the test; dev is held out of train
    agnews      AG News subset, 11,106 / 10,000 / 7,600, of dev 1,000
    rte         RTE. The test labels are hidden, so its 277 validation pairs are the test; dev is
                held out of train. A pair is one text: hypothesis, separator, premise
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from peftlab.core.errors import InputRejected
from peftlab.core.rows import Table, build_task
from peftlab.core.seeds import stream
from peftlab.core.types import TaskData
from peftlab.io.tables import read_table

DEV_LIMIT = 1000  # ours: enough to choose hyper-parameters by
Metric = Literal["accuracy", "matthews"]


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        title: for people.
        metric: accuracy, or Matthews correlation.
        files: what must be there, relative to the data folder.
        load: from (data folder, separator) to the splits by name; without dev a part of train
            is held out.
        dev_share: share of train to hold out, where there is no dev set.
        epochs: passes over a large train set; None: what the tuner is told everywhere else.
    """

    title: str
    metric: Metric
    files: tuple[str, ...]
    load: Callable[[Path, str], dict[str, Table]]
    dev_share: float = 0.1
    epochs: int | None = None


def separator_of(tokenizer: Any) -> str:
    """Return a text that the tokenizer reads as its own separator token, else a line break."""
    for token in (tokenizer.sep_token, tokenizer.eos_token):
        if token and tokenizer.convert_tokens_to_ids(token) in tokenizer(
            f"a {token} b", add_special_tokens=False
        ).input_ids:  # fmt: skip
            return str(token)
    return "\n"


def missing(name: str, root: Path) -> str | None:
    """Return the first file of a task that is not there."""
    return next((file for file in TASKS[name].files if not (root / file).is_file()), None)


def load_task(name: str, root: Path, separator: str) -> TaskData:
    """Return a task.

    Args:
        name: one of ``TASKS``.
        root: folder with a folder for each data set.
        separator: what stands between the two texts of a pair.

    Raises:
        InputRejected: the codes of ``io.tables`` and ``core.rows``, or ``DATA-FIELDS``.
    """
    task = TASKS[name]
    data = build_task(
        task.load(root, separator), name=name, source=task.title, licence="research use",
        dev_share=task.dev_share,
    )  # fmt: skip
    if len(data.dev) <= DEV_LIMIT:
        return data
    rows = stream(0, "builtin-models/dev", name).permutation(len(data.dev))[:DEV_LIMIT]
    return replace(data, dev=data.dev.pick(sorted(rows.tolist())))


def _sst2(root: Path, _separator: str) -> dict[str, Table]:
    return {s: read_table(root / "sst2" / f"{s}.tsv.gz") for s in ("train", "dev", "test")}


def _sst2_large(root: Path, separator: str) -> dict[str, Table]:
    tables = _sst2(root, separator)
    held = {row[0].strip() for split in ("dev", "test") for row in tables[split].rows}
    large = read_table(root / "sst2" / "train_glue67k.tsv.gz")
    at = large.columns.index("sentence")
    kept = [i for i, row in enumerate(large.rows) if row[at].strip() not in held]
    rows, numbers = [large.rows[i] for i in kept], [large.numbers[i] for i in kept]
    return {**tables, "train": replace(large, rows=rows, numbers=numbers)}


def _agnews(root: Path, _separator: str) -> dict[str, Table]:
    tables = {}
    for split in ("train", "dev", "test"):
        table = read_table(root / "agnews" / f"{split}.tsv.gz")
        tables[split] = replace(table, rows=[[cell.strip() for cell in row] for row in table.rows])
    return tables


def _cola_rows(path: Path) -> list[tuple[str, str]]:
    """Return (sentence, label) of a CoLA file: no header, no quoting, four fields."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != 4:
                raise InputRejected(
                    f"wrong number of fields: {path.name}, line {number}",
                    code="DATA-FIELDS", got=f"{len(fields)} fields",
                    allowed="4: source, label, mark, sentence", fix="get the file again",
                )  # fmt: skip
            rows.append((fields[3], fields[1]))
    return rows


def _cola(root: Path, _separator: str) -> dict[str, Table]:
    def table(*names: str) -> Table:
        rows = [row for name in names for row in _cola_rows(root / "cola" / f"{name}.tsv.gz")]
        return Table(names[0], ("sentence", "label"), rows, range(1, len(rows) + 1))

    return {
        "train": table("in_domain_train"),
        "test": table("in_domain_dev", "out_of_domain_dev"),
    }


def _rte(root: Path, separator: str) -> dict[str, Table]:
    tables = {}
    for split, file in (("train", "rte_train"), ("test", "rte_val")):
        table = read_table(root / "superglue" / f"{file}.jsonl.gz")
        first, second, label = (
            table.columns.index(name) for name in ("hypothesis", "premise", "label")
        )
        # The premise comes last: where a text is too long, the cut then spares the hypothesis.
        rows = [(f"{row[first]} {separator} {row[second]}", row[label]) for row in table.rows]
        tables[split] = Table(table.where, ("text", "label"), rows, table.numbers, table.unit)
    return tables


_SST2 = tuple(f"sst2/{split}.tsv.gz" for split in ("train", "dev", "test"))
TASKS = {
    "sst2-6920": Task("SST-2, 6,920 sentences", "accuracy", _SST2, _sst2),
    "sst2-67349": Task(
        "SST-2, 67,349 sentences and phrases", "accuracy",
        (*_SST2, "sst2/train_glue67k.tsv.gz"), _sst2_large, epochs=2,
    ),
    "cola": Task(
        "CoLA", "matthews",
        tuple(
            f"cola/{name}.tsv.gz"
            for name in ("in_domain_train", "in_domain_dev", "out_of_domain_dev")
        ),
        _cola, dev_share=0.12,
    ),
    "agnews": Task(
        "AG News, 11,106 texts", "accuracy",
        tuple(f"agnews/{split}.tsv.gz" for split in ("train", "dev", "test")), _agnews, epochs=2,
    ),
    "rte": Task(
        "RTE", "accuracy", ("superglue/rte_train.jsonl.gz", "superglue/rte_val.jsonl.gz"), _rte
    ),
}  # fmt: skip
