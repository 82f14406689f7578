"""The scores of one cell as a table of its own: Parquet, or CSV where pyarrow is missing.

One row per test text: ``set`` (clean or triggered), its number in that set, its score and conformal
p value, and what the cell is, so that the files of a run can be put together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from peftlab.report.read import Cell, finite

Columns = dict[str, list[Any]]
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet would compute


def has_parquet() -> bool:
    """Tell whether Parquet can be written."""
    return find_spec("pyarrow") is not None


def file_name(cell: Cell, extension: str) -> str:
    """Return the name of a cell's file: its id, or a hash of an id that is no plain name."""
    name = cell.id
    if not _PLAIN_NAME.fullmatch(name):
        name = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name}.{extension}"


def score_table(cell: Cell, held: Mapping[str, Any]) -> Columns:
    """Return the scores of a cell by column; no rows if none were kept.

    Args:
        cell: which one.
        held: its ``clean_scores``, ``triggered_scores``, ``clean_p``, ``triggered_p`` and
            ``threshold``.
    """
    rows = []
    for name in ("clean", "triggered"):
        scores = _listed(held.get(f"{name}_scores"))
        p = _listed(held.get(f"{name}_p")) or [None] * len(scores)
        rows += [
            (name, number, finite(score), finite(chance))
            for number, (score, chance) in enumerate(zip(scores, p, strict=True))
        ]
    parts = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    n = len(rows)
    return {
        "attack": [cell.attack] * n,
        "tuner": [cell.tuner] * n,
        "defence": [cell.defence] * n,
        "seed": [cell.seed] * n,
        "control": [cell.control] * n,
        "set": list(parts[0]),
        "row": list(parts[1]),
        "score": list(parts[2]),
        "p": list(parts[3]),
        "threshold": [finite(held.get("threshold"))] * n,
    }


def _listed(values: object) -> Sequence[Any]:
    return values if isinstance(values, Sequence) and not isinstance(values, str) else []


def as_parquet(columns: Columns) -> bytes:
    """Return a table as Parquet; the same bytes for the same table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    floats, texts = ("score", "p", "threshold"), ("attack", "tuner", "defence", "set")
    types = {
        **dict.fromkeys(floats, pa.float64()), **dict.fromkeys(texts, pa.string()),
        "seed": pa.int64(), "row": pa.int64(), "control": pa.bool_(),
    }  # fmt: skip
    schema = pa.schema([(name, types[name]) for name in columns])
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return sink.getvalue()


def as_csv(columns: Columns) -> str:
    """Return a table as CSV; a text that a spreadsheet would compute gets an apostrophe."""
    sink = io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [_inert(value) for value in row] for row in zip(*columns.values(), strict=True)
    )
    return sink.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
