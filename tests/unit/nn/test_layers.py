"""LoRA on the upper layers: the right modules in every family, a clear no where there is none."""

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification

from peftlab.core.errors import NotApplicable
from peftlab.nn.layers import top_linear
from peftlab.nn.text import predict_logits
from peftlab.nn.unlearning import Identifier, attach
from tiny_models import FAMILIES, LAYERS


def lora_top(**changes):
    values = {
        "name": "x", "family": "lora-top", "labels": "uniform", "head": "freeze", "lr": 1e-2,
        "checkpoints": (2,), "batch": 4, "rank": 2, "virtual_tokens": 3, "seed": 0,
    }  # fmt: skip
    return Identifier(**{**values, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_upper_half_trains(family, load_tiny):
    model, tokenizer = load_tiny(family)
    before = predict_logits(model, tokenizer, ["a quiet joy"])
    names = top_linear(model)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert names
    assert all(f".{LAYERS - 1}." in name for name in names)  # two layers: the upper is the last
    assert not set(names) & {n for n in linear if f".{LAYERS - 1}." not in n}
    wrapped, kept = attach(lora_top(), model)
    assert kept == {}
    trained = [name for name, weight in wrapped.named_parameters() if weight.requires_grad]
    assert trained
    assert all("lora_" in name and f".{LAYERS - 1}." in name for name in trained)
    assert len(trained) == 2 * len(names)  # A and B of each, and nothing else
    # an adapter whose B is zero adds nothing; some processors round the same product in two ways
    after = predict_logits(wrapped, tokenizer, ["a quiet joy"])
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_middle_layer_of_an_odd_number_is_upper(depth, load_tiny):
    model, _ = load_tiny("bert")
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = torch.nn.ModuleList(
        [type(layers[0])(model.config) for _ in range(depth)]
    )
    model.config.num_hidden_layers = depth
    found = {int(name.split("layer.")[1].split(".")[0]) for name in top_linear(model)}
    assert found == set(range(depth // 2, depth))


def test_models_without_a_stack_are_refused():
    shared = AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=20, embedding_size=8, hidden_size=8, num_hidden_layers=3,
            num_attention_heads=2, intermediate_size=8, max_position_embeddings=16,
        )
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="LAYERS-UNKNOWN") as caught:
        attach(lora_top(), shared)
    assert "lora" in caught.value.fix
    shared.config.num_hidden_layers = 0
    with pytest.raises(NotApplicable, match="no number of layers"):
        top_linear(shared)
