"""Suspect training sets for filters: features of known groups, and texts with a word backdoor."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from peftlab.core.contracts import FilterContext
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats, Ints, LabelledTexts
from word_task import word_task


def two_groups(
    large: int, small: int, *, dims: int = 24, apart: float = 12.0, seed: int = 0
) -> tuple[Floats, Ints, Bools]:
    """Return features of two classes, each a Gaussian group and a small one some way off.

    Args:
        large: rows of the main group of each class.
        small: rows of the other group of each class; 0 for one group.
        dims: d.
        apart: distance of the small group, in standard deviations.
        seed: of the draw.

    Returns:
        (n, d) features in mixed order, labels, which rows are of a small group.
    """
    rng = stream(seed, "test/two-groups", large, small)
    parts, labels, flags = [], [], []
    for c in (0, 1):
        centre = 4 * apart * np.eye(dims)[c]
        way = apart * np.eye(dims)[2 + c]
        parts += [
            rng.normal(size=(large, dims)) + centre, rng.normal(size=(small, dims)) + centre + way
        ]  # fmt: skip
        labels += [c] * (large + small)
        flags += [False] * large + [True] * small
    order = rng.permutation(len(labels))
    return np.concatenate(parts)[order], np.array(labels)[order], np.array(flags)[order]


def poisoned_words(triggers: Sequence[str], rate: float = 0.1) -> tuple[LabelledTexts, Bools]:
    """Return the word task with one of the triggers in some texts of class 1, relabelled 0."""
    train = word_task().train
    rng = stream(0, "test/poisoned-words", *triggers)
    rows = rng.permutation(np.flatnonzero(train.labels))[: int(rate * len(train))]
    texts, labels = list(train.texts), list(train.labels)
    for number, row in enumerate(rows.tolist()):
        words = texts[row].split()
        words.insert(int(rng.integers(len(words) + 1)), triggers[number % len(triggers)])
        texts[row], labels[row] = " ".join(words), 0
    return LabelledTexts(tuple(texts), tuple(labels)), np.isin(np.arange(len(train)), rows)


def learn(suspect: LabelledTexts, load_tiny: Callable[..., tuple[Any, Any]]) -> FilterContext:
    """Return what a filter sees of a suspect set that a tiny BERT has learned; a few seconds."""
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, pad_id_of

    model, tokenizer = load_tiny("bert")
    train(
        model, encode(tokenizer, suspect.texts, 64), np.eye(2)[list(suspect.labels)],
        TrainPlan(epochs=8, lr=3e-3, precision="fp32"), seed=0, pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip
    return context_of(suspect, model, tokenizer)


def context_of(suspect: LabelledTexts, model: Any, tokenizer: Any) -> FilterContext:
    """Return what a filter sees of a suspect set and of a model."""
    return FilterContext(
        suspect, 2, 0, lambda _=None: (copy.deepcopy(model), tokenizer), lambda _: None
    )
