"""Margin: how sure the untouched base is, against clean texts of the class that it predicts.

Idea: a trigger that was trained in makes its base surer than words do. Nothing is un-learned,
perturbed or rewritten, so this is what every guard that is dearer has to beat, and what a claim for
one has to stand beside.

    suspicion(x) = (m(x) - mean_t) / sd_t      m = largest logit - second largest, t = argmax

with mean and sd of the margins of clean reference texts of class t. The class matters: a base is
surer of one class than of another, and that difference would drown the trigger (ours: on a base
trained from scratch on SST-2 a word had AUROC 0.97 by class and 0.89 without; one seed).

The maximum softmax probability of Hendrycks and Gimpel (arXiv 1610.02136) turned round, by class;
it is also step 0 of the path that ``psim`` looks at. Limits: blind to ``soft`` backdoors, and to
any on a base that is as sure of clean texts; ``sides = "two"`` flags what is unsure as well.

Cost: 1 pass a text, the answer itself included; fit trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.registry import defence
from peftlab.core.types import Floats, Ints, Scores
from peftlab.io.files import read_json, write_json
from peftlab.nn.gaussian import ClassNormals

FILE = "margin.json"
TINY, HUGE = 1e-9, 1e9  # logits; a fit writes no smaller spread, and no sound head comes near


class MarginOptions(GuardOptions):
    """Options of ``margin``: those of every guard."""


@defence(
    "margin",
    options=MarginOptions,
    source="arXiv 1610.02136, by class",
    cost="1 pass a text; fit trains nothing",
)
class Margin:
    """Margin: a text that the untouched base is too sure of, for its class, is suspicious."""

    needs_head = True

    def __init__(self, options: MarginOptions) -> None:
        self.options = options
        self.normals: ClassNormals | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Learn how sure the base is of clean reference texts.

        Raises:
            ConfigError: ``REFERENCE-FEW`` when there are fewer than ten of them.
        """
        self._live = context.load_base()
        self.normals = ClassNormals.fit(*self._read(context.reference.texts), context.n_classes)

    def score(self, texts: Sequence[str]) -> Scores:
        """Return how many standard deviations each text's margin lies above those of its class."""
        if self.normals is None or self._live is None:
            raise ConfigError(
                "margin has not been fitted", code="DEFENCE-UNFITTED", fix="call fit or load first"
            )
        margins, predicted = self._read(texts)
        return Scores(self.normals.unusual(margins, predicted), predicted)

    def _read(self, texts: Sequence[str]) -> tuple[Floats, Ints]:
        """Return the margin of each text, and the class that the base predicts."""
        from peftlab.nn.confidence import confidence
        from peftlab.nn.text import predict_logits

        assert self._live is not None
        logits = predict_logits(*self._live, texts)
        predicted = logits.argmax(axis=1)
        return confidence("margin", logits, predicted), predicted

    def diagnostics(self) -> dict[str, Any]:
        """Return what a score costs."""
        return {"passes_per_text": 1}

    def save(self, folder: Path) -> None:
        """Write mean and spread of the clean margins of each class."""
        arrays = {} if self.normals is None else self.normals.arrays()
        write_json(folder / FILE, {name: values.tolist() for name, values in arrays.items()})

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``MARGIN-STATE`` when the file is not what ``save`` wrote.
        """
        self._live = load_base()
        n_classes = int(self._live[0].config.num_labels)
        state = read_json(folder / FILE)
        means, deviations = (
            _numbers(state, name, n_classes) for name in ("means", "deviations")
        )  # fmt: skip
        if means is None or deviations is None or (deviations < TINY).any():
            raise InputRejected(
                "the margins of this guard are not as it wrote them",
                code="MARGIN-STATE", got=str(state)[:200],
                allowed=f"means and deviations of {n_classes} classes, {TINY:g} to {HUGE:g}",
                fix="fit the guard again",
            )  # fmt: skip
        self.normals = ClassNormals(means, deviations)


def _numbers(state: Any, name: str, count: int) -> Floats | None:
    """Return ``count`` numbers of a state that a fit may have written, or None."""
    values = state.get(name) if isinstance(state, dict) else None
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(type(value) is float for value in values):
        return None
    return np.array(values) if all(abs(value) <= HUGE for value in values) else None
