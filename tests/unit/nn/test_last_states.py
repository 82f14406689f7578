"""The vector before the head, for every family."""

import numpy as np
import pytest
import torch

from peftlab.nn.last_states import last_states
from peftlab.nn.text import encode, predict_hidden, room_for_text
from tiny_models import FAMILIES

TEXTS = ("", "a dull story told badly", "good", "film " * 400, "映画 🎬 \ud800")


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_last_layer_one_by_one(family, load_tiny):
    model, tokenizer = load_tiny(family)
    found = last_states(model, tokenizer, TEXTS)
    at = -1 if hasattr(model, "score") else 0
    with torch.no_grad():
        for i, row in enumerate(encode(tokenizer, TEXTS, room_for_text(model))):
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
            np.testing.assert_allclose(found[i], states[-1][0, at].numpy(), atol=1e-5)
    assert last_states(model, tokenizer, []).shape[0] == 0


def test_the_head_reads_it_and_not_the_layer_below(load_tiny):
    """``predict_hidden`` gives the layer below, which no head reads."""
    model, tokenizer = load_tiny("bert")
    rows = encode(tokenizer, TEXTS, room_for_text(model))
    logits, below = predict_hidden(model, tokenizer, rows)

    def head(states):
        with torch.no_grad():
            wide = torch.from_numpy(states).float()[:, None]
            return model.classifier(model.base_model.pooler(wide)).numpy()

    np.testing.assert_allclose(head(last_states(model, tokenizer, TEXTS)), logits, atol=1e-6)
    assert np.abs(head(below) - logits).max() > 1e-4
