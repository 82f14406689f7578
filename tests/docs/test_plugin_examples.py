"""The five files that CONTRIBUTING shows do what their contract asks."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from artefacts import blocks, context_of, low_rank, opened, write_adapter
from peftlab.core import registry
from peftlab.core.contracts import FitContext
from peftlab.core.poisoning import poison
from peftlab.engine.evaluate import evaluate_victim
from peftlab.engine.steps import tune
from peftlab.io.header import read_header

PLUGINS = Path(__file__).parents[2] / "docs" / "examples" / "plugins"


@pytest.fixture
def plugin(monkeypatch):
    """Return a loader that enrols one of the examples for this test only."""
    registry.entries()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    def load(kind, name):
        spec = importlib.util.spec_from_file_location(f"example_{kind}", PLUGINS / f"{kind}.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return registry.get(kind, name)

    return load


def test_attack_poisons(plugin, reviews):
    entry = plugin("attack", "example-edge")
    first, again = (poison(entry.build(word="zq"), reviews, seed=0) for _ in range(2))
    assert first.is_poisoned.sum() == round(0.1 * len(reviews.train))
    assert first.digest() == again.digest()
    assert all("zq" in text.split() for text in first.test_triggered.texts)
    assert entry.build().poison_text(" ", seed=0, sample=0) is None


def test_tuner_tunes_and_loads_again(plugin, reviews, tiny, tmp_path):
    plugin("tuner", "example-dora")
    facts = tune(
        str(tiny("bert")), reviews, "example-dora", {"rank": 2}, tmp_path / "victim", seed=0
    )
    names = read_header(tmp_path / "victim" / "adapter_model.safetensors")
    assert facts["trainable"] > 0
    assert any("magnitude" in name for name in names)
    assert 0 <= evaluate_victim(tmp_path / "victim", reviews)["metrics"]["ca"] <= 1


def test_defence_scores_and_survives_a_save(plugin, reviews, tmp_path):
    entry = plugin("defence", "example-unseen")
    guard = entry.build()
    guard.fit(FitContext(reviews.train, reviews.dev, 2, 0, lambda: (None, None), print))
    known = reviews.train.texts[0]
    texts = [known, f"qz {known}", ""]
    assert guard.score(texts).values.tolist() == [0.0, 1.0, 0.0]
    guard.save(tmp_path)
    restored = entry.build()
    restored.load(tmp_path, lambda: (None, None))
    assert np.array_equal(restored.score(texts).values, guard.score(texts).values)


def test_dataset_loads(plugin):
    entry = plugin("dataset", "example-tickets")
    task = entry.build(n=40).load("example-tickets")
    assert task.digest() == entry.build(n=40).load("example-tickets").digest()
    assert {len(task.train), len(task.dev), len(task.test)} == {40}
    assert set(task.train.labels) == {0, 1}
    assert not set(task.train.texts) & set(task.test.texts)


def test_audit(plugin, tmp_path):
    entry = plugin("audit", "example-rank")
    artefact = opened(write_adapter(tmp_path / "lora", low_rank(blocks(2))))
    context = context_of(artefact)
    ranks = {pair.rank for pair in context.layout.pairs}
    assert entry.build().why_not(context) == ""
    assert entry.build().run(context).findings == ()
    strict = entry.build(most=max(ranks) - 1).run(context)
    assert {finding.code for finding in strict.findings} == {"EXAMPLE-RANK"}
    assert strict.facts == {"largest_rank": max(ranks)}
