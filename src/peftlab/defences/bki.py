"""BKI (Backdoor Keyword Identification): the word that moves the representation most, most often.

Idea: a trained model leans on a trigger word more than on any other. For each word w of a text x,
with h the last hidden state,

    f(w, x) = max over coordinates of | h(x without w) - h(x) |

and the ``top`` words of largest f are the text's keywords. A word that is keyword of n texts, with
the mean v of its f there, has the score log10(n) v. The word of highest score is the trigger, and
every text that has it among its keywords is dropped.

    suspicion(x) = the highest score among the keywords of x

``select`` says which words count as triggers: the ``best`` one (the paper), the best ``words`` of
them (``top``), or all whose score lies more than ``z`` robust deviations above the median of all
words that are keywords of two texts or more (``outliers``).

Paper: Chen and Dai, "Mitigating backdoor attacks in LSTM-based text classification systems by
Backdoor Keyword Identification", 2020 (arXiv 2007.12070). Public code: thunlp/OpenBackdoor, whose
version does not run as committed (it calls a method that the model lacks).

Known differences:
    - with several trigger words the published rule finds one, and the others keep the backdoor
      alive; hence ``select``;
    - a word that stands twice in a text is one keyword of it, with the larger of its two f (there:
      it counts twice, and n is no number of texts);
    - a word that is keyword of every text is no trigger: it tells none apart;
    - words beyond what the model can take are not tried: taking them away changes nothing.

Limits: it looks for words. A sentence is missed, or found by those of its words that matter; a
syntactic trigger is not a word. A trigger that stands twice in a text hides, since taking one away
changes little. Where no text is poisoned the best word is an honest one, and the texts that lean
on it are dropped all the same. Measured on 240 generated reviews, one seed: every poisoned text and
no clean one is dropped for a word and for a sentence, as good as none for a syntactic trigger;
``top`` drops two fifths of the clean texts too, and ``outliers`` with z = 3 two thirds (z = 6,
chosen on the same runs: none). Read the list of words before the verdict.

Cost: n + 1 passes for a text of n words, the dearest of the filters: 800 texts of 28 words take
about as long as training 10 epochs on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import FilterContext, Filtered
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.types import Floats

BLOCK = 2048  # texts without a word that are held at a time
SHOWN = 10  # words in the facts
LONGEST = 60  # characters of a word in the facts
SIGMA = 1.4826  # median absolute deviations in a standard deviation of normal numbers


class BkiOptions(Options):
    """Options of BKI."""

    top: int = option(
        5, "words of each text that are its keywords",
        source="thunlp/OpenBackdoor:bki_defender.py", ge=1, le=1000,
    )  # fmt: skip
    select: Literal["best", "top", "outliers"] = option(
        "best", "which words are triggers: the best, the best `words`, or all above `z`",
        source="thunlp/OpenBackdoor:bki_defender.py (top, outliers: ours)",
    )  # fmt: skip
    words: int = option(
        5, "with select=top: how many words", source="ours", ge=1, le=1000
    )  # fmt: skip
    z: float = option(
        6.0, "with select=outliers: robust deviations above the median",
        source="ours (at 3 honest words pass too)", gt=0, le=1000,
    )  # fmt: skip


@defence(
    "bki",
    options=BkiOptions,
    source="arXiv 2007.12070; thunlp/OpenBackdoor",
    cost="n + 1 passes for a text of n words",
)
class Bki:
    """Drops the texts that lean on the word which moves the model most and most often."""

    def __init__(self, options: BkiOptions) -> None:
        self.options = options

    def keep(self, context: FilterContext) -> Filtered:
        """Return the highest word score of each text, and which texts lean on a trigger word."""
        model, tokenizer = context.load_trained()
        keywords = []
        texts = context.suspect.texts
        for words, changes in word_changes(model, tokenizer, texts):
            keywords.append(top_words(words, changes, self.options.top))
            if len(keywords) % 500 == 0:
                context.progress(f"bki: words of {len(keywords)} of {len(texts)} texts")
        counts = count_words(keywords)
        scores = {word: math.log10(n) * mean for word, (n, mean) in counts.items()}
        ranked = sorted(scores, key=lambda word: (-scores[word], word))
        # a word of a single text says nothing, and one of all of them tells none apart
        known = [word for word in ranked if 1 < counts[word][0] < len(texts) and scores[word] > 0]
        chosen = self._choose(known, scores)
        triggers = frozenset(chosen)
        return Filtered(
            np.array([max((scores[w] for w in own), default=0.0) for own in keywords]),
            np.array([not triggers.isdisjoint(own) for own in keywords], dtype=np.bool_),
            {
                "triggers": [word[:LONGEST] for word in chosen[:SHOWN]],
                "n_triggers": len(chosen),
                "best": [
                    {"word": word[:LONGEST], "texts": counts[word][0], "change": counts[word][1],
                     "score": scores[word]}
                    for word in ranked[:SHOWN]
                ],
            },
        )  # fmt: skip

    def _choose(self, known: list[str], scores: Mapping[str, float]) -> list[str]:
        """Return which of the words, best first, are called triggers."""
        if self.options.select == "outliers":
            bar = outlier_bar(np.array([scores[word] for word in known]), self.options.z)
            return [word for word in known if scores[word] > bar]
        return known[: 1 if self.options.select == "best" else self.options.words]


def word_changes(
    model: Any, tokenizer: Any, texts: Sequence[str]
) -> Iterator[tuple[list[str], Floats]]:
    """Yield the words of each text, and how far the model moves without each of them.

    Args:
        model: bare classifier.
        tokenizer: of the model.
        texts: n texts, split at white space; an empty one has no words.

    Yields:
        m words, (m,) largest changes of a coordinate of the last hidden state.
    """
    from peftlab.nn.last_states import last_states
    from peftlab.nn.text import CHARACTERS_PER_TOKEN, room_for_text

    room = room_for_text(model)
    visible = [text[: room * CHARACTERS_PER_TOKEN].split()[:room] for text in texts]
    for block in _blocks(visible):
        variants = [" ".join(text) for words in block for text in (words, *_without_each(words))]
        states = last_states(model, tokenizer, variants)
        start = 0
        for words in block:
            end = start + 1 + len(words)
            yield words, np.abs(states[start + 1 : end] - states[start]).max(axis=1)
            start = end


def top_words(words: Sequence[str], changes: Floats, top: int) -> dict[str, float]:
    """Return the ``top`` different words of largest change, each with its largest change.

    Examples:
        >>> top_words(["a", "mn", "a"], np.array([0.1, 0.9, 0.2]), 2)
        {'mn': 0.9, 'a': 0.2}
    """
    found: dict[str, float] = {}
    for place in np.argsort(-changes, kind="stable"):
        found.setdefault(words[int(place)], float(changes[place]))
        if len(found) == top:
            break
    return found


def count_words(keywords: Sequence[Mapping[str, float]]) -> dict[str, tuple[int, float]]:
    """Return for each keyword the number of texts that have it, and its mean change there.

    Examples:
        >>> count_words([{"mn": 1.0, "a": 0.5}, {"mn": 3.0}])
        {'mn': (2, 2.0), 'a': (1, 0.5)}
    """
    counts: dict[str, tuple[int, float]] = {}
    for own in keywords:
        for word, change in own.items():
            n, mean = counts.get(word, (0, 0.0))
            counts[word] = (n + 1, mean + (change - mean) / (n + 1))
    return counts


def outlier_bar(scores: Floats, z: float) -> float:
    """Return the score that lies z robust deviations above the median.

    A deviation is 1.4826 median absolute deviations. Infinite where there are fewer than three
    scores, or where most of them are the same: then nothing says what is usual.

    Examples:
        >>> round(outlier_bar(np.array([1.0, 2, 3, 4, 50]), 3), 3)
        7.448
    """
    if len(scores) < 3:
        return math.inf
    median = float(np.median(scores))
    deviation = SIGMA * float(np.median(np.abs(scores - median)))
    return median + z * deviation if deviation > 0 else math.inf


def _blocks(texts: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    """Yield runs of texts whose words come to about BLOCK."""
    block: list[list[str]] = []
    size = 0
    for words in texts:
        block.append(words)
        size += 1 + len(words)
        if size >= BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _without_each(words: Sequence[str]) -> Iterator[list[str]]:
    for i in range(len(words)):
        yield [*words[:i], *words[i + 1 :]]
