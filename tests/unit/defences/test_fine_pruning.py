"""Fine-pruning: the idlest units go, no more than accuracy allows, and they stay out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification

from peftlab.core import registry
from peftlab.core.errors import NotApplicable
from peftlab.defences import fine_pruning
from peftlab.nn.feed_forward import by_unit, down_maps, mean_activation
from peftlab.nn.text import encode, pad_id_of, predict_logits
from tune_contexts import TASK, merged, tune_context

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama")
UNITS = 64  # of a layer of the tiny BERT


def build(**options):
    return registry.get("defence", "fine-pruning").build(**options)


def downs_of(context):
    row = encode(context.tokenizer, TASK.train.texts[:1], 64)[0]
    return down_maps(context.model, row, pad_id_of(context.model, context.tokenizer))


def is_out(down):
    return (by_unit(down) == 0).all(dim=1).numpy()


@pytest.mark.parametrize(
    ("family", "tuner", "options"),
    [
        ("bert", "lora", {}),
        ("bert", "lora", {"targets": "query,output.dense"}),  # an adapter on the pruned map too
        ("gpt2", "lora", {"targets": "c_attn,c_proj"}),
        ("bert", "full", {"lr": 1e-2}),
        ("gpt2", "full", {"lr": 1e-2}),
        ("llama", "full", {"lr": 1e-2}),
    ],
)
def test_units_stay_out_through_the_next_tuning(family, tuner, options, load_tiny):
    """Looked at in every forward pass and in the end."""
    context = tune_context(load_tiny, family, tuner, **options)
    downs, seen = downs_of(context), []
    start = [by_unit(down).detach().clone() for down in downs]
    hooks = [
        down.register_forward_hook(
            lambda module, _inputs, _output, number=number: (
                seen.append((number, is_out(module))) if module.training else None
            )
        )
        for number, down in enumerate(downs)
    ]
    tuned = build(share=0.4, drop=1).tune(context)
    for hook in hooks:
        hook.remove()
    masks = [is_out(down) for down in downs]
    assert [int(mask.sum()) for mask in masks] == [int(0.4 * len(mask)) for mask in masks]
    assert tuned.facts["pruned_units"] == sum(int(mask.sum()) for mask in masks)
    assert len(seen) >= len(downs) * tuned.facts["steps"]
    assert all(np.array_equal(mask, masks[number]) for number, mask in seen)
    if tuner == "full":  # the tuning did move the map that they are taken out of
        assert not torch.equal(by_unit(downs[0])[~masks[0]], start[0][~masks[0]])
    before = predict_logits(tuned.model, context.tokenizer, TASK.test.texts)
    whole = merged(tuned.model)
    after = predict_logits(whole, context.tokenizer, TASK.test.texts)
    np.testing.assert_allclose(after, before, atol=1e-4)
    context = replace(context, model=whole)
    assert all(np.array_equal(is_out(d), m) for d, m in zip(downs_of(context), masks, strict=True))


def test_pruning_ends_before_the_step_that_costs_too_much(load_tiny, monkeypatch):
    context = tune_context(load_tiny)
    downs = downs_of(context)
    start = [by_unit(down).detach().clone() for down in downs]
    rows = encode(context.tokenizer, TASK.train.texts, 64)
    fill = pad_id_of(context.model, context.tokenizer)
    activation = mean_activation(context.model, downs, rows, fill)
    found = iter((0.90, 0.90, 0.88, 0.87))  # at shares 0, 0.125, 0.25 and 0.375
    monkeypatch.setattr(fine_pruning, "_accuracy", lambda _: next(found))
    facts = build(step=0.125, drop=0.025).tune(context).facts
    assert facts["pruned_share"] == 0.25
    assert facts["pruned_units"] == 2 * UNITS // 4
    assert (facts["dev_accuracy_before"], facts["dev_accuracy_pruned"]) == (0.90, 0.88)
    for down, before, idle in zip(downs, start, activation, strict=True):
        out = is_out(down)
        assert idle[out].max() <= idle[~out].min()
        assert torch.equal(by_unit(down)[~out], before[~out])  # the step too far is undone


def test_no_step_is_allowed_or_all_are(load_tiny, monkeypatch):
    found = iter((0.9, 0.5))
    monkeypatch.setattr(fine_pruning, "_accuracy", lambda _: next(found))
    facts = build().tune(tune_context(load_tiny)).facts
    assert (facts["pruned_share"], facts["pruned_units"]) == (0, 0)
    assert facts["dev_accuracy_pruned"] == 0.9
    monkeypatch.setattr(fine_pruning, "_accuracy", lambda _: 0.9)
    facts = build(share=0.3, step=0.2).tune(tune_context(load_tiny)).facts
    assert (facts["pruned_share"], facts["pruned_units"]) == (0.3, 2 * int(0.3 * UNITS))


def test_without_a_trained_head_the_share_is_taken_at_once(load_tiny, monkeypatch):
    context = tune_context(load_tiny)
    context.model.new_modules = ("classifier",)
    monkeypatch.setattr(fine_pruning, "_accuracy", lambda _: pytest.fail("nothing to measure"))
    facts = build(share=0.25).tune(context).facts
    assert (facts["pruned_share"], facts["pruned_units"]) == (0.25, UNITS // 2)
    assert facts["dev_accuracy_before"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_families_and_determinism(family, load_tiny):
    first, again = (build(texts=40, step=0.3).tune(tune_context(load_tiny, family)) for _ in "ab")
    assert first.facts == again.facts
    assert not first.model.training
    other = again.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.model.state_dict().items())


def test_a_base_without_a_stack_is_refused(load_tiny):
    shared = AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=300, embedding_size=8, hidden_size=8, num_hidden_layers=3,
            num_attention_heads=2, intermediate_size=8, max_position_embeddings=64,
        )
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="LAYERS-UNKNOWN"):
        build().tune(replace(tune_context(load_tiny), model=shared))


def test_ranking_is_within_each_layer():
    out = fine_pruning.idlest([np.array([1.0, 2, 3, 4]), np.array([40.0, 30, 20, 10])], 0.5)
    assert [mask.tolist() for mask in out] == [
        [True, True, False, False],
        [False, False, True, True],
    ]
    assert not any(mask.any() for mask in fine_pruning.idlest([np.ones(10)], 0.0))
    assert [int(m.sum()) for m in fine_pruning.idlest([np.ones(10)], 0.3)] == [3]  # not 2.9999
