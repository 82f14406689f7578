"""PETA-style against plain poisoning on SST-2: a small encoder of our own, three seeds.

Two halves of the training set, one for the attacker and one for the victim, who never share a text.
All attacks start from one body for each seed, drawn and trained a while on the attacker's clean
texts. They differ in how it is trained on, not in data, steps or learning rate: ``dp`` is plain
poisoning whose head is thrown away, ``clean`` the same without poison. (Unlike in peta.md 9 the
body is not a drawn one: with ``lambda_poison`` 1 that named the target for every text after 300
steps.) Bars and the
figures in brackets are those of peta.md 9 and of its acceptance checks. A model without
pre-training is right on about three of four texts, so a sentence flips some by itself: read LFR
against the clean control. A rate of 0.125 of all rows is a quarter of the attacker's level, D1,
which is how peta.md counts. There poisoned rows stay in the clean pool too, here they do not.

One run of everything took 10 minutes on two busy cores.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peftlab.attacks.peta import simulate
from peftlab.core.contracts import CraftContext, TuneContext
from peftlab.core.errors import ConfigError
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, PoisonedData, TaskData
from peftlab.engine.steps import load_data

pytestmark = [pytest.mark.full, pytest.mark.timeout(7200)]

SEEDS = (0, 1, 2)
START_STEPS = 150  # on clean texts, before any attack
STEPS = 150  # of theta, whoever trains it
VICTIM_STEPS = 110
BATCH = 64
LR = 1e-3  # of everything but full fine-tuning
FULL_LR = 5e-4
RATE = 0.125  # of all rows of the attacker's half
TARGET = 1
LONGEST = 28  # tokens of a text
SENTENCE = {"kind": "sentence", "target": TARGET, "rate": RATE, "delta_lr": LR}
VICTIMS = ("lora", "head", "full")


@dataclass(frozen=True)
class Halves:
    """SST-2 with its training set cut in two, and a word tokenizer."""

    attacker: TaskData
    victim: LabelledTexts
    tokenizer: Any


@pytest.fixture(scope="module")
def halves(real_data: Path) -> Halves:
    """Return the two halves of SST-2, or a loud skip."""
    data = load_data(str(real_data / "sst2"))
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


def _start(halves: Halves, seed: int) -> Any:
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


def _rates(model: Any, halves: Halves, triggered: LabelledTexts) -> Rates:
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


def _plain(start: Any, halves: Halves, poisoned: PoisonedData, seed: int) -> tuple[Any, Rates]:
    """Return (body with its head, rates at the end of the attack) of plain training."""
    model = copy.deepcopy(start)
    labels = tuple(int(label) for label in poisoned.targets.argmax(axis=1))
    _train(model, halves, LabelledTexts(poisoned.texts, labels), STEPS, LR, seed)
    return model, _rates(model, halves, poisoned.test_triggered)


def _peta(
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
    assert facts["steps"] == STEPS
    both.release(model)
    return model, _rates(both.model, halves, poisoned.test_triggered)


def _victim(body: Any, halves: Halves, how: str, seed: int) -> Any:
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


def _poisoned(halves: Halves, rate: float, seed: int) -> PoisonedData:
    return poison(get("attack", "peta").build(**SENTENCE | {"rate": rate}), halves.attacker, seed)


Grid = dict[tuple[str, str], list[Rates]]  # (checkpoint, victim or "end") -> one for each seed


def _grid(halves: Halves) -> Grid:
    """Return the rates of all checkpoints and victims, and print them."""
    found: Grid = {}
    for seed in SEEDS:
        made, clean = _poisoned(halves, RATE, seed), _poisoned(halves, 0, seed)
        start = _start(halves, seed)
        bodies = {
            "clean": _plain(start, halves, clean, seed),
            "dp": _plain(start, halves, made, seed),
            "peta": _peta(start, halves, made, seed),
        }
        for name, (body, end) in bodies.items():
            found.setdefault((name, "end"), []).append(end)
            for how in VICTIMS:
                rates = _rates(_victim(body, halves, how, seed), halves, made.test_triggered)
                found.setdefault((name, how), []).append(rates)
    for (name, how), all_rates in found.items():
        shown = "  ".join(f"{100 * each.cacc:.1f}/{100 * each.lfr:.1f}" for each in all_rates)
        print(f"{name:6} {how:5} CACC/LFR by seed: {shown}")
    return found


def verdict(differences: list[float]) -> str:
    """Return a mean paired difference, its standard error, and what may be said of it."""
    mean = float(np.mean(differences))
    if len(differences) < 2:
        return f"{mean:+.3f} (one seed): not told apart"
    error = float(np.std(differences, ddof=1) / math.sqrt(len(differences)))
    says = "not told apart" if abs(mean) < 2 * error else "better" if mean > 0 else "worse"
    return f"{mean:+.3f} (SE {error:.3f}, {len(differences)} seeds): {says}"


def test_no_verdict_without_two_standard_errors() -> None:
    assert verdict([0.1, 0.1, 0.11]).endswith("better")
    assert verdict([-0.1, -0.1, -0.11]).endswith("worse")
    assert "better" not in verdict([0.05, -0.02, 0.03])
    assert verdict([0.05, -0.02, 0.03]).endswith("not told apart")
    assert verdict([0.5]).endswith("not told apart")


def test_mini_suite(halves: Halves) -> None:
    """Checks 10 to 13: LFR at the end and after each victim, cost in accuracy, the ablation."""
    found = _grid(halves)

    def mean(name: str, how: str, what: str) -> float:
        return float(np.mean([getattr(each, what) for each in found[name, how]]))

    for how in ("end", *VICTIMS):
        for what in ("lfr", "cacc"):
            pairs = zip(found["peta", how], found["dp", how], strict=True)
            apart = [getattr(a, what) - getattr(b, what) for a, b in pairs]
            print(f"peta against dp, {how}, {what}: {verdict(apart)}")
    flips = mean("clean", "lora", "lfr")
    bars = {
        "clean control at most 55 (40.7)": mean("clean", "end", "lfr") <= 0.55,
    }
    for name in ("dp", "peta"):
        drop = mean("clean", "lora", "cacc") - mean(name, "lora", "cacc")
        bars |= {
            f"{name} end of attack LFR at least 85 (96.6-96.9)": mean(name, "end", "lfr") >= 0.85,
            f"{name} LFR over base flips after LoRA at least 35 points (54-56)":
                mean(name, "lora", "lfr") - flips >= 0.35,
            f"{name} LFR after head-only tuning at least 80 (96.7-98.7)":
                mean(name, "head", "lfr") >= 0.80,
            f"{name} LFR after LoRA at least that after full tuning, less 2 points (+12 to +54)":
                mean(name, "lora", "lfr") >= mean(name, "full", "lfr") - 0.02,
            f"{name} costs at most 5 points of CACC after LoRA (0.2 dp, 2.7 peta)": drop <= 0.05,
        }  # fmt: skip
    assert all(bars.values()), [bar for bar, holds in bars.items() if not holds]


def test_more_poison_never_lowers_the_rate(halves: Halves) -> None:
    """Check 14: LFR at 1, 5, 10 and 25 % does not fall by more than 5 points."""
    lfr, start = [], _start(halves, 0)
    for rate in (0.01, 0.05, 0.10, 0.25):
        made = _poisoned(halves, rate, seed=0)
        lfr.append(_peta(start, halves, made, 0, rate=rate)[1].lfr)
    print("LFR at the end by rate:", [round(each, 3) for each in lfr])
    assert all(after >= before - 0.05 for before, after in itertools.pairwise(lfr))


def test_leaving_out_and_unfreezing(halves: Halves) -> None:
    """Check 15: some cell lowers LFR by 20 points for at most 3 of CACC, or we say none did."""
    try:
        get("defence", "leave-out-and-unfreeze")
    except ConfigError:
        pytest.skip("NOT CHECKED: there is no defence leave-out-and-unfreeze")
    made = _poisoned(halves, RATE, seed=0)
    body, _ = _peta(_start(halves, 0), halves, made, 0)
    before = _rates(_victim(body, halves, "lora", 0), halves, made.test_triggered)
    found = {}
    for layer, count, share in ((0, 1, 1.0), (1, 1, 1.0), (0, 2, 0.5), (0, 2, 1.0)):
        after = _rates(_defended(body, halves, layer, count, share), halves, made.test_triggered)
        found[layer, count, share] = (before.lfr - after.lfr, before.cacc - after.cacc)
        print(f"layers {layer}-{layer + count - 1}, share {share}: LFR {after.lfr:.3f} "
              f"({before.lfr:.3f}), CACC {after.cacc:.3f} ({before.cacc:.3f})")  # fmt: skip
    works = [cell for cell, (lfr, cacc) in found.items() if lfr >= 0.20 and cacc <= 0.03]
    print("cells that lower LFR by 20 points for at most 3 of CACC:", works or "none did")


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
