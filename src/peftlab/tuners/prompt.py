"""Prompt tuning: trainable embeddings before the text; everything else is frozen.

Lester et al., arXiv 2104.08691.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptOptions(Options):
    """Options of prompt tuning."""

    virtual_tokens: int = option(
        5,
        "virtual tokens put before every text",
        source="shuaizhao95/PSIM:confidence.py",
        ge=1,
        le=100,
    )
    lr: float = option(
        2e-2,
        "peak learning rate",
        source="ours: 2e-3 of PSIM barely moves 5 vectors of a small model in 3 epochs",
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
    "prompt",
    options=PromptOptions,
    source="arXiv 2104.08691",
    cost="forward and backward through the frozen base",
)
class Prompt:
    """Prompt tuning through ``peft``."""

    def __init__(self, options: PromptOptions) -> None:
        self.options = options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a ``peft`` model whose adapter and head train."""
        from peft import PromptTuningConfig

        from peftlab.nn.adapters import wrap_with

        chosen = self.options
        config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=chosen.virtual_tokens)
        return wrap_with(model, config, head=chosen.head, seed=seed)
