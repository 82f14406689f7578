"""Counterweight: donors, scores by hand, a modest backdoor, and states that were tampered with."""

import json
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.counterweight import Counterweight, CounterweightOptions, join, margins
from peftlab.nn.text import predict_logits

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")


def fitted(context, **options):
    guard = Counterweight(CounterweightOptions(**options))
    guard.fit(context)
    return guard


@pytest.fixture(scope="module")
def guard(planted):
    return fitted(planted.context)


def logits_of(planted, texts):
    return predict_logits(planted.model, planted.tokenizer, texts)


def test_margins_by_hand():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(size=(50, 4)), rng.integers(4, size=50)
    expected = [
        row[c] - max(row[i] for i in range(4) if i != c)
        for row, c in zip(logits, classes, strict=True)
    ]
    np.testing.assert_array_equal(margins(logits, classes), expected)
    assert margins(np.zeros((0, 2)), np.zeros(0, dtype=int)).shape == (0,)


def test_equals_a_double_loop_over_texts_and_donors(guard, planted):
    texts = planted.clean.texts[:30]
    expected = []
    for text in texts:
        z = logits_of(planted, [text])[0]
        own = int(z.argmax())
        moves = []
        for donor in guard.donors[own]:
            after = logits_of(planted, [f"{donor} {text}"])[0]
            moves.append((after[own] - after[1 - own]) - (z[own] - z[1 - own]))
        expected.append(sum(moves) / len(moves))
    np.testing.assert_allclose(guard.score(texts).values, expected, atol=1e-5)


def test_donors_are_those_that_pull_most_among_the_surest_short_ones(planted):
    context, options = planted.context, {"candidates": 6, "trials": 500, "donors": 2, "words": 12}
    guard = fitted(context, **options)
    texts = context.reference.texts
    z = logits_of(planted, texts)
    classes = z.argmax(1)
    sure = np.abs(z[:, 0] - z[:, 1])
    for own in (0, 1):
        pool = [i for i in range(len(texts)) if classes[i] != own and len(texts[i].split()) <= 12]
        surest = sorted(pool, key=lambda i: -sure[i])[:6]
        trials = [i for i in range(len(texts)) if classes[i] == own]
        pulls = {}
        for row in surest:
            after = logits_of(planted, [join(texts[row], texts[i]) for i in trials])
            change = (after[:, own] - after[:, 1 - own]) - sure[trials]
            pulls[texts[row]] = float(np.median(change))
        assert guard.donors[own] == sorted(pulls, key=pulls.__getitem__)[:2]
        assert guard.pulls[own] == pytest.approx(min(pulls.values()), abs=1e-4)
        assert guard.pulls[own] < 0


def test_a_trigger_is_not_outweighed_and_a_clean_text_is(guard, planted):
    clean = guard.score(planted.clean.texts).values
    triggered = guard.score(planted.triggered).values
    assert auroc(clean, triggered) > 0.9
    assert np.median(triggered) > np.median(clean) / 4  # both are negative


def test_classes_are_those_of_the_base(guard, planted):
    texts = planted.clean.texts[:20]
    np.testing.assert_array_equal(guard.score(texts).predicted, logits_of(planted, texts).argmax(1))


def test_a_base_that_knows_one_answer_still_gets_donors(planted):
    def biased(_=None):
        model, tokenizer = planted.context.load_base()
        model.classifier.bias.data[0] += 100.0
        return model, tokenizer

    guard = fitted(replace(planted.context, load_base=biased))
    assert all(guard.donors)
    assert np.isfinite(guard.score(ODD).values).all()


def test_odd_texts_and_few_reference_texts(planted):
    few = LabelledTexts(("good film", ""), (1, 0))
    guard = fitted(replace(planted.context, reference=few), donors=50)
    scores = guard.score(ODD)
    assert np.isfinite(scores.values).all()
    assert guard.score([]).values.shape == (0,)
    assert guard.diagnostics()["passes_per_text"] <= 3
    with pytest.raises(ConfigError) as caught:
        fitted(replace(planted.context, reference=LabelledTexts((), ())))
    assert caught.value.code == "COUNTERWEIGHT-DONORS"


def test_passes_are_counted(planted, monkeypatch):
    guard = fitted(planted.context, donors=2)
    seen = []
    monkeypatch.setattr(
        guard, "_logits", lambda texts: seen.append(len(texts)) or logits_of(planted, texts)
    )
    guard.score(planted.clean.texts[:10])
    assert sum(seen) == 10 * guard.diagnostics()["passes_per_text"] == 30


def test_unfitted(planted):
    with pytest.raises(PeftlabError, match="fit"):
        Counterweight(CounterweightOptions()).score(["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": "peftlab.counterweight/2"}, {"donors": []}, {"donors": [["a"]]},
        {"donors": [["a"], []]}, {"donors": [["a"], [7]]}, {"donors": "ab"}, {"donors": None},
        {"pulls": [0.0]}, {"pulls": [0.0, "x"]}, {"pulls": [0.0, True]}, {"pulls": None},
    ],
)  # fmt: skip
def test_a_tampered_state_is_refused(guard, planted, tmp_path, change):
    guard.save(tmp_path)
    file = tmp_path / "counterweight.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Counterweight(CounterweightOptions()).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "COUNTERWEIGHT-STATE"
