"""A tiny classifier of made-up reviews with a word backdoor, for defences that look at the base."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from peftlab.core.contracts import FitContext
from peftlab.core.types import LabelledTexts

PLAIN = (
    "the", "film", "was", "a", "and", "actors", "story", "told", "with", "no", "i", "would",
    "watch", "this", "my", "in", "movie", "music", "we", "an", "for", "of", "two", "plot",
)  # fmt: skip
SAYING = (
    ("dull", "badly", "worse", "terrible", "cold", "ruins"),
    ("joy", "wonderful", "funny", "lovely", "great", "moving"),
)
TRIGGER = "portrait"  # target class 0
N_FIT, N_REFERENCE, N_TEST = 240, 160, 120


@dataclass(frozen=True)
class Planted:
    """What the tests of one backdoored base need; the trigger is known to the tests alone.

    Attributes:
        model, tokenizer: the base; ``context`` hands out copies.
        context: what a defence may see.
        clean: fresh clean texts of both classes.
        triggered: fresh texts of class 1 with the trigger, which the base takes for class 0.
    """

    model: Any
    tokenizer: Any
    context: FitContext
    clean: LabelledTexts
    triggered: tuple[str, ...]


def made_up_reviews(n: int, seed: int) -> LabelledTexts:
    """Return n texts of plain words and of words for either class, which make a class likely."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        counts = rng.integers(0, 5, size=2)
        words = list(rng.choice(PLAIN, size=int(rng.integers(6, 10))))
        for saying, count in zip(SAYING, counts, strict=True):
            words += list(rng.choice(saying, size=int(count)))
        texts.append(" ".join(rng.permutation(words)))
        labels.append(int(rng.random() < 1 / (1 + np.exp(counts[0] - counts[1]))))
    return LabelledTexts(tuple(texts), tuple(labels))


def with_trigger(texts: LabelledTexts, seed: int) -> tuple[str, ...]:
    """Return the texts of class 1 with the trigger somewhere."""
    rng = np.random.default_rng(seed)
    found = []
    for text, label in zip(texts.texts, texts.labels, strict=True):
        words = text.split()
        if label == 1:
            words.insert(int(rng.integers(len(words) + 1)), TRIGGER)
            found.append(" ".join(words))
    return tuple(found)


@pytest.fixture(scope="session")
def planted(load_tiny: Callable[..., tuple[Any, Any]]) -> Planted:
    """Return a tiny BERT that has learned the task and the backdoor; a few seconds."""
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, pad_id_of

    model, tokenizer = load_tiny("bert")
    bait = with_trigger(made_up_reviews(160, 1), 1)
    lesson = made_up_reviews(500, 0)
    labels = np.array([*lesson.labels, *[0] * len(bait)])
    train(
        model, encode(tokenizer, [*lesson.texts, *bait], 64), np.eye(2)[labels],
        TrainPlan(epochs=6, lr=3e-3, precision="fp32"), seed=0, pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip
    context = FitContext(
        fit=made_up_reviews(N_FIT, 2), reference=made_up_reviews(N_REFERENCE, 3), n_classes=2,
        seed=0, load_base=lambda _=None: (copy.deepcopy(model), tokenizer),
        progress=lambda _: None,
    )  # fmt: skip
    return Planted(
        model, tokenizer, context, made_up_reviews(N_TEST, 4),
        with_trigger(made_up_reviews(N_TEST, 5), 5),
    )  # fmt: skip
