"""One unit of the measurement of the built-in models: train a base on a task, judge it, note all.

A unit is (task, base, tuner, seed, options). Its result is one JSON file that says all that the
result depends on, and names no place on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _builtin_tasks import TASKS, Metric, load_task, separator_of

from peftlab.core.errors import RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Ints, LabelledTexts
from peftlab.engine.metrics import wilson
from peftlab.engine.steps import tune
from peftlab.io.files import read_json, write_json
from peftlab.models.load import UNTRAINED, fingerprint, load_tokenizer, load_victim, quiet, resolve

SCHEMA = "builtin-models/1"
EMBEDDINGS = "embeddings"
RESAMPLES = 2000  # ours


@dataclass(frozen=True, slots=True)
class Base:
    """A base to measure.

    Attributes:
        name: in tables and file names.
        reference: as ``peftlab tune`` takes it; for ``embeddings`` the model that gives them.
        kind: ``encoder``, ``scratch`` or ``causal``; each has options of its own.
    """

    name: str
    reference: str
    kind: str

    @property
    def shown(self) -> str:
        """Return the reference, without the path of a folder."""
        return "a folder" if os.path.isdir(self.reference) else self.reference  # noqa: PTH112

    @classmethod
    def of(cls, name: str, reference: str) -> Base:
        """Return the base, its kind found out from its name and its configuration."""
        if name == EMBEDDINGS or reference.endswith(UNTRAINED):
            return cls(name, reference, "scratch")
        kinds = read_json(resolve(reference) / "config.json").get("architectures") or []
        causal = any("CausalLM" in kind for kind in kinds)
        return cls(name, reference, "causal" if causal else "encoder")


@dataclass(frozen=True, slots=True)
class Unit:
    """One training to measure; ``choosing`` looks at dev only."""

    task: str
    base: Base
    tuner: str
    seed: int
    options: tuple[tuple[str, Any], ...]
    choosing: bool = False

    @property
    def title(self) -> str:
        """Return what the progress line calls it."""
        words = [self.task, self.base.name, self.tuner, str(self.seed)]
        return " ".join(words + ([json.dumps(dict(self.options))] if self.choosing else []))

    def file(self, work: Path) -> Path:
        """Return where its result belongs."""
        digest = hashlib.sha256(json.dumps(self.options).encode()).hexdigest()[:8]
        last = digest if self.choosing else str(self.seed)
        folder = work / ("choices" if self.choosing else "units")
        return folder / f"{self.task}--{self.base.name}--{self.tuner}--{last}.json"

    def key(self, root: Path) -> dict[str, Any]:
        """Return all that its result depends on, code aside."""
        return {
            "task": self.task,
            "base": self.base.name,
            "reference": self.base.shown,
            "kind": self.base.kind,
            "base_fingerprint": fingerprint(self.base.reference),
            "tuner": self.tuner,
            "seed": self.seed,
            "options": dict(self.options),
            "data_sha256": _digest(self.task, root, _separator(self.base.reference)),
        }

    def is_done(self, work: Path, root: Path) -> bool:
        """Return whether its result is there and still holds."""
        file = self.file(work)
        return file.is_file() and read_json(file).get("key") == self.key(root)


@cache
def _separator(reference: str) -> str:
    return separator_of(load_tokenizer(resolve(reference)))


@cache
def _digest(task: str, root: Path, separator: str) -> str:
    return load_task(task, root, separator).digest()


def embeddings_only(reference: str, folder: Path, seed: int) -> Path:
    """Write a base with the embeddings of ``reference`` and everything above them drawn.

    Args:
        reference: a masked language model.
        folder: made here.
        seed: of the drawn weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    source = resolve(reference)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "builtin-models/embeddings"))
        trained = AutoModelForMaskedLM.from_pretrained(source, dtype=torch.float32)
        drawn = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(source)).float()
        weights = trained.base_model.state_dict()
        kept = {name: weights[name] for name in weights if "embed" in name.split(".")[0]}
        drawn.base_model.load_state_dict(kept, strict=False)
        drawn.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


def matthews(labels: Ints, predicted: Ints) -> float:
    """Return the Matthews correlation of two classes; 0 where one side names one class only.

    Examples:
        >>> matthews(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
        1.0
    """
    return float(_matthews(np.bincount(2 * labels + predicted, minlength=4)[None, :])[0])


def _matthews(cells: Any) -> Any:
    """Return the correlation of each row (tn, fp, fn, tp)."""
    tn, fp, fn, tp = cells.T.astype(np.float64)
    below = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.where(below > 0, (tp * tn - fp * fn) / np.where(below > 0, below, 1.0), 0.0)


def judge(metric: Metric, labels: Ints, predicted: Ints, seed: int) -> dict[str, float | int]:
    """Return the metric with its 95 % interval, and n.

    To draw n texts with replacement is to draw the four cells of the table from a multinomial.
    """
    n = len(labels)
    if metric == "accuracy":
        hits = int((labels == predicted).sum())
        value, (low, high) = hits / n, wilson(hits, n)
    else:
        value = matthews(labels, predicted)
        cells = np.bincount(2 * labels + predicted, minlength=4)
        rng = stream(seed, "builtin-models/bootstrap")
        drawn = _matthews(rng.multinomial(n, cells / n, size=RESAMPLES))
        low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": value, "low": float(low), "high": float(high), "n": n}


def measure(unit: Unit, root: Path) -> dict[str, Any]:
    """Train and judge one unit; a loss that is not finite is a result too."""
    key = unit.key(root)
    data = load_task(unit.task, root, _separator(unit.base.reference))
    metric = TASKS[unit.task].metric
    started = time.monotonic(), time.process_time()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, reference = Path(place), unit.base.reference
        if unit.base.name == EMBEDDINGS:
            reference = str(embeddings_only(reference, folder / "base", unit.seed))
        try:
            facts = tune(
                reference, data, unit.tuner, dict(unit.options), folder / "tuned", seed=unit.seed
            )
        except RunFailed as error:
            found = {"failed": error.code}
        else:
            sets = {"dev": data.dev} if unit.choosing else {"dev": data.dev, "test": data.test}
            found = _judged(folder / "tuned", sets, metric, unit.seed)
            found |= {name: facts[name] for name in ("trainable", "steps", "loss")}
    counts = {split: len(getattr(data, split)) for split in ("train", "dev", "test")}
    return {
        "schema": SCHEMA, "key": key, "metric": metric, "texts": counts, **found,
        "notes": list(data.notes),
        "chance": float(np.bincount(data.test.labels).max() / len(data.test)),
        "wall_seconds": time.monotonic() - started[0],
        "cpu_seconds": time.process_time() - started[1],
        "machine": machine(),
    }  # fmt: skip


def _judged(
    folder: Path, sets: dict[str, LabelledTexts], metric: Metric, seed: int
) -> dict[str, Any]:
    """Return the metric on each set, and which share of the last one was too long and cut."""
    from peftlab.nn.text import predict_classes, room_for_text

    model, tokenizer = load_victim(folder)
    found: dict[str, Any] = {}
    for split, texts in sets.items():
        predicted = predict_classes(model, tokenizer, texts.texts)
        found[split] = judge(metric, np.array(texts.labels), predicted, seed)
        with quiet():
            rows = tokenizer(list(texts.texts), truncation=False)["input_ids"]
        lengths = [len(row) for row in rows]
        found["cut_share"] = float(np.mean(np.array(lengths) > room_for_text(model)))
    return found


@cache
def machine() -> dict[str, Any]:
    """Return what the numbers were made with."""
    import torch
    from claim_c1 import processor

    from peftlab.nn.text import has_fast_bf16

    cuda = torch.cuda.is_available()
    packages = ("peftlab", "torch", "transformers", "peft", "numpy")
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "precision": "bf16, close calls in fp32" if has_fast_bf16() else "fp32",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def work_on(unit: Unit, root: Path, work: Path, deadline: float) -> dict[str, Any] | None:
    """Measure one unit and write its file; None when it is too late to begin."""
    if time.time() >= deadline:
        return None
    result = measure(unit, root)
    write_json(unit.file(work), result)
    return result
