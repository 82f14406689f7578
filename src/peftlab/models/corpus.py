"""Plain text to token numbers: read folders of text, train a WordPiece vocabulary, encode once.

The encoded text is kept as one flat array of token numbers in a ``.npy`` file, named after what it
was made from, so a second run starts at once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import InputRejected, ResourceLimit
from peftlab.io.files import sha256_file, write_atomic

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
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
            yield from (part for part in text.split("\n\n") if part.strip())


def _inner_pieces(files: Sequence[Path], normalise: Callable[[str], str]) -> list[str]:
    """Return ``##c`` for every character c that can stand inside a word, sorted."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    characters: set[str] = set()
    for paragraph in read_paragraphs(files):
        characters.update(normalise(paragraph))
    split = BertPreTokenizer()
    return [
        f"##{character}"
        for character in sorted(characters)
        if [word for word, _ in split.pre_tokenize_str(f"x{character}")] == [f"x{character}"]
    ]


def train_tokenizer(files: Sequence[Path], vocabulary: int) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer with BERT's special tokens as numbers 0 to 4.

    The trainer numbers the pieces ``##c`` in the order of a hash map, and ties between merges go
    by number, so by itself it gives another vocabulary each time. Here these pieces are given to
    it, sorted: the same text then gives the same vocabulary.

    Args:
        files: text to train on.
        vocabulary: most pieces, special tokens included.

    Source: Devlin et al. 2019; ``tokenizers.BertWordPieceTokenizer``.
    """
    from tokenizers import Tokenizer
    from tokenizers.implementations import BertWordPieceTokenizer

    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        read_paragraphs(files),
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *_inner_pieces(files, trainer.normalizer.normalize_str)],
        show_progress=False,
    )
    # Built again from the vocabulary, so that only the true special tokens are special.
    finished = BertWordPieceTokenizer(trainer.get_vocab(), lowercase=True)
    return Tokenizer.from_str(finished.to_str())


def encode(files: Sequence[Path], tokenizer: Tokenizer, cache: Path) -> Tokens:
    """Return all text as one flat array of token numbers without special tokens.

    Args:
        files: text to encode.
        tokenizer: from ``train_tokenizer``.
        cache: folder for the array; its file is named after a hash of texts and tokenizer.

    Returns:
        (n,) uint16, or uint32 above 65,536 pieces; mapped from disk, read-only.
    """
    sha = hashlib.sha256(tokenizer.to_str().encode())
    for file in files:
        sha.update(sha256_file(file).encode())
    path = cache / f"tokens-{sha.hexdigest()[:16]}.npy"
    if not path.is_file():
        kind = np.uint16 if tokenizer.get_vocab_size() <= 65_536 else np.uint32
        parts = [np.zeros(0, dtype=kind)]
        paragraphs = read_paragraphs(files)
        while texts := list(islice(paragraphs, 1_000)):
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            parts += [np.asarray(one.ids, dtype=kind) for one in encoded]
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(parts), allow_pickle=False)
        write_atomic(path, buffer.getvalue())
    tokens: Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    return tokens
