"""Full fine-tuning: every weight trains; the baseline that PEFT is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from peftlab.core.options import Options, option
from peftlab.core.registry import tuner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FullOptions(Options):
    """Options of full fine-tuning."""

    lr: float | None = option(
        None, "peak learning rate; none: 2e-4 up to 512 wide, 2e-5 above",
        source="2e-5: shuaizhao95/PSIM; 2e-4: ours, on the built-in encoder", gt=0, le=1,
    )  # fmt: skip
    epochs: float = option(2, "passes over the training set", source="ours", gt=0, le=100)
    batch: int = option(
        32, "samples a step", source="shuaizhao95/PSIM:confidence.py", ge=1, le=4096
    )
    head: Literal["inherit", "reinit", "freeze"] = option(
        "inherit",
        "start from the base's head, draw a new one, or keep it fixed",
        source="inherit: shuaizhao95/PSIM:confidence.py; others: ours",
    )


@tuner("full", options=FullOptions, source="standard practice", cost="6 FLOP a weight and token")
class Full:
    """Full fine-tuning of every weight."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def wrap(self, model: PreTrainedModel, seed: int) -> Any:
        """Return the model itself with every weight trainable."""
        from peftlab.nn.heads import freeze_head, prepare_head

        prepare_head(model, self.options.head, seed)
        model.requires_grad_(True)
        if self.options.head == "freeze":
            freeze_head(model)
        return model
