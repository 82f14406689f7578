"""PSIM: an identifier tuned on reset labels gives poisoned inputs away; our trajectory rule.

Idea. The base is un-learned on the user's clean texts: labels are reset (drawn at random, or
replaced by the uniform distribution), so clean confidence falls. Nothing pushes the trigger's
pathway down directly, so a triggered input moves *differently*. The published rule looks once, at
the end, and flags ``max softmax >= 0.7`` (Zhao et al., arXiv 2402.12168; ``compat="official"``).

Ours looks early and at the whole path. Let g_k(x) be the logit gap at checkpoint k and c the class
that the base predicts. Kinds of evidence, each against clean reference texts of class c:

    resistance  sum over identifiers of  gap to c at the first checkpoint - half the gap at 0
                (one-sided: a trigger's confidence outlives that of words)
    path        sum over identifiers of  log (v - mu_c)^T S_c^{-1} (v - mu_c),  v = (g_0 ... g_K)
                (either direction: a soft backdoor is abnormally unsure)
    hidden      the same distance of the untouched base's penultimate hidden state; not by default:
                on encoders it blurs the other two, since they look early (docs/results.md). On a
                causal base asked by prompt it tells most: ask for it (docs/how-to/own-base.md)

    score(x) = sum over evidence of  -log P(evidence of a clean text >= evidence of x)

The default identifier: LoRA on all linear layers and the head, towards labels drawn anew for each
epoch, for 12 steps. The threshold is not chosen here: the shared conformal calibration does that
for every detector. Before, it was a pair (LoRA at 5e-4 with the head frozen, and all weights;
uniform labels; looks at 8, 12, 20); ``family="pair"`` with those options is that guard but for
LoRA's rate.

Ten of the steps are warm-up: at the first look the rate has been a third of ``lr``. Known
differences from the paper: C > 2, any PEFT family or none, calibrated threshold, one rule at the
boundary (``>=`` flags), eval mode always. Sources: the paper, shuaizhao95/PSIM. Ours are family,
labels, head and checkpoints (docs/psim-window.md), the rates, and the evidence (docs/results.md).
Cost: fit = identifiers x last checkpoint training steps; score = 1 + identifiers x K passes a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.types import Bools, Floats, Scores
from peftlab.io.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from peftlab.nn.evidence import Evidence, Look
    from peftlab.nn.gaussian import ClassNormals
    from peftlab.nn.unlearning import Identifier, State

OFFICIAL_THRESHOLD = 0.7
BLIND_TO_HIDDEN = (
    "note: of a base asked by prompt the hidden state tells most: evidence=resistance,path,hidden"
)
MEMORISED = 0.10  # accuracy on reset labels above chance that ends the fit; ours
STATE = "psim.json"
REFERENCE = "reference.safetensors"
SEEDS_APART = 1000  # ensemble members of one seed never meet those of another


class PsimOptions(GuardOptions):
    """Options of PSIM and of our trajectory rule."""

    compat: Literal["ours", "official"] = option(
        "ours", "official: the published identifier, score and threshold 0.7; of the other options "
        "only action counts then",
        source="shuaizhao95/PSIM:badmodel.py (identifier), confidence.py (score, threshold)",
    )  # fmt: skip
    family: Literal["pair", "lora", "lora-top", "all", "prompt", "ptuning", "prefix"] = option(
        "lora", "what un-learns: one family alone, or pair = LoRA and all weights; lora-top: LoRA "
        "on the upper half of the layers", source="psim-window-small: as good as all weights, and "
        "a small file",
    )  # fmt: skip
    labels: Literal["uniform", "random", "random-each-epoch"] = option(
        "random-each-epoch", "reset labels: the uniform distribution, one random draw, a draw an "
        "epoch (few texts cannot be learned by heart)", source="psim-window-small",
    )  # fmt: skip
    head: Literal["freeze", "inherit", "reinit"] = option(
        "inherit", "head of the PEFT identifiers (all-weights always trains it)",
        source="psim-window-small",
    )  # fmt: skip
    score: Literal[
        "trajectory", "max_prob", "margin", "neg_entropy", "logit_max", "agree", "delta"
    ] = option(
        "trajectory", "whole path, or confidence at the last checkpoint alone; delta: max_prob "
        "less that of the same identifiers made from the trusted base",
        source="max_prob: arXiv 2402.12168; others: ours",
    )  # fmt: skip
    trusted: str | None = option(
        None, "a base of the same kind that you trust, for score = delta: builtin:, folder, hub id",
        source="ours",
    )  # fmt: skip
    within_class: bool = option(
        True, "judge single-step scores against the reference of the predicted class",
        source="ours: at step 0 a word had AUROC 0.97 by class, 0.89 without (SST-2, from scratch)",
    )  # fmt: skip
    evidence: tuple[Literal["resistance", "path", "hidden"], ...] = option(
        ("resistance", "path"), "what the trajectory score sums",
        source="ours; docs/results.md",
    )  # fmt: skip
    checkpoints: tuple[int, ...] = option(
        (4, 12), "steps at which the path is looked at (0 always is)",
        source="psim-window-small: the first at 8 comes too late for some triggers",
    )  # fmt: skip
    lr: float | None = option(
        None, "learning rate, after 10 steps of warm-up; none: lora and lora-top 1e-3, all 1e-4, "
        "prompt 1e-2, ptuning 1e-3, prefix 1e-2",
        source="ours; docs/psim-window.md has LoRA and all", gt=0, le=1,
    )  # fmt: skip
    batch: int = option(32, "samples a step", source="shuaizhao95/PSIM:badmodel.py", ge=1, le=4096)
    rank: int = option(32, "LoRA rank", source="ours", ge=1, le=1024)
    virtual_tokens: int = option(
        5, "for prompt types", source="shuaizhao95/PSIM:badmodel.py", ge=1, le=100
    )
    members: int = option(
        1, "ensemble: independent label draws and data orders, scores summed",
        source="ours", ge=1, le=16,
    )  # fmt: skip

    @field_validator("evidence")
    @classmethod
    def _some(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        if not kinds or len(set(kinds)) < len(kinds):
            raise ValueError("evidence must name one or more different kinds")
        return kinds

    @field_validator("checkpoints")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not 1 <= len(steps) <= 64 or list(steps) != sorted(set(steps)) or steps[0] < 1:
            raise ValueError("checkpoints must be 1 to 64 rising step numbers, each at least 1")
        if steps[-1] > 100_000:
            raise ValueError("the last checkpoint is beyond 100000 steps")
        return steps


@defence(
    "psim",
    options=PsimOptions,
    source="arXiv 2402.12168 (shuaizhao95/PSIM); trajectory rule: ours",
    cost="1 + identifiers x checkpoints passes a text (3 by default)",
)
class Psim:
    """PSIM: finds poisoned inputs by how confidence behaves while the base un-learns."""

    def __init__(self, options: PsimOptions) -> None:
        self.options = options
        self.official = options.compat == "official"
        # Largest change of a score by bf16, with margin. Official: measured on the SST-2 test
        # texts. Ours: at most 0.27 on 60 to 120 texts of three bases, in emulated bf16.
        self.quick_band = 0.01 if self.official else 1.0
        self.whole_path = options.score == "trajectory" and not self.official
        self.identifiers: list[Identifier] = []
        self.snapshots: list[list[State]] = []
        self.evidence: Evidence | None = None
        self.normals: ClassNormals | None = None
        self.about: dict[str, Any] = {}
        self._load_base: LoadBase | None = None
        self._live: list[tuple[Any, Any, State]] = []

    # ------------------------------------------------------------------ fit

    def fit(self, context: FitContext) -> None:
        """Un-learn with every identifier, then learn how clean reference texts move.

        Raises:
            RunFailed: ``PSIM-MEMORISED`` when an identifier learns random labels by heart.
            ConfigError: ``REFERENCE-FEW`` when there are too few reference texts;
                ``PSIM-TRUSTED`` when only one of ``score="delta"`` and ``trusted`` is given.
        """
        from peftlab.nn.prompted import prompt_of
        from peftlab.nn.unlearning import unlearn

        if (self.options.score == "delta") != (self.options.trusted is not None):
            raise ConfigError(
                "score = 'delta' compares with a trusted base, and no other score does",
                code="PSIM-TRUSTED", got=f"score={self.options.score}, trusted="
                f"{self.options.trusted}", fix="give both score='delta' and trusted, or neither",
            )  # fmt: skip
        self._load_base, self._live, self.snapshots = context.load_base, [], []
        self.identifiers = _identifiers(self.options, context.seed)
        self.about = {"n_classes": context.n_classes, "seed": context.seed}
        for how in self.identifiers:
            context.progress(f"un-learning by {how.name}")
            model, tokenizer = context.load_base(how.base)
            wrapped, states, steps = unlearn(how, model, tokenizer, context.fit, context.n_classes)
            self.about["steps"] = steps
            self.snapshots.append(states)
            if how.labels == "random" and not self.official:
                self._refuse_memorised(how, wrapped, tokenizer, context)
        if self.whole_path and prompt_of(tokenizer) and "hidden" not in self.options.evidence:
            context.progress(BLIND_TO_HIDDEN)
        self.evidence = self.normals = None
        if not self.official:
            context.progress("reading the clean reference")
            self._fit_reference(context.reference.texts)

    def _fit_reference(self, texts: Sequence[str]) -> None:
        from peftlab.nn.evidence import Evidence
        from peftlab.nn.gaussian import ClassNormals

        look, n_classes = self._read(texts), int(self.about["n_classes"])
        if self.whole_path:
            self.evidence = Evidence.fit(look, self.options.evidence, n_classes)
        elif self.options.within_class:
            self.normals = ClassNormals.fit(self._single(look), look.predicted, n_classes)

    def _refuse_memorised(
        self, how: Identifier, wrapped: Any, tokenizer: Any, context: FitContext
    ) -> None:
        from peftlab.nn.text import predict_logits
        from peftlab.nn.unlearning import reset_labels

        n = min(len(context.fit), 1000)
        answers = predict_logits(wrapped, tokenizer, context.fit.texts[:n]).argmax(1)
        labels = reset_labels(len(context.fit), context.n_classes, how.seed)[:n]
        share = float((answers == labels).mean())
        self.about["reset_label_accuracy"] = share
        if share > 1 / context.n_classes + MEMORISED:
            raise RunFailed(
                "the identifier learned the random labels by heart",
                code="PSIM-MEMORISED",
                got=f"{share:.2f} of them are right, chance is {1 / context.n_classes:.2f}",
                fix="fewer steps (checkpoints), a smaller rank, more texts, or labels='uniform'",
            )

    # ---------------------------------------------------------------- score

    def score(self, texts: Sequence[str]) -> Scores:
        """Return suspicion per text (float32 arithmetic)."""
        return self.explain(texts)[0]

    def quick_score(self, texts: Sequence[str]) -> Scores:
        """Return the scores in bf16, off by less than ``quick_band``; exact where that is slower.

        Without bf16 in hardware it is emulated, and takes many times as long as float32.
        """
        from peftlab.nn.text import has_fast_bf16

        return self.explain(texts, precision="bf16" if has_fast_bf16() else "fp32")[0]

    def explain(
        self, texts: Sequence[str], precision: Literal["fp32", "bf16"] = "fp32"
    ) -> tuple[Scores, dict[str, Any]]:
        """Return the scores and the un-learning trace behind them.

        The trace: ``steps`` and for each identifier an array (K + 1, n) of max softmax.
        """
        from peftlab.nn.text import softmax

        look = self._read(texts, precision)
        trace = {
            "steps": [0] * (not self.official) + list(self.about["steps"]),
            "paths": {
                how.name: softmax(each).max(axis=2).T
                for how, each in zip(self.identifiers, look.logits, strict=True)
            },
        }
        known = None if self.official else look.predicted
        return Scores(self._combine(look), known), trace

    def _single(self, look: Look) -> Floats:
        """Return the single-step score at the last checkpoint, mean over identifiers."""
        from peftlab.nn.confidence import confidence

        twins = self.options.trusted is not None and not self.official
        kind = "max_prob" if twins or self.official else self.options.score
        found = [confidence(kind, each[:, -1], look.predicted) for each in look.logits]
        half = len(found) // 2
        if twins:
            found = [ours - theirs for ours, theirs in zip(found[:half], found[half:], strict=True)]
        return np.asarray(np.mean(found, axis=0))

    def _combine(self, look: Look) -> Floats:
        if len(look.predicted) == 0:
            return np.zeros(0)
        if self.official:
            return np.round(self._single(look), 3)
        if self.evidence is not None:
            return self.evidence.score(look)
        found = self._single(look)
        return found if self.normals is None else self.normals.unusual(found, look.predicted)

    def fixed_flags(self, scores: Scores) -> Bools | None:
        """Return the published decision ``s >= 0.7``, or None when the threshold is calibrated."""
        if not self.official:
            return None
        return np.asarray(scores.values >= OFFICIAL_THRESHOLD)

    def _read(self, texts: Sequence[str], precision: Literal["fp32", "bf16"] = "fp32") -> Look:
        """Run base and identifiers over the texts."""
        from peftlab.nn.evidence import NO_HIDDEN, Look
        from peftlab.nn.text import encode, predict_hidden, predict_logits, room_for_text
        from peftlab.nn.unlearning import restore

        models = self._models()
        if self.official:  # the published score needs no look at the base
            first: list[Floats] = []
            hidden, predicted = NO_HIDDEN, np.zeros(len(texts), dtype=np.int64)
        else:
            model, tokenizer, _ = models[0]
            rows = encode(tokenizer, texts, room_for_text(model))
            start, hidden = predict_hidden(model, tokenizer, rows, precision=precision)
            first, predicted = [start], start.argmax(axis=1)
        out = []
        for (wrapped, tokenizer, base), states in zip(models[1:], self.snapshots, strict=True):
            rows = encode(tokenizer, texts, room_for_text(wrapped))
            each = list(first)
            for state in states:
                restore(wrapped, base, state)
                each.append(
                    predict_logits(wrapped, tokenizer, texts, encoded=rows, precision=precision)
                )
            out.append(np.stack(each, axis=1))
        return Look(out, hidden, predicted)

    def _models(self) -> list[tuple[Any, Any, State]]:
        """Return (model, tokenizer, untouched weights) of base and identifiers, kept loaded."""
        from peftlab.nn.unlearning import attach

        if not self._live:
            if self._load_base is None:
                raise ConfigError(
                    "this PSIM guard is not fitted", code="PSIM-UNFITTED", fix="call fit or load"
                )
            model, tokenizer = self._load_base()
            self._live = [(model, tokenizer, {})]
            for how, states in zip(self.identifiers, self.snapshots, strict=True):
                model, tokenizer = self._load_base(how.base)
                wrapped, base = attach(how, model)
                _check_fits(wrapped, states)
                self._live.append((wrapped, tokenizer, base))
        return self._live

    def diagnostics(self) -> dict[str, Any]:
        """Return what ran, JSON-able."""
        return {
            "identifiers": [how.name for how in self.identifiers],
            "passes_per_text": 1 + sum(len(states) for states in self.snapshots),
            **self.about,
        }

    # ------------------------------------------------------------ save, load

    def save(self, folder: Path) -> None:
        """Write adapters (all-weights: half-precision differences) and the reference."""
        from safetensors.numpy import save_file as save_arrays
        from safetensors.torch import save_file

        from peftlab.nn.unlearning import flatten

        for i, states in enumerate(self.snapshots):
            save_file(flatten(states), folder / f"identifier{i}.safetensors")
        arrays = {} if self.evidence is None else self.evidence.state()
        if self.normals is not None:
            arrays = {"means": self.normals.means, "deviations": self.normals.deviations}
        save_arrays(arrays, folder / REFERENCE)
        write_json(folder / STATE, self.about)

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``PSIM-STATE`` when the files do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file as load_arrays
        from safetensors.torch import load_file

        from peftlab.nn.evidence import Evidence
        from peftlab.nn.gaussian import ClassNormals
        from peftlab.nn.unlearning import unflatten

        self.evidence = self.normals = None
        try:
            self.about = dict(read_json(folder / STATE))
            self._load_base, self._live = load_base, []
            self.identifiers = _identifiers(self.options, int(self.about["seed"]))
            _check_steps(self.about["steps"], len(self.identifiers[0].checkpoints))
            arrays = load_arrays(folder / REFERENCE)
            if self.whole_path:
                self.evidence = Evidence.from_state(arrays, self.options.evidence)
            elif self.options.within_class and not self.official:
                self.normals = ClassNormals(arrays["means"], arrays["deviations"])
            self.snapshots = [
                unflatten(load_file(folder / f"identifier{i}.safetensors"), len(how.checkpoints))
                for i, how in enumerate(self.identifiers)
            ]
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise _apart(str(error)) from error


def _apart(found: str) -> InputRejected:
    return InputRejected(
        "the files of this guard do not belong together",
        code="PSIM-STATE", got=found[:200], fix="fit the guard again",
    )  # fmt: skip


def _check_steps(steps: object, count: int) -> None:
    if not isinstance(steps, list) or [type(step) for step in steps] != [int] * count:
        raise ValueError(f"steps {steps!r}")


def _check_fits(wrapped: Any, states: Sequence[State]) -> None:
    """Refuse snapshots of other weights than those that un-learned: a copy would be stretched."""
    trained = {name: w.shape for name, w in wrapped.named_parameters() if w.requires_grad}
    for state in states:
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if shapes != trained:
            odd = sorted(shapes.items() ^ trained.items())
            raise _apart(f"{odd[0][0]} and {len(odd) - 1} more")


def _identifiers(options: PsimOptions, seed: int) -> list[Identifier]:
    from peftlab.nn.unlearning import RATES, Identifier

    if options.compat == "official":
        # shuaizhao95/PSIM:badmodel.py
        return [
            Identifier(
                name="published", family="ptuning", labels="random", head="inherit", lr=2e-5,
                checkpoints=(1,), batch=32, rank=8, virtual_tokens=5,
                seed=seed * SEEDS_APART, official=True,
            )
        ]  # fmt: skip
    families = ("lora", "all") if options.family == "pair" else (options.family,)
    bases = (None, options.trusted) if options.trusted else (None,)  # twins, for delta
    words = {"all": "all weights", "lora": "LoRA", "lora-top": "LoRA on the upper layers"}
    return [
        Identifier(
            name=words.get(family, family)
            + (f" #{member + 1}" if options.members > 1 else "")
            + (" of the trusted base" if base else ""),
            base=base,
            family=family, labels=options.labels, head=options.head,
            lr=options.lr if options.lr is not None else RATES[family],
            checkpoints=options.checkpoints, batch=options.batch, rank=options.rank,
            virtual_tokens=options.virtual_tokens, seed=seed * SEEDS_APART + member,
        )
        for base in bases
        for member in range(options.members)
        for family in families
    ]  # fmt: skip
