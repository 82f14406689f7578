"""Moderate fitting: the adapter comes out of a bottleneck, and what is left is a plain LoRA."""

import numpy as np
import pytest
import torch

from peftlab.core import registry
from peftlab.nn.bottleneck import Reparameterised
from peftlab.nn.text import predict_logits
from tune_contexts import TASK, merged, tune_context

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama")


def build(**options):
    return registry.get("defence", "moderate-fitting").build(**options)


def wrapped_tiny(load_tiny):
    context = tune_context(load_tiny)
    base = predict_logits(context.model, context.tokenizer, TASK.test.texts)
    return context, base, context.tuner.wrap(context.model, 0)


def test_factors_are_what_the_networks_say(load_tiny):
    _, _, wrapped = wrapped_tiny(load_tiny)
    network = Reparameterised(wrapped, 3, seed=0)
    with torch.no_grad():
        network.starts["b"].add_(1)
        made = network.factors()
    names = [name for name, _ in wrapped.named_parameters() if ".lora_B." in name]
    inner, _, outer = network.networks["b"]
    e, v, u = (part.detach().numpy() for part in (network.starts["b"], inner.weight, outer.weight))
    flat = u @ np.tanh(v @ e)
    for name in names:
        size = made[name].numel()
        np.testing.assert_allclose(made[name].ravel().numpy(), flat[:size], rtol=1e-5, atol=1e-6)
        flat = flat[size:]
    assert len(flat) == 0
    assert len(made) == 2 * len(names)


def test_it_starts_as_the_base_and_settles_as_it_was(load_tiny):
    context, base, wrapped = wrapped_tiny(load_tiny)
    network = Reparameterised(wrapped, 2, seed=0).eval()
    network.config = wrapped.config
    start = predict_logits(network, context.tokenizer, TASK.test.texts)
    np.testing.assert_allclose(start, base, atol=1e-6)
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert not any(".lora_" in name for name in trained)
    assert any("modules_to_save" in name for name in trained)  # the head goes on
    with torch.no_grad():
        network.starts["b"].add_(0.5)
    moved = predict_logits(network, context.tokenizer, TASK.test.texts)
    assert np.abs(moved - base).max() > 1e-3
    network.settle()
    settled = predict_logits(wrapped, context.tokenizer, TASK.test.texts)
    np.testing.assert_allclose(settled, moved, atol=1e-5)


def test_the_base_stands_still_and_more_of_everything_fits_better(load_tiny):
    context = tune_context(load_tiny, learned=4, head="reinit")
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    poor = build(epochs=1).tune(context)
    after = {
        name.replace(".base_layer", ""): value for name, value in context.model.state_dict().items()
    }
    kept = [name for name in before if not name.startswith("classifier")]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    good = build(epochs=5, lr=1e-2).tune(tune_context(load_tiny, learned=4, head="reinit"))
    assert good.facts["loss"] < poor.facts["loss"] - 0.02


def test_size_rate_and_passes_of_the_victims_tuner_do_not_matter(load_tiny):
    first = build().tune(tune_context(load_tiny, rank=2, lr=1e-4))
    other = build().tune(tune_context(load_tiny, rank=32, lr=0.1, epochs=5))
    assert first.facts == other.facts
    same = other.model.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in first.model.state_dict().items())
    assert build(rank=4).tune(tune_context(load_tiny)).facts["trainable"] < first.facts["trainable"]
    assert build().scenario == "data"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_families_and_merging(family, tuner, load_tiny):
    context = tune_context(load_tiny, family, tuner)
    tuned = build(lr=1e-2).tune(context)
    assert not tuned.model.training
    wrapped = predict_logits(tuned.model, context.tokenizer, TASK.test.texts)
    plain = predict_logits(merged(tuned.model), context.tokenizer, TASK.test.texts)
    np.testing.assert_allclose(plain, wrapped, atol=1e-4)
