"""Pairs that make no sense get a reason, all others none."""

import itertools

import pytest

from peftlab.core import registry
from peftlab.core.applicability import Pairing, why_not
from peftlab.core.contracts import stage_of


class Word:
    """An attack by training data alone."""


class Soft:
    confidence = 0.65


class Edit:
    def craft(self, context): ...


class Twins(Edit):
    """Has a craft of its own, and yet the data alone would do."""

    writes_weights = False


class Body(Edit):
    brings_head = False


class Guard:
    def score(self, texts): ...


class Answers(Guard):
    needs_head = True


class Filter:
    def keep(self, context): ...


class Mend:
    def tune(self, context): ...


class MendLora(Mend):
    needs_tuner = ("lora",)


class Moderate(Mend):
    scenario = "data"


class Inspect:
    needs_head = True

    def inspect(self, context): ...


REAL_FILTERS = {
    entry.name: entry.cls for entry in registry.entries("defence") if stage_of(entry.cls) == "data"
}


def said(attack, tuner, defence, scenario="base", control=False):
    return why_not(Pairing(attack(), tuner, defence, scenario, control=control))


@pytest.mark.parametrize(
    ("attack", "tuner", "defence", "scenario"),
    [
        (Word, "lora", None, "base"), (Word, "none", None, "base"), (Word, "prefix", Guard, "base"),
        (Edit, "full", Answers, "base"), (Body, "lora", Guard, "base"),
        (Word, "lora", Mend, "base"), (Soft, "lora", Inspect, "base"),
        (Word, "lora", MendLora, "base"),
        (Twins, "lora", Filter, "data"), (Word, "none", Filter, "data"),
        (Word, "prefix", Filter, "data"), (Word, "lora", Moderate, "data"),
        (Word, "none", None, "data"),
    ],
)  # fmt: skip
def test_what_makes_sense(attack, tuner, defence, scenario):
    assert said(attack, tuner, defence, scenario) == ""


@pytest.mark.parametrize(
    ("attack", "tuner", "defence", "scenario", "word"),
    [
        (Word, "lora", Filter, "base", "filters training sets"),
        (Word, "lora", Moderate, "base", "has learned it already"),
        (Word, "lora", Guard, "data", "clean training texts"),
        (Word, "lora", Mend, "data", "the base is sound"),
        (Word, "lora", Inspect, "data", "the base is sound"),
        (Edit, "lora", None, "data", "weights"),
        (Soft, "lora", Filter, "data", "soft targets"),
        (Body, "none", None, "base", "without a head"),
        (Body, "lora", Answers, "base", "own head"),
        (Body, "lora", Inspect, "base", "own head"),
        (Word, "none", Mend, "base", "nothing is tuned"),
        (Word, "prefix", Mend, "base", "lora and full only"),
        (Word, "full", MendLora, "base", "lora only"),
    ],
)
def test_what_does_not(attack, tuner, defence, scenario, word):
    assert word in said(attack, tuner, defence, scenario)


def test_the_filters_that_ship_are_the_ones_tried_below():
    assert set(REAL_FILTERS) >= {"activation-clustering", "bki", "cube", "spectral-signatures"}


@pytest.mark.parametrize("name", REAL_FILTERS)
def test_a_filter_that_ships_is_not_applicable_to_a_poisoned_base(name):
    """CUBE among them: a reason in front of a poisoned base, none on suspect data."""
    badnets, cls = registry.get("attack", "badnets").build(), REAL_FILTERS[name]
    for tuner, control in itertools.product(("none", "lora", "full", "prefix"), (False, True)):
        reason = why_not(Pairing(badnets, tuner, cls, "base", control=control))
        assert "filters training sets" in reason
        assert why_not(Pairing(badnets, tuner, cls, "data", control=control)) == ""


def test_the_control_of_an_attack_without_a_head_has_one():
    assert said(Body, "lora", Answers, control=True) == ""
    assert said(Body, "none", None, control=True) == ""


def test_a_reason_is_a_sentence_without_its_capital_and_stop():
    kinds = (Word, Soft, Edit, Body), ("none", "lora", "prefix", "full")
    stages = (None, Guard, Answers, Filter, Mend, MendLora, Moderate, Inspect)
    for attack, tuner, defence, scenario in itertools.product(*kinds, stages, ("base", "data")):
        reason = said(attack, tuner, defence, scenario)
        assert reason == "" or (reason[0].islower() and reason[-1] != ".")
