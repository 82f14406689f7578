"""Plain text to token numbers: read folders of text, encode once.

The encoded text is kept as one flat array of token numbers in a ``.npy`` file, named after what it
was made from, so a second run starts at once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import InputRejected, ResourceLimit
from peftlab.io.files import sha256_file, write_atomic

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ENDINGS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz")
LINE_LIMIT = 64 * 1024 * 1024  # ours: a whole book in one line is about 2 MB
TEXT_LIMIT = 8 * 1024**3  # ours: stops a compressed bomb

Tokens = NDArray[np.unsignedinteger[Any]]


def text_files(paths: Sequence[Path]) -> list[Path]:
    """Return the text files that ``paths`` name: files as they are, folders searched, sorted.

    Args:
        paths: files or folders; in folders everything ending in ``.txt`` or ``.jsonl``, also
            with ``.gz``, is taken.

    Raises:
        InputRejected: ``CORPUS-EMPTY``, one of the paths holds no such file.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [file for file in inside if file.is_file() and file.name.endswith(ENDINGS)]
        if not files:
            raise InputRejected(
                f"there is no text in {path}",
                code="CORPUS-EMPTY",
                allowed="files that end in " + ", ".join(ENDINGS),
                fix="check the path",
            )
        found += files
    return list(dict.fromkeys(file.resolve() for file in found))


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of one file, of which none and whose sum is not too long."""
    total = 0
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as handle:
            while line := handle.readline(LINE_LIMIT + 1):
                total += len(line)
                if len(line) > LINE_LIMIT or total > TEXT_LIMIT:
                    raise ResourceLimit(
                        f"{path} holds too much text",
                        code="CORPUS-SIZE",
                        allowed=f"{LINE_LIMIT} bytes a line, {TEXT_LIMIT} bytes a file",
                        fix="split it",
                    )
                yield line.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputRejected(
            f"cannot read {path}", code="CORPUS-READ", got=str(error), fix="check the path"
        ) from error


def _row_text(line: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise InputRejected(
            f"{path}, line {number}: no text",
            code="CORPUS-ROW",
            got=line[:80],
            allowed='one JSON object a line with a string "text"',
            fix="mend that line",
        )
    return text


def read_paragraphs(files: Sequence[Path]) -> Iterator[str]:
    """Yield the paragraphs (separated by empty lines) of all files, in order.

    Args:
        files: plain text, or JSON lines whose ``text`` is read.

    Raises:
        InputRejected: ``CORPUS-READ``, not UTF-8 or a damaged file; ``CORPUS-ROW``.
        ResourceLimit: ``CORPUS-SIZE``.
    """
    for path in files:
        texts: Iterator[str]
        if ".jsonl" in path.name:
            texts = (_row_text(line, path, n) for n, line in enumerate(_lines(path), 1))
        else:
            texts = iter(["".join(_lines(path))])
        for text in texts:
            lines = text.replace("\r\n", "\n")
            yield from (part for part in lines.split("\n\n") if part.strip())


def encode(
    files: Sequence[Path], tokenizer: Tokenizer, cache: Path, paragraph: int | None = None
) -> Tokens:
    """Return all text as one flat array of token numbers.

    Args:
        files: text to encode.
        tokenizer: trained before; it adds no special tokens here.
        paragraph: token to put at the end of each paragraph; None for nothing.
        cache: folder for the array; its file is named after a hash of texts and tokenizer.

    Returns:
        (n,) uint16, or uint32 above 65,536 pieces; mapped from disk, read-only.
    """
    sha = hashlib.sha256(f"{paragraph} {tokenizer.to_str()}".encode())
    for file in files:
        sha.update(sha256_file(file).encode())
    path = cache / f"tokens-{sha.hexdigest()[:16]}.npy"
    if not path.is_file():
        kind = np.uint16 if tokenizer.get_vocab_size() <= 65_536 else np.uint32
        parts = [np.zeros(0, dtype=kind)]
        end = [] if paragraph is None else [paragraph]
        paragraphs = read_paragraphs(files)
        while texts := list(islice(paragraphs, 1_000)):
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            parts += [np.asarray(one.ids + end, dtype=kind) for one in encoded]
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(parts), allow_pickle=False)
        write_atomic(path, buffer.getvalue())
    tokens: Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    return tokens
