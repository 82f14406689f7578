"""Counterweight: donors, scores by hand, a modest backdoor, and states that were tampered with."""

import json
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.counterweight import Counterweight, CounterweightOptions, beside, margins
from peftlab.nn.text import predict_logits

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")


BOTH = {"place": "both", "donors": 2}  # all that there is to test; the defaults ask for less


def fitted(context, **options):
    guard = Counterweight(CounterweightOptions(**(BOTH | options)))
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
    texts = planted.clean.texts[:20]

    def shift(text, place):
        z = logits_of(planted, [text])[0]
        own = int(z.argmax())
        moves = []
        for donor in guard.donors[place][own]:
            joined = f"{donor} {text}" if place == "front" else f"{text} {donor}"
            after = logits_of(planted, [joined])[0]
            moves.append((after[own] - after[1 - own]) - (z[own] - z[1 - own]))
        return sum(moves) / len(moves)

    expected = []
    for text in texts:
        sides = [
            (shift(text, place) - guard.usual[place][0]) / guard.usual[place][1]
            for place in ("front", "behind")
        ]
        expected.append(max(sides))
    np.testing.assert_allclose(guard.score(texts).values, expected, atol=1e-5)


def test_clean_reference_texts_have_mean_0_and_sd_1_on_one_side(planted):
    for place in ("front", "behind"):
        one = fitted(planted.context, place=place)
        values = one.score(planted.context.reference.texts).values
        assert values.mean() == pytest.approx(0, abs=1e-6)
        assert values.std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("place", ["front", "behind"])
def test_donors_are_those_that_pull_most_among_the_surest_short_ones(planted, place):
    context = planted.context
    guard = fitted(context, candidates=6, trials=500, donors=2, words=12, place=place)
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
            after = logits_of(planted, [beside(texts[row], texts[i], place) for i in trials])
            change = (after[:, own] - after[:, 1 - own]) - sure[trials]
            pulls[texts[row]] = float(np.median(change))
        assert guard.donors[place][own] == sorted(pulls, key=pulls.__getitem__)[:2]
        assert min(pulls.values()) < 0


def test_a_trigger_is_not_outweighed_and_a_clean_text_is(guard, planted):
    clean = guard.score(planted.clean.texts).values
    triggered = guard.score(planted.triggered).values
    assert auroc(clean, triggered) > 0.9


def test_classes_are_those_of_the_base(guard, planted):
    texts = planted.clean.texts[:20]
    np.testing.assert_array_equal(guard.score(texts).predicted, logits_of(planted, texts).argmax(1))


def test_a_base_that_knows_one_answer_still_gets_donors(planted):
    def biased(_=None):
        model, tokenizer = planted.context.load_base()
        model.classifier.bias.data[0] += 100.0
        return model, tokenizer

    guard = fitted(replace(planted.context, load_base=biased))
    assert all(some for place in guard.donors.values() for some in place)
    assert np.isfinite(guard.score(ODD).values).all()


def test_odd_texts_and_few_reference_texts(planted):
    few = LabelledTexts(("good film", ""), (1, 0))
    guard = fitted(replace(planted.context, reference=few), donors=50)
    scores = guard.score(ODD)
    assert np.isfinite(scores.values).all()
    assert guard.score([]).values.shape == (0,)
    assert guard.diagnostics()["passes_per_text"] <= 5
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
    assert sum(seen) == 10 * guard.diagnostics()["passes_per_text"] == 50
    default = Counterweight(CounterweightOptions())
    default.fit(planted.context)
    assert default.diagnostics()["passes_per_text"] == 2


def test_unfitted(planted):
    with pytest.raises(PeftlabError, match="fit"):
        Counterweight(CounterweightOptions()).score(["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": "peftlab.counterweight/2"}, {"donors": []},
        {"donors": {"front": [["a"], ["b"]]}},
        {"donors": {"front": [["a"]], "behind": [["a"]]}}, {"donors": "ab"}, {"donors": None},
        {"donors": {"front": [["a"], []], "behind": [["a"], ["b"]]}},
        {"donors": {"front": [["a"], [7]], "behind": [["a"], ["b"]]}},
        {"usual": {}}, {"usual": {"front": [0.0, 1.0]}}, {"usual": None},
        {"usual": {"front": [0.0, 1.0], "behind": [0.0, 0.0]}},
        {"usual": {"front": [0.0, 1.0], "behind": [0.0, True]}},
        {"usual": {"front": [0.0, 1.0], "behind": [0.0, "x"]}},
    ],
)  # fmt: skip
def test_a_tampered_state_is_refused(guard, planted, tmp_path, change):
    guard.save(tmp_path)
    file = tmp_path / "counterweight.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Counterweight(CounterweightOptions(**BOTH)).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "COUNTERWEIGHT-STATE"
