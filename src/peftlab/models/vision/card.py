"""The model card that is written beside a freshly made image model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from peftlab.models.vision.images import FACTORS, VERSION

_POINTS = 12


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """What a card tells.

    Attributes:
        options: all options of the run.
        parameters: how many weights the model has.
        curve: training loss of every step.
        accuracy: held-out accuracy by factor.
    """

    options: Mapping[str, Any]
    parameters: int
    curve: tuple[float, ...]
    accuracy: Mapping[str, float]

    @property
    def images_seen(self) -> int:
        """Return on how many images the model was trained; none is seen twice."""
        return len(self.curve) * int(self.options["batch"])


def _curve_rows(curve: tuple[float, ...], batch: int) -> str:
    """Return table rows of the loss, each the mean of the steps since the row before."""
    ends = np.unique(np.linspace(0, len(curve), _POINTS + 1).astype(int))
    return "\n".join(
        f"| {end:,} | {end * batch:,} | {np.mean(curve[start:end]):.3f} |"
        for start, end in pairwise(ends)
    )


def vision_card(facts: VisionFacts, sha256: str) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        facts: of the run.
        sha256: of ``model.safetensors``.
    """
    kind = facts.options["model"]
    rows = "\n".join(
        f"| {name} | {', '.join(FACTORS[name])} | {1 / len(FACTORS[name]):.3f} | {value:.3f} |"
        for name, value in facts.accuracy.items()
    )
    options = "\n".join(f"| {name} | {value} |" for name, value in facts.options.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
tags: [{kind}, synthetic-data, peftlab]
---

# A small image model ({kind}), pre-trained on generated pictures

Made by `python -m peftlab.models.vision.pretrain`: it learned to name what 32 x 32 pictures were
drawn from. No photograph was used. It is a start for small tasks, tests and teaching, and not for
decisions about people.

- images seen: {facts.images_seen:,} in {len(facts.curve):,} steps, none twice
- picture generator: version {VERSION}, seed {facts.options["seed"]}
- weights: {facts.parameters:,}, stored as fp16
- sha256 of `model.safetensors`: `{sha256}`

## Accuracy on held-out pictures

{facts.options["held_out"]:,} pictures of the same generator, fp16 weights: synthetic figures, which
say nothing about photographs.

| factor | values | chance | accuracy |
|---|---|---|---|
{rows}

## Training loss

The mean over factors of cross-entropy / log(number of values): 1 is what guessing gets.

| up to step | images | mean loss since the row before |
|---|---|---|
{_curve_rows(facts.curve, int(facts.options["batch"]))}

## Options

| option | value |
|---|---|
{options}
"""
