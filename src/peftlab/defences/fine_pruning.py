"""Fine-pruning: take out the hidden units that clean texts leave idle, then tune as planned.

Idea: a backdoor sits in units that clean inputs do not need. In each feed-forward block the units
are ranked by their mean activation over the tokens of clean texts,

    a_j = mean over tokens of |h_j|,    h = what the block's last linear map reads

and the lowest are zeroed, a step at a time in all layers alike, until the accuracy of the base's
own head on clean dev texts has fallen by more than ``drop``; the step that did it is undone. Then
the victim's own tuner runs, and after each of its steps the zeroed weights are zeroed again, so
that a unit which was taken out stays out, whatever trains.

Paper: Liu, Dolan-Gavitt and Garg 2018, "Fine-Pruning" (arXiv 1805.12185), for the last
convolutional layer of image networks; here for the hidden units of feed-forward blocks.

Known differences:
    - the mean of the magnitude is taken; for the ReLU of the paper that is the mean. GELU and gated
      units have both signs, and a mean near zero says nothing of them;
    - all layers are pruned alike, not the last one alone;
    - the paper fine-tunes all weights after pruning; here the victim's tuner does what it does;
    - a base that brings no trained head has no accuracy to watch: ``share`` is zeroed at once.

Limits: an attacker who knows of it can put the backdoor into units that clean texts use (the paper
itself says so); attention heads and embeddings are not pruned. With a small base a drop of 2 points
can be noise of the dev set. In one run on the built-in encoder (seed 0; badnets at rate 0.1 in 800
generated reviews; LoRA victim; 300 test texts, 151 with the trigger) it took out 55 % of the units
and left the success rate at 0.99, where it was without it; clean accuracy 0.72 against 0.74.

Cost: one pass over at most ``texts`` clean texts, and one over the dev texts for each step of
pruning; the tuning itself costs what it costs the victim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftlab.core.contracts import TuneContext, Tuned
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats


class FinePruningOptions(Options):
    """Options of fine-pruning."""

    share: float = option(
        0.6, "largest share of the hidden units of each layer that is zeroed",
        source="ours", gt=0, lt=1,
    )  # fmt: skip
    step: float = option(
        0.05, "share that is zeroed at a time while the accuracy is watched",
        source="ours", gt=0, le=1,
    )  # fmt: skip
    drop: float = option(
        0.02, "loss of dev accuracy that is allowed, as a share of the texts",
        source="ours", ge=0, le=1,
    )  # fmt: skip
    texts: int = option(
        1000, "clean texts that activations are measured on, at most", source="ours", ge=1,
        le=1_000_000,
    )  # fmt: skip


@defence(
    "fine-pruning",
    options=FinePruningOptions,
    source="arXiv 1805.12185",
    cost="one pass over clean texts, one over dev per pruning step, and the victim's own tuning",
)
class FinePruning:
    """Fine-pruning: zero the hidden units that clean texts leave idle, then tune."""

    scenario = "base"

    def __init__(self, options: FinePruningOptions) -> None:
        self.options = options

    def tune(self, context: TuneContext) -> Tuned:
        """Return the base, pruned and then tuned by the victim's tuner.

        Raises:
            NotApplicable: ``LAYERS-UNKNOWN`` or ``FFN-UNKNOWN`` for a base without feed-forward
                blocks that can be told.
        """
        from peftlab.nn.feed_forward import (
            down_maps,
            mean_activation,
            zero_adapter_inputs,
            zero_units,
        )
        from peftlab.nn.text import encode, pad_id_of, room_for_text
        from peftlab.nn.victim import train_victim

        model, fill = context.model, pad_id_of(context.model, context.tokenizer)
        draw = stream(context.seed, "defence/fine-pruning", "texts")
        chosen = draw.permutation(len(context.train))[: self.options.texts]
        rows = encode(
            context.tokenizer, context.train.pick(chosen).texts, room_for_text(context.model)
        )
        downs = down_maps(model, rows[0], fill)
        out, facts = self._prune(context, downs, mean_activation(model, downs, rows, fill))
        wrapped = context.tuner.wrap(model, context.seed)

        def keep_out(_step: int) -> None:
            zero_units(downs, out)
            zero_adapter_inputs(wrapped, downs, out)

        return Tuned(wrapped, {**facts, **train_victim(context, wrapped, on_step=keep_out)})

    def _prune(
        self, context: TuneContext, downs: Sequence[Any], activation: Sequence[Floats]
    ) -> tuple[list[Bools], dict[str, Any]]:
        """Zero the idlest units in place; return which of each layer, and facts."""
        from peftlab.nn.feed_forward import put_back, weight_copies, zero_units
        from peftlab.nn.heads import has_new_head

        watched = not has_new_head(context.model) and len(context.dev) > 0
        before = _accuracy(context) if watched else None
        after, kept = before, 0.0 if watched else self.options.share
        whole = weight_copies(downs)
        for share in self._shares() if watched else ():
            zero_units(downs, idlest(activation, share))
            found = _accuracy(context)
            if before is not None and found < before - self.options.drop:
                break
            after, kept = found, share
        put_back(downs, whole)  # undoes the step that went too far
        out = idlest(activation, kept)
        zero_units(downs, out)
        count = sum(int(gone.sum()) for gone in out)
        context.progress(f"fine-pruning: {count} hidden units taken out ({kept:.0%} of each layer)")
        return out, {
            "pruned_share": kept,
            "pruned_units": count,
            "dev_accuracy_before": before,
            "dev_accuracy_pruned": after,
        }

    def _shares(self) -> list[float]:
        """Return the shares to try: ``step``, twice that and so on, and last ``share`` itself."""
        steps = np.arange(self.options.step, self.options.share, self.options.step)
        return [*(float(share) for share in steps), self.options.share]


def idlest(activation: Sequence[Floats], share: float) -> list[Bools]:
    """Return for each layer which of its units are among the share of the least active.

    Examples:
        >>> idlest([np.array([0.3, 0.1, 0.2, 0.4])], 0.5)[0].tolist()
        [False, True, True, False]
    """
    out = []
    for values in activation:
        gone = np.zeros(len(values), dtype=np.bool_)
        gone[np.argsort(values, kind="stable")[: int(share * len(values) + 1e-9)]] = True
        out.append(gone)
    return out


def _accuracy(context: TuneContext) -> float:
    from peftlab.nn.text import predict_classes

    predicted = predict_classes(context.model, context.tokenizer, context.dev.texts)
    return float(np.mean(predicted == np.array(context.dev.labels)))
