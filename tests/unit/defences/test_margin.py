"""Margin: scores by hand, a backdoor that is sure of itself, and states that were tampered with."""

import json
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.ranking import auroc
from peftlab.defences.margin import FILE, Margin, MarginOptions
from peftlab.nn.text import predict_logits


@pytest.fixture(scope="module")
def guard(planted):
    found = Margin(MarginOptions())
    found.fit(planted.context)
    return found


def test_scores_by_hand(guard, planted):
    reference = planted.context.reference.texts

    def margin(text):
        one, other = sorted(predict_logits(planted.model, planted.tokenizer, [text])[0])
        return other - one

    def side(text):
        return int(predict_logits(planted.model, planted.tokenizer, [text])[0].argmax())

    sides = [side(text) for text in reference]
    for text in planted.clean.texts[:6]:
        own = [margin(each) for each, c in zip(reference, sides, strict=True) if c == side(text)]
        expected = (margin(text) - np.mean(own)) / np.std(own)
        found = guard.score([text])
        assert found.values[0] == pytest.approx(expected, abs=1e-4)
        assert found.predicted[0] == side(text)


def test_a_sure_backdoor_stands_out_and_an_odd_word_does_not(guard, planted):
    clean = guard.score(planted.clean.texts).values
    triggered = guard.score(planted.triggered).values
    assert auroc(clean, triggered) > 0.7
    assert guard.diagnostics() == {"passes_per_text": 1}
    odd = guard.score(tuple(f"quarry {text}" for text in planted.clean.texts)).values
    assert auroc(clean, odd) < auroc(clean, triggered)


def test_nothing_and_odd_texts(guard):
    assert guard.score([]).values.shape == (0,)
    assert np.isfinite(guard.score(["", "\ud800", "word " * 5000]).values).all()


def test_it_asks_for_a_fit_and_for_ten_texts(planted):
    with pytest.raises(ConfigError) as caught:
        Margin(MarginOptions()).score(["a"])
    assert caught.value.code == "DEFENCE-UNFITTED"
    few = replace(planted.context, reference=planted.context.reference.pick(range(9)))
    with pytest.raises(ConfigError) as caught:
        Margin(MarginOptions()).fit(few)
    assert caught.value.code == "REFERENCE-FEW"


@pytest.mark.parametrize(
    "change",
    [{"means": [0.0]}, {"means": [0.0, "1"]}, {"deviations": [1.0, 0.0]}, {"means": None},
     {"deviations": [1.0, -1.0]}, {"means": [0.0, 1]}, {"means": [True, 0.0]}],
)  # fmt: skip
def test_tampered_states_are_refused(change, guard, planted, tmp_path):
    guard.save(tmp_path)
    again = Margin(MarginOptions())
    again.load(tmp_path, planted.context.load_base)
    texts = planted.clean.texts[:8]
    np.testing.assert_allclose(again.score(texts).values, guard.score(texts).values, atol=1e-6)
    state = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(state | change))
    with pytest.raises(InputRejected) as caught:
        again.load(tmp_path, planted.context.load_base)
    assert caught.value.code == "MARGIN-STATE"
