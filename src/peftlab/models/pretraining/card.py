"""The model card that is written beside a freshly made model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

_POINTS = 12


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells.

    Attributes:
        objective: what was asked of the model.
        task: its ``pipeline_tag``.
        options: all options of the run.
        curve: training loss of every step.
        corpus_tokens: tokens in the training text.
        files: sha256 of every training file, by name.
        held_out: loss in nats per asked token, by name of the held-out text.
        licence: of the text, in the user's words; empty if none were given.
        start_from: the model that the run went on from.
    """

    objective: str
    task: str
    options: Mapping[str, Any]
    curve: tuple[float, ...]
    corpus_tokens: int
    files: Mapping[str, str]
    held_out: Mapping[str, float]
    licence: str = ""
    start_from: str | None = None

    @property
    def tokens_seen(self) -> int:
        """Return how many tokens the model was trained on, repetitions counted."""
        return len(self.curve) * int(self.options["batch"]) * int(self.options["length"])


def _curve_rows(curve: tuple[float, ...]) -> str:
    """Return table rows of the loss, each the mean of the steps since the row before."""
    ends = np.unique(np.linspace(0, len(curve), _POINTS + 1).astype(int))
    spans = pairwise(ends)
    return "\n".join(f"| {end} | {np.mean(curve[start:end]):.3f} |" for start, end in spans)


_TITLES = {
    "masked": "masked language model (encoder)",
    "replaced": "encoder trained by replaced-token detection",
    "causal": "causal language model",
}
_EXAMS = {
    "masked": "per masked token, 15 % masked",
    "replaced": "of the generator, per masked token, 15 % masked",
    "causal": "per token",
}


def model_card(facts: CardFacts, sha256: str) -> str:
    """Return the card as Markdown with YAML front matter.

    Args:
        facts: of the run.
        sha256: of ``model.safetensors``.
    """
    losses = "\n".join(
        f"| {name} | {loss:.3f} | {np.exp(loss):,.1f} |" for name, loss in facts.held_out.items()
    )
    options = "\n".join(f"| {name} | {value} |" for name, value in facts.options.items())
    files = "\n".join(f"| {name} | `{value}` |" for name, value in facts.files.items())
    # of a folder the name alone: where it lay is nobody's business
    begun = f"; went on from {Path(facts.start_from).name}" if facts.start_from else ""
    licence = facts.licence or "not given: say under what licence your training text stands"
    return f"""---
library_name: transformers
pipeline_tag: {facts.task}
language: en
tags: [peftlab, {facts.objective}]
---

# A small {_TITLES[facts.objective]}

Made by `peftlab pretrain {facts.objective}`{begun}.

- tokens seen: {facts.tokens_seen:,} in {len(facts.curve):,} steps; the text has \
{facts.corpus_tokens:,}
- seed: {facts.options["seed"]}
- sha256 of `model.safetensors`: `{sha256}`

## Loss on held-out text

Nats {_EXAMS[facts.objective]}, 400 windows of {facts.options["length"]} tokens, fp16 weights.

| text | loss | perplexity |
|---|---|---|
{losses}

## Training loss

| up to step | mean loss since the row before |
|---|---|
{_curve_rows(facts.curve)}

## Training text

Licence: {licence}

| file | sha256 |
|---|---|
{files}

## Options

| option | value |
|---|---|
{options}
"""
