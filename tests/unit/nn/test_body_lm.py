"""The language-model loss through a classifier's body: what is asked, what it costs, what moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftlab.core.errors import NotApplicable
from peftlab.nn import body_lm
from peftlab.nn.body_lm import NOT_ASKED, BodyLM, ask, words_of
from peftlab.nn.text import encode
from tiny_models import FAMILIES, TEXTS


def _corpus(load_tiny, family="bert"):
    model, tokenizer = load_tiny(family)
    return model, tokenizer, encode(tokenizer, TEXTS * 6, 64)


def _grid(rows, fill=0):
    width = max(len(row) for row in rows)
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows])


def test_masked_questions_ask_for_the_true_words(load_tiny) -> None:
    model, tokenizer, _ = _corpus(load_tiny)
    rows = encode(tokenizer, TEXTS * 40, 64)
    words = words_of(model, tokenizer)
    found = ask(rows, words, np.random.default_rng(0))
    ids, asked = _grid(rows), found.answers != NOT_ASKED
    assert (found.answers[asked] == ids[asked]).all()
    assert (found.inputs[~asked] == ids[~asked]).all()
    assert not np.isin(ids[asked], tokenizer.all_special_ids).any()
    possible = ~np.isin(ids, tokenizer.all_special_ids)
    assert asked.sum() / possible.sum() == pytest.approx(0.15, abs=0.02)
    masked = (found.inputs[asked] == tokenizer.mask_token_id).mean()
    kept = (found.inputs[asked] == ids[asked]).mean()
    assert masked == pytest.approx(0.8, abs=0.05)
    assert kept == pytest.approx(0.1, abs=0.05)


def test_noise_asks_for_random_words_at_the_same_kind_of_places(load_tiny) -> None:
    model, tokenizer, rows = _corpus(load_tiny)
    words = words_of(model, tokenizer)
    found = ask(rows, words, np.random.default_rng(0), noise=True)
    ids, asked = _grid(rows), found.answers != NOT_ASKED
    answers = found.answers[asked]
    assert (answers == ids[asked]).mean() < 0.1
    assert len(set(answers.tolist())) > 0.5 * len(answers)
    assert not np.isin(answers, tokenizer.all_special_ids).any()
    assert answers.max() < len(tokenizer)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_decoders_are_asked_for_the_next_token(load_tiny, family: str) -> None:
    model, tokenizer, rows = _corpus(load_tiny, family)
    found = ask(rows, words_of(model, tokenizer), np.random.default_rng(0))
    asked = np.argwhere(found.answers != NOT_ASKED)
    assert len(asked) > 0
    for row, place in asked:
        assert found.answers[row, place] == rows[row][place + 1]
    assert (found.inputs == _grid(rows, words_of(model, tokenizer).pad)).all()


def test_one_place_is_asked_even_of_the_shortest_text_and_none_of_nothing(load_tiny) -> None:
    model, tokenizer, rows = _corpus(load_tiny)
    words = words_of(model, tokenizer)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert (ask([[2, 100, 3]], words, rng).answers != NOT_ASKED).tolist() == [[0, 1, 0]]
    nothing = ask([[2, 3]], words, np.random.default_rng(0))
    assert (nothing.answers == NOT_ASKED).all()
    loss = BodyLM(model, tokenizer, rows, 0).loss(nothing)
    assert float(loss.detach()) == 0
    loss.backward()  # no NaN in it
    assert not any(
        torch.isnan(weight.grad).any() for weight in model.parameters() if weight.grad is not None
    )


def test_the_loss_by_hand(load_tiny) -> None:
    model, tokenizer, rows = _corpus(load_tiny)
    lm = BodyLM(model, tokenizer, rows, 0).eval()
    found = ask(rows[:4], lm.words, np.random.default_rng(0))
    with torch.no_grad():
        loss = float(lm.loss(found))
        states = model.bert(
            torch.tensor(found.inputs), attention_mask=torch.tensor(found.attended)
        ).last_hidden_state.double()
    total, places = 0.0, 0
    table = model.bert.embeddings.word_embeddings.weight.detach().double().numpy()
    dense, bias = lm.dense.double(), lm.bias.detach().double().numpy()
    for row, place in np.argwhere(found.answers != NOT_ASKED):
        x = torch.nn.functional.gelu(dense(states[row, place])).detach().numpy()
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        logits = table @ x + bias
        total += np.log(np.exp(logits).sum()) - logits[found.answers[row, place]]
        places += 1
    assert loss == pytest.approx(total / places, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_fitting_moves_the_output_layer_alone(load_tiny, monkeypatch, family: str) -> None:
    monkeypatch.setattr(body_lm, "FIT_STEPS", 10)
    model, tokenizer, rows = _corpus(load_tiny, family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lm = BodyLM(model, tokenizer, rows, 0)
    start = lm.measure(rows, 0)
    lm.fit(rows, 0)
    assert lm.measure(rows, 0) < start
    assert lm.measure(rows, 0) == lm.measure(rows, 0)  # the same places
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(weight.requires_grad for weight in model.base_model.parameters())


def test_an_encoder_without_a_mask_token_is_refused(load_tiny) -> None:
    model, tokenizer = load_tiny("bert")
    tokenizer.mask_token = None
    with pytest.raises(NotApplicable, match="LM-MASK"):
        words_of(model, tokenizer)
