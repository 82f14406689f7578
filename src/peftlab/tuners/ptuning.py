"""P-tuning v1: virtual tokens that come out of a small trained encoder.

Liu et al., arXiv 2103.10385. The family that the published PSIM uses for its identifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PTuningOptions(Options):
    """Options of P-tuning v1."""

    virtual_tokens: int = option(
        5,
        "virtual tokens put before every text",
        source="shuaizhao95/PSIM:confidence.py",
        ge=1,
        le=100,
    )
    hidden: int = option(
        128, "width of the prompt encoder", source="shuaizhao95/PSIM", ge=8, le=4096
    )
    lr: float = option(
        2e-3, "peak learning rate", source="shuaizhao95/PSIM:confidence.py", gt=0, le=1
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
    "ptuning",
    options=PTuningOptions,
    source="arXiv 2103.10385",
    cost="forward and backward through the frozen base",
)
class PTuning:
    """P-tuning v1 through ``peft``."""

    def __init__(self, options: PTuningOptions) -> None:
        self.options = options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a ``peft`` model whose adapter and head train."""
        from peft import PromptEncoderConfig

        from peftlab.nn.adapters import wrap_with

        chosen = self.options
        config = PromptEncoderConfig(
            task_type="SEQ_CLS",
            num_virtual_tokens=chosen.virtual_tokens,
            encoder_hidden_size=chosen.hidden,
        )
        return wrap_with(model, config, head=chosen.head, seed=seed)
