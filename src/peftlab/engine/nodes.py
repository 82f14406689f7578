"""What each node of a plan does; the run loop calls ``execute`` and knows nothing of methods.

base     poisoned base, and its answers to the clean test texts
victim   tuned model, and its answers
outputs  a victim's answers to the triggered texts of one attack
guard    fitted guard, and what it says of the clean test texts
scores   what a guard says of the triggered texts of one attack
cell     decisions and metrics; arithmetic only, unless the defence mends texts
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import PoisonOptions
from peftlab.core.poisoning import target_matrix, training_texts
from peftlab.core.ranking import auroc
from peftlab.core.types import Floats, LabelledTexts, PoisonedData, TaskData
from peftlab.engine.calibrate import smallest_p, threshold
from peftlab.engine.guard import Guard, calibration_of
from peftlab.engine.metrics import beta_binomial_band, evaluate
from peftlab.engine.recipe import Experiment, Recipe
from peftlab.engine.steps import make_poison, predict_folder, train_base, tune
from peftlab.io.files import read_json, write_json
from peftlab.io.store import Node

MODEL = "model"
GUARD = "guard"
ARRAY_LIMIT = 256 * 2**20


def execute(
    node: Node, needs: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    """Do one node: read the folders that it needs, write into ``folder``, return its result."""
    import torch

    torch.set_num_threads(1)  # sums in the same order, so the same bits with any --workers
    roles = {role: needs[name] for role, name in node.key["needs"].items()}
    return _WORK[node.kind](node.key, roles, folder, recipe, data)


def prepare(data: TaskData, recipe: Experiment) -> TaskData:
    """Return the data cut to the recipe's limits (the first texts of each split)."""
    limits = recipe.limits
    if (limits.max_train, limits.max_dev, limits.max_test) == (None, None, None):
        return data

    def cut(split: LabelledTexts, most: int | None) -> LabelledTexts:
        return split if most is None else split.pick(range(min(most, len(split))))

    return TaskData(
        name=data.name, label_names=data.label_names, source=data.source, licence=data.licence,
        train=cut(data.train, limits.max_train), dev=cut(data.dev, limits.max_dev),
        test=cut(data.test, limits.max_test),
        proxy=None if data.proxy is None else cut(data.proxy, limits.max_train),
        notes=(*data.notes, f"cut to {limits.model_dump(exclude_none=True)}"),
    )  # fmt: skip


def _unpoisoned(data: TaskData, knowledge: str) -> PoisonedData:
    """Return the attacker's clean training set: what every attack is at rate 0."""
    options = PoisonOptions(rate=0.0, knowledge=knowledge)  # type: ignore[arg-type]
    train = training_texts(options, data)
    none = np.zeros(len(train), dtype=np.bool_)
    targets = target_matrix(train.labels, none.tolist(), target=0, n_classes=data.n_classes)
    empty = LabelledTexts((), ())
    return PoisonedData(train.texts, targets, none, train.labels, 0, empty, empty, ())


@lru_cache(maxsize=2)
def _poison(attack: str, options: str, seed: int, digest: str) -> PoisonedData:
    """Keep the last poisoned sets of this process: several nodes in a row ask for the same."""
    del digest  # part of the key
    return make_poison(_current[0], attack, _loads(options), seed)


_current: list[TaskData] = []


def _poisoned(key: dict[str, Any], data: TaskData) -> PoisonedData:
    _current[:] = [data]
    attack = key["attack"]
    return _poison(attack["name"], _dumps(attack["options"]), key["seed"], data.digest())


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value, sort_keys=True)


def _loads(text: str) -> dict[str, Any]:
    import json

    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _base(
    key: dict[str, Any], _: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    control = key["control"]
    poisoned = _unpoisoned(data, key["knowledge"]) if control else _poisoned(key, data)
    facts = train_base(
        recipe.base, poisoned, data.n_classes, folder / MODEL,
        attack="none" if control else key["attack"]["name"],
        options=None if control else key["attack"]["options"],
        training=recipe.attacker, seed=key["seed"],
    )  # fmt: skip
    _answer(folder / MODEL, data.test.texts, folder / "clean.npy", data)
    return {"facts": {k: v for k, v in facts.items() if k != "cpu_seconds"}}


def _victim(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    method = key["tuner"]
    facts = tune(
        str(roles["base"] / MODEL), data, method["name"], method["options"], folder / MODEL,
        seed=key["seed"], allow_poisoned=True,
    )  # fmt: skip
    _answer(folder / MODEL, data.test.texts, folder / "clean.npy", data)
    return {"facts": {"trainable": facts["trainable"], "steps": facts["steps"]}}


def _answer(model: Path, texts: Sequence[str], out: Path, data: TaskData) -> None:
    logits = predict_folder(model, texts, n_classes=data.n_classes, allow_poisoned=True)
    np.save(out, logits, allow_pickle=False)


def _outputs(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    texts = _poisoned(key, data).test_triggered.texts
    _answer(roles["victim"] / MODEL, texts, folder / "triggered.npy", data)
    return {}


def _guard(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    method = key["defence"]
    guard = Guard.fit(
        str(roles["base"] / MODEL), data, method["name"], method["options"],
        seed=key["seed"], allow_poisoned=True,
    )  # fmt: skip
    guard.save_pretrained(folder / GUARD)
    return _judge(guard, data.test.texts, folder)


def _scores(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    # node folders never move, so the base that the guard names is still where it was
    guard = Guard.from_pretrained(roles["guard"] / GUARD, allow_poisoned=True)
    return _judge(guard, _poisoned(key, data).test_triggered.texts, folder)


def _judge(guard: Guard, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Write what the guard says of the texts; return what it cost."""
    started = time.process_time()
    trace: dict[str, Any] | None = None
    explain: Callable[..., Any] | None = getattr(guard.defence, "explain", None)
    if explain is not None:
        from peftlab.nn.text import has_fast_bf16

        rough, trace = explain(texts, precision="bf16" if has_fast_bf16() else "fp32")
        found = guard.judge(guard.settle(texts, rough))
    else:
        found = guard.score(texts)
    spent = time.process_time() - started
    level = None if guard.fixed or guard.calibration.conditional else threshold(guard.calibration)
    mended: list[str] | None = None
    if hasattr(guard.defence, "rewrite") and level is not None:
        mended = guard.defence.rewrite(texts, level)
    write_json(
        folder / "judged.json",
        {
            "scores": found.scores.tolist(),
            "p": found.p_values.tolist(),
            "flagged": found.flagged.tolist(),
            "fixed": guard.fixed,
            "alpha": None if guard.fixed else guard.calibration.alpha,
            "n_calibration": len(guard.calibration.scores),
            "threshold": level,
            "mended": mended,
            "trace": None if trace is None else {
                "steps": list(trace["steps"]),
                "paths": {name: each.tolist() for name, each in trace["paths"].items()},
            },
        },
    )  # fmt: skip
    diagnostics: dict[str, Any] = getattr(guard.defence, "diagnostics", dict)()
    passes = diagnostics.get("passes_per_text")
    cost = {"score_ms_per_text": 1000 * spent / max(len(texts), 1), "passes_per_text": passes}
    write_json(folder / "cost.json", cost)
    return {"cost": cost}


def _cell(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del folder, recipe
    poisoned = _poisoned(key, data)
    clean = np.load(roles["victim"] / "clean.npy", allow_pickle=False)
    triggered = np.load(roles["outputs"] / "triggered.npy", allow_pickle=False)
    known: dict[str, Any] = {
        "labels": np.asarray(data.test.labels),
        "clean_pred": clean.argmax(1),
        "triggered_pred": triggered.argmax(1),
        "target": poisoned.target,
        "triggered_labels": np.asarray(poisoned.test_triggered.labels),
        "test_rows": np.asarray(poisoned.test_rows),
    }
    if "guard" not in roles:
        return evaluate(**known)
    on_clean, on_triggered = _judged(roles["guard"]), _judged(roles["scores"])
    known |= {
        "clean_scores": np.asarray(on_clean["scores"]),
        "triggered_scores": np.asarray(on_triggered["scores"]),
        "clean_flags": np.asarray(on_clean["flagged"], dtype=np.bool_),
        "triggered_flags": np.asarray(on_triggered["flagged"], dtype=np.bool_),
        "clean_p": np.asarray(on_clean["p"]),
        "triggered_p": np.asarray(on_triggered["p"]),
        "smallest_p": smallest_p(calibration_of(roles["guard"] / GUARD)),
    }
    if on_clean["mended"] is not None:
        model = roles["victim"] / MODEL
        known["clean_pred_def"] = _again(model, data.test.texts, on_clean["mended"], clean, data)
        known["triggered_pred_def"] = _again(
            model, poisoned.test_triggered.texts, on_triggered["mended"], triggered, data
        )
    found = evaluate(**known)
    found["cost"] = read_json(roles["guard"] / "cost.json")
    found["metrics"] |= {"alpha": on_clean["alpha"], "n_calibration": on_clean["n_calibration"]}
    if on_clean["alpha"] is not None:
        high = beta_binomial_band(on_clean["n_calibration"], len(data.test), on_clean["alpha"])[1]
        found["metrics"]["fpr_band_high"] = high
    return found


def _again(
    model: Path, before: Sequence[str], after: Sequence[str], logits: Floats, data: TaskData
) -> Any:
    """Return the victim's classes for mended texts; only what changed is predicted again."""
    changed = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    answers = logits.argmax(1)
    if changed:
        texts = [after[i] for i in changed]
        fresh = predict_folder(model, texts, n_classes=data.n_classes, allow_poisoned=True)
        answers[changed] = fresh.argmax(1)
    return answers


def _judged(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "judged.json", limit_bytes=ARRAY_LIMIT)
    return found


_WORK: dict[str, Callable[..., dict[str, Any]]] = {
    "base": _base,
    "victim": _victim,
    "outputs": _outputs,
    "guard": _guard,
    "scores": _scores,
    "cell": _cell,
}


def report_arrays(needs: dict[str, Path]) -> dict[str, Any]:
    """Return what the report draws for one cell: scores, thresholds, un-learning trace.

    Args:
        needs: folders of the cell's ``guard`` and ``scores`` nodes.
    """
    clean, triggered = _judged(needs["guard"]), _judged(needs["scores"])
    return {
        "clean_scores": clean["scores"],
        "triggered_scores": triggered["scores"],
        "threshold": clean["threshold"],
        "clean_p": clean["p"],
        "triggered_p": triggered["p"],
        "trajectory": _trajectory(clean["trace"], triggered["trace"]),
    }


def _trajectory(clean: dict[str, Any] | None, triggered: dict[str, Any] | None) -> Any:
    if clean is None or triggered is None:
        return None
    series = []
    for name, path in clean["paths"].items():
        usual, odd = np.asarray(path), np.asarray(triggered["paths"][name])
        series.append(
            {
                "name": name,
                "clean_mean": usual.mean(axis=1).tolist(),
                "triggered_mean": odd.mean(axis=1).tolist(),
                "auroc": [auroc(a, b) for a, b in zip(usual, odd, strict=True)],
            }
        )
    return {"steps": clean["steps"], "series": series}
