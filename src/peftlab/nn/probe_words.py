"""Words that are planted before anybody knows the task: put one into a text, find it again.

A task-agnostic attack has several trigger words, one of which is put into a text. Which one it was
must be found in the text alone, so a text that has one of the words already is passed over. Case
is no difference, because many tokenizers drop it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftlab.core.errors import NotApplicable
from peftlab.core.poisoning import insert_at_gap, trigger_words
from peftlab.core.types import Ints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEFORE = "a"  # a word in front, because byte-level tokenizers number the first word differently


def different_words(value: object, most: int) -> str:
    """Return trigger words between commas, all different.

    Args:
        value: as ``core.poisoning.trigger_words`` takes it.
        most: largest number of words.

    Raises:
        ValueError: no word, two alike, or too many (pydantic turns this into a message).

    Examples:
        >>> different_words(["cf", "mn"], most=6)
        'cf,mn'
    """
    words = trigger_words(value)
    parts = words.split(",")
    if len({part.casefold() for part in parts}) < len(parts):
        raise ValueError("two trigger words are the same; case is no difference")
    if len(parts) > most:
        raise ValueError(f"trigger must be at most {most} words")
    return words


class ProbeWords:
    """Trigger words of which one is put into a text.

    Args:
        words: the words, all different, no spaces in them.
        first: put the word before the text; otherwise at a gap drawn uniformly.

    Examples:
        >>> probes = ProbeWords(("cf", "mn"), first=True)
        >>> probes.put("so it goes", np.random.default_rng(0))
        'mn so it goes'
        >>> probes.numbers(["mn so it goes", "so it goes"]).tolist()
        [1, -1]
    """

    def __init__(self, words: Sequence[str], *, first: bool) -> None:
        self.words, self.first = tuple(words), first
        self._numbers = {word.casefold(): number for number, word in enumerate(self.words)}
        self._any = re.compile("|".join(_alone(word.casefold()) for word in self.words))

    def put(self, text: str, rng: np.random.Generator) -> str | None:
        """Return ``text`` with one of the words in it; None if it has one of its own."""
        word = self.words[int(rng.integers(len(self.words)))]
        if self._any.search(text.casefold()):
            return None
        if self.first:
            return f"{word} {text}" if text else word
        return insert_at_gap(text, word, rng)

    def numbers(self, texts: Sequence[str]) -> Ints:
        """Return for each text the number of its word, (n,); -1: none, or several."""
        return np.array([self._number(text) for text in texts], dtype=np.int64)

    def _number(self, text: str) -> int:
        words = text.casefold().split()
        if self.first:
            return self._numbers.get(words[0], -1) if words else -1
        found = {self._numbers[word] for word in words if word in self._numbers}
        return found.pop() if len(found) == 1 else -1

    def pieces(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Return the token numbers of each word, at the place in a text where it is put.

        Raises:
            NotApplicable: ``PROBE-UNKNOWN`` for a word that the tokenizer does not know: all such
                words look alike to the base; ``PROBE-TWICE`` when two words are the same tokens.
        """
        found = [_pieces(tokenizer, word, first=self.first) for word in self.words]
        special = set(tokenizer.all_special_ids)
        unknown = [
            word for word, ids in zip(self.words, found, strict=True) if not ids or special & {*ids}
        ]
        if unknown:
            raise NotApplicable(
                "the tokenizer of this base does not know a trigger word",
                code="PROBE-UNKNOWN", got=", ".join(unknown),
                allowed="words all of whose pieces are in the base's vocabulary",
                fix="set attack.options.trigger to such words; tokenizer.tokenize(word) shows the "
                "pieces",
            )  # fmt: skip
        if len({tuple(ids) for ids in found}) < len(found):
            raise NotApplicable(
                "two trigger words are the same tokens for this base",
                code="PROBE-TWICE", got=", ".join(self.words), fix="choose other words",
            )  # fmt: skip
        return found


def _alone(word: str) -> str:
    """Return a pattern for ``word`` that does not stand inside a longer word."""
    left = r"(?<!\w)" if re.match(r"\w", word) else ""
    right = r"(?!\w)" if re.search(r"\w\Z", word) else ""
    return f"{left}{re.escape(word)}{right}"


def _pieces(tokenizer: PreTrainedTokenizerBase, word: str, *, first: bool) -> list[int]:
    if first:
        return list(tokenizer(word, add_special_tokens=False)["input_ids"])
    before = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    return list(tokenizer(f"{BEFORE} {word}", add_special_tokens=False)["input_ids"][len(before) :])
