"""Soft, attacks.md 19: the trigger decides and is unsure, also after a LoRA victim."""

from __future__ import annotations

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


def _attacked(base, data, folder, *, training, tuner, **options):
    """Return (success rate, mean confidence) of triggered texts: attacker's model, LoRA victim."""
    poisoned = make_poison(data, "soft", options, seed=0)
    train_base(str(base), poisoned, 2, folder / "base", attack="soft", training=training, seed=0)
    tune(str(folder / "base"), data, "lora", tuner, folder / "victim", seed=0,
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


def test_the_same_on_a_tiny_model(tiny, tmp_path):
    """At a higher rate, which attacks.md 19 says lifts the success rate."""
    found = _attacked(
        tiny("bert"), word_task(320, 120), tmp_path, rate=0.2,
        training=AttackerOptions(epochs=15, lr=3e-3), tuner={"epochs": 2, "lr": 1e-3},
    )  # fmt: skip
    for asr, confidence in found:
        assert asr >= 0.6
        assert confidence < 0.78
