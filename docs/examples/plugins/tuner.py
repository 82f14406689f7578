"""DoRA: LoRA on the direction of each weight column, with its length learned apart.

Idea: W becomes m (W + B A) / |W + B A|, column by column. Liu et al., arXiv 2402.09353.
"""

from typing import Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner


class DoraOptions(Options):
    """Options of ``example-dora``; the training loop asks every tuner for the last four."""

    rank: int = option(8, "rank of the update", source="ours", ge=1, le=1024)
    lr: float = option(2e-3, "peak learning rate", source="ours", gt=0, le=1)
    epochs: float = option(2, "passes over the training set", source="ours", gt=0, le=100)
    batch: int = option(32, "samples a step", source="ours", ge=1, le=4096)
    head: Literal["inherit", "reinit", "freeze"] = option(
        "inherit", "start from the base's head, draw a new one, or keep it fixed", source="ours"
    )


@tuner("example-dora", options=DoraOptions, source="arXiv 2402.09353", cost="LoRA and one norm")
class Dora:
    """Weight-decomposed low-rank adaptation through ``peft``."""

    def __init__(self, options: DoraOptions) -> None:
        self.options = options

    def wrap(self, model: Any, seed: int) -> Any:
        """Return a ``peft`` model whose adapter and head train."""
        from peft import LoraConfig

        from peftlab.nn.adapters import wrap_with

        config = LoraConfig(task_type="SEQ_CLS", r=self.options.rank, use_dora=True)
        return wrap_with(model, config, head=self.options.head, seed=seed)
