"""What attacks that rewrite texts by rules share: lists of words, draws, what gives them away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def word_set(words: str) -> frozenset[str]:
    """Return the words between spaces."""
    return frozenset(words.split())


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Return one of the choices, drawn uniformly."""
    return choices[int(rng.integers(len(choices)))]


def top_share(found: Sequence[Iterable[str]]) -> tuple[str, float]:
    """Return what most of the collections have, first in the alphabet, and the share that has it.

    Examples:
        >>> top_share([["b", "a"], ["a", "b", "b"], ["c"], []])
        ('a', 0.5)
        >>> top_share([])
        ('', 0.0)
    """
    counts = Counter(item for each in found for item in set(each))
    top, n = min(counts.items(), key=lambda entry: (-entry[1], entry[0]), default=("", 0))
    return top, n / len(found) if found else 0.0


def top_inserted(
    pairs: Iterable[tuple[str, str]], parts_of: Callable[[str], Iterable[str]]
) -> tuple[str, float]:
    """Return the part that most texts have more often than their originals, and its share.

    Args:
        pairs: (original, rewritten) texts.
        parts_of: cuts a text into tokens or bigrams.

    Examples:
        >>> top_inserted([("a b", "x a b"), ("a", "x a")], str.split)
        ('x', 1.0)
    """
    return top_share([
        list(Counter(parts_of(after)) - Counter(parts_of(before))) for before, after in pairs
    ])  # fmt: skip
