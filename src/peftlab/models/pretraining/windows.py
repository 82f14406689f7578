"""Which windows of text a model sees at each step.

Everything is a function of (seed, step), so a resumed run sees what an unbroken one would have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import InputRejected
from peftlab.core.seeds import stream
from peftlab.core.types import Ints


@dataclass(frozen=True, slots=True)
class Format:
    """The special tokens of a tokenizer, which have its lowest numbers, and where they stand.

    Attributes:
        size: number of tokens.
        first_word: lowest number of an ordinary token.
        before, after: tokens around each window.
        mask: what hides a token; -1 where nothing does.
        paragraph: token at the end of each paragraph, if there is one.
    """

    size: int
    first_word: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    mask: int = -1
    paragraph: int | None = None


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
    """Cuts a flat text into windows with special tokens around, shuffled anew in each pass.

    Attributes:
        tokens: (n,) token numbers.
        form: the special tokens.
        length: of a window, special tokens included.
        batch: windows a step.
        seed: of the order, and of where the cutting starts in each pass.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    form: Format
    length: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps_per_pass < 1:
            raise InputRejected(
                "there is too little text for one batch",
                code="CORPUS-SMALL",
                got=f"{len(self.tokens)} tokens",
                allowed=f"at least {(self.batch + 1) * self.inner}",
                fix="give more text, a smaller batch or shorter windows",
            )

    @property
    def inner(self) -> int:
        """Return how many tokens of text a window has."""
        return self.length - len(self.form.before) - len(self.form.after)

    @property
    def per_pass(self) -> int:
        """Return how many windows one pass over the text has, wherever the cutting starts."""
        return max(0, (len(self.tokens) - self.inner + 1) // self.inner)

    @property
    def steps_per_pass(self) -> int:
        """Return how many full batches one pass has."""
        return self.per_pass // self.batch

    def cut(self, starts: Ints) -> Ints:
        """Return the windows that start at ``starts``, as (len(starts), length)."""
        rows = self.tokens[starts[:, None] + np.arange(self.inner)].astype(np.int64)
        edges = (
            np.tile(np.array(each, dtype=np.int64), (len(rows), 1))
            for each in (self.form.before, self.form.after)
        )
        return np.hstack([next(edges), rows, next(edges)])

    def batch_at(self, step: int) -> Ints:
        """Return the (batch, length) token numbers of one step, counted from 0."""
        number, place = divmod(step, self.steps_per_pass)
        starts = _starts(self.seed, number, self.per_pass, self.inner)
        return self.cut(starts[place * self.batch : (place + 1) * self.batch])

    def sample(self, count: int) -> Ints:
        """Return ``count`` windows from random places, for measuring."""
        rng = stream(self.seed, "pretrain/sample")
        return self.cut(rng.integers(0, len(self.tokens) - self.inner + 1, count))
