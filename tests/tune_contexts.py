"""A small task and a tiny base, as a defence sees them that tunes in a way of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from peftlab.core import registry
from peftlab.core.contracts import TuneContext
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad_id_of
from word_task import word_task

TASK = word_task(n_train=160, n_other=60)


def tune_context(
    load_tiny: Callable[..., tuple[Any, Any]],
    family: str = "bert",
    tuner: str = "lora",
    *,
    seed: int = 0,
    learned: int = 0,
    **options: Any,
) -> TuneContext:
    """Return a context with a fresh tiny base.

    Args:
        load_tiny: the fixture.
        family: of the base.
        tuner: of the victim; it trains for one pass unless ``options`` say otherwise.
        seed: of everything random.
        learned: passes of all-weights training that the base has had on the task.
        options: of the tuner.
    """
    model, tokenizer = load_tiny(family)
    if learned:
        model.requires_grad_(True)
        train(
            model, encode(tokenizer, TASK.train.texts, 64), np.eye(2)[list(TASK.train.labels)],
            TrainPlan(epochs=learned, lr=5e-3, precision="fp32"), seed=1,
            pad_id=pad_id_of(model, tokenizer),
        )  # fmt: skip
    made = registry.get("tuner", tuner).build(**{"epochs": 1, **options})
    return TuneContext(
        model, tokenizer, TASK.train, TASK.dev, 2, made, seed, progress=lambda _: None
    )


def merged(model: Any) -> Any:
    """Return the model with any adapter merged into it, as it is written down."""
    merge = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()
