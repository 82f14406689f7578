"""The model card that is written beside a freshly made encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

_POINTS = 12


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        options: all options of the run.
        curve: training loss of every step.
        corpus_tokens: tokens in the training text.
        held_out: loss in nats per masked token, by name of the held-out text.
    """

    options: Mapping[str, Any]
    curve: tuple[float, ...]
    corpus_tokens: int
    held_out: Mapping[str, float]

    @property
    def tokens_seen(self) -> int:
        """Return how many tokens the model was trained on, repetitions counted."""
        return len(self.curve) * int(self.options["batch"]) * int(self.options["length"])


def _curve_rows(curve: tuple[float, ...]) -> str:
    """Return table rows of the loss, each the mean of the steps since the row before."""
    ends = np.unique(np.linspace(0, len(curve), _POINTS + 1).astype(int))
    spans = pairwise(ends)
    return "\n".join(f"| {end} | {np.mean(curve[start:end]):.3f} |" for start, end in spans)


def model_card(facts: CardFacts, sha256: str) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        facts: of the run.
        sha256: of ``model.safetensors``.
    """
    losses = "\n".join(f"| {name} | {loss:.3f} |" for name, loss in facts.held_out.items())
    options = "\n".join(f"| {name} | {value} |" for name, value in facts.options.items())
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
language: en
tags: [bert, masked-lm, peftlab]
---

# A small masked-language-model encoder

Made by `python -m peftlab.models.pretrain`. Add the licence that your training text allows.

- tokens seen: {facts.tokens_seen:,} in {len(facts.curve):,} steps; the text has \
{facts.corpus_tokens:,}
- sha256 of `model.safetensors`: `{sha256}`

## Loss on held-out text

Nats per masked token, 15 % masked, 400 windows, fp16 weights.

| text | loss |
|---|---|
{losses}

## Training loss

| up to step | mean loss since the row before |
|---|---|
{_curve_rows(facts.curve)}

## Options

| option | value |
|---|---|
{options}
"""
