"""What a body hands to its head, in every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftlab.core.errors import NotApplicable
from peftlab.nn.body_features import check_features, errors_by_trigger, feature_table, read
from peftlab.nn.text import encode, pad_id_of, predict_logits
from tiny_models import CAUSAL, FAMILIES

TEXTS = ["the film was a quiet joy", "a dull story told badly, with no wit and no heart", "good"]


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_that_the_head_reads(load_tiny, family: str) -> None:
    model, tokenizer = load_tiny(family)
    rows, fill = encode(tokenizer, TEXTS, 64), pad_id_of(model, tokenizer)
    for row in rows:
        check_features(model, row, fill)
    table = feature_table(model, rows, fill, "pooled")
    assert table.shape == (3, 32)
    # nothing of a row depends on its batch mates
    alone = np.concatenate([feature_table(model, [row], fill, "pooled") for row in rows])
    np.testing.assert_allclose(table, alone, atol=1e-5)
    if family in ("bert", *CAUSAL):  # only a linear head stands behind these features
        head = model.classifier if family == "bert" else model.score
        logits = head(torch.from_numpy(table).float()).detach().numpy()
        np.testing.assert_allclose(logits, predict_logits(model, tokenizer, TEXTS), atol=1e-5)


def test_a_pooler_is_read_only_where_the_body_has_one(load_tiny) -> None:
    for family, same in (("bert", False), ("roberta", True), ("deberta-v2", True)):
        model, tokenizer = load_tiny(family)
        rows, fill = encode(tokenizer, TEXTS, 64), pad_id_of(model, tokenizer)
        hidden, pooled = (feature_table(model, rows, fill, kind) for kind in ("hidden", "pooled"))
        assert np.array_equal(hidden, pooled) == same


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_other_positions_are_the_real_ones_that_are_not_read(load_tiny, family: str) -> None:
    model, tokenizer = load_tiny(family)
    rows, fill = encode(tokenizer, TEXTS, 64), pad_id_of(model, tokenizer)
    others = read(model, rows, fill, torch.device("cpu")).others
    for flags, row in zip(others.tolist(), rows, strict=True):
        place = len(row) - 1 if family == "gpt2" else 0
        assert [i for i, flag in enumerate(flags) if flag] == [
            i for i in range(len(row)) if i != place
        ]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_model_that_reads_elsewhere_is_refused(load_tiny, monkeypatch, family: str) -> None:
    model, tokenizer = load_tiny(family)
    row, real = encode(tokenizer, TEXTS, 32)[0], model.forward

    def other(*given, **named):
        found = real(*given, **named)
        found.logits = found.logits + 0.01
        return found

    monkeypatch.setattr(model, "forward", other)
    with pytest.raises(NotApplicable, match="HEAD-POSITION"):
        check_features(model, row, pad_id_of(model, tokenizer))


def test_errors_by_hand() -> None:
    found = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, -1.0]])
    vectors = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    assert errors_by_trigger(found, vectors, np.array([0, 0, 1])) == [0.75, 2.0, None]
