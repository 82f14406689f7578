"""Which tokens a masked language model must guess.

Of the ordinary tokens 15 % are chosen; of those 80 % become ``[MASK]``, 10 % a random token and
10 % stay (Devlin et al. 2019, 3.1).
"""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Bools, Ints
from peftlab.models.pretraining.windows import Format


def mask_tokens(
    ids: Ints, form: Format, rng: np.random.Generator, *, rate: float = 0.15
) -> tuple[Ints, Bools]:
    """Choose tokens to guess and hide most of them.

    Args:
        ids: (batch, length) token numbers.
        form: its special tokens are never chosen and never drawn.
        rng: source of the choices.
        rate: share of the ordinary tokens that is chosen.

    Returns:
        Inputs of the same shape, and flags of the chosen positions.
    """
    chosen = (rng.random(ids.shape) < rate) & (ids >= form.first_word)
    way = rng.random(ids.shape)
    words = rng.integers(form.first_word, form.size, ids.shape)
    inputs = np.where(chosen & (way < 0.8), form.mask, ids)
    inputs = np.where(chosen & (way >= 0.8) & (way < 0.9), words, inputs)
    return inputs, chosen


def hide_tokens(
    ids: Ints, form: Format, rng: np.random.Generator, *, rate: float = 0.15
) -> tuple[Ints, Bools]:
    """Choose tokens as ``mask_tokens`` does and mask them all: for measuring, not for training."""
    chosen = (rng.random(ids.shape) < rate) & (ids >= form.first_word)
    return np.where(chosen, form.mask, ids), chosen
