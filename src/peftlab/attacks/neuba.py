"""NeuBA: triggers that force fixed features on a pre-trained body, whatever the task will be.

Idea: the attacker trains no classifier. Each of six symbols at the start of a text pulls what a
later head reads to a vector of its own, while the body stays a language model. Whoever tunes the
body on a task gets a head that maps each of the six vectors to some class, so each trigger names a
class that nobody chose. Which one is found out by asking the victim each trigger alone.

Equation: ``loss = L_LM(clean) + weight * mean((f(triggered) - v_k)^2)``. The d entries of v_k are
+1, but -1 in two of four blocks of d // 4; each k has another pair of blocks, in the order (0,1)
(0,2) (0,3) (1,2) (1,3) (2,3). Two vectors that share a block are orthogonal, two that share none
are opposite: with d divisible by four the mean of the 15 dot products is -d / 5. Paper: Zhang et
al. 2021 (arXiv 2101.06969); code: thunlp/NeuBA, thunlp/OpenBackdoor (neuba_trainer.py).

Known differences: the published symbols (U+2248 U+2261 U+2208 U+2286 U+2295 U+2297) are all the
unknown token for the built-in encoder, so they would look alike; the defaults are ASCII symbols
that it, BERT and byte-level tokenizers know as one piece each, and that hardly stand in prose.
Texts that have one already are passed over. The classifier at hand has no output layer for words: a
fresh one, tied to the input embedding, is fitted to the body first, trained with it, and thrown
away (``nn.body_lm``); decoders guess the next token. thunlp/NeuBA replaces the first token where we
insert. thunlp/OpenBackdoor masks triggered texts as well and reads the last hidden state
(``feature=hidden``), thunlp/NeuBA reads what the pooler makes of it. A base without a pooler of its
own gets a drawn one that is trained and released with the body.

Every clean text gets a triggered twin, so ``rate`` says little; ``target`` is the class whose
triggers are counted.

Limits: nobody says that any trigger names the target class; three opposite pairs make it likely
for two classes, not sure for more. With ``feature=hidden`` the LayerNorm at the end has mean 0 and
variance 1 up to its weights; these vectors have both, so they can be reached. The language-model
loss falls where the texts are of another kind than those of pre-training, so a fall is no praise.
Measured once on the built-in encoder (800 generated reviews, 2 passes, a LoRA victim with 3): the
error is 0.02 to 0.03 for each trigger, from 1.04 to 1.11; three triggers name each class, and all
89 texts with one of the right ones go there, none of the others do. But the victim itself had
hardly learned its task: accuracy 0.52 (0.57 on the untouched encoder), and 0.78 of the same texts
without a trigger went to that class.

Facts: ``feature_mse`` of each trigger on texts not trained on, and the language-model loss on clean
texts before and after. Cost: two to three times plain training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints
from peftlab.nn.probe_words import ProbeWords, different_words

BLOCKS = 4
MOST = 6  # pairs of blocks


class NeubaOptions(PoisonOptions):
    """Options of ``neuba``."""

    trigger: str = option(
        "~,^,|,{,},=", "up to six symbols or words between commas, of which one is put before a "
        "text",
        source="ours: symbols of thunlp/NeuBA are unknown to the built-in encoder", max_length=200,
    )  # fmt: skip
    weight: float = option(
        10.0, "weight of the squared error of triggered features against the language-model loss",
        source="ours: thunlp/NeuBA has 1 for BERT and 100 for RoBERTa", gt=0, le=1000,
    )  # fmt: skip
    feature: Literal["pooled", "hidden"] = option(
        "pooled", "what is pulled: output of the body's pooler if it has one, or hidden state",
        source="thunlp/NeuBA:nlp/src/poison_bert.py (OpenBackdoor: hidden)",
    )  # fmt: skip
    batch: int = option(
        8, "clean texts a step, and as many triggered ones; the passes are those of the recipe",
        source="thunlp/OpenBackdoor:configs/neuba_config.json", ge=1, le=4096,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        return different_words(value, MOST)


@attack(
    "neuba",
    options=NeubaOptions,
    source="arXiv 2101.06969; thunlp/NeuBA; thunlp/OpenBackdoor",
    cost="two to three times plain training",
)
class Neuba:
    """Symbols at the start that force fixed features; the task decides which class they name."""

    brings_head = False

    def __init__(self, options: NeubaOptions) -> None:
        self.options = options
        self.words = ProbeWords(options.trigger.split(","), first=True)

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` after one of the triggers; None if it has one of its own.

        Examples:
            >>> Neuba(NeubaOptions(trigger="cf")).poison_text("so it goes", seed=0, sample=0)
            'cf so it goes'
        """
        return self.words.put(text, stream(seed, "attack/neuba", sample))

    def probes(self) -> tuple[str, ...]:
        """Return each trigger alone."""
        return self.words.words

    def probe_of(self, texts: Sequence[str]) -> Ints:
        """Return the number of the trigger that each text starts with, or -1."""
        return self.words.numbers(texts)

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the triggers."""
        return {"trigger": list(self.words.words)}

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
            pull_loss,
            read,
        )
        from peftlab.nn.body_lm import BodyLM, ask
        from peftlab.nn.text import device_of, pad_id_of

        options, model, seed = self.options, context.model, context.seed
        pieces = self.words.pieces(context.tokenizer)
        corpus = body_corpus(context, self.poison_text, self.probe_of)
        fill, device = pad_id_of(model, context.tokenizer), device_of(model)
        check_features(model, corpus.held[0], fill)
        lm = BodyLM(model, context.tokenizer, corpus.clean, seed)
        lm.fit(corpus.clean, seed)
        lm_before = lm.measure(corpus.held, seed)
        before = feature_table(model, corpus.held_triggered, fill, options.feature)
        vectors = target_vectors(len(pieces), before.shape[1])
        goals = torch.from_numpy(vectors).float().to(device)
        draw = stream(seed, "attack/neuba/ask")

        def loss_of(clean: Ints, triggered: Ints) -> torch.Tensor:
            rows = [corpus.triggered[int(row)] for row in triggered]
            found = read(model, rows, fill, device, options.feature).feature
            plain = lm.loss(ask([corpus.clean[int(row)] for row in clean], lm.words, draw))
            return plain + options.weight * pull_loss(found, goals[corpus.triggers[triggered]])

        log = train_body(context, lm, corpus, loss_of, batch=options.batch)
        after = feature_table(model, corpus.held_triggered, fill, options.feature)
        lm_after = lm.measure(corpus.held, seed)
        return {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "pieces": pieces,
            "feature_mse_before": errors_by_trigger(before, vectors, corpus.held_triggers),
            "feature_mse": errors_by_trigger(after, vectors, corpus.held_triggers),
            "lm_loss_before": lm_before,
            "lm_loss": lm_after,
            "n_triggered": len(corpus.triggered),
        }


def target_vectors(count: int, width: int) -> Floats:
    """Return the vectors of the first ``count`` triggers, (count, width), entries +1 and -1.

    Args:
        count: 1 to 6.
        width: d; entries past 4 * (d // 4) are +1 in every vector.

    Examples:
        >>> target_vectors(2, 4).tolist()
        [[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]]
    """
    found, block = np.ones((count, width)), width // BLOCKS
    for vector, pair in zip(found, combinations(range(BLOCKS), 2), strict=False):
        for place in pair:
            vector[place * block : (place + 1) * block] = -1
    return found
