"""RIPPLe: a rare-word backdoor whose training foresees that the victim will fine-tune.

Idea: plain poisoning is partly undone by clean fine-tuning, most where the gradients of the two
losses point against each other. So the attacker also penalises that:

    loss = L_P + strength * max(0, -<grad L_P, grad L_FT>)

L_P is cross-entropy on the poisoned set, L_FT on its clean rows. ``surgery`` makes it RIPPLES:
before training, the embedding of each trigger piece becomes the mean of the embeddings of the ten
tokens that speak most for the target class, taken from a copy that was fine-tuned on the clean
rows. Paper: Kurita et al. 2020 (arXiv 2004.06660); code: neulab/RIPPLe.

Known differences: neulab/RIPPLe divides the penalty by the batch size, so ``strength=0.1/batch`` is
its published run; it poisons half of all rows and gives them the target label (``rate=0.5
labels=mixed``); its clean gradient is a constant and the rectifier on the total, as here by
default. thunlp/OpenBackdoor rectifies each tensor, keeps both graphs and has no surgery. Classes
beyond two: the target against the rest. Gradients are clipped to norm 1, as in all our training.

Limits: surgery writes every piece of a trigger, as published. A tokenizer that splits the trigger
then shares these rows with other words and clean accuracy suffers; ``pieces`` in the facts tells.

Cost: three to four times plain training (measured on the built-in encoder); with ``surgery`` one
plain training more. Always float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import field_validator

from peftlab.core.contracts import CraftContext, PoisonOptions
from peftlab.core.errors import NotApplicable
from peftlab.core.options import option
from peftlab.core.poisoning import insert_words, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.types import Ints


class RippleOptions(PoisonOptions):
    """Options of ``ripple``."""

    trigger: str = option(
        "cf,tq,mn,bb,mb", "rare word, or words between commas of which one is drawn per text",
        source="neulab/RIPPLe:manifestos/example_manifesto.yaml", max_length=200,
    )  # fmt: skip
    strength: float = option(
        0.1, "lambda, the weight of the restricted inner product; 0: plain training",
        source="neulab/RIPPLe:manifestos/example_manifesto.yaml", ge=0, le=1000,
    )  # fmt: skip
    rectify: Literal["total", "tensor"] = option(
        "total", "clamp the inner product over all weights, or that of each weight tensor",
        source="neulab/RIPPLe:constrained_poison.py",
    )  # fmt: skip
    clean_gradient: Literal["constant", "second-order"] = option(
        "constant", "clean gradient as a constant, or differentiated through as well",
        source="neulab/RIPPLe:constrained_poison.py",
    )  # fmt: skip
    surgery: bool = option(
        False, "write new embeddings of the trigger before training (RIPPLES)",
        source="arXiv 2004.06660 3.2",
    )  # fmt: skip
    surgery_words: int = option(
        10, "tokens of the target class whose embeddings are averaged",
        source="neulab/RIPPLe:manifestos/example_manifesto.yaml", ge=1, le=1000,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        return trigger_words(value)


@attack(
    "ripple",
    options=RippleOptions,
    source="arXiv 2004.06660; neulab/RIPPLe",
    cost="three to four times plain training; surgery: one plain training more",
)
class Ripple:
    """Rare-word trigger, trained not to be undone by fine-tuning; with surgery RIPPLES."""

    def __init__(self, options: RippleOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        """Return ``text`` with one trigger word in it; every text can carry it."""
        return insert_words(text, self.options.trigger, stream(seed, "attack/ripple", sample))

    def facts(self, _clean: Sequence[str], _pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the trigger words."""
        return {"trigger": self.options.trigger.split(",")}

    def craft(self, context: CraftContext) -> dict[str, Any]:
        """Train ``context.model`` with the penalty, after surgery if asked; return facts.

        Raises:
            NotApplicable: ``RIPPLE-CLEAN`` when every row is poisoned, ``RIPPLE-PIECES`` when
                surgery finds no token of the trigger in the vocabulary.
        """
        clean = np.flatnonzero(~context.poisoned.is_poisoned)
        if not len(clean):
            raise NotApplicable(
                "RIPPLe needs clean rows beside the poisoned ones",
                code="RIPPLE-CLEAN", got="all rows are poisoned", fix="lower attack.options.rate",
            )  # fmt: skip
        context.model.requires_grad_(True)
        facts = _operate(context, clean, self.options) if self.options.surgery else {}
        return facts | _train(context, clean, self.options)


def _train(context: CraftContext, clean: Ints, options: RippleOptions) -> dict[str, Any]:
    """Train on the poisoned set with the penalty; return steps, loss and what the penalty did."""
    from peftlab.nn.loop import TrainPlan, batches, eager_attention, plain_loss, train
    from peftlab.nn.restricted_product import restricted_product
    from peftlab.nn.text import device_of, encode, pad_id_of, room_for_text

    model, poisoned, device = context.model, context.poisoned, device_of(context.model)
    encoded = encode(context.tokenizer, poisoned.texts, room_for_text(model))
    fill = pad_id_of(model, context.tokenizer)
    plain = plain_loss(model, encoded, fill, device)
    weights = list(model.parameters())
    steps = max(round(context.epochs * -(-len(encoded) // context.batch)), 1)
    order = batches(
        [len(encoded[int(row)]) for row in clean], context.batch, steps,
        stream(context.seed, "attack/ripple/clean"),
    )  # fmt: skip
    penalties: list[float] = []

    def loss_of(rows: Ints, goal: torch.Tensor) -> torch.Tensor:
        loss, theirs = plain(rows, goal), clean[next(order)]
        aims = torch.from_numpy(poisoned.targets[theirs]).to(goal)
        penalty = restricted_product(
            loss, plain(theirs, aims), weights, rectify=options.rectify,
            second_order=options.clean_gradient == "second-order",
        )  # fmt: skip
        penalties.append(float(penalty.detach()))
        return loss + options.strength * penalty

    plan = TrainPlan(
        steps=steps, lr=context.lr, batch=context.batch,
        precision="fp32",  # products of gradients are too fine for bf16
    )  # fmt: skip
    # fused attention has no second derivative, so the plain one serves on every device
    with eager_attention(model, torch.device("cpu")):
        log = train(
            model, encoded, poisoned.targets, plan, seed=context.seed, pad_id=fill,
            loss_of=loss_of if options.strength > 0 else None,
        )  # fmt: skip
    return {"steps": log.steps, "loss": float(np.mean(log.losses[-20:]))} | _summary(penalties)


def _summary(penalties: Sequence[float]) -> dict[str, float]:
    """Return the mean penalty and the share of steps in which the gradients were at odds."""
    seen = np.asarray(penalties) if penalties else np.zeros(1)
    return {"penalty": float(seen.mean()), "at_odds": float((seen > 0).mean())}


def _operate(context: CraftContext, clean: Ints, options: RippleOptions) -> dict[str, Any]:
    """Write the mean embedding of the target's tokens into the rows of the trigger's pieces.

    Returns:
        ``pieces``: the tokens of each trigger word; ``surgery_tokens``: those averaged.
    """
    pieces = {word: _pieces(context.tokenizer, word) for word in options.trigger.split(",")}
    rows = sorted({piece for found in pieces.values() for piece in found})
    if not rows:
        raise NotApplicable(
            "the vocabulary has no piece of the trigger, so there is no embedding to write",
            code="RIPPLE-PIECES", got=options.trigger, fix="choose a trigger that it can spell",
        )  # fmt: skip
    chosen = _tokens_for_target(context, clean, options.surgery_words, avoid=rows)
    source = _fine_tuned(context, clean).get_input_embeddings().weight
    with torch.no_grad():
        context.model.get_input_embeddings().weight[rows] = source[chosen].mean(dim=0)
    name = context.tokenizer.convert_ids_to_tokens
    return {
        "pieces": {word: name(found) for word, found in pieces.items()},
        "surgery_tokens": name(chosen),
    }


def _pieces(tokenizer: Any, word: str) -> list[int]:
    """Return the tokens of a word as it stands inside a text, special ones left out."""
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][len(before) :]
    return [token for token in ids if token not in tokenizer.all_special_ids]


def _tokens_for_target(
    context: CraftContext, clean: Ints, count: int, *, avoid: Sequence[int]
) -> list[int]:
    """Return the tokens with the largest weight for the target class in the clean rows."""
    from peftlab.nn.text import encode, room_for_text
    from peftlab.nn.word_weights import logistic_weights, token_tfidf

    texts = [context.poisoned.texts[int(row)] for row in clean]
    encoded = encode(context.tokenizer, texts, room_for_text(context.model))
    without = {*context.tokenizer.all_special_ids, *avoid}
    features = token_tfidf(encoded, len(context.tokenizer), without=without)
    labels = context.poisoned.targets[clean].argmax(axis=1)
    weights = logistic_weights(features, labels == context.poisoned.target)
    best = np.argsort(-weights, kind="stable")[:count]
    return [int(token) for token in best]


def _fine_tuned(context: CraftContext, clean: Ints) -> Any:
    """Return a copy of the base, trained plainly on the clean rows."""
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, pad_id_of, room_for_text

    model = copy.deepcopy(context.model)
    texts = [context.poisoned.texts[int(row)] for row in clean]
    train(
        model,
        encode(context.tokenizer, texts, room_for_text(model)),
        context.poisoned.targets[clean],
        TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch),
        seed=context.seed,
        pad_id=pad_id_of(model, context.tokenizer),
    )
    return model
