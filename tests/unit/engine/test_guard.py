"""The guard decides by calibrated scores, runs the victim on accepted texts only, and lasts."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from peftlab.core import registry
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.prompt import Prompt
from peftlab.core.types import Scores
from peftlab.engine.guard import Guard
from peftlab.engine.metrics import beta_binomial_band
from peftlab.engine.splits import guard_splits
from peftlab.models.load import load_base
from tiny_models import make_tiny_causal

OPTIONS = {"checkpoints": [2, 4]}


@pytest.fixture(scope="module")
def base(tiny):
    return str(tiny("bert"))


@pytest.fixture(scope="module")
def guard(base, reviews):
    return Guard.fit(base, reviews, "psim", OPTIONS | {"alpha": 0.1})


class Victim:
    """Answers 1 always, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        return np.tile([0.0, 1.0], (len(texts), 1))


@pytest.fixture(scope="module", params=["psim", "strip", "rap"])
def any_guard(request, guard, learned, reviews):
    few = {"strip": {"copies": 3}, "rap": {"epochs": 1, "steps": 1}}
    if request.param == "psim":
        return guard
    options = few[request.param] | {"alpha": 0.1}
    return Guard.fit(str(learned), reviews, request.param, options, allow_poisoned=True)


def test_flags_follow_the_calibration(any_guard, reviews):
    """PSIM, STRIP and RAP alike; fresh clean texts are seldom flagged."""
    texts = reviews.test.texts
    found = any_guard.score(texts)
    np.testing.assert_array_equal(found.scores, any_guard.defence.score(texts).values)
    clean = any_guard.defence.score(guard_splits(reviews, 0).calibration.texts).values
    np.testing.assert_array_equal(any_guard.calibration.scores, clean)
    p = np.array([(1 + (clean >= s).sum()) / (len(clean) + 1) for s in found.scores])
    np.testing.assert_allclose(found.p_values, p)
    np.testing.assert_array_equal(found.flagged, p <= 0.1)
    low, high = beta_binomial_band(len(clean), len(texts), 0.1)
    assert low <= found.flagged.mean() <= high
    assert found.flagged.any()


def test_calibration_texts_have_not_been_fitted_on(guard, reviews):
    parts = guard_splits(reviews, 0)
    again = guard.defence.score(parts.calibration.texts).values
    np.testing.assert_array_equal(again, guard.calibration.scores)
    assert guard.about["texts"] == {"fit": 120, "reference": 40, "calibration": 40}


@pytest.mark.parametrize("action", ["reject", "abstain", "fallback"])
def test_decide(action, base, reviews):
    texts = list(reviews.test.texts)
    guard = Guard.fit(base, reviews, "onion", {"alpha": 0.3, "action": action})
    flagged = guard.score(texts).flagged
    assert flagged.any()
    assert not flagged.all()
    victim, other = Victim(), Victim()
    decisions = guard.decide(texts, victim, fallback=other)
    kept = [text for text, flag in zip(texts, flagged, strict=True) if not flag]
    assert victim.asked == [kept]
    assert [d.flagged for d in decisions] == flagged.tolist()
    assert all(d.label == 1 for d in decisions if not d.flagged)
    assert all(d.label == (1 if action == "fallback" else None) for d in decisions if d.flagged)
    assert len(other.asked) == (action == "fallback")
    assert guard.decide([], victim, fallback=other) == []


def test_fallback_needs_a_second_model(base, reviews):
    guard = Guard.fit(base, reviews, "onion", {"action": "fallback"})
    with pytest.raises(ConfigError) as caught:
        guard.decide(["a text"], Victim())
    assert caught.value.code == "GUARD-FALLBACK"


@pytest.mark.parametrize(
    ("defence", "options"),
    [("psim", OPTIONS), ("psim", OPTIONS | {"conditional": True, "alpha": 0.2}), ("onion", {}),
     ("psim", {"compat": "official"}), ("psim", OPTIONS | {"sides": "two", "alpha": 0.1})],
)  # fmt: skip
def test_comes_back_from_its_folder(defence, options, learned, reviews, tmp_path):
    guard = Guard.fit(str(learned), reviews, defence, options, seed=1, allow_poisoned=True)
    guard.save_pretrained(tmp_path / "guard")
    again = Guard.from_pretrained(tmp_path / "guard", allow_poisoned=True)
    assert again.about == json.loads(json.dumps(guard.about))
    before, after = guard.score(reviews.test.texts), again.score(reviews.test.texts)
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-6)
    np.testing.assert_array_equal(after.flagged, before.flagged)
    assert again.fixed == guard.fixed == (options.get("compat") == "official")


def test_an_existing_folder_is_kept(guard, tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError) as caught:
        guard.save_pretrained(tmp_path / "guard")
    assert caught.value.code == "FOLDER-EXISTS"
    assert (tmp_path / "guard" / "mine.txt").read_text() == "precious"


def test_a_marked_base_is_refused(learned, reviews, tmp_path):
    with pytest.raises(InputRejected) as caught:
        Guard.fit(str(learned), reviews, "psim", OPTIONS)
    assert caught.value.code == "MARK-POISONED"
    Guard.fit(str(learned), reviews, "onion", allow_poisoned=True).save_pretrained(tmp_path / "g")
    with pytest.raises(InputRejected) as caught:
        Guard.from_pretrained(tmp_path / "g")
    assert caught.value.code == "MARK-POISONED"


def test_too_few_dev_texts_are_said_before_any_fitting(base, reviews, monkeypatch):
    entry = registry.get("defence", "psim")
    monkeypatch.setattr(entry.cls, "fit", lambda *_: pytest.fail("fitted first"))
    with pytest.raises(ConfigError) as caught:
        Guard.fit(base, reviews, "psim", {"alpha": 0.01})
    assert caught.value.code == "CAL-FEW"


class Rough:
    """A defence whose quick scores are off by up to 0.2."""

    quick_band = 0.25

    def __init__(self, exact):
        self.exact, self.again = exact, 0

    def score(self, texts):
        self.again += len(texts)
        return Scores(np.array([self.exact[text] for text in texts]))

    def quick_score(self, texts):
        off = 0.2 * np.cos(np.arange(len(texts)))
        return Scores(np.array([self.exact[text] for text in texts]) + off)


@pytest.mark.parametrize("sides", ["high", "two"])
def test_fast_scoring_decides_as_exact_scoring_does(sides):
    from peftlab.core.seeds import stream
    from peftlab.engine.calibrate import Calibration

    clean = stream(0, "test/clean").normal(size=99)
    texts = [f"text {i}" for i in range(400)]
    exact = dict(zip(texts, stream(0, "test/fresh").normal(size=400) * 1.5, strict=True))
    defence = Rough(exact)
    guard = Guard(defence, Calibration(clean, alpha=0.1, sides=sides), {})
    slow = guard.score(texts)
    defence.again = 0
    fast = guard.score(texts, fast=True)
    np.testing.assert_array_equal(fast.flagged, slow.flagged)
    assert 0 < defence.again < 200


def test_a_class_without_calibration_texts_is_refused_at_the_fit(tiny, reviews, tmp_path):
    """Conditional calibration could not judge a text of that class, so it is said before use."""
    model, tokenizer = load_base(str(tiny("bert")), 2)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([100.0, 0.0]))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = {"checkpoints": [2], "family": "lora", "conditional": True, "alpha": 0.2}
    with pytest.raises(ConfigError, match="0 clean samples predicted as class 1") as caught:
        Guard.fit(str(tmp_path), reviews, "psim", options)
    assert caught.value.code == "CAL-FEW"


def test_a_base_without_a_head_is_said_in_python_too(learned, reviews):
    with pytest.warns(UserWarning, match="no trained classification head"):
        Guard.fit("builtin:encoder", reviews, "onion", {"alpha": 0.1})
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Guard.fit("builtin:encoder", reviews, "onion", {"alpha": 0.1}, progress=said.append)
        Guard.fit(str(learned), reviews, "onion", {"alpha": 0.1}, allow_poisoned=True)
    assert "no trained classification head" in said[0]


def test_a_guard_of_a_bare_language_model_brings_its_prompt(reviews, tmp_path):
    prompt = Prompt(template="{text} and the", words=("no", "was"))
    base = str(make_tiny_causal("llama", tmp_path / "lm"))
    options = {"checkpoints": [1, 2], "family": "lora", "labels": "random", "alpha": 0.1}
    said = []
    made = Guard.fit(base, reviews, "psim", options, prompt=prompt, progress=said.append)
    assert any("evidence=resistance,path,hidden" in line for line in said)
    made.save_pretrained(tmp_path / "guard")
    again = Guard.from_pretrained(tmp_path / "guard")
    texts = reviews.test.texts[:8]
    np.testing.assert_allclose(again.score(texts).scores, made.score(texts).scores, atol=1e-6)
    (tmp_path / "guard" / "prompt.json").write_text("{}")
    with pytest.raises(InputRejected, match="PROMPT-FILE"):
        Guard.from_pretrained(tmp_path / "guard")
