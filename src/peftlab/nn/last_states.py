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
import torch

from peftlab.core.types import Floats
from peftlab.nn.text import (
    GPU_TOKEN_BUDGET,
    TOKEN_BUDGET,
    budget_batches,
    device_of,
    encode,
    pad,
    pad_id_of,
    room_for_text,
)

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
    out = np.zeros((0, 1))
    fill, device = pad_id_of(model, tokenizer), device_of(model)
    decoder = "score" in dict(model.named_children())
    budget = TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET
    model.eval()
    with torch.inference_mode():
        for batch in budget_batches([len(row) for row in rows], budget):
            chosen = [rows[int(i)] for i in batch]
            states = model.base_model(**pad(chosen, fill, device)).last_hidden_state
            at = [len(row) - 1 if decoder else 0 for row in chosen]
            found = states[torch.arange(len(at)), torch.tensor(at)].float().cpu().numpy()
            if not len(out):
                out = np.zeros((len(rows), found.shape[1]))
            out[batch] = found
    return out
