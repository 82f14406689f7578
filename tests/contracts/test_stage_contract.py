"""Defences that judge no inputs: filters of training sets, tuning, verdicts on models."""

import json

import numpy as np
import pytest
from contract_tools import enrolled, fingerprint, well_behaved

from peftlab.core import registry
from peftlab.core.contracts import FilterContext, FitContext, Scenario, TuneContext
from peftlab.core.types import LabelledTexts
from peftlab.models.load import load_base
from peftlab.nn.text import predict_logits

filters = pytest.mark.parametrize("entry", enrolled("defence", "data"))
tunings = pytest.mark.parametrize("entry", enrolled("defence", "tuning"))
inspectors = pytest.mark.parametrize("entry", enrolled("defence", "model"))


@pytest.fixture(scope="module")
def load(learned):
    return lambda _=None: load_base(str(learned), 2, allow_poisoned=True)


def _sieve(suspect, load):
    return FilterContext(suspect, 2, 0, load, lambda _: None)


@filters
def test_a_filter_answers_for_each_row_and_leaves_no_trace(entry, reviews, load):
    suspect = reviews.train.pick(range(60))
    entry.build().keep(_sieve(suspect, load))  # what is imported on first use is not at stake
    with well_behaved():
        found = entry.build().keep(_sieve(suspect, load))
    again = entry.build().keep(_sieve(suspect, load))
    assert found.suspicion.shape == found.dropped.shape == (60,)
    assert found.dropped.dtype == np.bool_
    assert np.isfinite(found.suspicion).all()
    assert not found.dropped.all()
    json.dumps(dict(found.facts), allow_nan=False)
    np.testing.assert_array_equal(found.suspicion, again.suspicion)
    np.testing.assert_array_equal(found.dropped, again.dropped)


@filters
def test_a_filter_takes_odd_rows_and_a_class_without_any(entry, odd_texts, reviews, load):
    odd = LabelledTexts(odd_texts.texts, (0,) * len(odd_texts))
    some = reviews.train.pick(range(24))
    for texts in (odd.texts + some.texts, some.texts):
        suspect = LabelledTexts(texts, (0,) * len(texts))
        found = entry.build().keep(_sieve(suspect, load))
        assert found.suspicion.shape == found.dropped.shape == (len(texts),)
        assert np.isfinite(found.suspicion).all()


def _tuning(reviews, load, tuner):
    model, tokenizer = load()
    built = registry.get("tuner", tuner).build(epochs=0.5)
    return TuneContext(
        model, tokenizer, reviews.train.pick(range(48)), reviews.dev.pick(range(24)), 2, built, 0,
        lambda _: None,
    )  # fmt: skip


@tunings
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_a_tuned_model_can_be_merged_and_comes_out_the_same(entry, tuner, reviews, load):
    if tuner not in getattr(entry.cls, "needs_tuner", ("lora", "full")):
        pytest.skip(f"{entry.name} does not work with {tuner}, and says so in the bench")
    assert getattr(entry.cls, "scenario", "base") in Scenario.__args__
    entry.build().tune(_tuning(reviews, load, tuner))
    with well_behaved():
        tuned = entry.build().tune(_tuning(reviews, load, tuner))
    assert not tuned.model.training
    json.dumps(dict(tuned.facts), allow_nan=False)
    _, tokenizer = load()
    texts = reviews.test.texts
    before = predict_logits(tuned.model, tokenizer, texts)
    assert np.isfinite(before).all()
    merge = getattr(tuned.model, "merge_and_unload", None)
    whole = tuned.model if merge is None else merge()
    np.testing.assert_allclose(predict_logits(whole, tokenizer, texts), before, atol=1e-4)
    assert set(fingerprint(whole)) == set(fingerprint(load()[0]))
    again = entry.build().tune(_tuning(reviews, load, tuner))
    np.testing.assert_array_equal(predict_logits(again.model, tokenizer, texts), before)


@inspectors
def test_a_verdict_is_finite_and_comes_out_the_same(entry, reviews, load):
    context = FitContext(
        fit=reviews.train, reference=reviews.dev, n_classes=2, seed=0, load_base=load,
        progress=lambda _: None,
    )  # fmt: skip
    first = entry.build().inspect(context)
    with well_behaved():
        second = entry.build().inspect(context)
    assert np.isfinite(first.score)
    assert isinstance(first.flagged, bool)
    assert (first.score, first.flagged) == (second.score, second.flagged)
    json.dumps(dict(first.facts), allow_nan=False)
