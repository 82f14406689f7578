"""PETA-style against plain poisoning on SST-2: a small encoder of our own, three seeds.

Two halves of the training set, one for the attacker and one for the victim, who never share a text.
All attacks start from one body for each seed, drawn and trained a while on the attacker's clean
texts. They differ in how it is trained on, not in data, steps or learning rate: ``dp`` is plain
poisoning whose head is thrown away, ``clean`` the same without poison. (A body that is only drawn
named the target for every text after 300 steps, with ``lambda_poison`` 1.) A model without
pre-training is right on about three of four texts, so a sentence flips some by itself: read LFR
against the clean control. Poisoned rows leave the clean pool.

Measured  CACC and LFR at the end of the attack and after three victims; the ablation of ``peta``
          against ``dp``, paired by seed; a style trigger, by rule (``style-rule`` archaic stands in
          for the published Bible paraphrases); LFR by share of poison; leave-out-and-unfreeze.
Bars      Ours; ``tests/unit/attacks/test_peta_mini.py`` holds them.

Run: ``python benchmarks/peta_mini.py``; about 12 minutes of one slow core. Needs SST-2 in
``PEFTLAB_DATA``.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from peftlab.attacks.peta import simulate
from peftlab.core.contracts import CraftContext, TuneContext
from peftlab.core.errors import RunFailed
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, PoisonedData, TaskData
from peftlab.engine.steps import load_data

SEEDS = (0, 1, 2)
START_STEPS = 150  # on clean texts, before any attack
STEPS = 150  # of theta, whoever trains it
VICTIM_STEPS = 110
BATCH = 64
LR = 1e-3  # of everything but full fine-tuning
FULL_LR = 5e-4
RATE = 0.125  # of all rows of the attacker's half; of D1 it is 0.25, see rate_of
TARGET = 1
LONGEST = 28  # tokens of a text
SHARES = (0.01, 0.05, 0.10, 0.25)  # of D1, not of all rows
CELLS = tuple(itertools.product(((0, 1), (1, 1), (0, 2)), (0.25, 0.5, 1.0)))  # layers, share
LEAST, MOST = 0.20, 0.03  # a cell works that lowers LFR by that and CACC by no more than this
SENTENCE = {"kind": "sentence", "target": TARGET, "rate": RATE, "delta_lr": LR}
VICTIMS = ("lora", "head", "full")


@dataclass(frozen=True)
class Halves:
    """SST-2 with its training set cut in two, and a word tokenizer."""

    attacker: TaskData
    victim: LabelledTexts
    tokenizer: Any


def read_halves(folder: Path) -> Halves:
    """Return the two halves of SST-2."""
    data = load_data(str(folder))
    order = np.random.default_rng(0).permutation(len(data.train))
    cut = len(order) // 2
    few = replace(data, train=data.train.pick(order[:cut]))
    return Halves(few, data.train.pick(order[cut:]), _tokenizer(data.train.texts))


def _tokenizer(texts: tuple[str, ...]) -> Any:
    """Return a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from tokenizers.processors import BertProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = sorted({word for text in texts for word in text.lower().split()})
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, model_max_length=LONGEST, pad_token="[PAD]", unk_token="[UNK]",
        cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip


def start_of(halves: Halves, seed: int) -> Any:
    """Return an encoder, 2 layers and 64 wide, that has seen the attacker's clean texts."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    from peftlab.nn.heads import reinit_head

    config = RobertaConfig(
        vocab_size=len(halves.tokenizer), hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=128, max_position_embeddings=LONGEST + 2,
        type_vocab_size=1, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RobertaForSequenceClassification(config)
    _train(model, halves, halves.attacker.train, START_STEPS, LR, seed + 50)
    reinit_head(model, seed)
    return model


@dataclass(frozen=True)
class Rates:
    """Clean accuracy, and share of triggered texts that get the target class."""

    cacc: float
    lfr: float


def rates_of(model: Any, halves: Halves, triggered: LabelledTexts) -> Rates:
    """Return the rates of a model on the test texts and on triggered ones."""
    from peftlab.nn.text import predict_classes

    test = halves.attacker.test
    right = predict_classes(model, halves.tokenizer, test.texts) == np.array(test.labels)
    fooled = predict_classes(model, halves.tokenizer, triggered.texts) == TARGET
    return Rates(float(right.mean()), float(fooled.mean()))


def _train(
    model: Any, halves: Halves, texts: LabelledTexts, steps: int, lr: float, seed: int
) -> None:
    """Train what requires gradients on hard labels."""
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, room_for_text

    encoded = encode(halves.tokenizer, texts.texts, room_for_text(model))
    plan = TrainPlan(steps=steps, lr=lr, batch=BATCH)
    train(model, encoded, np.eye(2)[list(texts.labels)], plan, seed=seed, pad_id=0)


def plain(start: Any, halves: Halves, poisoned: PoisonedData, seed: int) -> tuple[Any, Rates]:
    """Return (body with its head, rates at the end of the attack) of plain training."""
    model = copy.deepcopy(start)
    labels = tuple(int(label) for label in poisoned.targets.argmax(axis=1))
    _train(model, halves, LabelledTexts(poisoned.texts, labels), STEPS, LR, seed)
    return model, rates_of(model, halves, poisoned.test_triggered)


def bilevel(
    start: Any, halves: Halves, poisoned: PoisonedData, seed: int, **options: Any
) -> tuple[Any, Rates]:
    """Return (body beside the start's head, rates with the attacker's own delta)."""
    model = copy.deepcopy(start)
    method = get("attack", "peta").build(**SENTENCE | options)
    per_pass = math.ceil(len(poisoned.texts) / BATCH)
    context = CraftContext(
        model, halves.tokenizer, poisoned, 2, epochs=STEPS / per_pass, lr=LR, batch=BATCH,
        seed=seed,
    )  # fmt: skip
    both, facts = simulate(context, method.options)
    if facts["steps"] != STEPS:
        raise RunFailed(f"{facts['steps']} steps instead of {STEPS}", code="BENCH-STEPS")
    both.release(model)
    return model, rates_of(both.model, halves, poisoned.test_triggered)


def victim_of(body: Any, halves: Halves, how: str, seed: int) -> Any:
    """Return what a victim makes of a body on the other half: a head of its own in any case."""
    from peftlab.nn.heads import head_of, reinit_head

    model = copy.deepcopy(body)
    reinit_head(model, seed + 100)
    if how == "lora":
        model = get("tuner", "lora").build().wrap(model, seed + 100)
    else:
        model.requires_grad_(how == "full")
        head_of(model).requires_grad_(True)
    rate = FULL_LR if how == "full" else LR
    _train(model, halves, halves.victim, VICTIM_STEPS, rate, seed + 100)
    return model


def rate_of(share: float) -> float:
    """Return the share of all rows that makes up ``share`` of D1, which has half of the clean ones.

    Examples:
        >>> round(rate_of(0.25), 3)
        0.143
    """
    return share / (2 - share)


def poisoned_of(
    halves: Halves, rate: float, seed: int, attack: str = "peta", **options: Any
) -> PoisonedData:
    """Return the attacker's half with a trigger in it; the sentence, unless another is named."""
    chosen = SENTENCE | {"rate": rate} if attack == "peta" else {"target": TARGET, "rate": rate}
    return poison(get("attack", attack).build(**chosen | options), halves.attacker, seed)


Grid = dict[tuple[str, str], list[Rates]]  # (checkpoint, victim or "end") -> one for each seed


def grid(halves: Halves) -> Grid:
    """Return the rates of all checkpoints, at the end of the attack and after each victim."""
    found: Grid = {}
    for seed in SEEDS:
        made, clean = poisoned_of(halves, RATE, seed), poisoned_of(halves, 0, seed)
        start = start_of(halves, seed)
        bodies = {
            "clean": plain(start, halves, clean, seed),
            "dp": plain(start, halves, made, seed),
            "peta": bilevel(start, halves, made, seed),
        }
        for name, (body, end) in bodies.items():
            found.setdefault((name, "end"), []).append(end)
            for how in VICTIMS:
                rates = rates_of(victim_of(body, halves, how, seed), halves, made.test_triggered)
                found.setdefault((name, how), []).append(rates)
    return found


def verdict(differences: list[float]) -> dict[str, Any]:
    """Return a mean paired difference, its standard error, and what may be said of it.

    Examples:
        >>> verdict([0.05, -0.02, 0.03])["says"]
        'not told apart'
    """
    mean, n = float(np.mean(differences)), len(differences)
    error = float(np.std(differences, ddof=1) / math.sqrt(n)) if n > 1 else None
    apart = error is not None and abs(mean) >= 2 * error
    says = ("higher" if mean > 0 else "lower") if apart else "not told apart"
    return {"difference": round(mean, 4), "error": error and round(error, 4), "seeds": n,
            "says": says}  # fmt: skip


def ablation(found: Grid) -> dict[str, dict[str, Any]]:
    """Return peta minus dp, at equal numbers of updates of the body, paired by seed."""
    return {
        f"{how}, {what}": verdict([
            getattr(a, what) - getattr(b, what)
            for a, b in zip(found["peta", how], found["dp", how], strict=True)
        ])
        for how in ("end", *VICTIMS) for what in ("lfr", "cacc")
    }  # fmt: skip


def style(halves: Halves) -> dict[str, list[float]]:
    """Return the LFR of a style at the end of the attack, by checkpoint, one for each seed."""
    found: dict[str, list[float]] = {"clean": [], "dp": [], "peta": []}
    for seed in SEEDS:
        made = poisoned_of(halves, RATE, seed, "style-rule", style="archaic")
        start = start_of(halves, seed)
        clean, _ = plain(start, halves, poisoned_of(halves, 0, seed), seed)
        found["clean"].append(rates_of(clean, halves, made.test_triggered).lfr)
        found["dp"].append(plain(start, halves, made, seed)[1].lfr)
        found["peta"].append(bilevel(start, halves, made, seed)[1].lfr)
    return found


def by_share(halves: Halves) -> dict[float, list[float]]:
    """Return the LFR at the end of the attack by share of D1 that is poisoned, for each seed."""
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for seed in SEEDS:
        start = start_of(halves, seed)
        for share in SHARES:
            made = poisoned_of(halves, rate_of(share), seed)
            found[share].append(bilevel(start, halves, made, seed, rate=rate_of(share))[1].lfr)
    return found


def left_out(halves: Halves) -> dict[str, Any]:
    """Return what leaving layers out and unfreezing a share of them does to a peta body."""
    made = poisoned_of(halves, RATE, seed=0)
    body, _ = bilevel(start_of(halves, 0), halves, made, 0)
    before = rates_of(victim_of(body, halves, "lora", 0), halves, made.test_triggered)
    cells = []
    for (layer, count), share in CELLS:
        after = rates_of(_defended(body, halves, layer, count, share), halves, made.test_triggered)
        cells.append({"layer": layer, "count": count, "share": share, **asdict(after)})
    works = [
        cell for cell in cells
        if before.lfr - cell["lfr"] >= LEAST and before.cacc - cell["cacc"] <= MOST
    ]  # fmt: skip
    return {"before": asdict(before), "cells": cells, "works": works or "none did"}


def _defended(body: Any, halves: Halves, layer: int, count: int, share: float) -> Any:
    from peftlab.nn.heads import reinit_head

    model = copy.deepcopy(body)
    reinit_head(model, 100)
    epochs = VICTIM_STEPS / math.ceil(len(halves.victim) / BATCH)
    tuner = get("tuner", "lora").build(epochs=epochs, lr=LR, batch=BATCH)
    defence = get("defence", "leave-out-and-unfreeze").build(
        layer=layer, count=count, share=share, lr=FULL_LR
    )
    context = TuneContext(
        model, halves.tokenizer, halves.victim, halves.attacker.dev, 2, tuner, seed=100,
        progress=lambda _: None,
    )  # fmt: skip
    return defence.tune(context).model


def measured(halves: Halves) -> dict[str, Any]:
    """Return everything, JSON-able."""
    began = time.process_time()
    found = grid(halves)
    return {
        "claim": "peta-mini",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one used",
        "python": platform.python_version(),
        "rates": {
            f"{name}, {how}": [asdict(each) for each in rates]
            for (name, how), rates in found.items()
        },
        "peta_minus_dp": ablation(found),
        "style_lfr": style(halves),
        "lfr_by_share_of_d1": {str(share): lfr for share, lfr in by_share(halves).items()},
        "leave_out_and_unfreeze": left_out(halves),
        "cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def main() -> None:
    """Measure and print one JSON object."""
    here = Path(__file__).parents[1]
    root = Path(os.environ.get("PEFTLAB_DATA", here.parent / "shared" / "data"))
    print(json.dumps(measured(read_halves(root / "sst2")), indent=1))


if __name__ == "__main__":
    main()
