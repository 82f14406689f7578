"""Read one table file (tsv, csv, jsonl, json, parquet, each optionally .gz) within limits.

The bytes may come from anyone: sizes are bounded before anything is parsed, and whatever is wrong
with a file ends as ``InputRejected`` with its place. Nothing here knows about texts or labels.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peftlab.core.errors import BackendMissing, InputRejected
from peftlab.core.rows import Table

FORMATS = ("tsv", "csv", "jsonl", "json", "parquet")
LIMIT_BYTES = 512 * 2**20  # ours
LIMIT_ROWS = 5_000_000  # ours: about what fits into 4 GiB of memory as Python strings


def read_table(path: Path, *, limit_bytes: int = LIMIT_BYTES) -> Table:
    """Return the rows of a table file.

    Args:
        path: ``*.tsv``, ``*.csv``, ``*.jsonl``, ``*.json`` or ``*.parquet``, optionally ``.gz``.
            TSV has no quoting (as GLUE has it), CSV the usual quoting; both start with a header
            line. JSON is a list of objects, or one object per line.
        limit_bytes: largest size after decompression.

    Raises:
        InputRejected: ``DATA-READ``, ``DATA-LARGE``, ``DATA-ENCODING``, ``DATA-FIELDS``,
            ``DATA-JSON``, ``DATA-CSV`` or ``DATA-PARQUET``, with the place in the file.
        BackendMissing: ``DATA-BACKEND`` for Parquet without pyarrow.
    """
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    data = _read_bounded(path, limit_bytes)
    if suffix == "parquet":
        return _parquet(path.name, data, limit_bytes)
    parsers: dict[str, Callable[[str, str], Table]] = {
        "tsv": _tsv, "csv": _csv, "jsonl": _json_lines, "json": _json,
    }  # fmt: skip
    return parsers[suffix](path.name, _decode(path.name, data))


def _read_bounded(path: Path, limit: int) -> bytes:
    """Return the decompressed bytes, never reading more than the limit."""
    if not path.is_file():  # a pipe would block for ever
        raise InputRejected(
            f"{path.name} is not a file", code="DATA-READ", fix="put a regular file there"
        )
    try:
        if path.name.endswith(".gz"):
            with gzip.open(path) as packed:
                data = packed.read(limit + 1)
        else:
            with path.open("rb") as plain:
                data = plain.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputRejected(
            f"{path.name} cannot be read",
            code="DATA-READ", got=str(error)[:200],
            fix="check its permissions, and that a .gz file is a whole gzip file",
        ) from None  # fmt: skip
    if len(data) > limit:
        raise _too_large(path.name, f"over {limit} bytes (after decompression)")
    return data


def _too_large(where: str, got: str) -> InputRejected:
    return InputRejected(
        f"{where} is too large",
        code="DATA-LARGE", got=got, allowed=f"{LIMIT_ROWS} rows, and the option limit_mib",
        fix="use fewer rows, or raise the option limit_mib",
    )  # fmt: skip


def _decode(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte-order mark the codec counts from behind it.
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, offset) + 1
        raise InputRejected(
            f"{where} is not UTF-8",
            code="DATA-ENCODING", got=f"byte 0x{data[offset]:02x} at offset {offset} (line {line})",
            fix=f"convert it, e.g. iconv -f latin1 -t utf-8 {where}",
        ) from None  # fmt: skip


def _table(where: str, header: list[str], rows: Iterable[tuple[int, list[str]]]) -> Table:
    """Return the table of a text format with a header, checking every row's width."""
    columns = tuple(name.strip() for name in header)
    cells: list[list[str]] = []
    numbers: list[int] = []
    for number, row in rows:
        if len(row) != len(columns):
            raise InputRejected(
                f"wrong number of fields: {where}, line {number}",
                code="DATA-FIELDS", got=f"{len(row)} fields",
                allowed=f"{len(columns)}, as the header has ({', '.join(columns)[:200]})",
                fix="tsv has no quoting: remove tabs inside texts; in csv quote texts with commas",
            )  # fmt: skip
        if len(cells) >= LIMIT_ROWS:
            raise _too_large(where, f"over {LIMIT_ROWS} rows")
        cells.append(row)
        numbers.append(number)
    return Table(where, columns, cells, numbers, "line")


def _tsv(where: str, text: str) -> Table:
    # Split by hand: the csv module has a field limit that is global to the process, and
    # str.splitlines would also break lines at characters that occur inside texts.
    lines = text.split("\n")
    rows = (
        (number, line.removesuffix("\r").split("\t"))
        for number, line in enumerate(lines[1:], start=2)
        if line.removesuffix("\r")
    )
    return _table(where, lines[0].removesuffix("\r").split("\t"), rows)


def _csv(where: str, text: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        return _table(where, header, ((reader.line_num, row) for row in reader if row))
    except csv.Error as error:
        raise InputRejected(
            f"{where} is not valid csv near line {reader.line_num}",
            code="DATA-CSV", got=str(error),
            fix="close every quote and double quotes inside texts; "
            "for texts of over 131072 characters use jsonl",
        ) from None  # fmt: skip


def _parse_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputRejected(
            f"invalid JSON: {where}",
            code="DATA-JSON", got=str(error)[:200],
            fix="write a list of objects, or one object per line",
        ) from None  # fmt: skip


def _json(where: str, text: str) -> Table:
    if not text.lstrip().startswith("["):
        return _json_lines(where, text)
    return _objects(where, enumerate(_parse_json(where, text), start=1), "row")


def _json_lines(where: str, text: str) -> Table:
    rows = (
        (number, _parse_json(f"{where}, line {number}", line))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    )
    return _objects(where, rows, "line")


def _objects(where: str, objects: Iterable[tuple[int, Any]], unit: str) -> Table:
    """Return the table of JSON objects; a key that an object lacks gives None."""
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, row in objects:
        if not isinstance(row, dict):
            raise InputRejected(
                f"not a JSON object: {where}, {unit} {number}",
                code="DATA-JSON", got=f"a value of type {type(row).__name__}",
                fix='write objects such as {"text": "...", "label": 0}',
            )  # fmt: skip
        if len(rows) >= LIMIT_ROWS:
            raise _too_large(where, f"over {LIMIT_ROWS} rows")
        clean = {key.strip(): value for key, value in row.items()}
        columns.update(dict.fromkeys(clean))
        rows.append(clean)
        numbers.append(number)
    cells = [[row.get(name) for name in columns] for row in rows]
    return Table(where, tuple(columns), cells, numbers, unit)


def _parquet(where: str, data: bytes, limit: int) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BackendMissing(
            f"reading {where} needs pyarrow",
            code="DATA-BACKEND", fix='pip install "peftlab[parquet]", or use tsv, csv or jsonl',
        ) from None  # fmt: skip
    rows: list[list[Any]] = []
    size = 0
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = tuple(name.strip() for name in file.schema_arrow.names)
        if file.metadata.num_rows > LIMIT_ROWS:
            raise _too_large(where, f"{file.metadata.num_rows} rows")
        # In batches, because a small file can unfold to a huge table.
        for batch in file.iter_batches(batch_size=4096):
            size += batch.nbytes
            if size > limit:
                raise _too_large(where, f"over {limit} bytes (as a table)")
            rows.extend(map(list, zip(*(part.to_pylist() for part in batch.columns), strict=True)))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputRejected(
            f"{where} is not a readable Parquet file",
            code="DATA-PARQUET", got=str(error)[:200], fix="write it again, or use jsonl",
        ) from None  # fmt: skip
    return Table(where, columns, rows, range(1, len(rows) + 1))
