"""Prefix tuning (P-tuning v2): trained keys and values before every layer's own.

Li and Liang, arXiv 2101.00190; Liu et al., arXiv 2110.07602.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PrefixOptions(Options):
    """Options of prefix tuning."""

    virtual_tokens: int = option(
        5,
        "virtual tokens put before every text",
        source="shuaizhao95/PSIM:confidence.py",
        ge=1,
        le=100,
    )
    lr: float = option(
        1e-2,
        "peak learning rate",
        source="ours: between prompt tuning and LoRA on the built-in encoder",
        gt=0,
        le=1,
    )
    epochs: float = option(
        3, "passes over the training set", source="ours: 20 in PSIM, on larger models", gt=0, le=100
    )
    batch: int = option(
        32, "samples a step", source="shuaizhao95/PSIM:confidence.py", ge=1, le=4096
    )
    head: Literal["inherit", "reinit", "freeze"] = option(
        "inherit",
        "start from the base's head, draw a new one, or keep it fixed",
        source="inherit: shuaizhao95/PSIM:confidence.py; others: ours",
    )


@tuner(
    "prefix",
    options=PrefixOptions,
    source="arXiv 2110.07602",
    cost="4 FLOP a frozen weight and token",
)
class Prefix:
    """Prefix tuning through ``peft``."""

    def __init__(self, options: PrefixOptions) -> None:
        self.options = options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a ``peft`` model whose adapter and head train."""
        from peft import PrefixTuningConfig

        from peftlab.nn.adapters import wrap_with

        chosen = self.options
        config = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=chosen.virtual_tokens)
        return wrap_with(model, config, head=chosen.head, seed=seed)
