"""LoRA: a low-rank update B A beside chosen frozen matrices.

W x becomes W x + (alpha / r) B A x; B starts at zero. Hu et al., arXiv 2106.09685.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoraOptions(Options):
    """Options of LoRA."""

    rank: int = option(
        8, "rank r of the update", source="shuaizhao95/PSIM:confidence.py", ge=1, le=1024
    )
    alpha: float = option(16, "scale: the update counts alpha / r", source="shuaizhao95/PSIM", gt=0)
    dropout: float = option(0.1, "dropout before A", source="shuaizhao95/PSIM", ge=0, lt=1)
    targets: str = option(
        "", "comma list of module names; empty: peft's choice (query and value)",
        source="peft", max_length=256,
    )  # fmt: skip
    lr: float = option(
        2e-3, "peak learning rate", source="shuaizhao95/PSIM:confidence.py", gt=0, le=1
    )
    epochs: float = option(
        2, "passes over the training set", source="ours: 20 in PSIM, on larger models", gt=0, le=100
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
    "lora", options=LoraOptions, source="arXiv 2106.09685", cost="4 FLOP a frozen weight and token"
)
class Lora:
    """Low-rank adaptation through ``peft``."""

    def __init__(self, options: LoraOptions) -> None:
        self.options = options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return a ``peft`` model whose adapter and head train."""
        from peft import LoraConfig

        from peftlab.nn.adapters import wrap_with

        chosen = self.options
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=chosen.rank,
            lora_alpha=chosen.alpha,
            lora_dropout=chosen.dropout,
            target_modules=[n.strip() for n in chosen.targets.split(",") if n.strip()] or None,
        )
        return wrap_with(model, config, head=chosen.head, seed=seed)
