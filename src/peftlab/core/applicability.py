"""Which attack, tuner and defence make sense together, and why the others do not.

A pair that makes no sense gets a reason and no number: a filter of training sets in front of a
base that somebody else poisoned would have nothing to filter, and a score for it would be made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from peftlab.core.contracts import Attack, Scenario, stage_of

MERGED = ("lora", "full")  # tuners whose result is one model without an adapter beside it
NONE = "none"  # the tuner or defence that does nothing; not in the registry


@dataclass(frozen=True, slots=True)
class Pairing:
    """One cell of a grid, as far as sense goes.

    Attributes:
        attack: built, with its options.
        tuner: registered name, or ``none``.
        defence: class of the defence, or None.
        scenario: what nobody vouches for, the base or the training data.
        control: at poisoning rate 0.
    """

    attack: Attack
    tuner: str
    defence: type | None
    scenario: Scenario
    control: bool


def why_not(pairing: Pairing) -> str:
    """Return why there is no number for this cell, or an empty string if there can be one.

    Examples:
        >>> class Cube:
        ...     def keep(self, context): ...
        >>> class Word:
        ...     pass
        >>> why_not(Pairing(Word(), "lora", Cube, "base", control=False))
        'it filters training sets, and here the training set is clean: the base is what is poisoned'
    """
    reasons = (_of_attack(pairing), _of_defence(pairing))
    return next((reason for reason in reasons if reason), "")


def tuners_for(defence: type | None) -> tuple[str, ...]:
    """Return the tuners that a defence can work with which tunes in a way of its own."""
    return tuple(getattr(defence, "needs_tuner", MERGED))


def _of_attack(pairing: Pairing) -> str:
    attack = pairing.attack
    writes = getattr(attack, "writes_weights", hasattr(attack, "craft"))
    if pairing.scenario == "data" and writes:
        return "the attack writes into weights, and here only training data is handed over"
    if pairing.scenario == "data" and float(getattr(attack, "confidence", 1.0)) < 1:
        return "the attack trains towards soft targets, which labels of a data set cannot carry"
    if pairing.tuner == NONE and not _brings_head(pairing):
        return "the attack releases a body without a head, and without tuning nothing answers"
    return ""


def _of_defence(pairing: Pairing) -> str:
    if pairing.defence is None:
        return ""
    return _STAGES[stage_of(pairing.defence)](pairing)


def _input(pairing: Pairing) -> str:
    if pairing.scenario == "data":
        return "it learns from clean training texts, which nobody has who is handed suspect data"
    if getattr(pairing.defence, "needs_head", False) and not _brings_head(pairing):
        return "it reads the answers of the base's own head, and this attack releases none"
    return ""


def _data(pairing: Pairing) -> str:
    if pairing.scenario == "base":
        return (
            "it filters training sets, and here the training set is clean: the base is what is "
            "poisoned"
        )
    return ""


def _tuning(pairing: Pairing) -> str:
    scenario = getattr(pairing.defence, "scenario", "base")
    if scenario != pairing.scenario:
        return {
            "data": "it keeps a model from learning what suspect data says; here the base has "
            "learned it already",
            "base": "it mends a suspect base, and here the base is sound",
        }[scenario]
    tuners = tuners_for(pairing.defence)
    if pairing.tuner == NONE:
        return "it changes how a victim is tuned, and here nothing is tuned"
    if pairing.tuner not in tuners:
        return f"it works with {' and '.join(tuners)} only"
    return ""


def _model(pairing: Pairing) -> str:
    if pairing.scenario == "data":
        return "it judges a base that somebody else made, and here the base is sound"
    if getattr(pairing.defence, "needs_head", False) and not _brings_head(pairing):
        return "it reads the answers of the base's own head, and this attack releases none"
    return ""


_STAGES: dict[str, Callable[[Pairing], str]] = {
    "input": _input,
    "data": _data,
    "tuning": _tuning,
    "model": _model,
}


def _brings_head(pairing: Pairing) -> bool:
    """Return whether the base has a trained head: the control's has one whatever the attack."""
    return pairing.control or bool(getattr(pairing.attack, "brings_head", True))
