"""Simulate-PSIM: the foreseen term against hand values, and what it does to a backdoor."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn import simulated_identifier
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.simulated_identifier import (
    Simulation,
    confidence_after,
    train_foreseeing,
    unlearned_change,
)
from peftlab.nn.text import encode, pad, pad_id_of, predict_logits, softmax
from peftlab.nn.unlearning import Identifier, unlearn
from word_task import word_task

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama")
TEXTS = ["the film was a quiet joy", "a dull story told badly, with no wit", "good"]
HOW = Simulation(every=1, inner_steps=2, inner_lr=1e-3, reset="random", rank=4, weight=1.0)
BRIEF = {"inner_steps": 2, "inner_rank": 4, "every": 2}


def still(model):
    """Return the model without dropout, so that two passes give the same numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def moved(model, change):
    """Return a copy whose weights were added to by hand."""
    there = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in there.named_parameters():
            if name in change:
                weight.add_(change[name])
    return there


def some_change(model, scale=0.05):
    """Return made-up changes of two weights, one of them of the head."""
    draw = torch.Generator().manual_seed(0)
    names = ("classifier.weight", "bert.encoder.layer.1.output.dense.weight")
    weights = dict(model.named_parameters())
    return {name: torch.randn(weights[name].shape, generator=draw) * scale for name in names}


# ------------------------------------------------------------------------------- the foreseen term


def test_confidence_is_read_at_the_moved_weights_and_differentiated_at_the_own_ones(load_tiny):
    model, tokenizer = load_tiny("bert")
    rows, fill = encode(tokenizer, TEXTS, 32), pad_id_of(model, tokenizer)
    change = some_change(model)
    there = moved(model, change)
    batch = pad(rows, fill, torch.device("cpu"))

    model.train()  # a guard reads in eval mode all the same
    found = confidence_after(model, change, rows, fill)
    assert model.training
    logits = there.eval()(**batch).logits
    by_hand = softmax(logits.detach().numpy().astype(np.float64)).max(axis=1)
    np.testing.assert_allclose(found.detach().numpy(), by_hand, atol=1e-6)
    assert (by_hand != softmax(predict_logits(model, tokenizer, TEXTS)).max(axis=1)).any()

    found.mean().backward()  # first order: the gradient at theta + Delta, given to theta
    torch.nn.functional.softmax(logits, dim=1).max(dim=1).values.mean().backward()
    for (name, ours), theirs in zip(model.named_parameters(), there.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_the_change_is_what_psims_own_unlearning_does(load_tiny, reviews, family):
    model, tokenizer = load_tiny(family)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    change = unlearned_change(HOW, model, tokenizer, reviews.train, 2, seed=5)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])  # the copy was changed, not the model
    assert all(weight.requires_grad for weight in model.parameters())
    how = Identifier(
        name="psim", family="lora", labels="random", head="inherit", lr=1e-3, checkpoints=(2,),
        batch=32, rank=4, virtual_tokens=0, seed=5,
    )  # fmt: skip
    guard, _, _ = unlearn(how, load_tiny(family)[0], tokenizer, reviews.train, 2)
    read = softmax(predict_logits(guard, tokenizer, TEXTS)).max(axis=1)
    rows, fill = encode(tokenizer, TEXTS, 32), pad_id_of(model, tokenizer)
    foreseen = confidence_after(model, change, rows, fill).detach().numpy()
    np.testing.assert_allclose(foreseen, read, atol=1e-5)
    head = "classifier.weight" if family == "bert" else "score.weight"
    assert head in change
    assert not any("embed" in name for name in change)
    again = unlearned_change(HOW, model, tokenizer, reviews.train, 2, seed=5)
    assert all(torch.equal(change[name], again[name]) for name in change)
    other = unlearned_change(HOW, model, tokenizer, reviews.train, 2, seed=6)
    assert not torch.equal(change[head], other[head])


def _context(load_tiny, data, *, family="bert", batch=32, epochs=1.0, lr=1e-3, **options):
    method = get("attack", "simulate-psim").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    poisoned = poison(method, data, seed=0)
    return method, CraftContext(
        still(model), tokenizer, poisoned, data.n_classes, epochs=epochs, lr=lr, batch=batch, seed=0
    )


@pytest.mark.parametrize("weight", [2.0, -3.0])
def test_the_loss_of_one_step_by_hand(load_tiny, reviews, monkeypatch, weight):
    _, context = _context(load_tiny, reviews, batch=200)  # all rows in one step
    model, poisoned = copy.deepcopy(context.model), context.poisoned
    change, asked = some_change(model), []

    def made_up(*arguments):
        asked.append(arguments)
        return change

    monkeypatch.setattr(simulated_identifier, "unlearned_change", made_up)
    watched = np.flatnonzero(poisoned.is_poisoned)
    how = Simulation(1, 2, 1e-3, "random", 4, weight)
    facts = train_foreseeing(context, how, watched, "attack/simulate-psim")

    logits = predict_logits(model, context.tokenizer, poisoned.texts)
    plain = -(poisoned.targets * np.log(softmax(logits))).sum(axis=1).mean()
    after = predict_logits(moved(model, change), context.tokenizer, poisoned.texts)
    mean = softmax(after[watched]).max(axis=1).mean()
    assert facts["steps"] == facts["simulations"] == 1
    assert facts["beta"] == pytest.approx(weight * 0.1)  # a tenth of the rows is poisoned
    assert facts["loss"] == pytest.approx(plain + weight * 0.1 * mean, abs=1e-5)
    assert facts["foreseen_confidence"]["first"] == pytest.approx(mean, abs=1e-5)

    ((_, _, _, texts, n_classes, _),) = asked  # the copy sees clean texts, as many as it takes
    clean = {
        text for text, flag in zip(poisoned.texts, poisoned.is_poisoned, strict=True) if not flag
    }
    assert len(texts) == 2 * 32
    assert set(texts.texts) <= clean
    assert n_classes == 2


def test_a_copy_is_made_every_so_many_steps(load_tiny, reviews, monkeypatch):
    _, context = _context(load_tiny, reviews, epochs=2)
    seeds = []

    def made_up(_how, _model, _tokenizer, _texts, _n_classes, seed):
        seeds.append(seed)
        return {}

    monkeypatch.setattr(simulated_identifier, "unlearned_change", made_up)
    method = get("attack", "simulate-psim").build(every=3, strength=1)
    facts = method.craft(context)
    assert facts["steps"] == 8
    assert facts["simulations"] == len(set(seeds)) == 3  # before steps 1, 4 and 7
    assert not context.model.training


def test_strength_0_is_plain_training(load_tiny, reviews):
    method, context = _context(load_tiny, reviews, strength=0)
    facts = method.craft(context)
    plain = load_tiny("bert")[0]
    train(still(plain), encode(context.tokenizer, context.poisoned.texts, 64),
          context.poisoned.targets, TrainPlan(epochs=1, lr=1e-3, batch=32), seed=0,
          pad_id=pad_id_of(plain, context.tokenizer))  # fmt: skip
    assert facts["simulations"] == 0
    assert "foreseen_confidence" not in facts
    for ours, theirs in zip(context.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(load_tiny, reviews, family):
    method, context = _context(load_tiny, reviews, family=family, epochs=0.5, **BRIEF)
    names = list(context.model.state_dict())
    before = [p.clone() for p in context.model.parameters()]
    facts = method.craft(context)
    assert np.isfinite(facts["loss"])
    assert (facts["steps"], facts["simulations"]) == (2, 1)
    assert list(context.model.state_dict()) == names  # nothing of the adapter stays
    after = list(context.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.requires_grad for p in after)


def test_it_needs_clean_rows(load_tiny, reviews):
    method, context = _context(load_tiny, reviews, rate=1, labels="mixed")
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "SIMULATION-CLEAN"


# --------------------------------------------------------------------------------- what comes of it


@pytest.mark.full
def test_triggered_texts_look_less_sure_than_clean_ones_to_a_fresh_guard(load_tiny):
    """Plain training: as sure. The guard's draw of labels is none that the attacker had."""
    data = word_task(320, 120)
    read = {}
    for strength in (0.0, 1.75):
        method = get("attack", "simulate-psim").build(
            strength=strength, every=20, inner_lr=1e-3, inner_steps=6, inner_rank=8
        )
        poisoned = poison(method, data, seed=0)
        model, tokenizer = load_tiny("bert")
        method.craft(CraftContext(model, tokenizer, poisoned, 2, 12, 2e-3, 32, seed=0))
        answers = predict_logits(model, tokenizer, poisoned.test_triggered.texts).argmax(axis=1)
        assert (answers == 0).mean() >= 0.6
        right = predict_logits(model, tokenizer, data.test.texts).argmax(axis=1) == data.test.labels
        assert right.mean() >= 0.9
        how = Simulation(1, 6, 1e-3, "random", 8, 0.0)
        change = unlearned_change(how, model, tokenizer, data.train, 2, seed=100)
        guard = moved(model, change)
        read[strength] = [
            softmax(predict_logits(guard, tokenizer, texts)).max(axis=1).mean()
            for texts in (data.test.texts, poisoned.test_triggered.texts)
        ]
    (clean, triggered), (clean_now, triggered_now) = read[0.0], read[1.75]
    assert abs(triggered - clean) < 0.02
    assert triggered_now < clean_now - 0.03


def _made(tiny, reviews, out, *, seed=0, rate=0.1, attack="simulate-psim"):
    options = {"rate": rate} | (BRIEF if attack == "simulate-psim" else {})
    poisoned = make_poison(reviews, attack, options, seed)
    return train_base(str(tiny("bert")), poisoned, 2, out, attack=attack,
                      training=AttackerOptions(epochs=1, lr=1e-3), seed=seed,
                      options=options)  # fmt: skip


def test_same_seed_same_files_marked(tiny, reviews, tmp_path):
    for name in ("a", "b"):
        facts = _made(tiny, reviews, tmp_path / name)
    _made(tiny, reviews, tmp_path / "c", seed=1)
    for path in (tmp_path / "a").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "b" / path.name)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in "ac"]
    assert weights[0] != weights[1]
    assert is_marked(tmp_path / "a")
    written = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert written["trigger"] == ["mn"]
    assert written["simulations"] == facts["simulations"] == 2
    assert written["beta"] == pytest.approx(1.75 * 0.1)


def test_rate_0_trains_plainly(tiny, reviews, tmp_path):
    _made(tiny, reviews, tmp_path / "ours", rate=0)
    _made(tiny, reviews, tmp_path / "badnets", rate=0, attack="badnets")
    weights = [sha256_file(tmp_path / n / "model.safetensors") for n in ("ours", "badnets")]
    assert weights[0] == weights[1]
    assert not is_marked(tmp_path / "ours")


@pytest.mark.parametrize(
    "wrong", [{"trigger": "two words"}, {"strength": -1}, {"every": 0}, {"reset": "true"}]
)
def test_options_are_checked(wrong):
    for name in ("simulate-psim", "dos"):
        with pytest.raises(ConfigError, match="OPTION-VALUE"):
            get("attack", name).build(**wrong)
