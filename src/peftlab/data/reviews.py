"""A generated corpus of reviews: a classification task that needs no download and no licence.

Every text is drawn from a grammar of about ten topics, some 200 opinion words and sentence
patterns with negation ("far from dull"), contrast ("although ..., ..."), hedges, hearsay and
neutral clauses. The verdict clause decides the class; clauses of the opposite polarity stand only
where a contrast word marks them. So counting words gets most texts right and not all of them.

With two classes the label is the polarity of the verdict, with four its strength counts too. A
small share of labels is wrong on purpose, as human labels are, in every split. The proxy split is
for attackers who do not have the victim's data: the same task, but other topics and patterns.

Known difference from human text: the variety is that of a grammar. Results on this corpus are
synthetic and must be called so. Cost: under 0.1 s per 1000 texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from peftlab.core import hygiene
from peftlab.core.options import Options, option
from peftlab.core.registry import dataset
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.data import review_patterns as patterns
from peftlab.data import review_words as words

NAMES = {
    2: ("negative", "positive"),
    4: ("very negative", "negative", "positive", "very positive"),
}
MIN_WORDS, MAX_WORDS = 8, 45
# Shares of how an opinion is worded; ours, chosen so that counting words is right in 80 to 90 %.
SHARE_DENIED, SHARE_HEDGED, SHARE_BOOSTED, SHARE_TOPICAL = 0.2, 0.2, 0.25, 0.3
_ARTICLE = re.compile(r"\ba (?=[aeiou])(?!one|use|uni)")
_LISTS: dict[str, tuple[str, ...]] = {
    "who": words.WHO, "name": words.NAME, "place": words.PLACE, "day": words.DAY,
    "time": words.TIME, "number": words.NUMBER, "some": words.SOME, "colour": words.COLOUR,
    "noun": words.NOUN, "opener": words.OPENERS,
}  # fmt: skip


class ReviewOptions(Options):
    """Options of ``reviews``."""

    classes: Literal[2, 4] = option(2, "2: polarity; 4: polarity and strength", source="ours")
    n_train: int = option(2000, "training texts", source="ours", ge=20, le=50_000)
    n_dev: int = option(500, "development texts", source="ours", ge=20, le=20_000)
    n_test: int = option(800, "test texts", source="ours", ge=20, le=20_000)
    n_proxy: int = option(
        1000, "texts of the attacker's proxy set; 0: none", source="ours", ge=0, le=20_000
    )
    label_noise: float = option(
        0.02, "share of wrong labels in every split", source="ours", ge=0, le=0.5
    )
    seed: int = option(0, "seed of the corpus, independent of the run's seed", source="ours", ge=0)


class FourClassOptions(ReviewOptions):
    """Options of ``reviews-4``: those of ``reviews``, with four classes by default."""

    classes: Literal[2, 4] = option(4, "2: polarity; 4: polarity and strength", source="ours")


@dataclass(frozen=True, slots=True)
class _Voice:
    """Fills templates: a mapping from slot names to random phrases of one polarity."""

    rng: np.random.Generator
    topic: words.Topic
    style: patterns.Style
    polarity: int
    strong: bool

    def __getitem__(self, slot: str) -> str:
        if slot in _LISTS:
            return self.pick(_LISTS[slot])
        return str(getattr(self, f"_{slot}")())

    def pick(self, choices: Sequence[str]) -> str:
        return choices[int(self.rng.random() * len(choices))]

    def say(self, choices: Sequence[str]) -> str:
        """Return a random template, filled."""
        return self.pick(choices).format_map(self)

    def _turned(self, *, opposite: bool, strong: bool) -> _Voice:
        polarity = -self.polarity if opposite else self.polarity
        return _Voice(self.rng, self.topic, self.style, polarity, strong)

    # Clauses
    def _scene(self) -> str:
        return self.say(self.topic.scenes)

    def _tail(self) -> str:
        return self.say(self.style.tails)

    def _agree(self) -> str:
        # Mostly as strong as the verdict, so that strength can be learned but not counted.
        strong = self.strong if self.rng.random() < 0.75 else not self.strong
        return self._turned(opposite=False, strong=strong).say(self.style.clauses)

    def _against(self) -> str:
        voice = self._turned(opposite=True, strong=self.rng.random() < 0.25)
        return voice.say(self.style.clauses)

    def _rumour(self) -> str:
        voice = self._turned(opposite=True, strong=self.rng.random() < 0.5)
        return voice.say(self.style.rumours)

    def _verdict(self) -> str:
        return self.say(self.style.verdicts[self.polarity, self.strong])

    # Phrases
    def _item(self) -> str:
        return self.topic.item

    def _items(self) -> str:
        return self.topic.items

    def _part(self) -> str:
        return self.pick(self.topic.parts)

    def _was_part(self) -> str:
        if self.rng.random() < 0.6:
            return self.pick(self.topic.parts) + " was"
        return self.pick(self.topic.many) + " were"

    def _strong(self) -> str:
        return self.pick(words.STRONG[self.polarity])

    def _mild(self) -> str:
        return self._mild_of(self.polarity)

    def _mild_of(self, polarity: int) -> str:
        if self.rng.random() < SHARE_TOPICAL:
            return self.pick(self.topic.good if polarity > 0 else self.topic.bad)
        return self.pick(words.MILD[polarity])

    def _op(self) -> str:
        """Return an opinion that can follow "was"."""
        draw = self.rng.random()
        if self.strong:
            if draw < SHARE_BOOSTED:
                return f"{self.pick(words.BOOSTERS)} {self.pick(words.MILD[self.polarity])}"
            if draw < 2 * SHARE_BOOSTED:
                return f"{self.pick(words.TOTAL)} {self._strong()}"
            return self._strong()
        if draw < SHARE_DENIED:
            return f"{self.pick(words.DENIALS)} {self._mild_of(-self.polarity)}"
        if draw < SHARE_DENIED + SHARE_HEDGED:
            return f"{self.pick(words.HEDGES)} {self._mild()}"
        return self._mild()

    def _plenty(self) -> str:
        if self.rng.random() < SHARE_DENIED:
            return f"little {self.pick(words.GOODS[-self.polarity])}"
        return f"a great deal of {self.pick(words.GOODS[self.polarity])}"


def write_review(
    rng: np.random.Generator, *, polarity: int, strong: bool, proxy: bool = False
) -> str:
    """Return one review of 8 to 45 words (punctuation apart), in lower case, tokenised.

    Args:
        rng: where the choices come from.
        polarity: +1 or -1.
        strong: whether the verdict is a strong one.
        proxy: topics and patterns of the proxy domain.

    Examples:
        >>> text = write_review(stream(0, "demo"), polarity=1, strong=True)
        >>> 8 <= len(text.split()) and text == text.lower()
        True
    """
    topics = words.PROXY_TOPICS if proxy else words.TARGET_TOPICS
    style = patterns.PROXY if proxy else patterns.TARGET
    while True:
        topic = topics[int(rng.random() * len(topics))]
        text = _Voice(rng, topic, style, polarity, strong).say(style.shapes)
        text = _ARTICLE.sub("an ", text)
        if MIN_WORDS <= sum(word[0].isalnum() for word in text.split()) <= MAX_WORDS:
            return text


def _write_split(options: ReviewOptions, split: str, n: int, taken: set[str]) -> LabelledTexts:
    """Return n balanced reviews whose texts are not ``taken`` yet; adds them to ``taken``."""
    rng = stream(options.seed, "data/reviews", split)
    classes = options.classes
    texts: list[str] = []
    labels: list[int] = []
    while len(texts) < n:
        # Class by class in shuffled blocks, so that every prefix is balanced.
        for label in rng.permutation(classes).tolist()[: n - len(texts)]:
            polarity = +1 if label >= classes // 2 else -1
            strong = label in (0, 3) if classes == 4 else bool(rng.random() < 0.5)
            text = write_review(rng, polarity=polarity, strong=strong, proxy=split == "proxy")
            while hygiene.normalise(text) in taken:
                text = write_review(rng, polarity=polarity, strong=strong, proxy=split == "proxy")
            taken.add(hygiene.normalise(text))
            wrong = rng.random() < options.label_noise
            texts.append(text)
            labels.append((label + int(rng.integers(1, classes))) % classes if wrong else label)
    return LabelledTexts(tuple(texts), tuple(labels))


@dataset(
    "reviews",
    options=ReviewOptions,
    source="ours (generated)",
    licence="Apache-2.0",
    cost="under 0.1 s per 1000 texts",
)
class Reviews:
    """Generated reviews, positive or negative, with a proxy set of other topics."""

    def __init__(self, options: ReviewOptions) -> None:
        self.options = options

    def load(self, reference: str) -> TaskData:
        """Generate the corpus.

        Args:
            reference: kept as the task's name.

        Returns:
            The task; equal options give equal texts, and no text occurs twice.

        Examples:
            >>> data = Reviews(ReviewOptions(n_train=40, n_dev=20, n_test=20)).load("reviews")
            >>> len(data.train), data.label_names
            (40, ('negative', 'positive'))
        """
        options = self.options
        taken: set[str] = set()
        # Test first: it stays the same whatever the sizes of the other splits are.
        test = _write_split(options, "test", options.n_test, taken)
        dev = _write_split(options, "dev", options.n_dev, taken)
        train = _write_split(options, "train", options.n_train, taken)
        proxy = _write_split(options, "proxy", options.n_proxy, taken) if options.n_proxy else None
        return TaskData(
            name=reference,
            train=train,
            dev=dev,
            test=test,
            label_names=NAMES[options.classes],
            source="generated",
            licence="Apache-2.0",
            proxy=proxy,
            notes=(
                "synthetic: every text is generated",
                f"{options.label_noise:.1%} of the labels are wrong on purpose",
            ),
        )


@dataset(
    "reviews-4",
    options=FourClassOptions,
    source="ours (generated)",
    licence="Apache-2.0",
    cost="under 0.1 s per 1000 texts",
)
class FourClassReviews(Reviews):
    """Generated reviews in four classes, from very negative to very positive."""
