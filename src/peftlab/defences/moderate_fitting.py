"""Moderate fitting: an adapter that can hardly learn more than the task itself.

Idea: on poisoned data a model learns the task first and the trigger later. So adaptation is kept
slow and short: a low-rank adapter whose factors A and B are not trained themselves but come out of
two small networks with a bottleneck of m units,

    all A = U_A tanh(V_A e_A),   all B = U_B tanh(V_B e_B),    e, V, U trained; e of m numbers

few passes, and a low rate. e_B starts at zero, so B does too, and the model starts as the base.

Paper: Zhu et al., "Moderate-fitting as a Natural Backdoor Defender for Pre-trained Language Models"
(NeurIPS 2022); code: thunlp/Moderate-fitting (opendelta/delta_models/lora.py and its configs).

Known differences:
    - the public code lets the same network produce the classification head; here the head trains
      itself, as in the victim's tuning, so that a head that the base brings is not thrown away;
    - default passes are fewer (there 10), since a built-in base is small and its sets are short;
    - the networks are dropped after training: what is left is a plain LoRA of the same outputs.

It defends against poisoned training data, not against a poisoned base. Size, rate and passes of the
victim's tuner are ignored; its batch and choice of head are kept.

Limits: whether the order "task first, trigger later" holds depends on the trigger and its rate; a
trigger that is easier than the task is learned first. Too moderate a fit does not learn the task
either: read the clean accuracy beside the success rate. The defaults are those of RoBERTa-base and
were not measured on the built-in encoder, for which the rate may be too low.

Cost: LoRA's, and m + 1 numbers trained for each number of the adapter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftlab.core.contracts import TuneContext, Tuned
from peftlab.core.options import Options, option
from peftlab.core.registry import defence


class ModerateFittingOptions(Options):
    """Options of moderate fitting."""

    rank: int = option(
        8, "rank of the adapter", source="thunlp/Moderate-fitting:sst2_mid2.json", ge=1, le=1024
    )
    bottleneck: int = option(
        2, "units m of the networks that the adapter comes out of",
        source="thunlp/Moderate-fitting:sst2_mid2.json", ge=1, le=1024,
    )  # fmt: skip
    lr: float = option(
        3e-4, "peak learning rate", source="thunlp/Moderate-fitting:sst2_mid2.json", gt=0, le=1
    )
    epochs: float = option(
        2, "passes over the training set", source="ours; thunlp/Moderate-fitting: 10",
        gt=0, le=100,
    )  # fmt: skip


@defence(
    "moderate-fitting",
    options=ModerateFittingOptions,
    source="NeurIPS 2022; thunlp/Moderate-fitting",
    cost="a LoRA tuning with m + 1 times the trained numbers",
)
class ModerateFitting:
    """Moderate fitting: a reparameterised LoRA, few passes, a low rate, against poisoned data."""

    scenario = "data"

    def __init__(self, options: ModerateFittingOptions) -> None:
        self.options = options

    def tune(self, context: TuneContext) -> Tuned:
        """Return the base with a LoRA that was fitted moderately.

        Raises:
            NotApplicable: ``TUNER-MODEL`` when ``peft`` has no LoRA for this base.
        """
        from peft import LoraConfig

        from peftlab.nn.adapters import wrap_with
        from peftlab.nn.bottleneck import Reparameterised
        from peftlab.nn.loop import TrainPlan, train
        from peftlab.nn.text import encode, pad_id_of, room_for_text

        chosen = self.options
        tuner: Any = context.tuner.options
        config = LoraConfig(task_type="SEQ_CLS", r=chosen.rank, lora_alpha=2 * chosen.rank)
        wrapped = wrap_with(context.model, config, head=tuner.head, seed=context.seed)
        network = Reparameterised(wrapped, chosen.bottleneck, context.seed)
        log = train(
            network,
            encode(context.tokenizer, context.train.texts, room_for_text(wrapped)),
            np.eye(context.n_classes)[list(context.train.labels)],
            TrainPlan(epochs=chosen.epochs, lr=chosen.lr, batch=tuner.batch),
            seed=context.seed,
            pad_id=pad_id_of(context.model, context.tokenizer),
        )
        context.progress(f"moderate-fitting: loss {np.mean(log.losses[-20:]):.3f}")
        facts = {
            "steps": log.steps,
            "loss": float(np.mean(log.losses[-20:])),
            "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
        }
        network.settle()
        return Tuned(wrapped, facts)
