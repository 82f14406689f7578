"""Every defence that judges inputs: scores belong to the text alone, and come back as they were."""

import json

import numpy as np
import pytest
from contract_tools import assert_plain_files, enrolled, well_behaved

from peftlab.core import registry
from peftlab.core.contracts import FitContext
from peftlab.core.errors import InputRejected, PeftlabError
from peftlab.engine.guard import Guard
from peftlab.models.load import load_base

every = pytest.mark.parametrize("entry", enrolled("defence", "input"), scope="module")


@pytest.fixture(scope="module")
def context(reviews, learned):
    half = len(reviews.dev) // 2
    return FitContext(
        fit=reviews.train, reference=reviews.dev.pick(range(half)), n_classes=2, seed=0,
        load_base=lambda _=None: load_base(str(learned), 2, allow_poisoned=True),
        progress=lambda _: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(entry, context):
    """Return the defence, fitted while being watched."""
    entry.build().fit(context)  # what is imported on first use is not at stake
    defence = entry.build()
    before = context.fit.digest(), context.reference.digest()
    with well_behaved():
        defence.fit(context)
    assert (context.fit.digest(), context.reference.digest()) == before
    return defence


@every
def test_equal_fits_score_equally(entry, fitted, context, reviews):
    again = entry.build()
    again.fit(context)
    texts = reviews.test.texts
    np.testing.assert_array_equal(again.score(texts).values, fitted.score(texts).values)


@every
def test_scoring_has_no_side_effects(fitted, reviews):
    texts = list(reviews.test.texts)
    with well_behaved():
        scores = fitted.score(texts)
    assert texts == list(reviews.test.texts)
    assert scores.values.shape == (len(texts),)
    assert scores.values.dtype == np.float64
    assert np.isfinite(scores.values).all()
    np.testing.assert_array_equal(fitted.score(texts).values, scores.values)
    if scores.predicted is not None:
        assert scores.predicted.shape == (len(texts),)


@every
def test_batch_mates_and_order_do_not_matter(fitted, reviews):
    texts = reviews.test.texts
    whole = fitted.score(texts).values
    turned = fitted.score(texts[::-1]).values[::-1]
    halves = np.concatenate([fitted.score(texts[:13]).values, fitted.score(texts[13:]).values])
    np.testing.assert_allclose(turned, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(halves, whole, rtol=1e-5, atol=1e-5)
    alone = [fitted.score([text]).values[0] for text in texts[:5]]
    np.testing.assert_allclose(alone, whole[:5], rtol=1e-5, atol=1e-5)


@every
def test_nothing_one_and_odd_texts(fitted, odd_texts):
    nothing = fitted.score([])
    assert nothing.values.shape == (0,)
    assert nothing.predicted is None or nothing.predicted.shape == (0,)
    assert fitted.score(["good"]).values.shape == (1,)
    scores = fitted.score(odd_texts.texts)
    assert np.isfinite(scores.values).all()
    assert len(scores.values) == len(odd_texts)


@every
def test_save_and_load(entry, fitted, context, reviews, odd_texts, tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    with well_behaved(folder):
        fitted.save(folder)
    assert_plain_files(folder)
    other = entry.build(**fitted.options.model_dump())
    with well_behaved():
        other.load(folder, context.load_base)
        texts = (*reviews.test.texts, *odd_texts.texts)
        before, after = fitted.score(texts), other.score(texts)
    np.testing.assert_allclose(after.values, before.values, atol=1e-6)
    if before.predicted is not None:
        np.testing.assert_array_equal(after.predicted, before.predicted)


@every
def test_a_damaged_guard_is_refused_in_plain_words(entry, learned, reviews, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._entries, (entry.kind, entry.name), entry)
    folder = tmp_path / "guard"
    guard = Guard.fit(str(learned), reviews, entry.name, allow_poisoned=True)
    guard.save_pretrained(folder)
    assert_plain_files(folder)
    texts = reviews.test.texts
    again = Guard.from_pretrained(folder, allow_poisoned=True).score(texts)
    np.testing.assert_array_equal(again.flagged, guard.score(texts).flagged)
    for path in folder.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputRejected):
            Guard.from_pretrained(folder, allow_poisoned=True)
        path.write_bytes(whole)


@every
def test_unfitted_is_said(entry):
    if entry.name.startswith("example-"):
        pytest.skip("the example is kept short")
    with pytest.raises(PeftlabError, match="fit"):
        entry.build().score(["a text"])


@every
def test_optional_members(fitted, reviews):
    texts = list(reviews.test.texts[:8])
    scores = fitted.score(texts)
    if hasattr(fitted, "rewrite"):
        assert fitted.rewrite(texts, np.inf) == texts
        assert len(fitted.rewrite(texts, float(np.median(scores.values)))) == len(texts)
        assert fitted.rewrite([], 0.0) == []
    if hasattr(fitted, "fixed_flags"):
        fixed = fitted.fixed_flags(scores)
        assert fixed is None or fixed.shape == scores.values.shape
    if hasattr(fitted, "diagnostics"):
        json.dumps(fitted.diagnostics(), allow_nan=False)
    if hasattr(fitted, "explain"):
        np.testing.assert_array_equal(fitted.explain(texts)[0].values, scores.values)
