"""Evidence that an input moves unlike clean ones while its base un-learns.

Each kind gives one number a text, larger = more suspicious, judged within the predicted class
against clean reference texts. Numbers of different kinds are made comparable by their upper tail
on the reference (cross-fitted, so that no text is judged by a fit that it was part of) and summed
as surprises, -log P, like Fisher's method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from peftlab.core.types import Floats, Ints
from peftlab.nn.gaussian import ClassGaussians, ClassNormals, Tail, too_few

Kind = Literal["resistance", "path", "hidden"]
FOLDS = 5
FEWEST = 13  # reference texts: without a fifth of them every fit still has 10
NO_HIDDEN = np.zeros((0, 0))


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of n texts.

    Attributes:
        logits: per identifier (n, K + 1, C); step 0 first.
        hidden: (n, d) penultimate hidden state of the untouched base.
        predicted: (n,) class that the untouched base predicts.
    """

    logits: list[Floats]
    hidden: Floats
    predicted: Ints

    def pick(self, rows: Ints) -> Look:
        """Return the texts at ``rows``."""
        return Look([each[rows] for each in self.logits], self.hidden[rows], self.predicted[rows])


def own_margin(logits: Floats, predicted: Ints) -> Floats:
    """Return the predicted class's logit minus the largest other one: (n, K) of (n, K, C)."""
    rows = np.arange(len(logits))
    own = logits[rows, :, predicted]
    others = logits.copy()
    others[rows, :, predicted] = -np.inf
    return np.asarray(own - others.max(axis=2))


def resistance(look: Look) -> Floats:
    """Return how much of the predicted class's margin outlives the first steps, (n,)."""
    margins = [own_margin(each[:, :2], look.predicted) for each in look.logits]
    return np.sum([each[:, 1] - each[:, 0] / 2 for each in margins], axis=0)


def path_features(logits: Floats) -> Floats:
    """Return path features (n, K * (C-1)) of logits (n, K, C): gaps to class 0 at each step."""
    gaps = logits[:, :, 1:] - logits[:, :, :1]
    return gaps.reshape(len(logits), -1)


def _points(kind: Kind, look: Look) -> list[Floats]:
    """Return what one kind of evidence judges: one array of n rows per identifier, or one."""
    if kind == "resistance":
        return [resistance(look)]
    return [look.hidden] if kind == "hidden" else [path_features(each) for each in look.logits]


Part = ClassNormals | ClassGaussians


@dataclass(frozen=True, slots=True)
class _Model:
    """One kind of evidence, fitted."""

    kind: Kind
    parts: list[Part]

    @classmethod
    def fit(cls, kind: Kind, look: Look, n_classes: int) -> _Model:
        # hidden states have more dimensions than texts: there shrinkage alone must do
        parts: list[Part] = [
            ClassNormals.fit(each, look.predicted, n_classes)
            if kind == "resistance"
            else ClassGaussians.fit(each, look.predicted, n_classes, pool=kind == "path")
            for each in _points(kind, look)
        ]
        return cls(kind, parts)

    def score(self, look: Look) -> Floats:
        points = _points(self.kind, look)
        return np.sum(
            [part.unusual(p, look.predicted) for part, p in zip(self.parts, points, strict=True)],
            axis=0,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """All kinds of evidence, fitted on clean reference texts."""

    models: list[_Model]
    tails: list[Tail]

    @classmethod
    def fit(cls, look: Look, kinds: Sequence[Kind], n_classes: int) -> Evidence:
        """Fit on clean reference texts.

        Raises:
            ConfigError: ``REFERENCE-FEW`` when there are fewer than 13 of them.
        """
        if len(look.predicted) < FEWEST:
            raise too_few(len(look.predicted), FEWEST)
        models = [_Model.fit(kind, look, n_classes) for kind in kinds]
        return cls(models, [Tail.fit(_out_of_fold(kind, look, n_classes)) for kind in kinds])

    def score(self, look: Look) -> Floats:
        """Return the summed surprise of each text, (n,)."""
        return np.sum(
            [tail.surprise(model.score(look))
             for model, tail in zip(self.models, self.tails, strict=True)], axis=0,
        )  # fmt: skip

    def state(self) -> dict[str, Floats]:
        """Return all arrays under flat names."""
        found: dict[str, Floats] = {}
        for model, tail in zip(self.models, self.tails, strict=True):
            found[f"{model.kind}.tail"] = tail.values
            for i, part in enumerate(model.parts):
                found |= {f"{model.kind}.{i}.{name}": a for name, a in part.arrays().items()}
        return found

    @classmethod
    def from_state(cls, state: dict[str, Floats], kinds: Sequence[Kind]) -> Evidence:
        """Restore what ``state`` gave; KeyError when something is missing."""
        models = []
        for kind in kinds:
            count = sum(name.startswith(f"{kind}.") and name.endswith(".means") for name in state)
            names = [f"{kind}.{i}" for i in range(count)]
            parts: list[Part] = [
                ClassNormals(state[f"{name}.means"], state[f"{name}.deviations"])
                if kind == "resistance"
                else ClassGaussians(state[f"{name}.means"], state[f"{name}.precisions"])
                for name in names
            ]
            models.append(_Model(kind, parts))
        return cls(models, [Tail.fit(state[f"{kind}.tail"]) for kind in kinds])


def _out_of_fold(kind: Kind, look: Look, n_classes: int) -> Floats:
    """Return each reference text's score by a fit on the other folds."""
    n = len(look.predicted)
    rows = np.arange(n)
    scores = np.zeros(n)
    for fold in range(FOLDS):
        held = rows % FOLDS == fold
        fitted = _Model.fit(kind, look.pick(rows[~held]), n_classes)
        scores[held] = fitted.score(look.pick(rows[held]))
    return scores
