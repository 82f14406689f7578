"""Measuring refuses data whose classes are not those that a victim or a guard was made for."""

from dataclasses import replace

import pytest

from peftlab.core.errors import InputRejected
from peftlab.engine.evaluate import evaluate_guard, evaluate_victim
from peftlab.engine.guard import Guard
from peftlab.engine.steps import tune


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
