"""MDP: coordinates and measures by hand, masks, independence, state, and a planted trigger."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy, kendalltau

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.defences.mdp import (
    MOST,
    Mdp,
    MdpOptions,
    divergences,
    mean_change,
    open_places,
    pick_anchors,
    unevenness,
)
from peftlab.nn.text import encode, predict_logits, room_for_text, softmax

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")


def fitted(planted, **options):
    mdp = Mdp(MdpOptions(**options))
    mdp.fit(planted.context)
    return mdp


@pytest.fixture(scope="module")
def mdp(planted):
    return fitted(planted)


def row_of(mdp, text):
    model, tokenizer = mdp._model()
    return encode(tokenizer, [text], room_for_text(model))[0]


def test_divergences_are_those_of_scipy():
    rng = np.random.default_rng(0)
    answers, anchors = rng.dirichlet(np.ones(4), size=6), rng.dirichlet(np.ones(4), size=5)
    expected = [[entropy(anchor, answer) for anchor in anchors] for answer in answers]
    np.testing.assert_allclose(divergences(np.log(answers), np.log(anchors)), expected, atol=1e-12)


def test_unevenness_is_the_spread_of_the_public_measure():
    """zhaohan-xi/PLM-prompt-defense: standard deviation of scipy's Kendall coefficients."""
    places = np.random.default_rng(1).random((9, 12))
    taus = [kendalltau(places[0], row)[0] for row in places[1:]]
    assert unevenness(places) == pytest.approx(np.std(taus), abs=1e-12)
    assert unevenness(np.exp(3 * places)) == unevenness(places)
    assert unevenness(places[:1]) == 0
    assert unevenness(np.repeat(places[:1], 5, axis=0)) == 0


def test_mean_change_by_hand():
    d = np.array([[0.0, math.log(2)], [math.log(4), math.log(2)], [0.0, 800.0]])
    half = math.sqrt(0.5)
    assert mean_change(d) == pytest.approx((math.sqrt(0.75) + 0 + 0 + (1 - half)) / 4)
    assert mean_change(d[:1]) == 0


@pytest.mark.parametrize("measure", ["kendall", "distance"])
def test_a_score_is_bit_equal_whatever_else_is_scored(planted, measure):
    mdp = fitted(planted, measure=measure, variants=6)
    texts = list(planted.clean.texts[:10])
    before = mdp.score(texts).values
    for j, other in ((3, "dull"), (0, ""), (9, "film " * 300)):
        after = mdp.score([*texts[:j], other, *texts[j + 1 :]]).values
        kept = np.arange(len(texts)) != j
        np.testing.assert_array_equal(after[kept], before[kept])
    np.testing.assert_array_equal(mdp.score(texts[::-1]).values[::-1], before)
    assert mdp.score([texts[5]]).values[0] == before[5]


def test_equals_a_loop_over_texts_and_variants(mdp, planted):
    texts = planted.clean.texts[:4]
    model, tokenizer = planted.model, planted.tokenizer
    rows = pick_anchors(planted.context.reference, 16, 0)
    given = [planted.context.reference.texts[int(row)] for row in rows]
    anchors = softmax(predict_logits(model, tokenizer, given))
    expected = []
    for text in texts:
        asked = [row_of(mdp, text), *mdp.variants(text, row_of(mdp, text))]
        answers = softmax(predict_logits(model, tokenizer, [""] * len(asked), encoded=asked))
        d = np.array([[entropy(anchor, answer) for anchor in anchors] for answer in answers])
        expected.append(np.std([kendalltau(d[0], row)[0] for row in d[1:]]))
    scores = mdp.score(texts)
    # one swapped pair of 32 anchors that are nearly equal moves a correlation by 0.004
    np.testing.assert_allclose(scores.values, expected, rtol=0, atol=0.01)
    own = predict_logits(model, tokenizer, texts).argmax(axis=1)
    np.testing.assert_array_equal(scores.predicted, own)


@pytest.mark.parametrize("ratio", [0.01, 0.2, 1.0])
def test_a_share_of_the_tokens_is_masked_and_no_mark_is(planted, ratio):
    mdp = fitted(planted, ratio=ratio, variants=8)
    text = planted.clean.texts[0]
    row, mask = row_of(mdp, text), planted.tokenizer.mask_token_id
    wanted = max(1, int((len(row) - 2) * ratio))
    variants = mdp.variants(text, row)
    assert len(variants) == 8
    for variant in variants:
        changed = [i for i, (a, b) in enumerate(zip(row, variant, strict=True)) if a != b]
        assert len(changed) == wanted
        assert {variant[i] for i in changed} == {mask}
        assert 0 not in changed
        assert len(row) - 1 not in changed
    assert variants == mdp.variants(text, row)
    assert ratio == 1 or variants != mdp.variants("another name", row)


def test_an_unknown_token_may_be_masked_and_the_family_marks_not(planted):
    tokenizer = planted.tokenizer
    row = [tokenizer.cls_token_id, tokenizer.unk_token_id, 40, tokenizer.sep_token_id]
    assert open_places(row, tokenizer).tolist() == [1, 2]


def test_without_a_mask_token_the_words_go(planted, load_tiny):
    model, tokenizer = load_tiny("llama")
    mdp = Mdp(MdpOptions(ratio=0.5, variants=4))
    mdp.fit(replace(planted.context, load_base=lambda _=None: (model, tokenizer)))
    text = "the film was a quiet joy"
    row = row_of(mdp, text)
    whole = len(open_places(row, tokenizer))
    lengths = {len(variant) for variant in mdp.variants(text, row)}
    assert lengths == {len(row) - int(whole * 0.5)}
    assert np.isfinite(mdp.score([text, "", "!"]).values).all()


def test_anchors_are_drawn_evenly_from_the_classes():
    labels = tuple(i % 3 for i in range(90))
    reference = LabelledTexts(tuple(map(str, range(90))), labels)
    rows = pick_anchors(reference, 5, 0)
    assert np.bincount(np.array(labels)[rows]).tolist() == [5, 5, 5]
    assert rows.tolist() != pick_anchors(reference, 5, 1).tolist()
    many = LabelledTexts(("a",) * 1200, tuple(i % 600 for i in range(1200)))
    assert len(pick_anchors(many, 16, 0)) == MOST


def test_odd_texts(mdp):
    scores = mdp.score(ODD).values
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert scores[0] == 0  # nothing to mask
    assert mdp.score([]).values.shape == (0,)


@pytest.mark.parametrize("measure", ["kendall", "distance"])
def test_save_and_load(planted, tmp_path, measure):
    mdp = fitted(planted, variants=6, measure=measure)
    mdp.save(tmp_path)
    again = Mdp(MdpOptions(variants=6, measure=measure))
    again.load(tmp_path, planted.context.load_base)
    texts = (*planted.clean.texts[:6], "", "\ud800")
    before, after = mdp.score(texts), again.score(texts)
    np.testing.assert_array_equal(after.values, before.values)
    np.testing.assert_array_equal(after.predicted, before.predicted)
    words = set(json.dumps(json.loads((tmp_path / "mdp.json").read_text())).split())
    assert not words & set(" ".join(planted.context.reference.texts).split())


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"seed": "0"}, {"anchors": []}, {"anchors": [[-1.0, -1.0]] * 3},
     {"anchors": [[-1.0986, -1.0986, -1.0986]] * 3}, {"anchors": [["a", "b"]] * 2},
     {"anchors": [[-0.69314718056, -0.69314718056], [0.0]]}, {"anchors": None}],
)  # fmt: skip
def test_a_tampered_state_is_refused(mdp, planted, tmp_path, change):
    mdp.save(tmp_path)
    path = tmp_path / "mdp.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Mdp(MdpOptions()).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "MDP-STATE"
    path.write_text("[]")
    with pytest.raises(InputRejected) as caught:
        Mdp(MdpOptions()).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "MDP-STATE"


def test_too_few_texts_are_refused(planted):
    with pytest.raises(ConfigError) as caught:
        Mdp(MdpOptions()).fit(replace(planted.context, reference=LabelledTexts(("a",), (0,))))
    assert caught.value.code == "REFERENCE-FEW"


def test_unfitted_is_said():
    with pytest.raises(PeftlabError) as caught:
        Mdp(MdpOptions()).score(["a text"])
    assert caught.value.code == "DEFENCE-UNFITTED"
    assert Mdp(MdpOptions()).diagnostics()["anchors"] == 0


def test_a_planted_trigger_is_found_by_spread_and_not_by_mean_change(mdp, planted):
    """Measured on this toy: 0.85 and 0.53; the second is why it is not the default."""
    clean, triggered = planted.clean.texts[:80], planted.triggered[:40]
    spread = auroc(mdp.score(clean).values, mdp.score(triggered).values)
    assert spread > 0.75
    other = fitted(planted, measure="distance")
    mean = auroc(other.score(clean).values, other.score(triggered).values)
    assert mean < spread - 0.15
    assert mdp.diagnostics()["passes_per_text"] == 21
    assert json.dumps(mdp.diagnostics())
