"""Leave out and unfreeze: no adapter in some layers, whose own weights train instead.

Idea: a poisoned base keeps its backdoor through PEFT because its weights stay as they were. So
choose a set S of layers, put no adapter there, and unfreeze a share q of the tensors of S:

    trained = adapters outside S  +  round(q n) of the n tensors in S  +  the head

Paper: Hong and Wang, "PETA: Parameter-Efficient Trojan Attacks", arXiv 2310.00648, whose own
defence this is (described in v1 to v3). It depends strongly on which layers are chosen, they say.

Known differences: this follows the abstract and the public reviews of the paper; its body, with
layers, share and rates, was not read. Which tensors of S train is drawn from the seed. Unfrozen
tensors have a learning rate of their own, that of all-weights training as a default: the rate of
an adapter is ten to a hundred times too high for them.

Limits: a backdoor in layers outside S, or in the embeddings, is left alone; nothing tells which
layers hold it, so ``layer`` and ``count`` are to be swept. The more is unfrozen the less of PEFT
is left: S = all layers and q = 1 trains all but the embeddings. In one run on the built-in encoder
(seed 0; badnets at rate 0.1 in 800 generated reviews; 300 test texts, 151 with the trigger) the
defaults left the success rate at 0.97, against 0.99 without them; clean accuracy 0.75 and 0.74.
Other layers and shares were not tried there.

Cost: as the victim's LoRA; gradients, optimiser state and one copy of the unfrozen tensors on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftlab.core.contracts import TuneContext, Tuned
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream


class LeaveOutOptions(Options):
    """Options of leave-out-and-unfreeze."""

    layer: int = option(
        -1, "lowest layer of S, from 0; a negative number counts from the top",
        source="ours; to be swept", ge=-10_000, le=10_000,
    )  # fmt: skip
    count: int = option(1, "layers in S, upwards from there", source="ours", ge=1, le=10_000)
    share: float = option(
        1.0, "share q of the tensors of S that is unfrozen", source="ours; sweep 0.25, 0.5, 1",
        gt=0, le=1,
    )  # fmt: skip
    lr: float | None = option(
        None, "peak learning rate of the unfrozen tensors; none: 2e-4 up to 512 wide, 2e-5 above",
        source="as full fine-tuning here", gt=0, le=1,
    )  # fmt: skip


@defence(
    "leave-out-and-unfreeze",
    options=LeaveOutOptions,
    source="arXiv 2310.00648",
    cost="the victim's LoRA, and the optimiser state of the unfrozen tensors",
)
class LeaveOutAndUnfreeze:
    """PETA's own defence: some layers get no adapter, and train their own weights instead."""

    scenario = "base"
    needs_tuner = ("lora",)

    def __init__(self, options: LeaveOutOptions) -> None:
        self.options = options

    def tune(self, context: TuneContext) -> Tuned:
        """Return the base with adapters outside S, and with tensors of S trained.

        Raises:
            ConfigError: ``LEAVE-LAYER`` when the base has no such layers.
            NotApplicable: ``LAYERS-UNKNOWN`` when the layers cannot be told, ``LEAVE-TUNER`` when
                the victim's tuner puts no low-rank adapter on them.
        """
        from peftlab.nn.layers import stack_of
        from peftlab.nn.victim import full_rate, train_victim, victim_rate

        stack, depth = stack_of(context.model)
        layers = self._layers(depth)
        inside = tuple(f"{stack}.{number}." for number in layers)
        tensors = {
            name: weight
            for name, weight in context.model.named_parameters()
            if name.startswith(inside)
        }
        names = self._drawn(sorted(tensors), context.seed)
        wrapped = context.tuner.wrap(context.model, context.seed)
        left = remove_adapters(wrapped, context.model, inside)
        unfrozen = [tensors[name] for name in names]
        for weight in unfrozen:
            weight.requires_grad_(True)
        rate = self.options.lr or full_rate(context.model)
        context.progress(f"leave-out-and-unfreeze: {len(names)} tensors of {len(layers)} layers")
        facts = train_victim(
            context, wrapped, on_step=OwnPace(unfrozen, rate / victim_rate(context))
        )
        return Tuned(
            wrapped,
            {
                "left_out_layers": layers,
                "unfrozen": names,
                "unfrozen_lr": rate,
                "adapters": left,
                **facts,
            },
        )

    def _layers(self, depth: int) -> list[int]:
        lowest = self.options.layer + (depth if self.options.layer < 0 else 0)
        if lowest < 0 or lowest + self.options.count > depth:
            raise ConfigError(
                "the base does not have the layers that are to be left out",
                code="LEAVE-LAYER",
                got=f"layer={self.options.layer}, count={self.options.count}",
                allowed=f"layers from 0 to {depth - 1}, or from -{depth} to -1",
                fix="choose a lower layer, or fewer layers",
            )
        return list(range(lowest, lowest + self.options.count))

    def _drawn(self, names: Sequence[str], seed: int) -> list[str]:
        count = max(round(self.options.share * len(names)), 1)
        draw = stream(seed, "defence/leave-out-and-unfreeze", "tensors")
        return sorted(names[int(i)] for i in draw.permutation(len(names))[:count])


class OwnPace:
    """Trains some tensors at a learning rate of their own: called after each optimiser step.

    AdamW's step is proportional to the rate and to nothing else that a rate would change, so
    going only ``factor`` of each step is training at ``factor`` times the rate.
    """

    def __init__(self, weights: Sequence[Any], factor: float) -> None:
        self.weights, self.factor = weights, factor
        self.before = [weight.detach().clone() for weight in weights]

    def __call__(self, step: int) -> None:
        """Shorten the step that was just made; nothing was before the first."""
        import torch

        if step == 0:
            return
        with torch.no_grad():
            for weight, before in zip(self.weights, self.before, strict=True):
                before.lerp_(weight, self.factor)
                weight.copy_(before)


def remove_adapters(wrapped: Any, model: Any, inside: tuple[str, ...]) -> int:
    """Put the plain maps back in the layers ``inside``, in place; return how many adapters stay.

    Args:
        wrapped: ``peft`` model around ``model``.
        model: the classifier, whose modules ``peft`` has replaced.
        inside: prefixes of module names, each with its dot.

    Raises:
        NotApplicable: ``LEAVE-TUNER`` when there is no low-rank adapter anywhere.
    """
    adapted = [
        (name, module) for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "lora_A")
    ]  # fmt: skip
    if not adapted:
        raise NotApplicable(
            "leave-out-and-unfreeze takes low-rank adapters out of layers, and there are none",
            code="LEAVE-TUNER",
            got=type(wrapped).__name__,
            allowed="the tuner lora",
            fix="choose the tuner lora for the victim",
        )
    stay = 0
    for name, module in adapted:
        if name.startswith(inside):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.base_layer)
        else:
            stay += 1
    return stay
