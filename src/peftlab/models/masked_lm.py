"""Masked language modelling with a small BERT: options, model, loss, and a loop that resumes.

The output layer runs on the chosen positions only, which saves most of its cost at this size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peftlab.core.errors import ConfigError, RunFailed
from peftlab.core.options import Options, option
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Bools, Ints
from peftlab.models.checkpoint import Checkpoint, save_checkpoint
from peftlab.models.corpus import Tokens
from peftlab.models.masking import Windows, hide_tokens, mask_tokens
from peftlab.models.ppmi import warm_start

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM

_OURS = "ours: encoder of 10.7 MB, an hour on two cores"


class PretrainOptions(Options):
    """How the encoder is made; the defaults are those of ``builtin:encoder``."""

    vocabulary: int = option(8_192, "most word pieces", source=_OURS, ge=30, le=32_768)
    layers: int = option(4, "transformer layers", source=_OURS, ge=1, le=48)
    width: int = option(256, "width of embeddings and layers", source=_OURS, ge=8, le=4_096)
    heads: int = option(4, "attention heads; must divide width", source=_OURS, ge=1, le=64)
    feed_forward: int = option(1_024, "width inside the feed-forward part", source=_OURS, ge=8)
    positions: int = option(128, "longest input", source=_OURS, ge=8, le=4_096)
    dropout: float = option(0.0, "dropout; 0.1 for many passes", source=_OURS, ge=0, lt=1)
    length: int = option(64, "tokens a window, at most positions", source=_OURS, ge=4)
    batch: int = option(64, "windows a step", source=_OURS, ge=1)
    steps: int = option(3_471, "optimiser steps", source=_OURS, ge=1)
    rate: float = option(1e-3, "peak learning rate", source=_OURS, gt=0)
    warm_up: int = option(300, "steps of linear warm-up", source=_OURS, ge=0)
    final_rate: float = option(0.02, "share of the peak rate at the end", source=_OURS, ge=0, le=1)
    decay: float = option(0.01, "weight decay", source="Devlin et al. 2019, A.2", ge=0)
    beta2: float = option(0.98, "second beta of AdamW", source="Liu et al. 2019, 3.1", gt=0, lt=1)
    clip: float = option(
        1.0, "largest gradient norm", source="google-research/bert:optimization.py", gt=0
    )
    masked: float = option(0.15, "share to guess", source="Devlin et al. 2019, 3.1", gt=0, lt=1)
    start: Literal["ppmi", "random"] = option("ppmi", "start of the embeddings", source="ours")
    precision: Literal["auto", "bf16", "fp32"] = option(
        "auto", "auto: bf16 where the machine computes in it", source="ours"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train", source="ours")
    seed: int = option(0, "seed of everything", source="ours", ge=0)
    checkpoint_minutes: float = option(5.0, "minutes between checkpoints", source="ours", ge=0)
    log_every: int = option(50, "steps between progress lines", source="ours", ge=1)


def learning_rate(step: int, options: PretrainOptions) -> float:
    """Return the rate of one step, counted from 0: linear up, then linear down to the final share.

    Examples:
        >>> learning_rate(299, PretrainOptions())
        0.001
    """
    if step < options.warm_up:
        return options.rate * (step + 1) / options.warm_up
    left = (options.steps - 1 - step) / max(1, options.steps - 1 - options.warm_up)
    return options.rate * (options.final_rate + (1 - options.final_rate) * max(0.0, left))


def build_model(options: PretrainOptions, vocabulary: int) -> BertForMaskedLM:
    """Return a randomly initialised encoder with tied output embeddings."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        intermediate_size=options.feed_forward,
        max_position_embeddings=options.positions,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):  # the library draws from the global generator
        torch.manual_seed(derive(options.seed, "pretrain/init"))
        return BertForMaskedLM(config)


def warm_start_model(model: BertForMaskedLM, tokens: Tokens, seed: int) -> None:
    """Put PPMI-SVD vectors into the tied embeddings and log frequencies into the output bias."""
    import torch

    embedding = model.bert.embeddings.word_embeddings.weight
    vectors, bias = warm_start(tokens, embedding.shape[0], embedding.shape[1], seed)
    with torch.no_grad():
        embedding.copy_(torch.from_numpy(vectors))
        model.cls.predictions.bias.copy_(torch.from_numpy(bias))


def masked_loss(model: BertForMaskedLM, ids: Ints, inputs: Ints, chosen: Bools) -> torch.Tensor:
    """Return the mean loss of the chosen positions; the output layer runs on those only.

    Args:
        model: the encoder.
        ids: (batch, length) what stood there.
        inputs: (batch, length) what the model sees.
        chosen: (batch, length) what it must guess; none chosen gives 0.
    """
    import torch

    device = model.device
    wanted = torch.from_numpy(ids[chosen]).to(device)
    hidden = model.bert(input_ids=torch.from_numpy(inputs).to(device)).last_hidden_state
    logits = model.cls(hidden[torch.from_numpy(chosen).to(device)])
    total = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
    return total / max(1, len(wanted))


def held_out_loss(
    model: BertForMaskedLM, windows: Windows, *, count: int = 400, rate: float = 0.15
) -> float:
    """Return the loss in nats per masked token on ``count`` random windows, always masking."""
    import torch

    rng = stream(windows.seed, "pretrain/held-out")
    ids = windows.sample(count)
    inputs, chosen = hide_tokens(ids, windows.vocabulary, rng, rate=rate)
    total = 0.0
    model.eval()
    with torch.no_grad():
        for start in range(0, count, 50):
            rows = slice(start, start + 50)
            part = masked_loss(model, ids[rows], inputs[rows], chosen[rows])
            total += float(part) * int(chosen[rows].sum())
    return total / max(1, int(chosen.sum()))


def _uses_bf16(options: PretrainOptions, device: str) -> bool:
    import torch

    if options.precision != "auto":
        return options.precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@dataclass
class Run:
    """A training run in memory: what moves while it goes on.

    Attributes:
        options: how it trains.
        model: the encoder, on its device.
        windows: the text.
        identity: what must agree for a checkpoint to belong to this run.
        curve: loss of every step so far; its length is the number of steps done.
    """

    options: PretrainOptions
    model: BertForMaskedLM
    windows: Windows
    identity: dict[str, Any]
    curve: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        import torch

        on_gpu = self.model.device.type == "cuda"
        self.bf16 = _uses_bf16(self.options, self.model.device.type)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.options.rate,
            betas=(0.9, self.options.beta2),
            weight_decay=self.options.decay,
            fused=on_gpu,
        )

    def advance(self) -> None:
        """Do one step and append its loss to ``curve``.

        Raises:
            RunFailed: ``LOSS-NONFINITE``.
        """
        import torch

        step, options, device = len(self.curve), self.options, self.model.device
        ids = self.windows.batch_at(step)
        rng = stream(options.seed, "pretrain/mask", step)
        inputs, chosen = mask_tokens(ids, self.windows.vocabulary, rng, rate=options.masked)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        self.model.train()
        forked = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=forked, enabled=options.dropout > 0),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16),
        ):
            if options.dropout > 0:
                torch.manual_seed(derive(options.seed, "pretrain/dropout", step))
            loss = masked_loss(self.model, ids, inputs, chosen)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self.optimiser.step()
        self.curve.append(float(loss.detach()))
        if not np.isfinite(self.curve[-1]):
            raise RunFailed(
                f"the loss of step {step} is not finite",
                code="LOSS-NONFINITE",
                fix="choose a smaller learning rate or precision fp32",
            )

    def state(self) -> Checkpoint:
        """Return everything that a later process needs to go on."""
        import torch

        parameters = dict(self.model.named_parameters())
        moments = {
            f"{name}/{kind}": value
            for name, parameter in parameters.items()
            for kind, value in self.optimiser.state[parameter].items()
        }
        number, place = divmod(len(self.curve), self.windows.steps_per_pass)
        facts = {
            "identity": self.identity,
            "random numbers": {"seed": self.options.seed, "made from": "seed and step"},
            "cursor": {"pass": number, "batch": place},
        }
        curve = torch.tensor(self.curve, dtype=torch.float64)
        return Checkpoint(len(self.curve), parameters, moments, curve, facts)

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
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state.model[name])
                kinds = {"step", "exp_avg", "exp_avg_sq"}
                # AdamW keeps its step count on the CPU unless it is fused.
                self.optimiser.state[parameter] = {
                    kind: state.optimiser[f"{name}/{kind}"].to(
                        "cpu" if kind == "step" and parameter.device.type == "cpu"
                        else parameter.device
                    )
                    for kind in kinds
                }  # fmt: skip
        self.curve = state.curve.tolist()


def train(run: Run, folder: Path, progress: Callable[[str], None]) -> None:
    """Train to the last step, writing checkpoints on the way.

    Args:
        run: fresh or restored; ends fully trained.
        folder: of the checkpoints.
        progress: called with a line of text now and then.
    """
    options, begun = run.options, time.monotonic()
    first, saved = len(run.curve), time.monotonic()
    while len(run.curve) < options.steps:
        run.advance()
        now, done = time.monotonic(), len(run.curve)
        last = done == options.steps
        if done % options.log_every == 0 or last:
            speed = (done - first) / max(1e-9, now - begun)
            progress(
                f"step {done}/{options.steps}  loss {np.mean(run.curve[-100:]):.3f}  "
                f"{speed * options.batch * options.length:,.0f} tokens/s  "
                f"{(options.steps - done) / speed / 60:.1f} min left"
            )
        if last or now - saved >= options.checkpoint_minutes * 60:
            save_checkpoint(folder, run.state())
            saved = time.monotonic()
