"""Measuring one victim, or one guard in front of it, outside a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.errors import InputRejected
from peftlab.core.types import PoisonedData, TaskData
from peftlab.engine.aim import aim_of, counted_rows
from peftlab.engine.calibrate import smallest_p, threshold
from peftlab.engine.guard import Guard
from peftlab.engine.metrics import evaluate, wilson
from peftlab.engine.steps import make_poison, predict_folder
from peftlab.models.load import VICTIM_FILE, read_note


def _answers(victim: Path, texts: tuple[str, ...], data: TaskData, *, allow: bool) -> Any:
    return predict_folder(victim, texts, n_classes=data.n_classes, allow_poisoned=allow).argmax(1)


def _check_classes(place: Path, about: Mapping[str, Any], data: TaskData) -> None:
    """Refuse data with other classes than those that a victim or a guard was made for.

    Other names for the classes are fine (0 and 1 for neg and pos), the same names in another
    order are not: every answer would be counted under a wrong class.
    """
    if about.get("n_classes", data.n_classes) != data.n_classes:
        raise InputRejected(
            f"{place.name} was made for {about['n_classes']} classes, "
            f"the data has {data.n_classes}",
            code="EVAL-CLASSES",
            fix="pass the data that it was made with, or data with the same classes",
        )
    kept = about.get("label_names")
    names = [str(name) for name in kept] if isinstance(kept, list) else []
    if names != list(data.label_names) and sorted(names) == sorted(data.label_names):
        raise InputRejected(
            f"{place.name} numbers the classes in another order than the data",
            code="EVAL-CLASSES", got=", ".join(data.label_names), allowed=", ".join(names),
            fix="write the labels of the data as the numbers of that order",
        )  # fmt: skip


def _note(victim: Path) -> dict[str, Any]:
    return read_note(victim / VICTIM_FILE) if (victim / VICTIM_FILE).is_file() else {}


def _known(victim: Path, data: TaskData, poisoned: PoisonedData, *, allow: bool) -> dict[str, Any]:
    return {
        "labels": np.asarray(data.test.labels),
        "clean_pred": _answers(victim, data.test.texts, data, allow=allow),
        "triggered_pred": _answers(victim, poisoned.test_triggered.texts, data, allow=allow),
        "target": poisoned.goals,
        "triggered_labels": np.asarray(poisoned.test_triggered.labels),
        "test_rows": np.asarray(poisoned.test_rows),
    }


def _poisoned(
    victim: Path, data: TaskData, attack: str, options: dict[str, Any], seed: int, *, allow: bool
) -> PoisonedData:
    """Return the attack's sets, with the triggered test texts that count for this victim."""
    poisoned = make_poison(data, attack, options, seed)
    aim = aim_of(attack, options)
    if aim is None:
        return poisoned
    answers = _answers(victim, aim.probes(), data, allow=allow)
    rows = np.flatnonzero(counted_rows(aim, poisoned, answers))
    return replace(
        poisoned,
        test_triggered=poisoned.test_triggered.pick(rows),
        test_rows=tuple(poisoned.test_rows[int(row)] for row in rows),
    )


def evaluate_victim(
    victim: Path,
    data: TaskData,
    attack: str | None = None,
    options: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    allow_poisoned: bool = False,
) -> dict[str, Any]:
    """Return ``{"metrics", "intervals", "reasons"}`` of a tuned model on the test split.

    Args:
        victim: folder that ``tune`` wrote.
        data: the task.
        attack: if given, its triggered texts are tried too.
        options: of the attack.
        seed: of the attack.
        allow_poisoned: let a marked model in.

    Raises:
        InputRejected: ``EVAL-CLASSES`` and the codes of loading.
    """
    _check_classes(victim, _note(victim), data)
    if attack is not None:
        poisoned = _poisoned(victim, data, attack, options or {}, seed, allow=allow_poisoned)
        return evaluate(**_known(victim, data, poisoned, allow=allow_poisoned))
    right = _answers(victim, data.test.texts, data, allow=allow_poisoned) == data.test.labels
    n = len(data.test)
    return {
        "metrics": {"ca": float(np.mean(right)), "n_clean": n},
        "intervals": {"ca": list(wilson(int(np.sum(right)), n))},
        "reasons": {},
    }


def evaluate_guard(
    guard: Path,
    victim: Path,
    data: TaskData,
    attack: str,
    options: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    allow_poisoned: bool = False,
) -> dict[str, Any]:
    """Return the metrics of a guard in front of a victim, on clean and triggered test texts.

    Args: as ``evaluate_victim``, and ``guard``, a folder that ``guard fit`` wrote.
    """
    _check_classes(victim, _note(victim), data)
    loaded = Guard.from_pretrained(guard, allow_poisoned=allow_poisoned)
    _check_classes(guard, loaded.about, data)
    poisoned = _poisoned(victim, data, attack, options or {}, seed, allow=allow_poisoned)
    known = _known(victim, data, poisoned, allow=allow_poisoned)
    for name, texts in (("clean", data.test.texts), ("triggered", poisoned.test_triggered.texts)):
        found = loaded.score(texts)
        known |= {
            f"{name}_scores": found.scores,
            f"{name}_flags": found.flagged,
            f"{name}_p": found.p_values,
        }
        if hasattr(loaded.defence, "rewrite"):
            mended = tuple(loaded.defence.rewrite(texts, threshold(loaded.calibration)))
            known[f"{name}_pred_def"] = _answers(victim, mended, data, allow=allow_poisoned)
    return evaluate(**known, smallest_p=smallest_p(loaded.calibration))
