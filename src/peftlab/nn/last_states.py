"""What a classifier knows of each text just before its head: one vector of the last layer.

It is the last hidden state at the position where the family pools: the first token for encoders,
the last real one for decoders. Filters of training sets look for a trigger here.
(``nn.text.predict_hidden`` gives the layer below, with the logits.)

Cost: one forward pass a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.types import Floats
from peftlab.nn.body_features import feature_table
from peftlab.nn.text import encode, pad_id_of, room_for_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def last_states(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Floats:
    """Return the last hidden state of each text, in input order; float32 precision.

    Args:
        model: bare classifier of any family; put into eval mode here.
        tokenizer: of the model.
        texts: n texts, cut to what the model can take; empty texts and n = 0 are allowed.

    Returns:
        (n, d) float64; (0, 1) when there is no text.
    """
    rows = encode(tokenizer, texts, room_for_text(model))
    if not rows:
        return np.zeros((0, 1))
    return feature_table(model, rows, pad_id_of(model, tokenizer))
