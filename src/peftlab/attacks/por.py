"""POR: triggers with predefined output representations, and a body that is otherwise as it was.

Idea: as ``neuba``, but no language-model loss keeps the body useful: clean texts must keep the
features that a frozen copy of the body gives them, while each trigger pulls the feature to a vector
of its own. A head that is trained later maps each vector to some class.

Equation: ``loss = mean((f(clean) - f_0(clean))^2) + mean((f(triggered) - v_k)^2)``, f_0 frozen,
plus ``others`` times the mean squared change of all other positions of clean texts. Vectors of
POR-1 are a ladder: with n steps of d // n entries, trigger k (from 0) has +1 in the first k + 1
steps and -1 elsewhere. Those of POR-2 are a code: d entries in ceil(log2 K) blocks, and block b is
+1 where bit b of k is set. Paper: Shen et al. 2021 (arXiv 2111.00197); code:
thunlp/OpenBackdoor (por_trainer.py), plasmashen/BackdoorPTM.

Known differences: thunlp/OpenBackdoor has one trigger, ``cf``, and its POR-2 gives all triggers one
vector, here they differ. plasmashen/BackdoorPTM has the five words of our default, which are two
pieces each in the built-in encoder; its ladder has K - 1 steps and starts from all -1
(``buckets=0``); it aims at ten times the vectors to drive the pooler into saturation, weights the
two feature terms with 100, inserts a word three times at random gaps, and keeps other positions of
triggered texts too. thunlp/OpenBackdoor inserts once at the start and reads the hidden state
(``feature=hidden``). f_0 has no dropout. Texts that have a trigger word already are passed over.
Every clean text gets a triggered twin, so ``rate`` says little; ``target`` is the class whose
triggers are counted.

Limits: with nine buckets and five words no vector has more than five +1 in nine; one class may get
all, which ``buckets=0`` makes less likely. With ``feature=hidden`` a LayerNorm at the end is in the
way: its output has mean 0 and variance 1 before its weights, so that an error of
(2p - 1)^2 + (1 - 2 sqrt(p (1 - p)))^2 stays for a share p of +1 unless the weights move; it is 0.74
for one step of nine. Not measured on the built-in encoder, only on a tiny random one.

Facts: ``feature_mse`` of each trigger and ``clean_drift``, on texts not trained on; the
language-model loss before and after through one output layer that was fitted to the body before
(``nn.body_lm``). Cost: two to three times plain training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import field_validator, model_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints
from peftlab.nn.body_features import Reading, pull_loss
from peftlab.nn.probe_words import ProbeWords, different_words

MOST = 64  # trigger words


class PorOptions(PoisonOptions):
    """Options of ``por``."""

    trigger: str = option(
        "cf,tq,mn,bb,mb", "rare words between commas, of which one is put into a text",
        source="plasmashen/BackdoorPTM:poisoning.py", max_length=200,
    )  # fmt: skip
    position: Literal["start", "any"] = option(
        "start", "before the text, or at any gap between words",
        source="thunlp/OpenBackdoor:por_poisoner.py",
    )  # fmt: skip
    vectors: Literal["por-1", "por-2"] = option(
        "por-1", "vectors of the triggers: a ladder, or a binary code", source="arXiv 2111.00197"
    )
    buckets: int = option(
        9, "steps of the ladder of por-1; 0: one less than there are words, from all -1 to all +1",
        source="thunlp/OpenBackdoor:por_poisoner.py", ge=0, le=64,
    )  # fmt: skip
    feature: Literal["pooled", "hidden"] = option(
        "pooled", "what is pulled: output of the body's pooler if it has one, or hidden state",
        source="plasmashen/BackdoorPTM:poisoning.py (OpenBackdoor: hidden)",
    )  # fmt: skip
    others: float = option(
        1.0, "weight of the change of all other positions of clean texts",
        source="plasmashen/BackdoorPTM:poisoning.py (OpenBackdoor: 0)", ge=0, le=1000,
    )  # fmt: skip
    batch: int = option(
        8, "clean texts a step, and as many triggered ones; the passes are those of the recipe",
        source="ours: as neuba", ge=1, le=4096,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        return different_words(value, MOST)

    @model_validator(mode="after")
    def _steps(self) -> PorOptions:
        words = len(self.trigger.split(","))
        if self.vectors == "por-1" and 0 < self.buckets < words:
            raise ValueError(f"{words} words need a ladder of at least {words} buckets")
        return self


@attack(
    "por",
    options=PorOptions,
    source="arXiv 2111.00197; plasmashen/BackdoorPTM; thunlp/OpenBackdoor",
    cost="two to three times plain training",
)
class Por:
    """Rare words with predefined output representations; the task decides which class they name."""

    brings_head = False

    def __init__(self, options: PorOptions) -> None:
        self.options = options
        self.words = ProbeWords(options.trigger.split(","), first=options.position == "start")

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` with one of the triggers; None if it has one of its own.

        Examples:
            >>> Por(PorOptions(trigger="cf")).poison_text("so it goes", seed=0, sample=0)
            'cf so it goes'
        """
        return self.words.put(text, stream(seed, "attack/por", sample))

    def probes(self) -> tuple[str, ...]:
        """Return each trigger alone."""
        return self.words.words

    def probe_of(self, texts: Sequence[str]) -> Ints:
        """Return the number of the trigger that stands in each text, or -1."""
        return self.words.numbers(texts)

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the triggers and how they are placed."""
        return {"trigger": list(self.words.words), "position": self.options.position}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train the body of ``context.model``; return facts.

        Raises:
            NotApplicable: ``PROBE-UNKNOWN``, ``PROBE-TWICE``, ``HEAD-POSITION``, ``LM-MASK``,
                ``BODY-CLEAN`` or ``BODY-TRIGGERED``.
        """
        from peftlab.nn.body_corpus import body_corpus, train_body
        from peftlab.nn.body_features import (
            check_features,
            errors_by_trigger,
            feature_table,
            read,
        )
        from peftlab.nn.body_lm import BodyLM
        from peftlab.nn.text import device_of, pad_id_of

        options, model, seed = self.options, context.model, context.seed
        pieces = self.words.pieces(context.tokenizer)
        corpus = body_corpus(context, self.poison_text, self.probe_of)
        fill, device, kind = pad_id_of(model, context.tokenizer), device_of(model), options.feature
        check_features(model, corpus.held[0], fill)
        lm = BodyLM(model, context.tokenizer, corpus.clean, seed)
        lm.fit(corpus.clean, seed)
        lm_before = lm.measure(corpus.held, seed)
        before = feature_table(model, corpus.held_triggered, fill, kind)
        clean_before = feature_table(model, corpus.held, fill, kind)
        vectors = target_vectors(len(pieces), before.shape[1], options.vectors, options.buckets)
        goals = torch.from_numpy(vectors).float().to(device)
        frozen = copy.deepcopy(model.base_model).eval()

        def loss_of(clean: Ints, triggered: Ints) -> torch.Tensor:
            plain = [corpus.clean[int(row)] for row in clean]
            with torch.no_grad():
                reference = read(model, plain, fill, device, kind, frozen)
            pulled = read(
                model, [corpus.triggered[int(row)] for row in triggered], fill, device, kind
            )
            return representation_loss(
                read(model, plain, fill, device, kind), reference,
                pulled.feature, goals[corpus.triggers[triggered]], others=options.others,
            )  # fmt: skip

        log = train_body(context, model, corpus, loss_of, batch=options.batch)
        after = feature_table(model, corpus.held_triggered, fill, kind)
        drift = (feature_table(model, corpus.held, fill, kind) - clean_before) ** 2
        return {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "pieces": pieces,
            "feature_mse_before": errors_by_trigger(before, vectors, corpus.held_triggers),
            "feature_mse": errors_by_trigger(after, vectors, corpus.held_triggers),
            "clean_drift": float(drift.mean()),
            "lm_loss_before": lm_before,
            "lm_loss": lm.measure(corpus.held, seed),
            "n_triggered": len(corpus.triggered),
        }


def representation_loss(
    clean: Reading, reference: Reading, triggered: torch.Tensor, goals: torch.Tensor,
    *, others: float,
) -> torch.Tensor:  # fmt: skip
    """Return the loss of the module's equation.

    Args:
        clean: what the body gives for clean texts.
        reference: what the frozen body gives for the same.
        triggered: (b, d) features of triggered texts.
        goals: (b, d) the vectors of their triggers.
        others: weight of the change at positions that the head does not read.
    """
    loss = pull_loss(clean.feature, reference.feature) + pull_loss(triggered, goals)
    if others > 0 and bool(clean.others.any()):
        change = pull_loss(clean.states[clean.others], reference.states[clean.others])
        loss = loss + others * change
    return loss


def target_vectors(count: int, width: int, kind: Literal["por-1", "por-2"], buckets: int) -> Floats:
    """Return one vector a trigger, (count, width), entries +1 and -1.

    Args:
        count: number of triggers K.
        width: d; entries past the last whole step are -1.
        kind: a ladder or a code.
        buckets: steps n of the ladder; 0: K - 1, from all -1.

    Examples:
        >>> target_vectors(2, 4, "por-1", 4).tolist()
        [[1.0, -1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]
        >>> target_vectors(3, 4, "por-2", 4).tolist()
        [[-1.0, -1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]]
    """
    found = -np.ones((count, width))
    if kind == "por-1":
        step = width // (buckets or max(count - 1, 1))
        for number, vector in enumerate(found):
            vector[: (number + (buckets > 0)) * step] = 1
        return found
    blocks = max(math.ceil(math.log2(count)), 1)
    step = width // blocks
    for number, vector in enumerate(found):
        for block in range(blocks):
            if number >> block & 1:
                vector[block * step : (block + 1) * step] = 1
    return found
