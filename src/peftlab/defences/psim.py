"""PSIM: an identifier tuned on reset labels gives poisoned inputs away; our trajectory rule.

Idea. The base is un-learned on the user's clean texts: labels are reset (drawn at random, or
replaced by the uniform distribution), so clean confidence falls. Nothing pushes the trigger's
pathway down directly, so a triggered input moves *differently*. The published rule looks once, at
the end, and flags ``max softmax >= 0.7`` (Zhao et al., arXiv 2402.12168; ``compat="official"``).
Ours looks at the whole path ``v(x) = (g_0(x), ..., g_K(x))`` of logit gaps over K checkpoints and
flags what departs from the clean paths *within its predicted class c*, in whichever direction:

    score(x) = sum over paths of  log (v - mu_c)^T S_c^{-1} (v - mu_c)

Paths of the default pair: LoRA with the head frozen, and all weights; both to uniform labels.
The threshold is not chosen here: the shared conformal calibration does that for every detector.

Known differences from the paper: C > 2, any PEFT family or none, calibrated threshold, one rule at
the boundary (``>=`` flags), eval mode always. Sources: psim.md, psim-trajectory.md.
Cost: fit = about ``paths * steps`` training steps; score = 1 + paths * K forward passes a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import FitContext, GuardOptions
from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats, Ints, Scores
from peftlab.io.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

Family = Literal["pair", "lora", "all", "prompt", "ptuning", "prefix"]
RATES = {"lora": 1e-3, "all": 1e-4, "prompt": 1e-2, "ptuning": 1e-3, "prefix": 1e-2}
OFFICIAL_THRESHOLD = 0.7
RIDGE = 1e-4  # of the mean variance; psim-trajectory.md
MEMORISED = 0.10  # accuracy on reset labels above chance that ends the fit; psim.md 13.1
STATE = "psim.json"


class PsimOptions(GuardOptions):
    """Options of PSIM and of our trajectory rule."""

    compat: Literal["ours", "official"] = option(
        "ours", "official: the published identifier, score and threshold 0.7; other options but "
        "alpha and action are then ignored", source="psim.md 5-7",
    )  # fmt: skip
    family: Family = option(
        "pair", "what un-learns: pair = LoRA and all weights, or one family alone",
        source="psim-trajectory.md",
    )  # fmt: skip
    labels: Literal["uniform", "random", "random-each-epoch"] = option(
        "uniform", "reset labels: the uniform distribution, one random draw, a draw an epoch",
        source="psim-trajectory.md",
    )  # fmt: skip
    head: Literal["freeze", "inherit", "reinit"] = option(
        "freeze", "head of the PEFT identifiers (all-weights always trains it)",
        source="psim-trajectory.md",
    )  # fmt: skip
    score: Literal[
        "trajectory", "max_prob", "margin", "neg_entropy", "logit_max", "agree"
    ] = option(
        "trajectory", "whole path, or one of psim.md 13.3 at the last checkpoint",
        source="psim-trajectory.md; psim.md 13.3",
    )  # fmt: skip
    within_class: bool = option(
        True, "judge single-step scores against the reference of the predicted class",
        source="psim-trajectory.md rule 4",
    )  # fmt: skip
    checkpoints: tuple[int, ...] = option(
        (10, 20, 40, 60, 100, 160, 240), "steps at which the path is looked at (0 always is)",
        source="psim-trajectory.md rule 2, thinned",
    )  # fmt: skip
    lr: float | None = option(
        None, "learning rate; none: lora 1e-3, all 1e-4, prompt 1e-2, ptuning 1e-3, prefix 1e-2",
        source="psim-trajectory.md; prompt types: ours", gt=0, le=1,
    )  # fmt: skip
    batch: int = option(32, "samples a step", source="shuaizhao95/PSIM:badmodel.py", ge=1, le=4096)
    rank: int = option(8, "LoRA rank", source="psim.md 4", ge=1, le=1024)
    virtual_tokens: int = option(5, "for prompt types", source="psim.md 4", ge=1, le=100)
    members: int = option(
        1, "ensemble: independent label draws and data orders, scores summed",
        source="psim.md 13.4", ge=1, le=16,
    )  # fmt: skip

    @field_validator("checkpoints")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(steps) <= 64 or list(steps) != sorted(set(steps)) or steps[0] < 1:
            raise ValueError("checkpoints must be 1 to 64 rising step numbers, each at least 1")
        if steps[-1] > 100_000:
            raise ValueError("the last checkpoint is beyond 100000 steps")
        return steps


@dataclass(frozen=True, slots=True)
class UnlearningPath:
    """One identifier: who trains, on which labels, how fast, looked at when."""

    name: str
    family: str
    labels: str
    head: str
    lr: float
    checkpoints: tuple[int, ...]
    member: int
    official: bool = False


def reset_labels(n: int, n_classes: int, seed: int, draw: int = 0) -> Ints:
    """Return n labels drawn uniformly from 0 .. C-1, whatever the true ones were (psim.md 5).

    Examples:
        >>> reset_labels(4, 2, seed=0).shape
        (4,)
    """
    return stream(seed, "psim/labels", draw).integers(0, n_classes, size=n)


def targets_of(labels: str, n: int, n_classes: int, seed: int, draw: int = 0) -> Floats:
    """Return the (n, C) training targets: uniform, or one-hot of reset labels."""
    if labels == "uniform":
        return np.full((n, n_classes), 1.0 / n_classes)
    return np.eye(n_classes)[reset_labels(n, n_classes, seed, draw)]


def single_score(kind: str, logits: Floats, predicted: Ints) -> Floats:
    """Return one confidence per row of (n, C) logits; larger = more confident (psim.md 13.3)."""
    from peftlab.nn.text import softmax

    if len(logits) == 0:
        return np.zeros(0)
    if kind == "logit_max":
        return np.asarray((logits - logits.mean(axis=1, keepdims=True)).max(axis=1))
    if kind == "margin":
        ordered = np.sort(logits, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])
    chances = softmax(logits)
    if kind == "max_prob":
        return np.asarray(chances.max(axis=1))
    if kind == "agree":
        return np.asarray(chances[np.arange(len(chances)), predicted])
    return np.asarray((chances * np.log(np.clip(chances, 1e-300, None))).sum(axis=1))


def features(logits: Floats) -> Floats:
    """Return path features (n, K * (C-1)) of logits (n, K, C): gaps to class 0 at each step."""
    gaps = logits[:, :, 1:] - logits[:, :, :1]
    return gaps.reshape(len(logits), -1)


@dataclass(frozen=True, slots=True)
class ClassGaussians:
    """Mean and inverse covariance of clean paths, for each predicted class.

    Attributes:
        means: (C, d).
        precisions: (C, d, d).
    """

    means: Floats
    precisions: Floats

    @classmethod
    def fit(cls, points: Floats, classes: Ints, n_classes: int) -> ClassGaussians:
        """Fit on clean reference points.

        A class with fewer than 5 d of them takes the covariance pooled over classes; one with
        none takes the overall mean too.
        """
        dims = points.shape[1]
        if len(points) < 2 * dims:
            raise ConfigError(
                "too few reference texts for the trajectory score",
                code="PSIM-REFERENCE",
                got=f"{len(points)} clean reference texts for {dims} path dimensions",
                allowed=f"at least {2 * dims}",
                fix="give more clean training or dev texts, or fewer checkpoints",
            )
        present = [c for c in range(n_classes) if (classes == c).any()]
        centred = np.concatenate(
            [points[classes == c] - points[classes == c].mean(0) for c in present]
        )
        pooled = centred.T @ centred / max(len(centred) - len(present), 1)
        means, precisions = [], []
        for c in range(n_classes):
            mine = points[classes == c]
            own = len(mine) >= 5 * dims
            means.append(mine.mean(0) if len(mine) else points.mean(0))
            spread = np.cov(mine.T, ddof=1).reshape(dims, dims) if own else pooled
            ridge = RIDGE * max(float(np.trace(spread)) / dims, 1e-12)
            precisions.append(np.linalg.inv(spread + ridge * np.eye(dims)))
        return cls(np.stack(means), np.stack(precisions))

    def log_distance(self, points: Floats, classes: Ints) -> Floats:
        """Return log of the squared Mahalanobis distance to the own class, (n,)."""
        apart = points - self.means[classes]
        squared = np.einsum("nd,nde,ne->n", apart, self.precisions[classes], apart)
        return np.log(np.maximum(squared, 1e-12))


@defence(
    "psim",
    options=PsimOptions,
    source="arXiv 2402.12168 (shuaizhao95/PSIM); trajectory rule: ours",
    cost="1 + paths x checkpoints passes a text",
)
class Psim:
    """PSIM: finds poisoned inputs by how confidence behaves while the base un-learns."""

    def __init__(self, options: PsimOptions) -> None:
        self.options = options
        self.paths = _plan_paths(options)
        self.n_classes = 0
        self.snapshots: list[list[dict[str, torch.Tensor]]] = []
        self.gaussians: list[ClassGaussians] = []
        self.notes: dict[str, Any] = {}
        self._load_base: Callable[[], tuple[Any, Any]] | None = None
        self._live: list[tuple[Any, Any, dict[str, torch.Tensor]]] = []

    # ------------------------------------------------------------------ fit

    def fit(self, context: FitContext) -> None:
        """Un-learn along every path, then learn how clean reference texts move.

        Raises:
            RunFailed: ``PSIM-MEMORISED`` when an identifier learns random labels by heart.
            ConfigError: ``PSIM-REFERENCE`` when there are too few reference texts.
        """
        self.n_classes = context.n_classes
        self._load_base, self._live, self.snapshots = context.load_base, [], []
        for path in self.paths:
            context.progress(f"un-learning: {path.name}")
            self.snapshots.append(self._unlearn(path, context))
        if self._needs_reference():
            context.progress("reading the clean reference")
            logits, predicted = self._path_logits(context.reference.texts)
            self._fit_reference(logits, predicted)

    def _needs_reference(self) -> bool:
        trajectory = self.options.score == "trajectory" or self.options.within_class
        return self.options.compat != "official" and trajectory

    def _fit_reference(self, logits: list[Floats], predicted: Ints) -> None:
        points = self._points(logits, predicted)
        self.gaussians = [ClassGaussians.fit(p, predicted, self.n_classes) for p in points]

    def _points(self, logits: list[Floats], predicted: Ints) -> list[Floats]:
        """Return what the reference is fitted on: whole paths, or the single-step score."""
        if self.options.score == "trajectory":
            return [features(each) for each in logits]
        kind = self.options.score
        return [single_score(kind, each[:, -1], predicted)[:, None] for each in logits]

    def _unlearn(self, path: UnlearningPath, context: FitContext) -> list[dict[str, torch.Tensor]]:
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        model, tokenizer = context.load_base()
        wrapped, base = self._wrap(path, model, context.seed)
        encoded = encode(tokenizer, context.fit.texts, room_for_text(wrapped))
        n, seed = len(encoded), context.seed * 1000 + path.member
        redraw = path.labels == "random-each-epoch"

        def fresh(epoch: int, rows: Ints) -> Floats:
            return targets_of("random", n, self.n_classes, seed, draw=epoch)[rows]

        targets = targets_of(path.labels, n, self.n_classes, seed)
        steps = math.ceil(n / self.options.batch) if path.official else path.checkpoints[-1]
        wanted = (steps,) if path.official else path.checkpoints
        kept: list[dict[str, torch.Tensor]] = []
        self.notes["steps"] = list(wanted)

        def look(step: int) -> None:
            if step in wanted:
                kept.append(_snapshot(wrapped, base))

        train(
            wrapped, encoded, targets,
            TrainPlan(
                steps=steps, lr=path.lr, batch=32 if path.official else self.options.batch,
                warmup=0.06 if path.official else min(10, steps // 2),
                schedule="linear" if path.official else "constant",
                clip=None if path.official else 1.0,
            ),
            seed=seed, pad_id=pad_id_of(model, tokenizer), on_step=look,
            draw_targets=fresh if redraw else None,
        )  # fmt: skip
        if path.labels == "random" and not path.official:
            self._refuse_memorised(wrapped, tokenizer, context, targets)
        return kept

    def _refuse_memorised(
        self, wrapped: Any, tokenizer: Any, context: FitContext, targets: Floats
    ) -> None:
        from peftlab.nn.text import predict_logits

        n = min(len(context.fit), 1000)
        logits = predict_logits(wrapped, tokenizer, context.fit.texts[:n])
        share = float((logits.argmax(1) == targets[:n].argmax(1)).mean())
        self.notes["reset_label_accuracy"] = share
        if share > 1 / self.n_classes + MEMORISED:
            raise RunFailed(
                "the identifier learned the random labels by heart",
                code="PSIM-MEMORISED",
                got=f"{share:.2f} of them are right, chance is {1 / self.n_classes:.2f}",
                fix="fewer steps (checkpoints), a smaller rank, more texts, or labels='uniform'",
            )

    def _wrap(
        self, path: UnlearningPath, model: Any, seed: int
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """Return (trainable model, copies of the weights that training will change)."""
        from peftlab.nn.adapters import wrap_with

        if path.family == "all":
            model.requires_grad_(True)
            wrapped = model
        else:
            config = _peft_config(path.family, self.options)
            wrapped = wrap_with(model, config, head=path.head, seed=seed * 1000 + path.member)  # type: ignore[arg-type]
        base = {
            name: weight.detach().clone().cpu()
            for name, weight in wrapped.named_parameters()
            if weight.requires_grad and path.family == "all"
        }
        return wrapped, base

    # ---------------------------------------------------------------- score

    def score(self, texts: Sequence[str]) -> Scores:
        """Return suspicion per text (float32 arithmetic)."""
        return self.explain(texts)[0]

    def quick_score(self, texts: Sequence[str]) -> Scores:
        """Return the scores in bf16: faster, good to about 0.1; re-score what lies near."""
        return self.explain(texts, precision="bf16")[0]

    def explain(
        self, texts: Sequence[str], precision: Literal["fp32", "bf16"] = "fp32"
    ) -> tuple[Scores, dict[str, Any]]:
        """Return the scores and the un-learning trace behind them.

        The trace: ``steps`` and for each path ``confidence``, an array (K + 1, n) of max softmax.
        """
        from peftlab.nn.text import softmax

        logits, predicted = self._path_logits(texts, precision)
        trace = {
            "steps": [0, *self.notes.get("steps", self.paths[0].checkpoints)],
            "paths": {
                path.name: softmax(each).max(axis=2).T
                for path, each in zip(self.paths, logits, strict=True)
            },
        }
        return Scores(self._combine(logits, predicted), predicted), trace

    def _combine(self, logits: list[Floats], predicted: Ints) -> Floats:
        if len(predicted) == 0:
            return np.zeros(0)
        if self.options.compat == "official":
            return np.round(single_score("max_prob", logits[0][:, -1], predicted), 3)
        points = self._points(logits, predicted)
        if not self._needs_reference():
            return np.asarray(sum(each[:, 0] for each in points)) / len(points)
        if self.options.score == "trajectory":
            far = [
                g.log_distance(p, predicted) for g, p in zip(self.gaussians, points, strict=True)
            ]
            return np.asarray(sum(far))
        spreads = [1 / np.sqrt(g.precisions[predicted, 0, 0]) for g in self.gaussians]
        z = [
            (p[:, 0] - g.means[predicted, 0]) / s
            for g, p, s in zip(self.gaussians, points, spreads, strict=True)
        ]
        return np.asarray(sum(z)) / len(z)

    def fixed_flags(self, scores: Scores) -> Bools | None:
        """Return the published decision ``s >= 0.7``, or None when the threshold is calibrated."""
        if self.options.compat != "official":
            return None
        return np.asarray(scores.values >= OFFICIAL_THRESHOLD)

    def _path_logits(
        self, texts: Sequence[str], precision: Literal["fp32", "bf16"] = "fp32"
    ) -> tuple[list[Floats], Ints]:
        """Return per path the logits (n, K + 1, C), step 0 first, and the base's classes (n,)."""
        from peftlab.nn.text import encode, predict_logits, room_for_text

        models = self._models()
        model, tokenizer, _ = models[0]
        rows = encode(tokenizer, texts, room_for_text(model))
        start = predict_logits(model, tokenizer, texts, encoded=rows, precision=precision)
        predicted = start.argmax(axis=1) if len(texts) else np.zeros(0, dtype=np.int64)
        out = []
        for (wrapped, _, base), states in zip(models[1:], self.snapshots, strict=True):
            rows = encode(tokenizer, texts, room_for_text(wrapped))
            each = [start]
            for state in states:
                _restore(wrapped, base, state)
                each.append(
                    predict_logits(wrapped, tokenizer, texts, encoded=rows, precision=precision)
                )
            out.append(np.stack(each, axis=1))
        return out, predicted

    def _models(self) -> list[tuple[Any, Any, dict[str, torch.Tensor]]]:
        """Return (model, tokenizer, untouched weights) of base and paths, kept loaded."""
        if not self._live:
            if self._load_base is None:
                raise ConfigError(
                    "this PSIM guard is not fitted", code="PSIM-UNFITTED", fix="call fit or load"
                )
            model, tokenizer = self._load_base()
            self._live = [(model, tokenizer, {})]
            for path in self.paths:
                wrapped, base = self._wrap(path, self._load_base()[0], 0)
                self._live.append((wrapped, tokenizer, base))
        return self._live

    def diagnostics(self) -> dict[str, Any]:
        """Return what ran, JSON-able."""
        return {
            "paths": [path.name for path in self.paths],
            "checkpoints": list(self.paths[0].checkpoints),
            "passes_per_text": 1 + sum(len(states) for states in self.snapshots),
            **self.notes,
        }

    # ------------------------------------------------------------ save, load

    def save(self, folder: Path) -> None:
        """Write adapters (all-weights: half-precision differences) and the reference."""
        from safetensors.torch import save_file

        for i, states in enumerate(self.snapshots):
            flat = {
                f"{k}/{name}": t.contiguous() for k, s in enumerate(states) for name, t in s.items()
            }
            save_file(flat, folder / f"path{i}.safetensors")
        write_json(
            folder / STATE,
            {
                "n_classes": self.n_classes,
                "notes": self.notes,
                "reference": [
                    {"means": g.means.tolist(), "precisions": g.precisions.tolist()}
                    for g in self.gaussians
                ],
            },
        )

    def load(self, folder: Path, load_base: Callable[[], tuple[Any, Any]]) -> None:
        """Restore what ``save`` wrote."""
        from safetensors.torch import load_file

        about = read_json(folder / STATE, limit_bytes=64 * 2**20)
        self.n_classes, self.notes = int(about["n_classes"]), dict(about["notes"])
        self._load_base, self._live = load_base, []
        self.gaussians = [
            ClassGaussians(np.asarray(g["means"]), np.asarray(g["precisions"]))
            for g in about["reference"]
        ]
        self.snapshots = []
        for i, path in enumerate(self.paths):
            flat = load_file(folder / f"path{i}.safetensors")
            states: list[dict[str, Any]] = [{} for _ in path.checkpoints]
            for key, tensor in flat.items():
                number, _, name = key.partition("/")
                if not number.isdigit() or int(number) >= len(states):
                    raise InputRejected(
                        f"path{i}.safetensors does not belong to this guard",
                        code="PSIM-STATE", got=key, fix="fit the guard again",
                    )  # fmt: skip
                states[int(number)][name] = tensor
            self.snapshots.append(states)


def _plan_paths(options: PsimOptions) -> list[UnlearningPath]:
    if options.compat == "official":
        # P-tuning v1, lr 2e-5, one epoch, head trained: shuaizhao95/PSIM:badmodel.py
        return [UnlearningPath("official", "ptuning", "random", "inherit", 2e-5, (1,), 0, True)]
    families = ("lora", "all") if options.family == "pair" else (options.family,)
    return [
        UnlearningPath(
            name=f"{family} {options.labels}" + (f" #{member}" if options.members > 1 else ""),
            family=family, labels=options.labels, head=options.head,
            lr=options.lr if options.lr is not None else RATES[family],
            checkpoints=options.checkpoints, member=member,
        )
        for member in range(options.members)
        for family in families
    ]  # fmt: skip


def _peft_config(family: str, options: PsimOptions) -> Any:
    import peft

    tokens = options.virtual_tokens
    if family == "lora":
        # no dropout: paths must be smooth, and nothing is learned that could overfit
        return peft.LoraConfig(
            task_type="SEQ_CLS", r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0
        )
    if family == "prompt":
        return peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=tokens)
    if family == "prefix":
        return peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=tokens)
    return peft.PromptEncoderConfig(
        task_type="SEQ_CLS", num_virtual_tokens=tokens, encoder_hidden_size=128
    )


def _snapshot(model: Any, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy the trained weights; for all-weights training their half-precision differences.

    The rounding happens before anything is scored, so a saved guard scores as it was fitted.
    """
    import torch

    kept = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        now = weight.detach().cpu()
        kept[name] = (now - base[name]).to(torch.float16) if name in base else now.clone()
    return kept


def _restore(model: Any, base: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> None:
    """Put one snapshot into the model, in place."""
    import torch

    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in state.items():
            weight = weights[name]
            value = base[name] + tensor.float() if name in base else tensor
            weight.copy_(value.to(weight.device))
