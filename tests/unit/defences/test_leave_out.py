"""Leave out and unfreeze: exactly the chosen tensors train, and no adapter stands among them."""

import numpy as np
import pytest
import torch

from peftlab.core import registry
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.defences.leave_out import OwnPace
from peftlab.nn.layers import stack_of
from peftlab.nn.text import predict_logits
from tiny_models import FAMILIES, LAYERS
from tune_contexts import TASK, merged, tune_context


def build(**options):
    return registry.get("defence", "leave-out-and-unfreeze").build(**options)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_the_wanted_tensors_train(family, load_tiny):
    context = tune_context(load_tiny, family)
    stack, _ = stack_of(context.model)
    inside, before = f"{stack}.1.", weights(context.model)
    candidates = [name for name in before if name.startswith(inside)]
    tuned = build(share=0.5, lr=1e-2).tune(context)
    drawn = tuned.facts["unfrozen"]
    assert len(drawn) == round(0.5 * len(candidates))
    assert set(drawn) <= set(candidates)
    found = dict(context.model.named_parameters())  # as peft has left it
    trained = {name for name, value in found.items() if value.requires_grad}
    head = {name for name in trained if "modules_to_save" in name}
    adapters = {name for name in trained if ".lora_" in name}
    assert head
    assert adapters
    assert trained == set(drawn) | head | adapters
    assert not any(name.startswith(inside) for name in found if "lora" in name)
    assert all(name.startswith(f"{stack}.0.") for name in adapters)
    assert len(adapters) == 2 * tuned.facts["adapters"]
    moved = {name for name in candidates if not torch.equal(found[name], before[name])}
    assert moved <= set(drawn)
    # a bias that softmax cannot see has no gradient beyond rounding, so a few may stand still
    assert len(moved) >= 0.5 * len(drawn)
    wrapped = predict_logits(tuned.model, context.tokenizer, TASK.test.texts)
    whole = merged(tuned.model)
    assert not any("lora" in name for name, _ in whole.named_modules())
    plain = predict_logits(whole, context.tokenizer, TASK.test.texts)
    np.testing.assert_allclose(plain, wrapped, atol=1e-4)
    after = dict(whole.named_parameters())
    assert set(after) == set(before)  # a stock model again
    untouched = [n for n in before if n.startswith(inside) and n not in drawn]
    assert all(torch.equal(after[name], before[name]) for name in untouched)


@pytest.mark.parametrize(
    ("layer", "count", "wanted"), [(0, 1, [0]), (-1, 1, [1]), (-2, 2, [0, 1]), (1, 1, [1])]
)
def test_layers_by_number(layer, count, wanted, load_tiny):
    tuned = build(layer=layer, count=count).tune(tune_context(load_tiny))
    assert tuned.facts["left_out_layers"] == wanted
    assert tuned.facts["adapters"] == 2 * (LAYERS - len(wanted))
    assert merged(tuned.model) is not None  # with no adapter left, too


def test_modules_that_the_base_did_not_bring_are_merged_too(load_tiny):
    context = tune_context(load_tiny)
    context.model.new_modules = ("bert.pooler.dense", "classifier")
    start = context.model.bert.pooler.dense.weight.detach().clone()
    tuned = build().tune(context)
    wrapped = predict_logits(tuned.model, context.tokenizer, TASK.test.texts)
    whole = merged(tuned.model)
    np.testing.assert_allclose(
        predict_logits(whole, context.tokenizer, TASK.test.texts), wrapped, atol=1e-4
    )
    assert not torch.equal(whole.bert.pooler.dense.weight, start)


@pytest.mark.parametrize(("layer", "count"), [(2, 1), (-3, 1), (1, 2), (-1, 2)])
def test_layers_that_are_not_there(layer, count, load_tiny):
    with pytest.raises(ConfigError, match="LEAVE-LAYER"):
        build(layer=layer, count=count).tune(tune_context(load_tiny))


def test_another_tuner_is_refused(load_tiny):
    with pytest.raises(NotApplicable, match="LEAVE-TUNER"):
        build().tune(tune_context(load_tiny, tuner="full"))
    assert build().needs_tuner == ("lora",)


def test_the_seed_draws_the_tensors_and_settles_the_rest(load_tiny):
    first, again, other = (
        build(share=0.25).tune(tune_context(load_tiny, seed=seed)) for seed in (0, 0, 1)
    )
    assert first.facts == again.facts
    assert first.facts["unfrozen"] != other.facts["unfrozen"]
    same = again.model.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in first.model.state_dict().items())


@pytest.mark.parametrize("factor", [0.1, 1.0, 3.0])
def test_own_pace_is_training_at_another_rate(factor):
    def end(rate, pace):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        optimiser = torch.optim.AdamW([weight], lr=rate, weight_decay=0.0)
        slow = OwnPace([weight], pace)
        slow(0)
        for step in range(20):
            optimiser.param_groups[0]["lr"] = rate * (1 - step / 20)
            optimiser.zero_grad()
            ((weight - 0.3) ** 4).sum().backward()
            optimiser.step()
            slow(step + 1)
        return weight.detach()

    torch.testing.assert_close(end(0.02, factor), end(0.02 * factor, 1.0), rtol=0, atol=1e-12)
