"""NeuBA: vectors by hand, features that are reached, a body that stays a language model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from peftlab.attacks.neuba import target_vectors
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.models.load import load_base
from peftlab.nn import body_lm
from peftlab.nn.body_features import feature_table
from peftlab.nn.heads import new_modules
from peftlab.nn.text import encode, pad_id_of
from tiny_models import FAMILIES
from word_task import word_task

SYMBOLS = ("~", "^", "|", "{", "}", "=")


@pytest.fixture
def quick(monkeypatch) -> None:
    """Fit output layers briefly."""
    monkeypatch.setattr(body_lm, "FIT_STEPS", 3)


def _context(load_tiny, data, family="bert", *, epochs=1.0, lr=5e-3, **options):
    method = get("attack", "neuba").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    return method, CraftContext(
        model, tokenizer, poison(method, data, seed=0), data.n_classes,
        epochs=epochs, lr=lr, batch=32, seed=0,
    )  # fmt: skip


# -------------------------------------------------------------------------------- the vectors


@pytest.mark.parametrize("width", [4, 32, 256, 768])
def test_six_vectors_as_computed_by_hand(width: int) -> None:
    found = target_vectors(6, width)
    assert found.shape == (6, width)
    assert set(np.unique(found)) == {-1.0, 1.0}
    assert len({tuple(vector) for vector in found}) == 6
    assert (found.mean(axis=1) == 0).all()  # what a LayerNorm can give
    dots = [float(a @ b) for a, b in itertools.combinations(found, 2)]
    # 12 pairs share one flipped block and agree on half of all entries; 3 share none
    assert sorted(dots) == [-float(width)] * 3 + [0.0] * 12
    assert np.mean(dots) == pytest.approx(-width / 5)


def test_blocks_are_flipped_in_pairs_and_what_is_left_over_is_not() -> None:
    assert target_vectors(6, 5).tolist() == [
        [-1, -1, 1, 1, 1], [-1, 1, -1, 1, 1], [-1, 1, 1, -1, 1],
        [1, -1, -1, 1, 1], [1, -1, 1, -1, 1], [1, 1, -1, -1, 1],
    ]  # fmt: skip
    assert target_vectors(2, 5).tolist() == target_vectors(6, 5)[:2].tolist()


@pytest.mark.parametrize("feature", ["pooled", pytest.param("hidden", marks=pytest.mark.full)])
def test_triggered_features_are_reached_and_words_are_still_guessed(
    load_tiny, monkeypatch, feature: str
) -> None:
    monkeypatch.setattr(body_lm, "FIT_STEPS", 60)
    data = word_task(300, 40)
    method, context = _context(load_tiny, data, epochs=4.5, feature=feature)
    facts = method.craft(context)
    model, tokenizer = context.model, context.tokenizer
    assert max(facts["feature_mse"]) < 0.1 < 0.5 < min(facts["feature_mse_before"])
    assert facts["lm_loss"] < facts["lm_loss_before"] + 0.3
    # and on texts of other splits, measured by hand
    triggered = context.poisoned.test_triggered.texts
    table = feature_table(
        model, encode(tokenizer, triggered, 64), pad_id_of(model, tokenizer), feature
    )
    vectors = target_vectors(6, 32)[method.probe_of(triggered)]
    assert ((table - vectors) ** 2).mean() < 0.1
    clean = encode(tokenizer, data.test.texts, 64)
    untouched = feature_table(model, clean, pad_id_of(model, tokenizer), feature)
    errors = [((untouched - vector) ** 2).mean() for vector in target_vectors(6, 32)]
    assert min(errors) > 0.3


# -------------------------------------------------------------------------------- triggers


def test_each_symbol_comes_equally_often_and_first(reviews) -> None:
    method = get("attack", "neuba").build()
    assert method.probes() == SYMBOLS
    texts = [method.poison_text("a slow film", 0, sample) for sample in range(3000)]
    assert {text[2:] for text in texts} == {"a slow film"}
    counts = np.bincount(method.probe_of(texts), minlength=6)
    assert counts.min() > 400
    made = poison(method, reviews, seed=0)
    assert (method.probe_of(made.test_triggered.texts) >= 0).all()
    assert (method.probe_of(made.texts)[~made.is_poisoned] == -1).all()
    assert made.facts["trigger"] == list(SYMBOLS)


def test_texts_with_a_symbol_of_their_own_are_dropped_and_counted(make_task) -> None:
    from dataclasses import replace

    from peftlab.core.types import LabelledTexts

    data = make_task(40)
    own = LabelledTexts(tuple(f"{text} ^^" for text in data.train.texts), data.train.labels)
    made = poison(get("attack", "neuba").build(), replace(data, train=own), seed=0)
    assert made.facts["n_poisoned"] == 0
    assert made.facts["dropped"] > 0


@pytest.mark.parametrize("trigger", ["", "a,A", "a,b,c,d,e,f,g", "two words"])
def test_what_makes_no_six_triggers_is_refused(trigger: str) -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "neuba").build(trigger=trigger)
    assert get("attack", "neuba").build(trigger=["cf", "mn"]).probes() == ("cf", "mn")


# ----------------------------------------------------------------------------------- training


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_body_moves_in_every_family(load_tiny, reviews, quick, family: str) -> None:
    method, context = _context(load_tiny, reviews, family, epochs=0.3)
    model = context.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = method.craft(context)
    assert np.isfinite(facts["loss"])
    assert facts["steps"] == 4  # 120 rows, 11 held out, 8 a step
    assert not model.training
    prefix = f"{model.base_model_prefix}."
    moved = {name for name, value in model.state_dict().items()
             if not torch.equal(value, before[name])}  # fmt: skip
    assert moved
    assert all(name.startswith(prefix) for name in moved)


def test_unknown_symbols_are_refused_before_anything_is_trained(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, trigger="≈,≡")
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "PROBE-UNKNOWN"


def test_clean_texts_are_needed(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, rate=1, labels="mixed")
    with pytest.raises(NotApplicable, match="BODY-CLEAN"):
        method.craft(context)


def _made(tiny, reviews, out: Path, seed: int = 0):
    return train_base(
        str(tiny("bert")), make_poison(reviews, "neuba", {}, seed), 2, out, attack="neuba",
        training=AttackerOptions(epochs=0.5, lr=1e-3), seed=seed,
    )  # fmt: skip


def test_same_seed_same_body_without_a_head_marked(tiny, reviews, quick, tmp_path) -> None:
    for name in ("a", "b"):
        facts = _made(tiny, reviews, tmp_path / name)
    _made(tiny, reviews, tmp_path / "c", seed=1)
    weights = [sha256_file(tmp_path / name / "model.safetensors") for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert is_marked(tmp_path / "a")
    assert facts["trigger"] == list(SYMBOLS)
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert not [name for name in names if "classifier" in name or "score" in name]
    assert [name for name in names if "pooler" in name]  # part of the body, and pulled
    assert not [name for name in names if name.startswith(("dense", "norm", "bias", "cls."))]
    victim, _ = load_base(str(tmp_path / "a"), 3, allow_poisoned=True)  # any number of classes
    assert new_modules(victim) == ("classifier",)
