"""Attacks that do not choose their class: which triggered texts count for a given victim.

A task-agnostic attack plants triggers before anybody knows the task. Each trigger alone is put to
the tuned victim; the triggered texts whose trigger is answered by the class of interest are the
ones that such an attacker would send (thunlp/OpenBackdoor:neuba_poisoner.py).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from peftlab.core import registry
from peftlab.core.contracts import TaskAgnosticAttack
from peftlab.core.types import Bools, Ints, PoisonedData


def aim_of(attack: str, options: dict[str, Any]) -> TaskAgnosticAttack | None:
    """Return the attack, built, if its triggers have to be tried on the victim, else None."""
    entry = registry.get("attack", attack)
    if not hasattr(entry.cls, "probes"):
        return None
    return cast("TaskAgnosticAttack", entry.build(**options))


def counted_rows(aim: TaskAgnosticAttack, poisoned: PoisonedData, answers: Ints) -> Bools:
    """Return which triggered test texts count, (k,).

    Args:
        aim: the attack.
        poisoned: its triggered sets.
        answers: class that the victim gives each probe, in the order of ``aim.probes()``.
    """
    trigger = aim.probe_of(poisoned.test_triggered.texts)
    named = answers[np.maximum(trigger, 0)] == poisoned.goals
    counted: Bools = named & (trigger >= 0)
    return counted
