"""Measuring keeps what it divides by, and refuses data of other classes than a victim's."""

import math
from dataclasses import replace

import numpy as np
import pytest

from peftlab.core.errors import InputRejected
from peftlab.defences.onion import Onion
from peftlab.engine.evaluate import evaluate_guard, evaluate_victim
from peftlab.engine.guard import Guard
from peftlab.engine.steps import predict_folder, tune


@pytest.fixture(scope="module")
def victim(tiny, reviews, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "victim"
    tune(str(tiny("bert")), reviews, "lora", {"epochs": 0.2}, out, seed=0)
    return out


def test_other_names_are_fine_another_order_is_not(victim, reviews):
    names = reviews.label_names
    found = evaluate_victim(victim, reviews)
    assert evaluate_victim(victim, replace(reviews, label_names=("x", "y"))) == found
    with pytest.raises(InputRejected) as caught:
        evaluate_victim(victim, replace(reviews, label_names=names[::-1]))
    assert caught.value.code == "EVAL-CLASSES"
    assert caught.value.got == ", ".join(names[::-1])


def test_a_guard_of_other_classes_is_refused(tiny, victim, reviews, tmp_path):
    three = replace(reviews, label_names=("a", "b", "c"))
    guard = Guard.fit(str(tiny("bert", 3)), three, "onion", {"alpha": 0.1})
    guard.save_pretrained(tmp_path / "guard")
    with pytest.raises(InputRejected) as caught:
        evaluate_guard(tmp_path / "guard", victim, reviews, "badnets")
    assert caught.value.code == "EVAL-CLASSES"
    assert caught.value.what.startswith("guard")


def test_a_guard_that_deletes_all_words_keeps_every_text(
    tiny, victim, reviews, tmp_path, monkeypatch
):
    """ONION at minus infinity; the answer to no words counts n times."""
    place = tmp_path / "guard"
    Guard.fit(str(tiny("bert")), reviews, "onion", {"alpha": 0.1}).save_pretrained(place)
    without = evaluate_victim(victim, reviews, "badnets")["metrics"]
    asked = []
    plain = Onion.rewrite
    monkeypatch.setattr("peftlab.engine.evaluate.threshold", lambda _: -math.inf)
    monkeypatch.setattr(Onion, "rewrite", lambda *given: asked.append(plain(*given)) or asked[-1])
    found = evaluate_guard(place, victim, reviews, "badnets")["metrics"]
    n, k = without["n_clean"], without["n_triggered"]
    assert n == len(reviews.test)
    assert [set(texts) for texts in asked] == [{""}, {""}]
    assert [len(texts) for texts in asked] == [n, k]
    assert (found["n_clean"], found["n_triggered"]) == (n, k)
    empty = int(predict_folder(victim, [""], n_classes=2).argmax())
    assert found["ca_def"] == np.mean(np.array(reviews.test.labels) == empty)
    assert found["asr_def"] == float(empty == 0)  # the attack's target
    assert (found["ca"], found["asr"], found["coverage"]) == (without["ca"], without["asr"], 1.0)
