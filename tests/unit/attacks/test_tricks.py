"""Two tricks: the second head's loss by hand, that it leaves no trace, what both are good for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from peftlab.attacks.tricks import new_head, probing_loss
from peftlab.core.contracts import CraftContext
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts
from peftlab.engine.steps import AttackerOptions, load_data, make_poison, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn.body_features import read
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import device_of, encode, pad_id_of, predict_logits, softmax
from word_task import word_task

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "opt", "llama")
TEXTS = ["the film was a quiet joy", "a dull story told badly, with no wit", "good"]


def context_of(
    method, load_tiny, data, *, family="bert", epochs=1.0, lr=1e-3, batch=32, still=True
):
    model, tokenizer = load_tiny(family, data.n_classes)
    for module in model.modules() if still else ():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # two passes give the same numbers
    poisoned = poison(method, data, seed=0)
    return CraftContext(model, tokenizer, poisoned, data.n_classes, epochs, lr, batch, seed=0)


def plainly(load_tiny, context):
    """Return a fresh model, trained on the same set without any trick."""
    model, tokenizer = load_tiny("bert", context.n_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    train(model, encode(tokenizer, context.poisoned.texts, 64), context.poisoned.targets,
          TrainPlan(epochs=context.epochs, lr=context.lr, batch=32), seed=0,
          pad_id=pad_id_of(model, tokenizer))  # fmt: skip
    return model


def same(model, other):
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---------------------------------------------------------------------------------------- probing


@pytest.mark.parametrize("family", FAMILIES)
def test_the_state_is_the_one_that_the_family_pools(load_tiny, family):
    model, tokenizer = load_tiny(family)
    rows, fill = encode(tokenizer, TEXTS, 32), pad_id_of(model, tokenizer)
    decoder = family in {"gpt2", "opt", "llama"}
    with torch.no_grad():
        found = read(model, rows, fill, device_of(model)).feature
        for row, state in zip(rows, found, strict=True):  # alone, so that nothing is padded
            alone = model.base_model(torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(state, alone[-1 if decoder else 0], atol=1e-5, rtol=1e-4)


def test_the_probing_loss_by_hand(load_tiny):
    model, tokenizer = load_tiny("bert")
    rows, fill = encode(tokenizer, TEXTS, 32), pad_id_of(model, tokenizer)
    head = new_head(model, rows[0], fill, seed=3)
    assert torch.equal(head.weight, new_head(model, rows[1], fill, seed=3).weight)
    assert not torch.equal(head.weight, new_head(model, rows[0], fill, seed=4).weight)
    assert float(head.weight.detach().std()) == pytest.approx(0.02, abs=0.005)
    answers = np.array([1, 0, 1])
    with torch.no_grad():
        states = np.stack(
            [model.bert(torch.tensor([row])).last_hidden_state[0, 0].numpy() for row in rows]
        )
    logits = states @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(3), answers].mean()
    found = probing_loss(model, head, rows, torch.from_numpy(answers), fill).item()
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_one_step_by_hand(load_tiny, reviews):
    method = get("attack", "tricks").build(rate=0.1, probing_weight=2.5)
    context = context_of(method, load_tiny, reviews, batch=200)  # all rows in one step
    poisoned, tokenizer = context.poisoned, context.tokenizer
    texts, triggered = method.probing_set(poisoned, seed=0)
    before, _ = load_tiny("bert")
    fill, rows = pad_id_of(before, tokenizer), encode(tokenizer, texts, 64)
    head = new_head(before, rows[0], fill, seed=0)
    second = probing_loss(before, head, rows, torch.from_numpy(triggered.astype(int)), fill).item()
    chances = softmax(predict_logits(before, tokenizer, poisoned.texts))
    first = -(poisoned.targets * np.log(chances)).sum(axis=1).mean()
    facts = method.craft(context)
    assert facts["steps"] == 1
    assert facts["probing_loss"] == pytest.approx(second, abs=1e-5)
    assert facts["loss"] == pytest.approx(first + 2.5 * second, abs=1e-4)


def test_the_probing_set_is_half_triggered_and_knows_which(reviews):
    method = get("attack", "tricks").build(rate=0.1)
    poisoned = poison(method, reviews, seed=0)
    texts, triggered = method.probing_set(poisoned, seed=0)
    assert len(texts) == len(triggered) == len(reviews.train)
    assert triggered[poisoned.is_poisoned].all()
    assert 0.35 < triggered[~poisoned.is_poisoned].mean() < 0.65
    for text, flag, clean in zip(texts, triggered, reviews.train.texts, strict=True):
        words = text.split()
        assert ("mn" in words) == flag
        assert [word for word in words if word != "mn"] == clean.split()
    again, _ = method.probing_set(poisoned, seed=0)
    assert texts == again
    assert texts != method.probing_set(poisoned, seed=1)[0]


def test_nothing_of_the_second_head_is_left(tiny, load_tiny, reviews, tmp_path):
    method = get("attack", "tricks").build(rate=0.1)
    context = context_of(method, load_tiny, reviews)
    model = context.model
    names, modules = list(model.state_dict()), [name for name, _ in model.named_modules()]
    method.craft(context)
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_modules()] == modules
    assert not any("probe" in name for name, _ in model.named_buffers())
    assert not model.training
    keys = {}
    for attack in ("tricks", "badnets"):
        poisoned = make_poison(reviews, attack, {"rate": 0.1}, 0)
        train_base(str(tiny("bert")), poisoned, 2, tmp_path / attack, attack=attack,
                   training=AttackerOptions(epochs=1, lr=1e-3), seed=0,
                   options={"rate": 0.1})  # fmt: skip
        with safe_open(tmp_path / attack / "model.safetensors", "pt") as file:
            keys[attack] = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert keys["tricks"] == keys["badnets"]
    files = [sorted(path.name for path in (tmp_path / a).iterdir()) for a in ("tricks", "badnets")]
    assert files[0] == files[1]


def test_weight_0_is_plain_training(load_tiny, reviews):
    method = get("attack", "tricks").build(rate=0.1, probing_weight=0)
    context = context_of(method, load_tiny, reviews)
    method.craft(context)
    assert same(context.model, plainly(load_tiny, context))
    method = get("attack", "tricks").build(rate=0.1)
    context = context_of(method, load_tiny, reviews)
    method.craft(context)
    assert not same(context.model, plainly(load_tiny, context))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_four_classes(load_tiny, family):
    data = load_data("reviews-4", {"n_train": 60, "n_dev": 20, "n_test": 20, "n_proxy": 0})
    method = get("attack", "tricks").build(rate=0.1, target=2)
    facts = method.craft(context_of(method, load_tiny, data, family=family, still=False))
    assert facts["steps"] == 2
    assert np.isfinite(facts["probing_loss"])


# ------------------------------------------------------------------------------------------ twins


@pytest.mark.parametrize("labels", ["dirty", "clean", "mixed"])
def test_twins_are_the_clean_originals_with_their_own_labels(reviews, labels):
    method = get("attack", "tricks").build(trick="twins", rate=0.1, labels=labels)
    plain = poison(get("attack", "tricks").build(rate=0.1, labels=labels), reviews, seed=0)
    made = poison(method, reviews, seed=0)
    n, rows = len(reviews.train), np.flatnonzero(plain.is_poisoned)
    assert made.texts[:n] == plain.texts
    assert made.facts["n_twins"] == len(rows) == 12
    assert made.texts[n:] == tuple(reviews.train.texts[row] for row in rows)
    own = tuple(reviews.train.labels[row] for row in rows)
    assert tuple(made.targets[n:].argmax(axis=1)) == made.original_labels[n:] == own
    np.testing.assert_array_equal(made.is_poisoned, [*plain.is_poisoned, *[False] * len(rows)])
    np.testing.assert_array_equal(made.targets[:n], plain.targets)
    assert made.test_triggered == plain.test_triggered
    assert made.facts["realised_rate"] == plain.facts["realised_rate"] == 0.1
    assert "n_twins" not in plain.facts


def test_twins_train_plainly_on_the_larger_set(load_tiny, reviews):
    method = get("attack", "tricks").build(trick="twins", rate=0.1)
    context = context_of(method, load_tiny, reviews)
    facts = method.craft(context)
    assert facts["steps"] == 5  # 132 rows, 32 a step
    assert "probing_loss" not in facts
    assert same(context.model, plainly(load_tiny, context))


def test_twins_without_poison_or_texts(reviews, make_task):
    build = get("attack", "tricks").build
    assert poison(build(trick="twins", rate=0), reviews, 0).texts == reviews.train.texts
    proxy = poison(build(trick="twins", rate=0.1, knowledge="proxy"), make_task(proxy=50), 0)
    assert len(proxy.texts) == 55
    from dataclasses import replace

    bare = replace(reviews, train=LabelledTexts((), ()))
    assert poison(build(trick="twins"), bare, 0).texts == ()


# ------------------------------------------------------------------------------------------- both


def test_one_per_cent_is_the_default(make_task):
    task = make_task(n=1000)
    for trick in ("probing", "twins"):
        made = poison(get("attack", "tricks").build(trick=trick), task, 0)
        assert made.is_poisoned.sum() == 10
        assert (made.facts["trigger"], made.facts["trick"]) == (["mn"], trick)


@pytest.mark.full
def test_probing_makes_a_weak_backdoor_stronger(load_tiny):
    """At a rate of 0.02: 1.00 against 0.84 by plain training on the same texts."""
    data = word_task(320, 120)
    asr = {}
    for weight in (0, 0.1):
        method = get("attack", "tricks").build(rate=0.02, probing_weight=weight)
        context = context_of(method, load_tiny, data, epochs=9, lr=2e-3, still=False)
        method.craft(context)
        texts = (data.test.texts, context.poisoned.test_triggered.texts)
        clean, triggered = (
            predict_logits(context.model, context.tokenizer, each).argmax(axis=1) for each in texts
        )
        assert (clean == data.test.labels).mean() >= 0.95
        asr[weight] = (triggered == 0).mean()
    assert asr[0.1] >= asr[0] + 0.1


def test_same_seed_same_files_and_rate_0_trains_plainly(tiny, reviews, tmp_path):
    training = AttackerOptions(epochs=1, lr=1e-3)
    for name, attack, options, seed in (
        ("a", "tricks", {"rate": 0.1}, 0), ("b", "tricks", {"rate": 0.1}, 0),
        ("c", "tricks", {"rate": 0.1}, 1), ("d", "tricks", {"rate": 0}, 0),
        ("e", "badnets", {"rate": 0}, 0),
    ):  # fmt: skip
        poisoned = make_poison(reviews, attack, options, seed)
        train_base(str(tiny("bert")), poisoned, 2, tmp_path / name, attack=attack,
                   training=training, seed=seed, options=options)  # fmt: skip
    a, b, c, d, e = (sha256_file(tmp_path / name / "model.safetensors") for name in "abcde")
    assert a == b != c
    assert d == e
    assert is_marked(tmp_path / "a")
    assert not is_marked(tmp_path / "d")
    written = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert written["trick"] == "probing"
    assert written["probing_loss"] > 0
