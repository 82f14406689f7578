"""What pre-training on generated pictures is worth on two small medical image tasks.

Tasks     PneumoniaMNIST (28 x 28 gray, 2 classes) and BCCD blood cells (32 x 32 colour, 3 classes),
          from the folder that ``PEFTLAB_DATA`` names; 1,000 training images each, drawn by class.
Methods   A linear probe on frozen features, full fine-tuning, and LoRA with a new head.
Baseline  The same architecture with random weights, through the same methods. The baseline of
          interest is full training from scratch; the others are negative controls.
Rates     Seed 0 tries every rate of the grid; the other seeds take the one with the best
          validation AUROC. The same grid for both starts. The test split is never looked at.
Numbers   AUROC (macro, one against the rest) and accuracy on the test split: per run with DeLong's
          and Wilson's interval, over seeds with Student's t, and the paired gain of pre-training.
Ends      Two tasks, one small model, few images: nothing here carries over to clinical use.

Every run is one file in ``--out``; the same command goes on after an interruption.

Run: ``python benchmarks/vision_transfer.py --base builtin:vision --out runs/vision-vit``
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from peftlab.core.errors import PeftlabError
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, Ints
from peftlab.engine.metrics import auroc, auroc_interval, summarise, wilson
from peftlab.io.files import read_json, sha256_file, write_json
from peftlab.models.load import UNTRAINED, fingerprint
from peftlab.models.vision.load import load_vision, prepare
from peftlab.models.vision.models import lora_targets
from peftlab.nn.images import image_features, predict_images, train_images
from peftlab.nn.loop import TrainPlan

DATA = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "bccd_cells": ("RBC", "WBC", "platelets"),
}
STARTS = ("pretrained", "random")
RATES: dict[str, tuple[float, ...]] = {  # of the probe: its weight decay
    "probe": (0.1, 0.001),
    "full": (1e-3, 3e-4),
    "lora": (5e-3, 2e-3),
}
SEEDS = (0, 1, 2)
GAINS = ("auroc", "accuracy")


@dataclass(frozen=True)
class Unit:
    """One run: what is trained, from where, how, on what."""

    data: str
    method: str
    start: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{self.data}-{self.method}-{self.start}-{self.rate:g}-s{self.seed}.json"


@dataclass(frozen=True)
class Split:
    """Images as the model takes them, and their classes."""

    inputs: torch.Tensor
    labels: Ints


def read_task(folder: Path, name: str) -> dict[str, tuple[Any, Ints]]:
    """Return pixels and labels of the three splits."""
    with np.load(folder / name / f"{name}.npz", allow_pickle=False) as stored:
        return {
            split: (
                stored[f"{split}_images"],
                stored[f"{split}_labels"].reshape(-1).astype(np.int64),
            )
            for split in ("train", "val", "test")
        }


def pick(labels: Ints, count: int, seed: int) -> Ints:
    """Return rows of a sample with the class shares of the whole, in random order."""
    rng = stream(seed, "benchmark/pick")
    chosen = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(count * len(rows) / len(labels)))])
    return rng.permutation(np.concatenate(chosen))


def fit_probe(features: Floats, labels: Ints, classes: int, decay: float) -> Callable[..., Floats]:
    """Return a multinomial logistic regression on standardised features, as a function."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6

    def scaled(values: Floats) -> torch.Tensor:
        return torch.from_numpy((values - mean) / spread)

    inputs, goals = scaled(features), torch.from_numpy(labels)
    layer = torch.nn.Linear(features.shape[1], classes, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    solver = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(inputs), goals)
        value = value + 0.5 * decay * layer.weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        return lambda values: layer(scaled(values)).detach().numpy()


def judge(logits: Floats, labels: Ints) -> dict[str, Any]:
    """Return macro AUROC and accuracy, with intervals where one run has them."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances = shifted / shifted.sum(axis=1, keepdims=True)
    found = np.unique(labels)
    sides = [
        (chances[labels != label, label], chances[labels == label, label])
        for label in (found if len(found) > 2 else found[1:])
    ]
    hits = int((logits.argmax(axis=1) == labels).sum())
    intervals: dict[str, Any] = {"accuracy": wilson(hits, len(labels))}
    if len(sides) == 1:
        intervals["auroc"] = auroc_interval(*sides[0])
    metrics = {
        "auroc": float(np.mean([auroc(*side) for side in sides])),
        "accuracy": hits / len(labels),
        "majority": float(np.bincount(labels).max() / len(labels)),
    }
    return {"metrics": metrics, "intervals": intervals}


def trained(unit: Unit, model: Any, train: Split, epochs: float) -> Callable[..., Floats]:
    """Train as the unit says; return the function from inputs to logits."""
    classes = len(DATA[unit.data])
    if unit.method == "probe":
        answer = fit_probe(
            image_features(model, train.inputs, "auto"), train.labels, classes, unit.rate
        )
        return lambda inputs: answer(image_features(model, inputs, "auto"))
    if unit.method == "lora":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=lora_targets(model), modules_to_save=["classifier"]
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(unit.seed, "adapter"))
            model = get_peft_model(model, config)
    plan = TrainPlan(epochs=epochs, lr=unit.rate, batch=32, warmup=0.1, weight_decay=0.05)
    train_images(model, train.inputs, train.labels, plan, seed=unit.seed)
    return lambda inputs: predict_images(model, inputs, "auto")


def run_unit(unit: Unit, base: str, task: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Train one model and measure it on validation and test."""
    reference = base if unit.start == "pretrained" else base + UNTRAINED
    model, processor = load_vision(reference, len(DATA[unit.data]), unit.seed)
    pixels, labels = task["train"]
    rows = pick(labels, given.images, unit.seed)
    train = Split(prepare(processor, pixels[rows]), labels[rows])
    begun = time.process_time()
    answer = trained(unit, model, train, given.epochs)
    spent = time.process_time() - begun
    exams = {
        split: judge(answer(prepare(processor, task[split][0])), task[split][1])
        for split in ("val", "test")
    }
    return {**asdict(unit), "images": len(rows), "train_cpu_s": spent, **exams}


def results(
    base: str, data: str, task: Any, out: Path, given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the result of every unit of one task that counts, made now or read."""

    def one(unit: Unit) -> dict[str, Any]:
        path = out / unit.name
        if not path.is_file():
            write_json(path, run_unit(unit, base, task, given))
        found: dict[str, Any] = read_json(path)
        print(f"{path.stem}  auroc {found['test']['metrics']['auroc']:.3f}", file=sys.stderr)
        return found

    for method in given.methods:
        for start in STARTS:
            tried = [one(Unit(data, method, start, rate, SEEDS[0])) for rate in RATES[method]]
            best = max(tried, key=lambda found: found["val"]["metrics"]["auroc"])
            yield best
            for seed in SEEDS[1:]:
                yield one(Unit(data, method, start, best["rate"], seed))


def table(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row per task and method: both starts over seeds, and the paired gain."""
    rows = []
    for data, method in dict.fromkeys((each["data"], each["method"]) for each in found):
        cells = {
            start: [
                each["test"] for each in found
                if (each["data"], each["method"], each["start"]) == (data, method, start)
            ]
            for start in STARTS
        }  # fmt: skip
        gains = [
            {"metrics": {key: a["metrics"][key] - b["metrics"][key] for key in GAINS}}
            for a, b in zip(cells["pretrained"], cells["random"], strict=True)
        ]
        row = {start: summarise(cells[start]) for start in STARTS}
        rows.append({"data": data, "method": method, **row, "gain": summarise(gains)})
    return rows


def check_folder(out: Path, facts: dict[str, Any]) -> None:
    """Refuse a folder with runs of another base, data or budget."""
    note = out / "facts.json"
    if note.is_file() and read_json(note) != facts:
        raise SystemExit(f"{out} holds runs of another base or setting; choose another folder")
    write_json(note, facts)


def main() -> int:
    """Run what is missing and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", default="builtin:vision")
    parser.add_argument("--out", type=Path, default=Path("runs/vision-transfer"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=list(RATES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = Path(os.environ.get("PEFTLAB_DATA", "../shared/data"))
    names = [name for name in DATA if (source / name / f"{name}.npz").is_file()]
    if not names:
        print(f"skipped: neither of {', '.join(DATA)} is in {source}", file=sys.stderr)
        return 0
    try:
        facts = {
            "base": fingerprint(given.base), "images": given.images, "epochs": given.epochs,
            "data": {name: sha256_file(source / name / f"{name}.npz") for name in names},
        }  # fmt: skip
        check_folder(given.out, facts)
        found = [
            result
            for name in names
            for result in results(given.base, name, read_task(source, name), given.out, given)
        ]
    except PeftlabError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    summary = {
        "schema": "bench/1", "claim": "vision-transfer", **facts, "base": given.base,
        "base_fingerprint": facts["base"], "torch": torch.__version__, "seeds": SEEDS,
        "rows": table(found), "runs": found,
    }  # fmt: skip
    write_json(given.out / "summary.json", summary)
    print(json.dumps({**summary, "runs": len(found)}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
