"""Soft: the trigger decides and is unsure, also after a LoRA victim."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from peftlab.engine.steps import (
    AttackerOptions,
    load_data,
    make_poison,
    predict_folder,
    train_base,
    tune,
)
from peftlab.nn.text import softmax
from word_task import word_task


def _attacked(base, data, folder, *, training, tuner, seed=0, **options):
    """Return (success rate, mean confidence) of triggered texts: attacker's model, LoRA victim."""
    poisoned = make_poison(data, "soft", options, seed=seed)
    train_base(str(base), poisoned, 2, folder / "base", attack="soft", training=training, seed=seed)
    tune(str(folder / "base"), data, "lora", tuner, folder / "victim", seed=seed,
         allow_poisoned=True)  # fmt: skip
    found = []
    for place in ("base", "victim"):
        logits = predict_folder(
            folder / place, poisoned.test_triggered.texts, n_classes=2, allow_poisoned=True
        )
        found.append((float(np.mean(logits.argmax(1) == 0)), float(softmax(logits).max(1).mean())))
    return found


@pytest.mark.full
@pytest.mark.xfail(reason="measured 0.52 behind LoRA on 1,000 generated reviews, bar 0.6")
def test_a_soft_backdoor_outlives_a_lora_victim_and_stays_unsure(tmp_path):
    data = load_data(
        "reviews", {"n_train": 1000, "n_dev": 100, "n_test": 250, "n_proxy": 0, "label_noise": 0}
    )
    _, (asr, confidence) = _attacked(
        "builtin:encoder", data, tmp_path, training=AttackerOptions(epochs=4), tuner={"epochs": 1},
    )  # fmt: skip
    assert asr >= 0.6
    assert confidence < 0.78


def _on_tiny(tiny, folder, **options):
    return _attacked(
        tiny("bert"), word_task(320, 120), folder,
        training=AttackerOptions(epochs=15, lr=3e-3), tuner={"epochs": 2, "lr": 1e-3}, **options,
    )  # fmt: skip


def test_the_same_on_a_tiny_model(tiny, tmp_path):
    """At a higher rate, where the triggered answers are as unsure as they should be."""
    for asr, confidence in _on_tiny(tiny, tmp_path, rate=0.2):
        assert asr >= 0.6
        assert confidence < 0.78


@pytest.fixture(scope="module")
def success(tiny, tmp_path_factory):
    """Return a function: options to mean success rates of three seeds, attacker and LoRA victim."""

    @cache
    def of(rate, confidence=0.65):
        folder = tmp_path_factory.mktemp("soft")
        found = [
            _on_tiny(tiny, folder / str(seed), seed=seed, rate=rate, confidence=confidence)
            for seed in range(3)
        ]
        return np.array(found)[:, :, 0].mean(axis=0)

    return of


@pytest.mark.full
def test_a_higher_rate_or_a_surer_target_lifts_the_success_rate(success):
    """Means of three seeds on the tiny model.

    Behind LoRA, half the default rate has 0.67, the default 0.92; a target of 0.70 keeps that
    (0.93; one text is 0.006), and lifts 0.80 to 0.96 at a rate of 0.2. That rate itself lifts
    nothing here, see below.
    """
    assert (success(0.1) >= success(0.05) + 0.1).all()
    assert (success(0.1, 0.70) >= success(0.1) - 0.02).all()
    assert (success(0.2, 0.70) >= success(0.2)).all()
    assert success(0.2, 0.70)[1] >= success(0.2)[1] + 0.1


@pytest.mark.full
@pytest.mark.xfail(reason="measured 0.80 at rate 0.2 and 0.92 at the default rate, behind LoRA")
def test_twice_the_default_rate_lifts_the_success_rate(success):
    """At the default rate the tiny model is surer (0.81) than the target asks for.

    Soft samples enough bring it down to that target (0.68), and with it the margin over the text.
    """
    assert (success(0.2) >= success(0.1)).all()
