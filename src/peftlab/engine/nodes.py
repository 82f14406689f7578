"""What each node of a plan does; the run loop calls ``execute`` and knows nothing of methods.

base     poisoned base, and its answers to the clean test texts
victim   tuned model, and its answers
outputs  a victim's answers to the triggered texts of one attack
guard    fitted guard, and what it says of the clean test texts
scores   what a guard says of the triggered texts of one attack
filter   what a defence says of each row of a suspect training set
verdict  what a defence says of the base
cell     decisions and metrics; arithmetic only, unless the defence mends texts
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core import registry
from peftlab.core.contracts import PoisonOptions
from peftlab.core.poisoning import target_matrix, training_texts
from peftlab.core.ranking import auroc
from peftlab.core.types import Bools, Floats, LabelledTexts, PoisonedData, TaskData
from peftlab.engine.aim import aim_of, counted_rows
from peftlab.engine.calibrate import smallest_p, threshold
from peftlab.engine.guard import Guard, calibration_of
from peftlab.engine.metrics import beta_binomial_band, evaluate, evaluate_filter
from peftlab.engine.recipe import Experiment, Recipe
from peftlab.engine.steps import (
    brings_head,
    make_poison,
    predict_folder,
    train_base,
    tune,
    tune_defended,
)
from peftlab.engine.suspects import filter_rows, inspect_base
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
        training=recipe.attacker, seed=key["seed"], prompt=recipe.prompt,
    )  # fmt: skip
    if control or brings_head(key["attack"]["name"]):
        _answer(folder / MODEL, data.test.texts, folder / "clean.npy", data)
    return {"facts": _without_time(facts)}


def _victim(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    method, defence = key["tuner"], key.get("defence")
    suspect = bool(key.get("suspect"))
    base, task, prompt = str(roles["base"] / MODEL), data, None  # the base brings its prompt
    if suspect:
        base, task, prompt = recipe.base, _suspect_task(key, roles, data), recipe.prompt
    out, seed = folder / MODEL, key["seed"]
    if method is None:
        facts = tune(
            base, task, "full", recipe.attacker.model_dump(mode="json"), out, seed=seed,
            suspect=not key["control"], prompt=prompt,
        )  # fmt: skip
    elif defence is None:
        facts = tune(
            base, task, method["name"], method["options"], out, seed=seed, allow_poisoned=True,
            suspect=suspect and not key["control"], prompt=prompt,
        )  # fmt: skip
    else:
        facts = tune_defended(
            base, task, (method["name"], method["options"]), (defence["name"], defence["options"]),
            out, seed=seed, allow_poisoned=True, suspect=suspect and not key["control"],
            prompt=prompt,
        )  # fmt: skip
    _answer(out, data.test.texts, folder / "clean.npy", data)
    return {"facts": {k: v for k, v in _without_time(facts).items() if k not in _KNOWN}}


_KNOWN = ("base", "base_fingerprint", "data", "label_names", "options")  # in the key already


def _without_time(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "cpu_seconds"}


def _training_set(key: dict[str, Any], data: TaskData) -> PoisonedData:
    """Return what the suspect training set is: the attack's, or the clean one of the control."""
    return _unpoisoned(data, key["knowledge"]) if "knowledge" in key else _poisoned(key, data)


def _as_received(made: PoisonedData) -> LabelledTexts:
    """Return texts and labels as whoever is handed the set sees them."""
    return LabelledTexts(made.texts, tuple(int(each) for each in made.targets.argmax(axis=1)))


def _suspect_task(key: dict[str, Any], roles: dict[str, Path], data: TaskData) -> TaskData:
    """Return the task with the suspect training set, without the rows that a filter dropped."""
    train = _as_received(_training_set(key, data))
    if "filter" in roles:
        dropped = np.asarray(_filtered(roles["filter"])["dropped"], dtype=np.bool_)
        train = train.pick(np.flatnonzero(~dropped))
    return replace(data, train=train)


def _filter(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    method = key["defence"]
    found = filter_rows(
        str(roles["base"] / MODEL), _as_received(_training_set(key, data)), data.n_classes,
        (method["name"], method["options"]), seed=key["seed"], allow_poisoned=True,
    )  # fmt: skip
    write_json(
        folder / "filtered.json",
        {"suspicion": found.suspicion.tolist(), "dropped": found.dropped.tolist()},
    )
    return {"facts": dict(found.facts)}


def _filtered(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / "filtered.json", limit_bytes=ARRAY_LIMIT)
    return found


def _verdict(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    method = key["defence"]
    found = inspect_base(
        str(roles["base"] / MODEL), data, (method["name"], method["options"]), seed=key["seed"],
        allow_poisoned=True,
    )  # fmt: skip
    write_json(folder / "verdict.json", {"score": found.score, "flagged": found.flagged})
    return {"facts": dict(found.facts)}


def _answer(model: Path, texts: Sequence[str], out: Path, data: TaskData) -> None:
    logits = predict_folder(model, texts, n_classes=data.n_classes, allow_poisoned=True)
    np.save(out, logits, allow_pickle=False)


def _outputs(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    texts = _poisoned(key, data).test_triggered.texts
    model = roles["victim"] / MODEL
    _answer(model, texts, folder / "triggered.npy", data)
    aim = aim_of(key["attack"]["name"], key["attack"]["options"])
    if aim is not None:
        _answer(model, aim.probes(), folder / "probes.npy", data)
    return {}


def _guard(
    key: dict[str, Any], roles: dict[str, Path], folder: Path, recipe: Recipe, data: TaskData
) -> dict[str, Any]:
    del recipe
    method = key["defence"]
    clean = data
    if "attack" in key:  # it reached into the defender's data
        attack = registry.get("attack", key["attack"]["name"]).build(**key["attack"]["options"])
        clean = attack.taint(data, _poisoned(key, data), key["seed"])
    guard = Guard.fit(
        str(roles["base"] / MODEL), clean, method["name"], method["options"],
        seed=key["seed"], allow_poisoned=True, progress=lambda _: None,
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
    if "not_applicable" in key:
        return {"not_applicable": key["not_applicable"]}
    poisoned = _poisoned(key, data)
    counted = _counted(key, roles["outputs"], poisoned)
    clean = _logits(roles["victim"], "clean")
    triggered = _logits(roles["outputs"], "triggered")
    known: dict[str, Any] = {
        "labels": np.asarray(data.test.labels),
        "clean_pred": clean.argmax(1),
        "triggered_pred": triggered.argmax(1)[counted],
        "target": poisoned.goals[counted],
        "triggered_labels": np.asarray(poisoned.test_triggered.labels)[counted],
        "test_rows": np.asarray(poisoned.test_rows)[counted],
    }
    if "defended" in roles:
        return _tuned_cell(key, roles, known, counted, data)
    if "verdict" in roles:
        verdict = read_json(roles["verdict"] / "verdict.json")
        found = evaluate(**known)
        found["metrics"] |= {
            "model_score": float(verdict["score"]), "model_flagged": int(verdict["flagged"]),
        }  # fmt: skip
        return found
    if "guard" not in roles:
        return evaluate(**known)
    on_clean, on_triggered = _judged(roles["guard"]), _judged(roles["scores"])
    known |= {
        "clean_scores": np.asarray(on_clean["scores"]),
        "triggered_scores": np.asarray(on_triggered["scores"])[counted],
        "clean_flags": np.asarray(on_clean["flagged"], dtype=np.bool_),
        "triggered_flags": np.asarray(on_triggered["flagged"], dtype=np.bool_)[counted],
        "clean_p": np.asarray(on_clean["p"]),
        "triggered_p": np.asarray(on_triggered["p"])[counted],
        "smallest_p": smallest_p(calibration_of(roles["guard"] / GUARD)),
    }
    if on_clean["mended"] is not None:
        model = roles["victim"] / MODEL
        known["clean_pred_def"] = _again(model, data.test.texts, on_clean["mended"], clean, data)
        known["triggered_pred_def"] = _again(
            model, poisoned.test_triggered.texts, on_triggered["mended"], triggered, data
        )[counted]
    found = evaluate(**known)
    found["cost"] = read_json(roles["guard"] / "cost.json")
    found["metrics"] |= {"alpha": on_clean["alpha"], "n_calibration": on_clean["n_calibration"]}
    if on_clean["alpha"] is not None:
        high = beta_binomial_band(on_clean["n_calibration"], len(data.test), on_clean["alpha"])[1]
        found["metrics"]["fpr_band_high"] = high
    return found


def _tuned_cell(
    key: dict[str, Any], roles: dict[str, Path], known: dict[str, Any], counted: Bools,
    data: TaskData,
) -> dict[str, Any]:  # fmt: skip
    """Return the metrics of a victim beside the one that a defence made of the same base."""
    known["clean_pred_def"] = _logits(roles["defended"], "clean").argmax(1)
    answers = _logits(roles["defended_outputs"], "triggered").argmax(1)
    known["triggered_pred_def"] = answers[counted]
    found = evaluate(**known)
    if "filter" in roles:
        said = _filtered(roles["filter"])
        # the control is the clean set of this attack's data source
        source = {"knowledge": key["attack"]["options"].get("knowledge")} if key["control"] else key
        more = evaluate_filter(
            np.asarray(said["suspicion"]), np.asarray(said["dropped"], dtype=np.bool_),
            _training_set(source, data).is_poisoned,
        )  # fmt: skip
        for part, values in more.items():
            found[part] |= values
    return found


def _counted(key: dict[str, Any], outputs: Path, poisoned: PoisonedData) -> Bools:
    """Return which triggered texts count: all, unless the attack could not choose its class."""
    aim = aim_of(key["attack"]["name"], key["attack"]["options"])
    if aim is None:
        return np.ones(len(poisoned.test_triggered), dtype=np.bool_)
    return counted_rows(aim, poisoned, _logits(outputs, "probes").argmax(1))


def _logits(folder: Path, name: str) -> Floats:
    found: Floats = np.load(folder / f"{name}.npy", allow_pickle=False)
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
    "filter": _filter,
    "verdict": _verdict,
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
