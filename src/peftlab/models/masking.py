"""Which tokens a masked language model must guess, and which windows of text it sees.

Of the ordinary tokens 15 % are chosen; of those 80 % become ``[MASK]``, 10 % a random token and
10 % stay (Devlin et al. 2019, 3.1). Everything is a function of (seed, step), so a resumed run
sees what an unbroken one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import InputRejected
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Ints


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking must know of a tokenizer whose special tokens have the lowest numbers.

    Attributes:
        size: number of tokens.
        mask, cls, sep: numbers of these special tokens.
        first_word: lowest number of an ordinary token.
    """

    size: int
    mask: int = 4
    cls: int = 2
    sep: int = 3
    first_word: int = 5


def mask_tokens(
    ids: Ints, vocabulary: Vocabulary, rng: np.random.Generator, *, rate: float = 0.15
) -> tuple[Ints, Bools]:
    """Choose tokens to guess and hide most of them.

    Args:
        ids: (batch, length) token numbers.
        vocabulary: special tokens are never chosen and never drawn.
        rng: source of the choices.
        rate: share of the ordinary tokens that is chosen.

    Returns:
        Inputs of the same shape, and flags of the chosen positions.
    """
    chosen = (rng.random(ids.shape) < rate) & (ids >= vocabulary.first_word)
    way = rng.random(ids.shape)
    words = rng.integers(vocabulary.first_word, vocabulary.size, ids.shape)
    inputs = np.where(chosen & (way < 0.8), vocabulary.mask, ids)
    inputs = np.where(chosen & (way >= 0.8) & (way < 0.9), words, inputs)
    return inputs, chosen


def hide_tokens(
    ids: Ints, vocabulary: Vocabulary, rng: np.random.Generator, *, rate: float = 0.15
) -> tuple[Ints, Bools]:
    """Choose tokens as ``mask_tokens`` does and mask them all: for measuring, not for training."""
    chosen = (rng.random(ids.shape) < rate) & (ids >= vocabulary.first_word)
    return np.where(chosen, vocabulary.mask, ids), chosen


@lru_cache(maxsize=2)
def _starts(seed: int, number: int, count: int, inner: int) -> Ints:
    """Return where the windows of pass ``number`` start, shuffled."""
    rng = stream(seed, "pretrain/order", number)
    offset = rng.integers(inner)
    starts = rng.permutation(count) * inner + offset
    starts.flags.writeable = False  # it is shared by the steps of a pass
    return starts


@dataclass(frozen=True)
class Windows:
    """Cuts a flat text into windows ``[CLS] ... [SEP]``, shuffled anew in each pass.

    Attributes:
        tokens: (n,) token numbers.
        vocabulary: for the special tokens.
        length: of a window, special tokens included.
        batch: windows a step.
        seed: of the order, and of where the cutting starts in each pass.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    vocabulary: Vocabulary
    length: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_pass < 1:
            raise InputRejected(
                "there is too little text for one batch",
                code="CORPUS-SMALL",
                got=f"{len(self.tokens)} tokens",
                allowed=f"at least {(self.batch + 1) * (self.length - 2)}",
                fix="give more text, a smaller batch or shorter windows",
            )

    @property
    def per_pass(self) -> int:
        """Return how many windows one pass over the text has, wherever the cutting starts."""
        inner = self.length - 2
        return max(0, (len(self.tokens) - inner + 1) // inner)

    @property
    def steps_per_pass(self) -> int:
        """Return how many full batches one pass has."""
        return self.per_pass // self.batch

    def cut(self, starts: Ints) -> Ints:
        """Return the windows that start at ``starts``, as (len(starts), length)."""
        rows = self.tokens[starts[:, None] + np.arange(self.length - 2)].astype(np.int64)
        edge = np.ones((len(rows), 1), dtype=np.int64)
        return np.hstack([edge * self.vocabulary.cls, rows, edge * self.vocabulary.sep])

    def batch_at(self, step: int) -> Ints:
        """Return the (batch, length) token numbers of one step, counted from 0."""
        number, place = divmod(step, self.steps_per_pass)
        starts = _starts(self.seed, number, self.per_pass, self.length - 2)
        return self.cut(starts[place * self.batch : (place + 1) * self.batch])

    def sample(self, count: int) -> Ints:
        """Return ``count`` windows from random places, for measuring."""
        rng = stream(self.seed, "pretrain/sample")
        return self.cut(rng.integers(0, len(self.tokens) - self.length + 3, count))
