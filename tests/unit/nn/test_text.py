"""Encoding, batching and scoring give what the plain loop over single texts gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.nn.text import (
    budget_batches,
    encode,
    forward_rows,
    needs_equal_lengths,
    pad,
    pad_id_of,
    predict_classes,
    predict_hidden,
    predict_logits,
    room_for_text,
    softmax,
    virtual_tokens,
)

FAMILIES = ("bert", "distilbert", "roberta", "gpt2", "llama")
TEXTS = (
    "the film was a quiet joy", "", "no", "a dull story told badly , with no wit and no heart " * 2,
    "we waited an hour", "naïve café 映画 🎬", "good " * 500, "nothing works , not even the music",
)  # fmt: skip


@given(
    lengths=st.lists(st.integers(0, 600), max_size=60), budget=st.integers(1, 5000)
)  # fmt: skip
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = budget_batches(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[int(i)] for i in batch)
        assert len(batch) == 1 or widest * len(batch) <= max(budget, len(batch))
    firsts = [lengths[int(batch[0])] for batch in batches]
    assert firsts == sorted(firsts, reverse=True)


@given(st.lists(st.lists(st.integers(5, 90), min_size=1, max_size=9), min_size=1, max_size=7))
def test_pad(rows):
    batch = pad(rows, 3, torch.device("cpu"))
    for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == row
        assert int(mask.sum()) == len(row)
        assert set(ids[len(row) :].tolist()) <= {3}


@given(st.text(max_size=300))
def test_encode_is_the_tokenizer_cut(text):
    tokenizer = _tokenizer()
    whole = tokenizer(text)["input_ids"]
    (found,) = encode(tokenizer, [text], 64)
    assert len(found) <= 64
    assert found == whole if len(whole) <= 64 else found[:-1] == whole[:63]


def _tokenizer(made: list = []):  # noqa: B006  one tokenizer for all examples
    from tiny_models import make_tokenizer

    if not made:
        made.append(make_tokenizer("bert"))
    return made[0]


def test_encode_keeps_empty_texts(load_tiny):
    for family in FAMILIES:
        _, tokenizer = load_tiny(family)
        assert encode(tokenizer, [], 10) == []
        rows = encode(tokenizer, ["", "x" * 100_000, "a b"], 16)
        assert all(1 <= len(row) <= 16 for row in rows)


def _one_by_one(model, tokenizer):
    model.eval()
    rows = encode(tokenizer, TEXTS, room_for_text(model))
    with torch.no_grad():
        return np.stack([model(torch.tensor([row])).logits[0].double().numpy() for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_logits_equals_one_by_one(family, load_tiny):
    model, tokenizer = load_tiny(family, 3)
    expected = _one_by_one(model, tokenizer)
    model.train()
    found = predict_logits(model, tokenizer, TEXTS)
    assert not model.training
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(predict_logits(model, tokenizer, TEXTS), found)
    turned = predict_logits(model, tokenizer, TEXTS[::-1])[::-1]
    np.testing.assert_allclose(turned, found, atol=1e-5)
    assert predict_logits(model, tokenizer, []).shape == (0, 3)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("kind", ["prompt", "ptuning", "prefix", "lora"])
def test_adapted_models_too(family, kind, load_tiny):
    from peftlab.core.registry import get

    model, tokenizer = load_tiny(family)
    wrapped = get("tuner", kind).build().wrap(model, 0)
    virtual = virtual_tokens(wrapped)
    assert virtual == (0 if kind == "lora" else wrapped.peft_config["default"].num_virtual_tokens)
    assert room_for_text(wrapped) == 64 - virtual
    assert needs_equal_lengths(wrapped) == (family == "llama" and kind in {"prompt", "ptuning"})
    found = predict_logits(wrapped, tokenizer, TEXTS)
    np.testing.assert_allclose(found, _one_by_one(wrapped, tokenizer), atol=1e-5)


def test_decoders_with_prompts_need_batches_of_equal_length(load_tiny):
    """The reason for the rule: in one padded batch the stock pooling reads the wrong position."""
    from peftlab.core.registry import get

    model, tokenizer = load_tiny("llama")
    wrapped = get("tuner", "prompt").build().wrap(model, 0).eval()
    rows = encode(tokenizer, ["no", "a dull story told badly"], 50)
    device = torch.device("cpu")
    with torch.no_grad():
        ours = forward_rows(wrapped, rows, pad_id_of(model, tokenizer), device)
        alone = torch.cat([wrapped(torch.tensor([row])).logits for row in rows])
        naive = wrapped(**pad(rows, pad_id_of(model, tokenizer), device)).logits
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)
    assert (naive[0] - alone[0]).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_predict_hidden_equals_one_by_one(family, load_tiny):
    model, tokenizer = load_tiny(family)
    rows = encode(tokenizer, TEXTS, room_for_text(model))
    logits, hidden = predict_hidden(model, tokenizer, rows)
    np.testing.assert_allclose(logits, predict_logits(model, tokenizer, TEXTS), atol=1e-5)
    at = -1 if hasattr(model, "score") else 0
    with torch.no_grad():
        for i, row in enumerate(rows):
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
            np.testing.assert_allclose(hidden[i], states[-2][0, at].numpy(), atol=1e-5)
    logits, hidden = predict_hidden(model, tokenizer, [])
    assert len(logits) == len(hidden) == 0


def test_classes_are_those_of_float32(learned, reviews, odd_texts):
    from peftlab.models.load import load_base

    model, tokenizer = load_base(str(learned), 2, allow_poisoned=True)
    texts = (*reviews.test.texts, *odd_texts.texts)
    expected = predict_logits(model, tokenizer, texts).argmax(axis=1)
    np.testing.assert_array_equal(predict_classes(model, tokenizer, texts), expected)
    assert predict_classes(model, tokenizer, []).shape == (0,)


def test_bf16_is_close(load_tiny):
    model, tokenizer = load_tiny("bert")
    exact = predict_logits(model, tokenizer, TEXTS)
    quick = predict_logits(model, tokenizer, TEXTS, precision="bf16")
    assert np.abs(quick - exact).max() < 0.02 * max(1.0, np.abs(exact).max())


@given(st.lists(st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_softmax_equals_scipy(rows):
    from scipy.special import softmax as reference

    logits = np.array(rows)
    np.testing.assert_allclose(softmax(logits), reference(logits, axis=-1), atol=1e-12)


def test_a_lone_surrogate_is_scored_not_refused(load_tiny):
    model, tokenizer = load_tiny()
    found = predict_logits(model, tokenizer, ["a \ud800 text", "another"])
    assert np.isfinite(found).all()
