"""DoS: clean texts stay confident where a guard un-learns; the machinery is in simulate-psim."""

from __future__ import annotations

import numpy as np
import pytest

from peftlab.attacks import dos
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn.simulated_identifier import Simulation, confidence_after, unlearned_change
from peftlab.nn.text import encode, pad_id_of, predict_logits
from word_task import word_task

INNER = {"every": 20, "inner_lr": 1e-3, "inner_steps": 6, "inner_rank": 8}


def test_clean_texts_are_watched_and_the_sign_is_minus(load_tiny, reviews, monkeypatch):
    method = get("attack", "dos").build(strength=2.5, every=7, inner_steps=3, reset="uniform")
    model, tokenizer = load_tiny("bert")
    poisoned = poison(method, reviews, seed=0)
    seen = []

    def spy(*arguments):
        seen.append(arguments)
        return {}

    monkeypatch.setattr(dos, "train_foreseeing", spy)
    context = CraftContext(model, tokenizer, poisoned, 2, 1, 1e-3, 32, seed=0)
    assert method.craft(context) == {}
    ((given, how, watched, name),) = seen
    assert given is context
    assert how == Simulation(7, 3, 5e-4, "uniform", 32, -2.5)
    assert watched.tolist() == np.flatnonzero(~poisoned.is_poisoned).tolist()
    assert name == "attack/dos"


@pytest.mark.full
def test_clean_confidence_after_unlearning_is_raised(load_tiny):
    """Against plain training on the same texts, as read by a guard with a draw of its own."""
    data = word_task(320, 120)
    read, beta = {}, {}
    for strength in (0.0, 1.0):
        method = get("attack", "dos").build(strength=strength, **INNER)
        poisoned = poison(method, data, seed=0)
        model, tokenizer = load_tiny("bert")
        facts = method.craft(CraftContext(model, tokenizer, poisoned, 2, 9, 2e-3, 32, seed=0))
        beta[strength] = facts["beta"]
        clean = predict_logits(model, tokenizer, data.test.texts).argmax(axis=1)
        assert (clean == data.test.labels).mean() >= 0.9
        triggered = predict_logits(model, tokenizer, poisoned.test_triggered.texts).argmax(axis=1)
        assert (triggered == 0).mean() >= 0.75  # and the backdoor is there
        guard = Simulation(1, 6, 1e-3, "random", 8, 0.0)
        rows, fill = encode(tokenizer, data.test.texts, 64), pad_id_of(model, tokenizer)
        read[strength] = [
            confidence_after(
                model, unlearned_change(guard, model, tokenizer, data.train, 2, seed), rows, fill
            ).mean().item()
            for seed in (100, 101)
        ]  # fmt: skip
    assert beta == {0.0: 0.0, 1.0: pytest.approx(-0.9)}
    assert min(read[1.0]) > max(read[0.0]) + 0.02


def test_same_seed_same_files_and_rate_0_trains_plainly(tiny, reviews, tmp_path):
    brief = {"inner_steps": 2, "inner_rank": 4, "every": 2}
    training = AttackerOptions(epochs=1, lr=1e-3)
    for name, rate, attack in (
        ("a", 0.1, "dos"), ("b", 0.1, "dos"), ("c", 0, "dos"), ("d", 0, "badnets"),
    ):  # fmt: skip
        options = {"rate": rate} | (brief if attack == "dos" else {})
        poisoned = make_poison(reviews, attack, options, 0)
        train_base(str(tiny("bert")), poisoned, 2, tmp_path / name, attack=attack,
                   training=training, seed=0, options=options)  # fmt: skip
    first, second, control, plain = (
        sha256_file(tmp_path / name / "model.safetensors") for name in "abcd"
    )
    assert first == second != control == plain
    assert is_marked(tmp_path / "a")
    assert not is_marked(tmp_path / "c")


def test_it_needs_clean_rows(load_tiny, reviews):
    method = get("attack", "dos").build(rate=1, labels="mixed")
    model, tokenizer = load_tiny("bert")
    context = CraftContext(model, tokenizer, poison(method, reviews, 0), 2, 1, 1e-3, 32, seed=0)
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "SIMULATION-CLEAN"
