"""STRIP: the entropy of mixed texts, and the mistakes of public code."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.strip import Strip, StripOptions, mean_entropy, rank_words
from peftlab.nn.text import predict_logits, softmax

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")


def fitted(planted, **options):
    strip = Strip(StripOptions(**{"copies": 5, **options}))
    strip.fit(planted.context)
    return strip


@pytest.fixture(scope="module")
def strip(planted):
    return fitted(planted)


def entropy(chances):
    """Return the entropy in bits of one distribution, term by term."""
    return -sum(p * math.log2(p) for p in chances if p > 0)


def logits_of_copies(strip, planted, texts):
    copies = [copy for text in texts for copy in strip.perturb(text)]
    return predict_logits(planted.model, planted.tokenizer, copies)


def test_a_score_is_bit_equal_whatever_else_is_scored(strip, planted):
    texts = list(planted.clean.texts[:12])
    before = strip.score(texts).values
    for j, other in ((3, "dull"), (0, ""), (11, "film " * 300)):
        changed = [*texts[:j], other, *texts[j + 1 :]]
        after = strip.score(changed).values
        kept = np.arange(len(texts)) != j
        np.testing.assert_array_equal(after[kept], before[kept])
        assert after[j] != before[j]
    np.testing.assert_array_equal(strip.score(texts[::-1]).values[::-1], before)
    assert strip.score([texts[5]]).values[0] == before[5]
    twice = strip.score([texts[2], texts[4], texts[2]]).values
    assert twice[0] == twice[2] == before[2]


def test_equals_a_double_loop_over_texts_and_copies(strip, planted):
    texts = planted.clean.texts[:50]
    expected = []
    for text in texts:
        found = []
        for copy in strip.perturb(text):
            logits = predict_logits(planted.model, planted.tokenizer, [copy])
            found.append(entropy(softmax(logits)[0]))
        expected.append(-sum(found) / len(found))
    np.testing.assert_allclose(strip.score(texts).values, expected, rtol=0, atol=1e-5)


def test_entropies_of_different_texts_are_never_mixed(strip, planted):
    """thunlp/OpenBackdoor reads copies that stand text by text as if they stood copy by copy."""
    texts = planted.clean.texts[:40]
    logits = logits_of_copies(strip, planted, texts)
    each = np.array([entropy(row) for row in softmax(logits)])
    wrong = each.reshape(5, -1).mean(axis=0)
    right = each.reshape(-1, 5).mean(axis=1)
    np.testing.assert_allclose(strip.score(texts).values, -right, rtol=0, atol=1e-5)
    assert np.abs(wrong - right).max() > 0.05
    assert abs(np.corrcoef(wrong, right)[0, 1]) < 0.5
    # one text that is sure of itself among others that are not
    sure = np.array([[9.0, 0.0]] * 5 + [[0.0, 0.0]] * 20)
    np.testing.assert_allclose(mean_entropy(sure, 5), [mean_entropy(sure[:5], 5)[0], 1, 1, 1, 1])


def test_a_certain_prediction_has_no_entropy_and_is_finite():
    """0 log 0 is 0; in public code it is not a number."""
    logits = np.array([[1e4, 0.0, 0.0], [-np.inf, 0.0, -np.inf], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(mean_entropy(logits, 1), [0, 0, math.log2(3)], atol=1e-12)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 1.0])
def test_a_share_of_the_places_is_overwritten_by_the_best_words_of_one_text(planted, ratio):
    strip = fitted(planted, ratio=ratio, copies=8)
    text = " ".join(f"own{i}" for i in range(20))
    wanted = max(1, int(20 * ratio))
    donors = [Counter(words[:wanted]) for words in strip.donors]
    copies = strip.perturb(text)
    assert len(copies) == 8
    assert len(set(copies)) > 1
    for copy in copies:
        words = copy.split()
        assert len(words) == 20
        new = [word for i, word in enumerate(words) if word != f"own{i}"]
        assert len(new) == wanted
        given = Counter(new)
        assert any(set(given) <= set(donor) for donor in donors)
    assert copies == strip.perturb(text)


def test_short_donors_start_again():
    strip = Strip(StripOptions(ratio=1.0, copies=1))
    strip.donors = [["one", "two"]]
    assert Counter(strip.perturb("a b c d e")[0].split()) == {"one": 3, "two": 2}


def test_rank_words_by_hand():
    """TF-IDF with smoothed IDF, no norm."""
    texts = ["cat cat dog", "dog bird", "dog, dog! (Cat)", "a ! 1"]
    idf = {"cat": math.log(5 / 3) + 1, "dog": math.log(5 / 4) + 1, "bird": math.log(5 / 2) + 1}
    assert 2 * idf["cat"] > idf["dog"]
    assert idf["bird"] > idf["dog"]
    assert 2 * idf["dog"] > idf["cat"]
    assert rank_words(texts) == [["cat", "dog"], ["bird", "dog"], ["dog", "cat"], []]
    assert rank_words([]) == []


def test_donors_are_reference_texts_only(strip, planted):
    known = set(" ".join(planted.context.reference.texts).split())
    assert {word for words in strip.donors for word in words} <= known
    assert len(strip.donors) == len(planted.context.reference)


def test_donors_of_another_predicted_class(planted):
    strip = fitted(planted, donors="opposite")
    reference = planted.context.reference.texts
    predicted = predict_logits(planted.model, planted.tokenizer, reference).argmax(axis=1)
    np.testing.assert_array_equal(strip.classes, predicted)
    for c in (0, 1):
        np.testing.assert_array_equal(strip._pool(c), np.flatnonzero(predicted != c))
    scores = strip.score(planted.clean.texts[:8])
    own = predict_logits(planted.model, planted.tokenizer, planted.clean.texts[:8]).argmax(axis=1)
    np.testing.assert_array_equal(scores.predicted, own)
    assert strip.diagnostics()["passes_per_text"] == 6
    strip.classes[:] = 1  # nobody is predicted otherwise: any text may give
    assert len(strip._pool(1)) == len(reference)


def test_the_predicted_class_is_there_when_calibration_asks_for_it(planted, strip):
    texts = planted.clean.texts[:6]
    assert strip.score(texts).predicted is None
    assert strip.diagnostics()["passes_per_text"] == 5
    scores = fitted(planted, conditional=True).score(texts)
    assert scores.predicted.shape == (6,)
    np.testing.assert_array_equal(scores.values, strip.score(texts).values)


def test_other_seeds_make_other_copies(planted, strip):
    other = Strip(StripOptions(copies=5))
    other.fit(replace(planted.context, seed=1))
    text = planted.clean.texts[0]
    assert other.perturb(text) != strip.perturb(text)


def test_odd_texts(strip):
    scores = strip.score(ODD).values
    assert np.isfinite(scores).all()
    assert (scores <= 0).all()
    assert strip.perturb("") == [""] * 5
    assert strip.score([]).values.shape == (0,)


@pytest.mark.parametrize("options", [{}, {"donors": "opposite"}, {"conditional": True}])
def test_save_and_load(planted, tmp_path, options):
    strip = fitted(planted, **options)
    strip.save(tmp_path)
    again = Strip(StripOptions(copies=5, **options))
    again.load(tmp_path, planted.context.load_base)
    texts = (*planted.clean.texts[:6], "", "\ud800")
    before, after = strip.score(texts), again.score(texts)
    np.testing.assert_array_equal(after.values, before.values)
    if before.predicted is not None:
        np.testing.assert_array_equal(after.predicted, before.predicted)


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"seed": "0"}, {"donors": []}, {"donors": [[]]}, {"donors": [[3]]},
     {"classes": [0]}, {"classes": "01"}, {"donors": None}],
)  # fmt: skip
def test_a_tampered_state_is_refused(strip, planted, tmp_path, change):
    strip.save(tmp_path)
    path = tmp_path / "strip.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Strip(StripOptions()).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "STRIP-STATE"
    strip.save(tmp_path)
    with pytest.raises(InputRejected):
        Strip(StripOptions(donors="opposite")).load(tmp_path, planted.context.load_base)


def test_nothing_to_give_is_refused(planted):
    empty = LabelledTexts(("", "! ?", "a"), (0, 0, 1))
    with pytest.raises(ConfigError) as caught:
        Strip(StripOptions()).fit(replace(planted.context, reference=empty))
    assert caught.value.code == "STRIP-DONORS"


def test_unfitted_is_said():
    with pytest.raises(PeftlabError) as caught:
        Strip(StripOptions()).score(["a text"])
    assert caught.value.code == "DEFENCE-UNFITTED"


@pytest.mark.parametrize(("options", "bar"), [({}, 0.7), ({"donors": "opposite"}, 0.8)])
def test_a_planted_trigger_is_found(planted, options, bar):
    """Measured on this toy: 0.92 and 0.96; among texts predicted as class 0, 0.85 and 0.96."""
    answers = predict_logits(planted.model, planted.tokenizer, planted.triggered).argmax(axis=1)
    assert (answers == 0).mean() > 0.95  # there is something to find
    strip = fitted(planted, copies=20, conditional=True, **options)
    clean, triggered = strip.score(planted.clean.texts[:80]), strip.score(planted.triggered[:40])
    assert auroc(clean.values, triggered.values) > bar
    alike = clean.values[clean.predicted == 0]
    assert auroc(alike, triggered.values[triggered.predicted == 0]) > bar
