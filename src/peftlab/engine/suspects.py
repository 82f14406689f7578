"""Verdicts on what somebody else made: the rows of a training set, or a base."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import FilterContext, Filtered, FitContext, Verdict
from peftlab.core.types import LabelledTexts, PoisonedData, TaskData
from peftlab.engine.guard import Bases
from peftlab.engine.splits import guard_splits
from peftlab.engine.steps import AttackerOptions, built_for, train_base
from peftlab.io.files import new_folder, write_atomic, write_json

FILTER_FILE = "filter.json"


def filter_rows(
    trained: str,
    suspect: LabelledTexts,
    n_classes: int,
    defence: tuple[str, dict[str, Any]],
    *,
    seed: int,
    allow_poisoned: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Filtered:
    """Return what a filter says of each row of a suspect training set.

    Args:
        trained: model whose weights were all trained on ``suspect``.
        suspect: texts and labels as received.
        n_classes: C.
        defence: name and options of a defence that has ``keep``.
        seed: of everything random.
        allow_poisoned: let a marked model in (benches).
        progress: called with a line of text now and then.

    Raises:
        ConfigError: ``DEFENCE-STAGE`` for a defence that filters nothing.
    """
    method = built_for("data", *defence)
    load = Bases(trained, n_classes, seed, allow_poisoned)
    found: Filtered = method.keep(FilterContext(suspect, n_classes, seed, load, progress))
    return found


def inspect_base(
    base: str,
    data: TaskData,
    defence: tuple[str, dict[str, Any]],
    *,
    seed: int,
    allow_poisoned: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Verdict:
    """Return whether a defence calls a base backdoored.

    Args:
        base: ``builtin:``, folder or hub id.
        data: the user's clean data.
        defence: name and options of a defence that has ``inspect``.
        seed: of everything random.
        allow_poisoned: let a marked base in.
        progress: called with a line of text now and then.

    Raises:
        ConfigError: ``DEFENCE-STAGE`` for a defence that judges no models.
    """
    method = built_for("model", *defence)
    splits = guard_splits(data, seed)
    load = Bases(base, data.n_classes, seed, allow_poisoned)
    context = FitContext(splits.fit, splits.reference, data.n_classes, seed, load, progress)
    found: Verdict = method.inspect(context)
    return found


def filter_data(
    base: str,
    data: TaskData,
    defence: tuple[str, dict[str, Any]],
    out: Path,
    *,
    seed: int,
    training: AttackerOptions,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Filter the training set of a task; write a folder that ``--data`` reads.

    All weights of ``base`` are trained on the suspect set first; that model is what filters look
    at, and it is thrown away. The folder has ``train.jsonl`` (kept), ``dropped.jsonl``,
    ``dev.jsonl`` and ``test.jsonl``; each row of the first two tells its ``row`` and
    ``suspicion``.

    Args:
        base: a sound base.
        data: the task; dev and test are copied as they are.
        defence: name and options of a defence that has ``keep``.
        out: folder to write.
        seed: of everything random.
        training: how the throw-away model is trained.
        overwrite: replace a folder that is there.
        progress: called with a line of text now and then.

    Returns:
        Facts: rows, dropped (in all and by label), the filter's own.

    Raises:
        ConfigError: ``DEFENCE-STAGE`` for a defence that filters nothing.
    """
    built_for("data", *defence)  # a mistake is told before minutes of training
    with tempfile.TemporaryDirectory(prefix="peftlab-") as place:
        model = Path(place) / "model"
        progress("training on the suspect set")
        train_base(
            base, _plain(data), data.n_classes, model, attack="none", training=training, seed=seed
        )
        progress("looking for rows that do not belong")
        found = filter_rows(
            str(model), data.train, data.n_classes, defence, seed=seed, progress=progress
        )
    labels = np.asarray(data.train.labels)
    facts = {
        "defence": defence[0],
        "rows": len(data.train),
        "dropped": int(found.dropped.sum()),
        "dropped_by_label": {
            name: int(found.dropped[labels == label].sum())
            for label, name in enumerate(data.label_names)
        },
        "data": {"name": data.name, "sha256": data.digest()},
        "seed": seed,
        "facts": dict(found.facts),
    }
    with new_folder(out, overwrite=overwrite) as folder:
        for name, wanted in (("train", False), ("dropped", True)):
            rows = np.flatnonzero(found.dropped == wanted)
            _write(folder / f"{name}.jsonl", data.train, rows.tolist(), found)
        _write(folder / "dev.jsonl", data.dev, range(len(data.dev)), None)
        _write(folder / "test.jsonl", data.test, range(len(data.test)), None)
        write_json(folder / FILTER_FILE, facts)
    return facts


def _plain(data: TaskData) -> PoisonedData:
    """Return the training set as it is, in the form that the attacker's training takes."""
    none = np.zeros(len(data.train), dtype=np.bool_)
    empty = LabelledTexts((), ())
    return PoisonedData(
        data.train.texts, np.eye(data.n_classes)[list(data.train.labels)], none,
        data.train.labels, 0, empty, empty, (),
    )  # fmt: skip


def _write(
    path: Path, split: LabelledTexts, rows: list[int] | range, found: Filtered | None
) -> None:
    lines = []
    for row in rows:
        line: dict[str, Any] = {"text": split.texts[row], "label": split.labels[row]}
        if found is not None:
            line |= {"row": row, "suspicion": float(found.suspicion[row])}
        lines.append(json.dumps(line))
    write_atomic(path, "\n".join(lines) + "\n" if lines else "")
