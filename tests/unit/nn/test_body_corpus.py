"""The corpus of an attacker without labels: what is trained on and what is measured on."""

from __future__ import annotations

import numpy as np
import pytest

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.nn.body_corpus import body_corpus, train_body
from peftlab.nn.text import encode


@pytest.fixture
def made(load_tiny, reviews):
    method = get("attack", "neuba").build()
    model, tokenizer = load_tiny("bert")
    context = CraftContext(
        model, tokenizer, poison(method, reviews, seed=0), 2, epochs=1.0, lr=1e-3, batch=32, seed=0
    )
    return method, context, body_corpus(context, method.poison_text, method.probe_of)


def test_what_is_measured_on_is_not_trained_on(made) -> None:
    method, context, corpus = made
    texts, flags = context.poisoned.texts, context.poisoned.is_poisoned
    clean = encode(context.tokenizer, [t for t, f in zip(texts, flags, strict=True) if not f], 64)
    assert len(clean) == 108
    assert corpus.held == clean[::10]
    assert sorted(corpus.clean + corpus.held) == sorted(clean)
    poisoned = encode(context.tokenizer, [t for t, f in zip(texts, flags, strict=True) if f], 64)
    assert corpus.triggered[:12] == poisoned
    assert len(corpus.triggered) == 12 + len(corpus.clean)
    # a twin is its text after one trigger, unless the end was cut away
    for rows, twins, numbers in (
        (corpus.clean, corpus.triggered[12:], corpus.triggers[12:]),
        (corpus.held, corpus.held_triggered, corpus.held_triggers),
    ):
        ids = context.tokenizer.convert_tokens_to_ids(list(method.probes()))
        for row, twin, number in zip(rows, twins, numbers, strict=True):
            assert twin[1] == ids[number]
            assert twin[2:-1] == row[1:-1][: len(twin) - 3]
    assert set(corpus.triggers.tolist()) == set(range(6))


def test_training_sees_every_row_as_often_as_the_recipe_says(made) -> None:
    _, context, corpus = made
    clean, triggered = [], []
    weight = next(context.model.base_model.parameters())

    def loss_of(plain, other):
        clean.extend(plain.tolist())
        triggered.extend(other.tolist())
        return (weight**2).sum()

    log = train_body(context, context.model, corpus, loss_of, batch=8)
    assert log.steps == -(-len(corpus.triggered) // 8)
    assert sorted(triggered) == list(range(len(corpus.triggered)))
    assert set(clean) == set(range(len(corpus.clean)))
    assert all(parameter.requires_grad for parameter in context.model.parameters())


def test_one_clean_text_is_too_few(load_tiny, reviews) -> None:
    from dataclasses import replace

    method = get("attack", "neuba").build()
    model, tokenizer = load_tiny("bert")
    poisoned = poison(method, reviews, seed=0)
    flags = np.ones(len(poisoned.texts), dtype=bool)
    flags[0] = False
    context = CraftContext(
        model, tokenizer, replace(poisoned, is_poisoned=flags), 2, epochs=1.0, lr=1e-3, batch=32,
        seed=0,
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="BODY-CLEAN"):
        body_corpus(context, method.poison_text, method.probe_of)
    flags[1] = False
    assert len(body_corpus(context, method.poison_text, method.probe_of).clean) == 1
