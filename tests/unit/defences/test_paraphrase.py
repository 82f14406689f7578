"""Paraphrase: the score by hand, what is mended, imported rewrites, state, a planted trigger."""

import json
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError
from peftlab.core.ranking import auroc
from peftlab.core.rule_paraphrase import known_words, paraphrase
from peftlab.core.types import LabelledTexts
from peftlab.defences.paraphrase import FILE, Paraphrase, ParaphraseOptions
from peftlab.nn.text import predict_logits, softmax

ODD = ("", "  ", "!", "film", "\ud800 lone surrogate", "word " * 5000, "x" * 10_000, "映画 🎬")


def fitted(planted, **options):
    guard = Paraphrase(ParaphraseOptions(**options))
    guard.fit(planted.context)
    return guard


@pytest.fixture(scope="module")
def guard(planted):
    return fitted(planted)


@pytest.fixture
def table(tmp_path, planted):
    """Return a table of rewrites of half of the clean test texts: the text backwards."""
    half = planted.clean.texts[:60]
    rows = [{"text": text, "rewrite": " ".join(text.split()[::-1])} for text in half]
    path = tmp_path / "rewrites.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_score_is_what_the_rewrite_takes_from_the_class(guard, planted):
    texts = (*planted.clean.texts[:30], *planted.triggered[:10])
    known = known_words(planted.context.fit.texts)
    other = [paraphrase(text, known) for text in texts]
    own = softmax(predict_logits(planted.model, planted.tokenizer, texts)).argmax(axis=1)
    after = softmax(predict_logits(planted.model, planted.tokenizer, other))
    scores = guard.score(texts)
    np.testing.assert_array_equal(scores.predicted, own)
    np.testing.assert_allclose(
        scores.values, [1 - row[c] for row, c in zip(after, own, strict=True)], atol=1e-6
    )
    assert ((scores.values >= 0) & (scores.values <= 1)).all()


def test_texts_above_the_threshold_are_mended_and_no_others(guard, planted):
    texts = [*planted.clean.texts[:20], *planted.triggered[:20]]
    scores = guard.score(texts).values
    level = float(np.median(scores))
    mended = guard.rewrite(texts, level)
    for text, new, score in zip(texts, mended, scores, strict=True):
        assert new == (guard.mended(text) if score > level else text)
    assert guard.rewrite(texts, np.inf) == texts
    assert guard.rewrite(texts, -np.inf) == [guard.mended(text) for text in texts]
    assert guard.rewrite([], 0.0) == []
    with pytest.raises(ConfigError) as caught:
        guard.rewrite(texts, np.nan)
    assert caught.value.code == "PARAPHRASE-THRESHOLD"


def test_a_word_trigger_that_no_clean_text_has_is_found_and_mended(guard, planted):
    """As generated words are all known, this is easy; with real texts it is not."""
    clean, triggered = guard.score(planted.clean.texts), guard.score(planted.triggered)
    assert auroc(clean.values, triggered.values) > 0.8
    mended = guard.rewrite(planted.triggered, float(np.quantile(clean.values, 0.9)))
    before = predict_logits(planted.model, planted.tokenizer, planted.triggered).argmax(axis=1)
    after = predict_logits(planted.model, planted.tokenizer, mended).argmax(axis=1)
    assert (before == 0).mean() > 0.95
    assert (after == 0).mean() < 0.5


def test_rules_can_be_left_out(planted):
    text = planted.triggered[0]
    assert fitted(planted, drop=False, synonyms=False, reorder=False).mended(text) == text
    assert "portrait" not in fitted(planted, synonyms=False, reorder=False).mended(text).split()
    many = fitted(planted, min_count=1000)
    assert many.mended(text) == ""


def test_batch_mates_do_not_matter(guard, planted):
    texts = list(planted.clean.texts[:12])
    whole = guard.score(texts).values
    alone = [guard.score([text]).values[0] for text in texts]
    np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-5)
    mixed = guard.score([*texts, "film " * 300]).values[:12]
    np.testing.assert_allclose(mixed, whole, rtol=0, atol=1e-5)


def test_odd_texts(guard):
    assert np.isfinite(guard.score(ODD).values).all()
    assert guard.score([]).values.shape == (0,)
    assert json.dumps(guard.diagnostics(), allow_nan=False)


def test_imported_rewrites_are_used_and_the_others_counted(planted, table):
    said = []
    guard = Paraphrase(ParaphraseOptions(rewrites=str(table)))
    guard.fit(replace(planted.context, progress=said.append))
    texts = planted.clean.texts[55:65]
    scores = guard.score(texts)
    about = guard.diagnostics()
    assert about["method"] == "paraphrase[imported]"
    assert (about["rewrites"], about["scored"], about["scored_without_rewrite"]) == (60, 10, 5)
    assert about["reference_covered"] == 0
    assert any("warning" in line for line in said)
    assert guard.mended(texts[0].upper()) == " ".join(texts[0].split()[::-1])
    assert guard.mended(texts[9]) is None
    logits = predict_logits(planted.model, planted.tokenizer, texts[5:])
    np.testing.assert_allclose(scores.values[5:], 1 - softmax(logits).max(axis=1), atol=1e-6)
    everything = guard.rewrite(texts, -np.inf)
    assert everything[5:] == list(texts[5:])
    assert everything[0] == guard.mended(texts[0])
    assert guard.diagnostics()["scored"] == 10  # mending is not scoring


def test_rewrites_in_the_published_form(planted, tmp_path):
    texts = planted.context.reference.texts
    test, back = tmp_path / "test.json", tmp_path / "test_back.json"
    for path, words in ((test, texts), (back, [f"it is so that {text}" for text in texts])):
        rows = [{"sentence": each, "label": 0, "idx": i} for i, each in enumerate(words)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    guard = fitted(planted, rewrites=str(back), originals=str(test))
    assert guard.diagnostics()["reference_covered"] == 1
    assert guard.mended(texts[3]) == f"it is so that {texts[3]}"


def test_originals_alone_and_missing_files_are_refused(planted, tmp_path):
    with pytest.raises(ConfigError) as caught:
        fitted(planted, originals="test.json")
    assert caught.value.code == "PARAPHRASE-ORIGINALS"
    with pytest.raises(InputRejected) as caught:
        fitted(planted, rewrites=str(tmp_path / "none.json"))
    assert caught.value.code == "DATA-READ"


def test_nothing_to_know_is_no_error(planted):
    guard = Paraphrase(ParaphraseOptions())
    guard.fit(replace(planted.context, fit=LabelledTexts(("",), (0,))))
    assert guard.mended("a film") == ""


def test_save_and_load(guard, planted, tmp_path):
    guard.save(tmp_path)
    again = Paraphrase(ParaphraseOptions())
    again.load(tmp_path, planted.context.load_base)
    texts = (*planted.clean.texts[:6], *planted.triggered[:3], "", "\ud800")
    np.testing.assert_allclose(
        again.score(texts).values, guard.score(texts).values, rtol=0, atol=1e-6
    )
    assert again.rewrite(texts, 0.3) == guard.rewrite(texts, 0.3)


def test_an_imported_guard_needs_its_table_no_more(planted, table, tmp_path):
    guard = fitted(planted, rewrites=str(table))
    folder = tmp_path / "guard"
    folder.mkdir()
    guard.save(folder)
    table.unlink()
    again = Paraphrase(ParaphraseOptions(rewrites=str(table)))
    again.load(folder, planted.context.load_base)
    texts = planted.clean.texts[50:70]
    np.testing.assert_array_equal(again.score(texts).values, guard.score(texts).values)
    assert again.diagnostics()["rewrites"] == 60


@pytest.mark.parametrize(
    "change",
    [{"format": "x"}, {"covered": "all"}, {"known": None}, {"known": [3]}, {"known": "film"}],
)
def test_a_tampered_state_is_refused(guard, planted, tmp_path, change):
    guard.save(tmp_path)
    path = tmp_path / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Paraphrase(ParaphraseOptions()).load(tmp_path, planted.context.load_base)
    assert caught.value.code == "PARAPHRASE-STATE"


@pytest.mark.parametrize(
    "change", [{"pairs": []}, {"pairs": {"a": 3}}, {"empty": "0"}, {"again": None}]
)
def test_a_tampered_imported_state_is_refused(planted, table, tmp_path, change):
    folder = tmp_path / "guard"
    folder.mkdir()
    fitted(planted, rewrites=str(table)).save(folder)
    path = folder / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputRejected) as caught:
        Paraphrase(ParaphraseOptions(rewrites=str(table))).load(folder, planted.context.load_base)
    assert caught.value.code == "PARAPHRASE-STATE"
    with pytest.raises(InputRejected):  # nor is it one by rule
        Paraphrase(ParaphraseOptions()).load(folder, planted.context.load_base)


def test_unfitted_is_said():
    with pytest.raises(PeftlabError) as caught:
        Paraphrase(ParaphraseOptions()).score(["a text"])
    assert caught.value.code == "DEFENCE-UNFITTED"
