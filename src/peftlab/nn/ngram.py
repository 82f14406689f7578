"""A Kneser-Ney n-gram language model of words, small enough to need no download.

Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1999) with one discount per order:

    p_k(w | h) = max(a(h w) - D_k, 0) / a(h .) + D_k N1+(h .) / a(h .) * p_{k-1}(w | h')

where ``h'`` is ``h`` without its first word, ``N1+`` counts distinct continuations, ``a`` is the
plain count at the highest order and for n-grams that begin a sentence, and else the number of
distinct words seen before the n-gram. Below the unigrams lies the uniform distribution.

Words seen fewer than ``min_count`` times form the class ``<unk>``. Its probability is shared
evenly among the rare types of the training texts and one more for everything never seen, so an
unseen word is *improbable*; without the share ``<unk>`` would be among the likeliest of words.

All n-grams live in one sorted array per order, keyed by (index of the prefix, last word): look-ups
of whole texts are vectorised, and nothing depends on the order of a hash table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.types import Floats, Ints

FORMAT = "peftlab.ngram/1"
FIELDS = {"format", "order", "rare_types", "words", "tokens", "lengths"}
START, END, UNKNOWN, FIRST_WORD = 0, 1, 2, 3
PAD = -1
FALLBACK_DISCOUNT = 0.5  # ours: when a set is too small to estimate n1 / (n1 + 2 n2)
MAX_ORDER = 8
MAX_COUNT = 1 << 40


@dataclass(frozen=True, slots=True)
class _Level:
    """All n-grams of one order k >= 2, with what their contexts (order k - 1) add up to."""

    keys: Ints  # sorted: index of prefix * vocabulary + last word
    counts: Floats  # a(h w), per n-gram
    totals: Floats  # a(h .), per context
    types: Floats  # N1+(h .), per context
    discount: float


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
        self._size = FIRST_WORD + len(words)
        corpus, left = _corpus(self._tokens, self._lengths)
        self._unigram, self._levels = _count(corpus, left, order, self._size)

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
        prob: Floats = self._unigram[np.maximum(rows, 0)]
        index = rows
        for width, level in enumerate(self._levels, start=1):
            context, word = index[:, :-1], rows[:, width:]
            index = _find(level.keys, context, word, self._size)
            total = np.where(context >= 0, level.totals[context], 0.0)
            count = np.where(index >= 0, level.counts[index], 0.0)
            shorter = prob[:, width:]
            kept = np.maximum(count - level.discount, 0.0)
            spread = level.discount * level.types[context] * shorter
            mixed = (kept + spread) / np.where(total > 0, total, 1.0)
            prob[:, width:] = np.where(total > 0, mixed, shorter)
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


def _count(corpus: Ints, left: Ints, order: int, size: int) -> tuple[Floats, list[_Level]]:
    """Return the unigram probabilities and the levels 2 .. order."""
    index = corpus
    raw = np.bincount(corpus, minlength=size).astype(np.float64)
    begins = np.zeros(size, dtype=bool)  # whether an n-gram begins a sentence
    begins[START] = True
    tables: list[tuple[Ints, Floats, int]] = []  # keys, a, how many contexts
    unigram: Floats | None = None
    keys = np.arange(size)
    for width in range(2, min(order, int(left.max())) + 1):  # no longer than the longest sentence
        here = np.flatnonzero(left >= width)
        longer_key = index[here] * size + corpus[here + width - 1]
        longer, first, inverse, count = np.unique(
            longer_key, return_index=True, return_inverse=True, return_counts=True
        )
        preceded = np.bincount(index[here[first] + 1], minlength=len(keys)).astype(np.float64)
        adjusted = np.where(begins, raw, preceded)
        if width == 2:
            unigram = _unigram(adjusted)
            contexts = size
        else:
            tables.append((keys, adjusted, contexts))
            contexts = len(keys)
        begins = begins[longer // size]
        keys, raw = longer, count.astype(np.float64)
        index = np.full(len(corpus), PAD, dtype=np.int64)
        index[here] = inverse
    tables.append((keys, raw, contexts))
    assert unigram is not None  # order >= 2, so the loop ran
    return unigram, [_level(keys, counts, size, contexts) for keys, counts, contexts in tables]


def _unigram(adjusted: Floats) -> Floats:
    """Return the unigram probabilities, mixed with the uniform ones; START is never predicted."""
    counts = adjusted.copy()
    counts[START] = 0.0
    discount = _discount(counts)
    uniform = 1.0 / (len(counts) - 1)
    spread = discount * np.count_nonzero(counts) * uniform
    prob: Floats = (np.maximum(counts - discount, 0.0) + spread) / counts.sum()
    prob[START] = 0.0
    return prob


def _level(keys: Ints, counts: Floats, size: int, contexts: int) -> _Level:
    prefix = keys // size
    totals = np.bincount(prefix, weights=counts, minlength=contexts)
    types = np.bincount(prefix, minlength=contexts).astype(np.float64)
    return _Level(keys, counts, totals.astype(np.float64), types, _discount(counts))


def _discount(counts: Floats) -> float:
    """Return n1 / (n1 + 2 n2), which Ney et al. derive by leaving one out."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return once / (once + 2 * twice) if once and twice else FALLBACK_DISCOUNT


def _find(keys: Ints, context: Ints, word: Ints, size: int) -> Ints:
    """Return the index of each n-gram (context, word), or -1 where it was never seen."""
    wanted = context * size + word
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    seen = (keys[place] == wanted) & (context >= 0) & (word >= 0)
    return np.where(seen, place, -1)


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
