"""Reading the texts that a user wants scored."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from peftlab.core.errors import InputRejected

LIMIT = 512 * 2**20


def read_texts(file: Path) -> list[str]:
    """Return the texts of a ``.jsonl`` file (field ``text`` or ``sentence``) or one a line.

    Both also with ``.gz``. Blank lines are texts in a plain file, and nothing in JSON lines.

    Raises:
        InputRejected: ``TEXTS-MISSING``, ``TEXTS-READ``, ``TEXTS-LARGE``, ``TEXTS-ENCODING`` or
            ``TEXTS-ROW``.
    """
    if not file.is_file():
        raise InputRejected(f"there is no file {file}", code="TEXTS-MISSING", fix="check the path")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as handle:
            content = handle.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputRejected(
            f"{file.name} cannot be read", code="TEXTS-READ", got=str(error)[:200],
            fix="check its permissions, and that a .gz file is a whole gzip file",
        ) from None  # fmt: skip
    if len(content) > LIMIT:
        raise InputRejected(
            f"{file.name} is too large", code="TEXTS-LARGE", got=f"over {LIMIT} bytes",
            allowed=f"{LIMIT} bytes, after decompression", fix="split the file",
        )  # fmt: skip
    try:
        # with -sig a byte-order mark, as editors on Windows write it, is no part of the first text
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputRejected(
            f"{file.name} is not UTF-8", code="TEXTS-ENCODING", got=f"byte {error.start}",
            fix="save the file as UTF-8",
        ) from None  # fmt: skip
    if lines and not lines[-1]:
        lines.pop()
    if Path(file.name.removesuffix(".gz")).suffix not in {".jsonl", ".json"}:
        return [line.removesuffix("\r") for line in lines]
    return [_text(file, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _text(file: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    text = row if isinstance(row, str) else None
    if isinstance(row, dict):
        text = row.get("text", row.get("sentence"))
    if not isinstance(text, str):
        raise InputRejected(
            f"line {number} of {file.name} holds no text",
            code="TEXTS-ROW",
            got=line[:80],
            allowed='an object with "text" (or "sentence"), or a JSON string',
            fix="mend that line",
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        # A JSON escape such as \ud800 is legal JSON, but no tokenizer can read it.
        raise InputRejected(
            f"line {number} of {file.name} holds half a character (a lone surrogate)",
            code="TEXTS-ENCODING", fix="write the file as UTF-8 without \\ud800 .. \\udfff escapes",
        ) from None  # fmt: skip
    return text
