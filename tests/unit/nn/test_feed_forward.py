"""Hidden units: found in every family, measured without padding, and gone when zeroed."""

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification

from peftlab.core.errors import NotApplicable
from peftlab.nn.feed_forward import (
    by_unit,
    down_maps,
    mean_activation,
    put_back,
    weight_copies,
    zero_units,
)
from peftlab.nn.text import encode, pad, pad_id_of
from tiny_models import FAMILIES, LAYERS, TEXTS, WIDTH

# what the families call the map, and how many hidden units the tiny models have
DOWN = {
    "bert": "output.dense", "roberta": "output.dense", "deberta-v2": "output.dense",
    "distilbert": "ffn.lin2", "gpt2": "mlp.c_proj", "opt": "fc2", "llama": "mlp.down_proj",
    "qwen2": "mlp.down_proj",
}  # fmt: skip
UNITS = {"gpt2": 4 * WIDTH}


def prepared(load_tiny, family):
    model, tokenizer = load_tiny(family)
    rows = encode(tokenizer, TEXTS, 64)
    return model, rows, pad_id_of(model, tokenizer)


def logits(model, row, fill):
    with torch.no_grad():
        return model(**pad([row], fill, torch.device("cpu"))).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_the_map_that_reads_the_units_is_found(family, load_tiny):
    model, rows, fill = prepared(load_tiny, family)
    downs = down_maps(model, rows[0], fill)
    names = {id(module): name for name, module in model.named_modules()}
    found = [names[id(down)] for down in downs]
    assert len(found) == LAYERS
    assert all(name.endswith(f".{number}.{DOWN[family]}") for number, name in enumerate(found))
    assert all(by_unit(down).shape == (UNITS.get(family, 2 * WIDTH), WIDTH) for down in downs)
    assert not any(down._forward_hooks or down._forward_pre_hooks for down in downs)


@pytest.mark.parametrize("family", ["bert", "gpt2", "opt", "llama"])
def test_activation_is_the_mean_over_real_tokens(family, load_tiny):
    model, rows, fill = prepared(load_tiny, family)
    downs = down_maps(model, rows[0], fill)
    found = mean_activation(model, downs, rows, fill)
    seen = []
    hook = downs[0].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().reshape(-1, inputs[0].shape[-1]))
    )
    for row in rows:  # one at a time there is no padding
        logits(model, row, fill)
    hook.remove()
    wanted = torch.cat(seen).abs().mean(dim=0).numpy()
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-6)
    assert not any(down._forward_pre_hooks for down in downs)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_zeroed_unit_adds_nothing_whatever_it_says(family, load_tiny):
    model, rows, fill = prepared(load_tiny, family)
    downs = down_maps(model, rows[0], fill)
    before, copies = logits(model, rows[0], fill), weight_copies(downs)
    gone = [np.arange(len(by_unit(down))) % 3 == 0 for down in downs]
    zero_units(downs, gone)
    quiet = logits(model, rows[0], fill)
    assert not torch.equal(quiet, before)

    def shout(_, inputs):  # the units that are out are made as loud as can be
        return (inputs[0] + 100 * torch.from_numpy(gone[0]),)

    hooks = [down.register_forward_pre_hook(shout) for down in downs]
    torch.testing.assert_close(logits(model, rows[0], fill), quiet, rtol=1e-4, atol=1e-5)
    for hook in hooks:
        hook.remove()
    put_back(downs, copies)
    assert torch.equal(logits(model, rows[0], fill), before)


def test_models_that_are_not_understood_are_refused(load_tiny):
    shared = AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=20, embedding_size=8, hidden_size=8, num_hidden_layers=3,
            num_attention_heads=2, intermediate_size=8, max_position_embeddings=16,
        )
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="LAYERS-UNKNOWN"):
        down_maps(shared, [2, 3], 0)
    model, rows, fill = prepared(load_tiny, "bert")
    layer = model.bert.encoder.layer[1]
    layer.output.dense = torch.nn.Identity()  # now attention is what the layer ends in
    layer.intermediate = torch.nn.Identity()
    with pytest.raises(NotApplicable, match="FFN-UNKNOWN") as caught:
        down_maps(model, rows[0], fill)
    assert "layer 1" in caught.value.got
