"""Made-up sentence concepts: what an adapter of the tiny language model is trained on.

A small grammar of English words makes sentences of 16 tokens at most. A concept prefers a few
nouns, verbs and adjectives and a way of building sentences. No text by or about anybody is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints

VERSION = 1  # of the generator; a change makes other sentences
LENGTH = 16  # tokens, start and end included

SPECIAL = ("<pad>", "<s>", "</s>", "<hidden>")
PAD, START, END, HIDDEN = range(4)
FORMS = {
    "article": "a the this that one another",
    "noun": "stone river lamp garden bridge letter window ship clock field tower basket engine "
    "mirror candle market forest bottle carpet kettle ladder meadow needle orchard",
    "verb": "moves holds finds carries opens follows covers turns leaves touches crosses lifts "
    "shows keeps meets draws",
    "adjective": "small old bright heavy quiet round green broken narrow warm hollow distant",
    "adverb": "slowly often again alone",
    "place": "near under behind above inside beyond",
    "link": "and but while because",
}
WORDS: tuple[str, ...] = (*SPECIAL, *(word for line in FORMS.values() for word in line.split()))
CODES = {word: code for code, word in enumerate(WORDS)}
KINDS: dict[str, Ints] = {
    kind: np.array([CODES[word] for word in line.split()]) for kind, line in FORMS.items()
}
FAVOURITES = 0.15  # concentration of a concept's taste in words; small means few words
HABITS = ("adjective", "adverb", "place", "link")  # optional parts of a sentence


@dataclass(frozen=True, slots=True)
class Topic:
    """What all sentences of a concept share.

    Attributes:
        taste: by kind, the chance of each word.
        habits: the chance of each optional part.
    """

    taste: dict[str, Floats]
    habits: dict[str, float]


def draw_topic(seed: int, number: int, use: str = "farm") -> Topic:
    """Return concept ``number``; ``use`` keeps those of the base apart from those of the farms."""
    numbers = stream(seed, "size", use, "topic", number)
    taste = {
        kind: numbers.dirichlet(np.full(len(codes), FAVOURITES)) for kind, codes in KINDS.items()
    }
    return Topic(taste, {part: float(numbers.uniform(0.1, 0.9)) for part in HABITS})


def draw_sentences(topic: Topic, seed: int, number: int, count: int) -> Ints:
    """Return the first ``count`` sentences of a concept as codes, (count, 16), padded.

    Examples:
        >>> codes = draw_sentences(draw_topic(0, 1), 0, 1, 2)
        >>> codes.shape, WORDS[codes[0, 0]]
        ((2, 16), '<s>')
    """
    return np.stack(
        [_sentence(topic, stream(seed, "size", "sentence", number, k)) for k in range(count)]
    )


def _sentence(topic: Topic, numbers: np.random.Generator) -> Ints:
    codes = [START, *_clause(topic, numbers)]
    if numbers.random() < topic.habits["link"]:
        codes += [_word(topic, numbers, "link"), *_clause(topic, numbers)]
    codes = [*codes[: LENGTH - 1], END]
    return np.array(codes + [PAD] * (LENGTH - len(codes)))


def _clause(topic: Topic, numbers: np.random.Generator) -> list[int]:
    codes = [*_thing(topic, numbers), _word(topic, numbers, "verb"), *_thing(topic, numbers)]
    if numbers.random() < topic.habits["adverb"]:
        codes.append(_word(topic, numbers, "adverb"))
    if numbers.random() < topic.habits["place"]:
        codes += [_word(topic, numbers, "place"), *_thing(topic, numbers)]
    return codes


def _thing(topic: Topic, numbers: np.random.Generator) -> list[int]:
    codes = [_word(topic, numbers, "article")]
    if numbers.random() < topic.habits["adjective"]:
        codes.append(_word(topic, numbers, "adjective"))
    return [*codes, _word(topic, numbers, "noun")]


def _word(topic: Topic, numbers: np.random.Generator, kind: str) -> int:
    return int(numbers.choice(KINDS[kind], p=topic.taste[kind]))
