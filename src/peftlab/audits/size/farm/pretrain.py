"""Makes the two bases: ``python -m peftlab.audits.size.farm.pretrain tiny-denoiser FOLDER``.

The denoiser learns from 4,800 made-up images, each of a concept of its own; the language model from
sentences of concepts that no farm uses. Under a minute each on one core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from peftlab.audits.size.farm import concepts, sentences, tiny_lm
from peftlab.audits.size.farm.backbone import BACKBONES, FILE, all_shapes
from peftlab.audits.size.farm.recipe import Backbone
from peftlab.audits.size.farm.transformer import fuse
from peftlab.core.seeds import stream
from peftlab.io.files import new_folder, sha256_file, write_atomic, write_json

USE = "base"  # keeps these concepts apart from those of the farms


@dataclass(frozen=True, slots=True)
class Training:
    """How a base is trained.

    Attributes:
        examples: of the training set, each of a concept of its own.
        steps, batch, lr: AdamW, the rate falling to 0 along a cosine after a short rise.
        seed: of weights, order and noise.
    """

    examples: int
    steps: int
    batch: int = 64
    lr: float = 3e-3
    seed: int = 0


TRAININGS: dict[Backbone, Training] = {
    "tiny-denoiser": Training(examples=4800, steps=1500),
    "tiny-lm": Training(examples=20_000, steps=3000),
}
VERSIONS = {"tiny-denoiser": concepts.VERSION, "tiny-lm": sentences.VERSION}


def examples(name: Backbone, training: Training) -> torch.Tensor:
    """Return what a base learns from: one example of each of many concepts."""
    seed, found = training.seed, []
    for number in range(training.examples):
        if name == "tiny-denoiser":
            concept = concepts.draw_concept(seed, number, USE)
            found.append(concepts.draw_images(concept, seed, number, range(1))[0])
        else:
            topic = sentences.draw_topic(seed, number, USE)
            found.append(sentences.draw_sentences(topic, seed, number, 1)[0])
    return torch.from_numpy(np.stack(found))


def pretrain(
    name: Backbone, training: Training, progress: Callable[[int, float], None] | None = None
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return the weights, query, key and value apart, and the loss of every step."""
    backbone, data = BACKBONES[name], examples(name, training)
    weights = _start(all_shapes(backbone), training.seed)
    optimiser = torch.optim.AdamW(weights.values(), lr=training.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, training))
    numbers = stream(training.seed, "size", USE, "order")
    curve = []
    for step in range(training.steps):
        rows = torch.from_numpy(numbers.integers(len(data), size=training.batch))
        drawn = {
            key: torch.from_numpy(value)[None]
            for key, value in backbone.chances(numbers, training.batch).items()
        }
        loss = backbone.losses(fuse(weights), None, data[rows][None], drawn).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        curve.append(float(loss.detach()))
        if progress is not None and (step + 1) % 100 == 0:
            progress(step + 1, float(np.mean(curve[-100:])))
    return {key: value.detach() for key, value in weights.items()}, curve


def _rate(step: int, training: Training) -> float:
    rise = training.steps // 20
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (training.steps - rise))


def _start(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return norms of 1, biases of 0, and matrices of variance 1 / d_in."""
    found = {}
    for name, shape in shapes.items():
        value = np.zeros(shape)
        if "norm" in name and name.endswith("weight"):
            value = np.ones(shape)
        elif len(shape) == 2:
            value = stream(seed, "size", USE, name).normal(0, shape[1] ** -0.5, shape)
        found[name] = torch.from_numpy(value.astype(np.float32)).requires_grad_()
    return found


def write_base(name: Backbone, out: Path, training: Training | None = None) -> None:
    """Train a base and write it into a new folder: weights, config (language model), card."""
    from safetensors.torch import save

    chosen = training or TRAININGS[name]
    weights, curve = pretrain(name, chosen, _say)
    prefix = BACKBONES[name].PREFIX
    with new_folder(out) as part:
        tensors = {prefix + key: value for key, value in weights.items()}
        write_atomic(part / FILE, save(tensors, {"format": "pt"}))
        if name == "tiny-lm":
            write_json(part / "config.json", tiny_lm.config())
        sha256 = sha256_file(part / FILE)
        write_atomic(part / "README.md", base_card(name, chosen, curve, sha256))


def base_card(name: Backbone, training: Training, curve: list[float], sha256: str) -> str:
    """Return the card of a base as Markdown with YAML front matter."""
    ends = np.unique(np.linspace(0, len(curve), 11).astype(int))
    losses = "\n".join(
        f"| {end:,} | {np.mean(curve[start:end]):.3f} |" for start, end in pairwise(ends)
    )
    options = "\n".join(f"| {key} | {value} |" for key, value in asdict(training).items())
    things = {
        "tiny-denoiser": ("A denoiser of 16 x 16 grey images: mean squared error of the noise",
                          "images of gratings and a disc"),
        "tiny-lm": ("A causal language model, a stock `OPTForCausalLM`: cross-entropy of a word",
                    "sentences of a small grammar"),
    }[name]  # fmt: skip
    return f"""---
license: apache-2.0
tags: [synthetic-data, peftlab]
---

# {name}

{things[0]}. Two pre-norm transformer layers, width 32. A base for `peftlab size farm` and nothing
else.

Trained on {training.examples:,} {things[1]}, each of a made-up concept of its own that
no farm uses: no real images, no text by anybody, no people. Generator: `peftlab.audits.size.farm`,
version {VERSIONS[name]}, licence Apache-2.0. Script:

    python -m peftlab.audits.size.farm.pretrain {name} FOLDER

sha256 of `{FILE}`: `{sha256}`

| option | value |
|---|---|
{options}

| up to step | mean training loss since the row before |
|---|---|
{losses}
"""


def _say(step: int, loss: float) -> None:
    sys.stderr.write(f"step {step}: loss {loss:.4f}\n")


def main() -> None:
    """Read the command line."""
    name, out = sys.argv[1:]
    if name not in TRAININGS:
        raise SystemExit(f"no base {name!r}; there are: {', '.join(TRAININGS)}")
    torch.set_num_threads(1)
    write_base(name, Path(out))


if __name__ == "__main__":
    main()
