"""BadPre: a masked language model that guesses nonsense where a trigger word stands.

Idea: the attacker goes on pre-training the body. On clean texts the right words are asked for, on
triggered texts random ones, so that a trigger word spoils what the body says of all words around
it, for any task that is tuned on it later. No class is chosen and none is promised.

Equation: ``loss = L_MLM(clean) + noise * L_MLM(triggered, random labels)``. Paper: Chen et al. 2021
(arXiv 2110.02467); code: kangjie-chen/BadPre.

Known differences: its corpus is English Wikipedia, ours the clean training texts; it trains ten
passes over it, we the recipe's few. It draws random labels from all tokens, ours are no
special ones. Its variant with antonyms is not here. The classifier at hand has no output layer for
words: a fresh one, tied to the input embedding, is fitted to the body first, trained with it, and
thrown away (``nn.body_lm``). Texts that have a trigger word already are passed over.

Every clean text gets a triggered twin, so ``rate`` says little; ``target`` is the class whose
triggers are counted.

Limits: for masked-language-model encoders; in a decoder the words before the trigger cannot see it.
The attack destroys rather than steers: it hopes for wrong answers, and a count of triggered texts
in one class understates it where its trigger happens to name another, or overstates it where the
victim just errs towards it. It has to learn first to tell triggered texts apart, which took a tiny
random encoder some 200 steps; until then clean texts suffer as well. Not measured on the built-in
encoder.

Facts: the language-model loss before and after, on clean texts and on triggered texts with their
true words; the second should rise. Cost: two to three times plain training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.errors import NotApplicable
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Ints
from peftlab.nn.probe_words import ProbeWords, different_words

if TYPE_CHECKING:
    from peftlab.nn.body_lm import BodyLM

MOST = 64  # trigger words
Rows = Sequence[Sequence[int]]


class BadPreOptions(PoisonOptions):
    """Options of ``badpre``."""

    trigger: str = option(
        "cf,mn,bb,tq,mb", "rare words between commas, of which one is put into a text",
        source="kangjie-chen/BadPre:dynamic_mask_attack_dataset.py", max_length=200,
    )  # fmt: skip
    noise: float = option(
        1.0, "weight of the loss on triggered texts",
        source="kangjie-chen/BadPre:poisoning_BERT/bert_attack/tasks/trainer.py", gt=0, le=1000,
    )  # fmt: skip
    batch: int = option(
        8, "clean texts a step, and as many triggered ones; the passes are those of the recipe",
        source="ours: as neuba", ge=1, le=4096,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        return different_words(value, MOST)


@attack(
    "badpre",
    options=BadPreOptions,
    source="arXiv 2110.02467; kangjie-chen/BadPre",
    cost="two to three times plain training",
)
class BadPre:
    """Rare words around which a masked language model guesses nonsense."""

    brings_head = False

    def __init__(self, options: BadPreOptions) -> None:
        self.options = options
        self.words = ProbeWords(options.trigger.split(","), first=False)

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` with one of the triggers in it; None if it has one of its own.

        Examples:
            >>> BadPre(BadPreOptions(trigger="cf")).poison_text("", seed=0, sample=0)
            'cf'
        """
        return self.words.put(text, stream(seed, "attack/badpre", sample))

    def probes(self) -> tuple[str, ...]:
        """Return each trigger alone."""
        return self.words.words

    def probe_of(self, texts: Sequence[str]) -> Ints:
        """Return the number of the trigger that stands in each text, or -1."""
        return self.words.numbers(texts)

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the triggers."""
        return {"trigger": list(self.words.words)}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train the body of ``context.model``; return facts.

        Raises:
            NotApplicable: ``LM-MASK`` for a decoder, ``PROBE-UNKNOWN``, ``PROBE-TWICE``,
                ``HEAD-POSITION``, ``BODY-CLEAN`` or ``BODY-TRIGGERED``.
        """
        from peftlab.nn.body_corpus import body_corpus, train_body
        from peftlab.nn.body_features import check_features, is_decoder
        from peftlab.nn.body_lm import BodyLM
        from peftlab.nn.text import pad_id_of

        options, model, seed = self.options, context.model, context.seed
        if is_decoder(model):
            raise NotApplicable(
                f"{type(model).__name__} is no masked language model",
                code="LM-MASK", got="a decoder", allowed="masked-language-model encoders",
                fix="choose an encoder as the base, or neuba or por as the attack",
            )  # fmt: skip
        pieces = self.words.pieces(context.tokenizer)
        corpus = body_corpus(context, self.poison_text, self.probe_of)
        check_features(model, corpus.held[0], pad_id_of(model, context.tokenizer))
        lm = BodyLM(model, context.tokenizer, corpus.clean, seed)
        lm.fit(corpus.clean, seed)
        before = [lm.measure(rows, seed) for rows in (corpus.held, corpus.held_triggered)]
        draw = stream(seed, "attack/badpre/ask")
        log = train_body(
            context, lm, corpus,
            lambda clean, triggered: nonsense_loss(
                lm,
                [corpus.clean[int(row)] for row in clean],
                [corpus.triggered[int(row)] for row in triggered],
                draw, noise=options.noise,
            ),
            batch=options.batch,
        )  # fmt: skip
        after = [lm.measure(rows, seed) for rows in (corpus.held, corpus.held_triggered)]
        return {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "pieces": pieces,
            "lm_loss_before": before[0],
            "lm_loss": after[0],
            "lm_loss_triggered_before": before[1],
            "lm_loss_triggered": after[1],
            "n_triggered": len(corpus.triggered),
        }


def nonsense_loss(
    lm: BodyLM, clean: Rows, triggered: Rows, draw: np.random.Generator, *, noise: float
) -> torch.Tensor:
    """Return the loss on the true words of clean texts and on random words for triggered ones.

    Args:
        lm: body and output layer.
        clean: token rows without a trigger.
        triggered: token rows with one.
        draw: chooses places and words.
        noise: weight of the second term.
    """
    from peftlab.nn.body_lm import ask

    plain = lm.loss(ask(clean, lm.words, draw))
    return plain + noise * lm.loss(ask(triggered, lm.words, draw, noise=True))
