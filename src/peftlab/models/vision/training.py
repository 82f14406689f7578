"""Learning to name the causes of generated images: options, loss, and a loop that resumes.

The loss is the mean over factors of the cross-entropy divided by the logarithm of the number of
values, so that 1 is what guessing gets, whatever the factor. No image is seen twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.core.options import Options, option
from peftlab.models.pretraining.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from peftlab.models.vision.images import BLOCK, FACTORS, LabelledImages, Part, make_images
from peftlab.models.vision.models import INPUT_SIDE, Kind, build_model, to_input

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_OURS = "ours: about twelve minutes on one core"
_SIZES: dict[Kind, tuple[int, int, int]] = {  # width, depth, steps
    "vit": (192, 6, 1_600),
    "resnet": (32, 2, 2_800),
}


class VisionOptions(Options):
    """How an image model is made; the defaults are those of the built-in two."""

    model: Kind = option("vit", "which of the two", source="ours")
    width: int = option(0, "width; 0: 192 for vit, 32 for resnet", source=_OURS, ge=0, le=1_024)
    depth: int = option(0, "layers, or blocks a stage; 0: 6 or 2", source=_OURS, ge=0, le=48)
    steps: int = option(0, "optimiser steps; 0: 1600 or 2800", source=_OURS, ge=0)
    batch: int = option(BLOCK, "images a step; 96 draws none in vain", source=_OURS, ge=1)
    rate: float = option(1e-3, "peak learning rate", source=_OURS, gt=0)
    warm_up: int = option(100, "steps of linear warm-up", source=_OURS, ge=0)
    decay: float = option(0.05, "weight decay of matrices", source="Touvron et al. 2021", ge=0)
    clip: float = option(1.0, "largest gradient norm", source="Dosovitskiy et al. 2021", gt=0)
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "auto: bf16 where the machine computes in it", source="ours"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train", source="ours")
    seed: int = option(0, "seed of the weights and the images", source="ours", ge=0)
    held_out: int = option(4_800, "images to measure on", source="ours", ge=1)
    checkpoint_minutes: float = option(2.0, "minutes between checkpoints", source="ours", ge=0)
    log_every: int = option(50, "steps between progress lines", source="ours", ge=1)


def settle(options: VisionOptions) -> VisionOptions:
    """Return the options with the model's own width, depth and steps where they say 0."""
    own = dict(zip(("width", "depth", "steps"), _SIZES[options.model], strict=True))
    chosen = {name: getattr(options, name) or value for name, value in own.items()}
    return options.model_copy(update=chosen)


def learning_rate(step: int, options: VisionOptions) -> float:
    """Return the rate of one step, counted from 0: linear up, then half a cosine down to 0."""
    if step < options.warm_up:
        return options.rate * (step + 1) / options.warm_up
    share = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def factor_spans() -> dict[str, slice]:
    """Return the columns of each factor among the logits."""
    ends = np.cumsum([0, *(len(values) for values in FACTORS.values())]).tolist()
    return {name: slice(*span) for name, span in zip(FACTORS, pairwise(ends), strict=True)}


def factor_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over factors; 1 is chance.

    Args:
        logits: (n, 38), one for every value of every factor.
        labels: (n, 8), one class number for every factor.
    """
    import torch
    from torch.nn.functional import cross_entropy

    return torch.stack([
        cross_entropy(logits[:, span].float(), labels[:, i]) / math.log(span.stop - span.start)
        for i, span in enumerate(factor_spans().values())
    ]).mean()  # fmt: skip


def _groups(model: PreTrainedModel, decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: matrices decay, biases, norms and positions do not."""
    kept: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        flat = parameter.dim() < 2 or name.endswith(("cls_token", "position_embeddings"))
        (free if flat else kept).append(parameter)
    return [{"params": kept, "weight_decay": decay}, {"params": free, "weight_decay": 0.0}]


@dataclass
class Run:
    """A training run in memory: what moves while it goes on.

    Attributes:
        options: how it trains, settled.
        device: where.
        identity: what must agree for a checkpoint to belong to this run.
        curve: loss of every step so far; its length is the number of steps done.
    """

    options: VisionOptions
    device: str
    identity: dict[str, Any]
    curve: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        from peftlab.nn.text import has_fast_bf16

        chosen = self.options
        self.model = build_model(
            chosen.model, width=chosen.width, depth=chosen.depth, seed=chosen.seed
        ).to(self.device)  # type: ignore[arg-type]  # the stubs of transformers know no string
        if chosen.model == "resnet":  # faster convolutions on CPU and GPU alike
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        fast = chosen.precision == "bf16" or (chosen.precision == "auto" and has_fast_bf16())
        self.precision: Literal["bf16", "fp32"] = "bf16" if fast else "fp32"
        self.optimiser = torch.optim.AdamW(
            _groups(self.model, chosen.decay), lr=chosen.rate, fused=True
        )

    def logits(self, images: LabelledImages) -> torch.Tensor:
        """Return (n, 38) logits in the run's precision."""
        import torch

        from peftlab.nn.text import autocast

        pixels = torch.from_numpy(images.pixels).to(self.device)
        with autocast(torch.device(self.device), self.precision):
            inputs = to_input(pixels, INPUT_SIDE[self.options.model])
            return self.model(pixel_values=inputs).logits

    def advance(self) -> None:
        """Do one step and append its loss to ``curve``.

        Raises:
            RunFailed: ``LOSS-NONFINITE``.
        """
        import torch

        step, options = len(self.curve), self.options
        images = make_images(options.seed, step * options.batch, options.batch)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        self.model.train()
        labels = torch.from_numpy(images.labels).to(self.device)
        loss = factor_loss(self.logits(images), labels)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self.optimiser.step()
        self.curve.append(float(loss.detach()))
        if not math.isfinite(self.curve[-1]):
            raise RunFailed(
                f"the loss of step {step} is not finite",
                code="LOSS-NONFINITE",
                fix="choose a smaller learning rate or precision fp32",
            )

    def state(self) -> Checkpoint:
        """Return everything that a later process needs to go on."""
        import torch

        moments = {
            f"{name}/{kind}": value
            for name, parameter in self.model.named_parameters()
            for kind, value in self.optimiser.state[parameter].items()
        }
        facts = {
            "identity": self.identity,
            "random numbers": {"seed": self.options.seed, "made from": "seed and step"},
        }
        curve = torch.tensor(self.curve, dtype=torch.float64)
        return Checkpoint(len(self.curve), self.model.state_dict(), moments, curve, facts)

    def restore(self, state: Checkpoint) -> None:
        """Take over the state of a checkpoint.

        Raises:
            ConfigError: ``PRETRAIN-OTHER``, it belongs to another run.
        """
        import torch

        found = state.facts.get("identity")
        if found != self.identity:
            raise ConfigError(
                "the work folder holds checkpoints of another run",
                code="PRETRAIN-OTHER",
                got=found,
                allowed=self.identity,
                fix="choose another work folder, or remove that one",
            )
        self.model.load_state_dict(state.model)
        for name, parameter in self.model.named_parameters():
            # the fused optimiser walks through memory: moments must lie as their parameter does
            moments = {
                kind: torch.empty_like(parameter).copy_(state.optimiser[f"{name}/{kind}"])
                for kind in ("exp_avg", "exp_avg_sq")
            }
            count = state.optimiser[f"{name}/step"].to(parameter.device)
            self.optimiser.state[parameter] = {"step": count, **moments}
        self.curve = state.curve.tolist()

    def resume(self, folder: Path) -> None:
        """Go to where the newest whole checkpoint in ``folder`` stands, if there is one."""
        found = newest_checkpoint(folder)
        if found is not None:
            self.restore(found)


def accuracies(run: Run, part: Part = "held-out") -> dict[str, float]:
    """Return the accuracy on each factor over ``held_out`` images that training never draws."""
    import torch

    total, right = run.options.held_out, dict.fromkeys(FACTORS, 0)
    run.model.eval()
    for first in range(0, total, BLOCK):
        images = make_images(run.options.seed, first, min(BLOCK, total - first), part)
        with torch.no_grad():
            logits = run.logits(images).float().cpu().numpy()
        for name, span in factor_spans().items():
            right[name] += int((logits[:, span].argmax(axis=1) == images.column(name)).sum())
    return {name: hits / total for name, hits in right.items()}


def train(run: Run, folder: Path, progress: Callable[[str], None]) -> None:
    """Train to the last step, writing checkpoints on the way.

    Args:
        run: fresh or restored; ends fully trained.
        folder: of the checkpoints.
        progress: called with a line of text now and then.
    """
    import torch

    from peftlab.nn.loop import eager_attention

    options, begun = run.options, time.monotonic()
    first, saved = len(run.curve), time.monotonic()
    with eager_attention(run.model, torch.device(run.device)):
        while len(run.curve) < options.steps:
            run.advance()
            now, done = time.monotonic(), len(run.curve)
            last = done == options.steps
            if done % options.log_every == 0 or last:
                speed = (done - first) / max(1e-9, now - begun)
                progress(
                    f"step {done}/{options.steps}  loss {np.mean(run.curve[-50:]):.3f}  "
                    f"{speed:.2f} steps/s  {speed * options.batch:,.0f} images/s  "
                    f"{(options.steps - done) / speed / 60:.1f} min left"
                )
            if last or now - saved >= options.checkpoint_minutes * 60:
                save_checkpoint(folder, run.state())
                saved = time.monotonic()
