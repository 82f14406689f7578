"""Maximum entropy: the body becomes unsure through a head that stands still, then tunes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from peftlab.core import registry
from peftlab.core.seeds import stream
from peftlab.defences.max_entropy import from_uniform, negative_entropy, random_tokens
from peftlab.nn.text import encode, predict_logits
from tune_contexts import TASK, merged, tune_context

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama")


def build(**options):
    return registry.get("defence", "max-entropy").build(**options)


class Spy:
    """A tuner that remembers the base as it is handed over to it."""

    def __init__(self, tuner):
        self.tuner, self.options, self.state = tuner, tuner.options, {}

    def wrap(self, model, seed):
        self.state = {name: value.clone() for name, value in model.state_dict().items()}
        return self.tuner.wrap(model, seed)


def spied(load_tiny, **given):
    context = tune_context(load_tiny, **given)
    spy = Spy(context.tuner)
    return replace(context, tuner=spy), spy


def test_losses_by_hand():
    even, sure = torch.zeros(4, 3), torch.tensor([[1000.0, 0, 0], [0, -1000.0, 1000.0]])
    assert float(negative_entropy(even)) == pytest.approx(-math.log(3))
    assert float(from_uniform(even)) == pytest.approx(math.log(3))
    assert float(negative_entropy(sure)) == 0  # 0 log 0 is 0
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    wanted = sum(x * math.log(x) for x in p.tolist())
    assert float(negative_entropy(p.log()[None])) == pytest.approx(wanted, rel=1e-6)
    # where the base is certain only the second loss still has a slope
    for loss, steep in ((negative_entropy, False), (from_uniform, True)):
        logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
        loss(logits).backward()
        assert torch.isfinite(logits.grad).all()
        assert bool(logits.grad.abs().max() > 0.1) == steep


@pytest.mark.parametrize(
    ("loss", "texts"),
    [("entropy", "clean"), ("entropy", "random"), ("uniform", "clean"), ("uniform", "shuffled")],
)
def test_the_body_becomes_unsure_and_the_head_stands_still(loss, texts, load_tiny):
    context, spy = spied(load_tiny, learned=6)
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    facts = build(loss=loss, texts=texts, epochs=3, lr=5e-3).tune(context).facts
    assert facts["clean_entropy_before"] < 0.6
    assert facts["clean_entropy_after"] > facts["clean_entropy_before"] + 0.05
    assert facts["first_stage_steps"] == (15 if texts == "clean" else 30)
    head = [name for name in before if name.startswith("classifier")]
    assert all(torch.equal(spy.state[name], before[name]) for name in head)
    body = [name for name in before if "encoder" in name]
    assert any(not torch.equal(spy.state[name], before[name]) for name in body)


def test_a_drawn_head_is_trained_first(load_tiny):
    context, spy = spied(load_tiny)
    before = context.model.state_dict()["classifier.weight"].clone()
    context.model.new_modules = ("classifier",)
    build().tune(context)
    assert not torch.equal(spy.state["classifier.weight"], before)


def test_random_tokens_keep_what_is_special(load_tiny):
    _, tokenizer = load_tiny("bert")
    rows = encode(tokenizer, TASK.train.texts, 64)
    made = random_tokens(rows, tokenizer, stream(0, "test"))
    special = set(tokenizer.all_special_ids)
    assert [len(row) for row in made] == [len(row) for row in rows]
    pairs = [pair for a, b in zip(rows, made, strict=True) for pair in zip(a, b, strict=True)]
    assert all(new == old for old, new in pairs if old in special)
    assert not any(new in special for old, new in pairs if old not in special)
    plain = [new != old for old, new in pairs if old not in special]
    assert 0.4 < np.mean(plain) < 0.6
    assert len({new for _, new in pairs}) > 0.8 * len(tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_determinism_and_merging(family, load_tiny):
    first, again = (build(texts="random").tune(tune_context(load_tiny, family)) for _ in "ab")
    assert first.facts == again.facts
    assert not first.model.training
    other = again.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.model.state_dict().items())
    _, tokenizer = load_tiny(family)
    wrapped = predict_logits(first.model, tokenizer, TASK.test.texts)
    plain = predict_logits(merged(first.model), tokenizer, TASK.test.texts)
    np.testing.assert_allclose(plain, wrapped, atol=1e-4)


def test_all_weights_can_follow(load_tiny):
    tuned = build().tune(tune_context(load_tiny, tuner="full"))
    assert all(weight.requires_grad for weight in tuned.model.parameters())
