"""A Kneser-Ney n-gram language model of words, small enough to need no download.

The counts and their smoothing are those of ``nn.kneser_ney``; here is what words add to them.

Words seen fewer than ``min_count`` times form the class ``<unk>``. Its probability is shared
evenly among the rare types of the training texts and one more for everything never seen, so an
unseen word is *improbable*; without the share ``<unk>`` would be among the likeliest of words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.types import Floats, Ints
from peftlab.nn.kneser_ney import PAD, START, Tables

FORMAT = "peftlab.ngram/1"
FIELDS = {"format", "order", "rare_types", "words", "tokens", "lengths"}
END, UNKNOWN, FIRST_WORD = START + 1, START + 2, START + 3
MAX_ORDER = 8
MAX_COUNT = 1 << 40


class KneserNey:
    """Interpolated Kneser-Ney model of lower-cased, whitespace-separated words.

    Make one with ``train``; the constructor takes texts that are numbers already.

    Args:
        words: the known words, sorted; word i has the number ``FIRST_WORD + i``.
        tokens: words of all sentences, end to end, as numbers.
        lengths: how many words each sentence has, at least 1.
        rare_types: how many distinct training words are not among the known ones.
        order: longest n-gram, 2 to 8.

    Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling",
    Computer Speech and Language 13 (1999), section 4.1.6.

    Examples:
        >>> model = KneserNey.train(["a fine film", "a fine cast", "a dull film"], order=3)
        >>> model.perplexity("a fine film") < model.perplexity("film fine a")
        True
    """

    def __init__(
        self,
        *,
        words: Sequence[str],
        tokens: Sequence[int],
        lengths: Sequence[int],
        rare_types: int,
        order: int,
    ) -> None:
        self.order = order
        self.words = tuple(words)
        self.rare_types = rare_types
        self._tokens, self._lengths = list(tokens), list(lengths)
        self._ids = {word: FIRST_WORD + i for i, word in enumerate(words)}
        corpus, left = _corpus(self._tokens, self._lengths)
        self._tables = Tables.count(corpus, left, order, FIRST_WORD + len(words))

    @classmethod
    def train(cls, texts: Sequence[str], order: int = 5, min_count: int = 2) -> KneserNey:
        """Return the model of some texts.

        Args:
            texts: training texts; those without words are left out.
            order: longest n-gram, 2 to 8.
            min_count: words seen fewer times than this are ``<unk>``.

        Raises:
            ConfigError: ``NGRAM-EMPTY`` if no text has a word; ``NGRAM-ORDER`` for a wrong order.
        """
        if not 2 <= order <= MAX_ORDER:
            raise ConfigError(
                "the order of the language model is out of range",
                code="NGRAM-ORDER",
                got=order,
                allowed=f"2 to {MAX_ORDER}",
                fix="choose an order such as 5",
            )
        sentences = [words for words in map(words_of, texts) if words]
        if not sentences:
            raise ConfigError(
                "there is no word to train the language model on",
                code="NGRAM-EMPTY",
                got=f"{len(texts)} texts",
                fix="pass clean texts that have words",
            )
        counts = Counter(word for words in sentences for word in words)
        known = sorted(word for word, count in counts.items() if count >= min_count)
        ids = {word: FIRST_WORD + i for i, word in enumerate(known)}
        return cls(
            words=known,
            tokens=[ids.get(word, UNKNOWN) for words in sentences for word in words],
            lengths=[len(words) for words in sentences],
            rare_types=len(counts) - len(known),
            order=order,
        )

    def log_probs(self, words: Sequence[str]) -> Floats:
        """Return the natural log of the probability of each word and of the end of the sentence.

        Args:
            words: n words; lower-cased as in training.

        Returns:
            (n + 1,) log-probabilities; the last is that of the end.
        """
        return self._log_probs(self._encode(words)[None, :])[0, 1:]

    def perplexity(self, text: str) -> float:
        """Return exp of the mean negative log-probability over all words and the end.

        Finite and above zero for every text, the empty one included.
        """
        return float(np.exp(-self.log_probs(words_of(text)).mean()))

    def leave_one_out(self, words: Sequence[str]) -> tuple[float, Floats]:
        """Return the perplexity of the whole and the perplexities without each one word.

        Deleting word i changes the probabilities of at most ``order - 1`` words after it; only
        those are computed again.

        Args:
            words: n words.

        Returns:
            The perplexity of all n words, and (n,) perplexities of the n - 1 others.
        """
        tokens = self._encode(words)
        count = len(words)
        logs = self._log_probs(tokens[None, :])[0]
        whole = float(np.exp(-logs[1:].mean()))
        if count == 0:
            return whole, np.zeros(0)
        reach = self.order - 1
        deleted = np.arange(1, count + 1)[:, None]
        around = np.concatenate([np.arange(-reach, 0), np.arange(1, reach + 1)])
        windows = _gather(tokens, deleted + around, PAD)
        after = self._log_probs(windows)[:, reach:].sum(axis=1)
        before = _gather(logs, deleted + np.arange(reach + 1), 0.0).sum(axis=1)
        return whole, np.exp(-(logs.sum() - before + after) / count)

    def state(self) -> dict[str, Any]:
        """Return all that ``from_state`` needs, JSON-able.

        It holds the training texts as word numbers, from which the counts are built again: the
        shortest form, and no more revealing than the counts themselves. Treat a saved model as
        you treat the texts that it was trained on.
        """
        return {
            "format": FORMAT,
            "order": self.order,
            "rare_types": self.rare_types,
            "words": list(self.words),
            "tokens": self._tokens,
            "lengths": self._lengths,
        }

    @classmethod
    def from_state(cls, state: object) -> KneserNey:
        """Build the model that ``state`` describes; bit-equal to the one that was saved.

        Raises:
            InputRejected: ``NGRAM-STATE`` if the state is not one of ours or contradicts itself.
        """
        if not isinstance(state, dict) or not _is_sound(state):
            raise InputRejected(
                "the saved language model is not sound",
                code="NGRAM-STATE",
                allowed=f"format {FORMAT!r}, fields that agree with each other",
                fix="fit the defence again",
            )
        return cls(**{key: value for key, value in state.items() if key != "format"})

    def _encode(self, words: Sequence[str]) -> Ints:
        inner = [self._ids.get(word.lower(), UNKNOWN) for word in words]
        return np.array([START, *inner, END], dtype=np.int64)

    def _log_probs(self, rows: Ints) -> Floats:
        """Return (r, L) log-probabilities of the tokens of r sequences; 0 at PAD and START.

        A PAD to the left only shortens the context, as the beginning of the array does.
        """
        prob = self._tables.probabilities(rows)
        prob[rows == UNKNOWN] /= self.rare_types + 1
        return np.log(np.where(rows > START, prob, 1.0))


def words_of(text: str) -> list[str]:
    """Return the lower-cased words of a text, split at whitespace."""
    return text.lower().split()


def _corpus(tokens: Sequence[int], lengths: Sequence[int]) -> tuple[Ints, Ints]:
    """Return all sentences with their boundaries, end to end, and how many tokens each has left."""
    ends = np.cumsum(np.array(lengths, dtype=np.int64) + 2)
    starts = ends - np.array(lengths, dtype=np.int64) - 2
    corpus = np.empty(int(ends[-1]), dtype=np.int64)
    inside = np.ones(len(corpus), dtype=bool)
    inside[starts] = inside[ends - 1] = False
    corpus[starts], corpus[ends - 1] = START, END
    corpus[inside] = tokens
    left = np.repeat(ends, np.array(lengths) + 2) - np.arange(len(corpus))
    return corpus, left


def _gather(values: Any, places: Ints, outside: float) -> Any:
    """Return ``values`` at ``places``, and ``outside`` where there is none."""
    inside = (places >= 0) & (places < len(values))
    return np.where(inside, values[np.clip(places, 0, len(values) - 1)], outside).astype(
        values.dtype
    )


def _is_sound(state: dict[str, Any]) -> bool:
    words, tokens, lengths = state.get("words"), state.get("tokens"), state.get("lengths")
    return (
        set(state) == FIELDS
        and state["format"] == FORMAT
        and _is_int(state.get("order"), 2, MAX_ORDER)
        and _is_int(state.get("rare_types"), 0, MAX_COUNT)
        and isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and words == sorted(set(words))
        and isinstance(tokens, list)
        and all(_is_int(token, UNKNOWN, UNKNOWN + len(words)) for token in tokens)
        and isinstance(lengths, list)
        and all(_is_int(length, 1, len(tokens)) for length in lengths)
        and len(lengths) > 0
        and sum(lengths) == len(tokens)
    )


def _is_int(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
