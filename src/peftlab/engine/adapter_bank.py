"""Make a bank of clean and backdoored adapters, for the verdict on adapters of others.

Each adapter is tuned on a random part of the data, with seeds of its own; every second one on data
that an attack has poisoned. Kept are the statistics of its updates, its accuracy and its attack
success; the weights are measured in a temporary folder and thrown away.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.audits.backdoor.bank import AdapterBank, layer_names, stack, statistics_of
from peftlab.core import registry
from peftlab.core.errors import ConfigError
from peftlab.core.options import Options, option
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, TaskData
from peftlab.engine.steps import make_poison
from peftlab.io.files import check_target, read_json, write_json

MEASURED = 200  # texts on which accuracy and attack success of an adapter are taken


class BankOptions(Options):
    """How the adapters of a bank are made."""

    adapters: int = option(40, "adapters of each kind", source="ours", ge=2, le=10_000)
    samples: int = option(1000, "training texts of each adapter", source="ours", ge=8, le=10**7)
    rate: float = option(
        0.1, "share of its texts that an attack poisons", source="thunlp/OpenBackdoor", gt=0, le=1
    )
    seed: int = option(0, "seed of everything random", source="ours", ge=0)


def make_bank(
    base: str,
    data: TaskData,
    attacks: Sequence[str],
    tuner: str,
    tuner_options: dict[str, Any],
    options: BankOptions,
    out: Path,
    *,
    progress: Callable[[int, int, str], None],
) -> AdapterBank:
    """Tune the adapters, measure them and write the bank; goes on where it was interrupted.

    Args:
        base: that all adapters are tuned on: ``builtin:encoder``, a folder or a hub id.
        data: the task.
        attacks: registered names, taken in turn.
        tuner: registered name of a method whose adapters are low-rank updates.
        tuner_options: of the tuner.
        options: sizes and seed.
        out: folder of the bank; finished adapters stand in ``OUT-work`` until it is complete.
        progress: called with (done, total, what).

    Raises:
        ConfigError: ``BANK-ATTACK`` without an attack, ``BANK-TUNER`` for a tuner without low-rank
            updates, or the codes of ``steps.tune``.
    """
    if not attacks:
        raise ConfigError(
            "no attack was named", code="BANK-ATTACK", fix="see `peftlab list attack`"
        )
    check_target(out, overwrite=False)
    recipe = {
        "base": base, "data": {"name": data.name, "sha256": data.digest()},
        "attacks": list(attacks), "tuner": tuner, "tuner_options": tuner_options,
        **options.model_dump(mode="json", exclude={"adapters"}),  # a bank may grow
    }  # fmt: skip
    work = out.with_name(out.name + "-work")
    total, found = 2 * options.adapters, []
    for number in range(total):
        attack = attacks[number // 2 % len(attacks)] if number % 2 else ""
        progress(number, total, attack or "clean")
        note = work / f"{number:05d}.json"
        row = read_json(note) if note.is_file() else {}
        if row.get("recipe") != recipe:
            row = _measure(base, data, attack, tuner, tuner_options, options, number)
            work.mkdir(parents=True, exist_ok=True)
            write_json(note, {**row, "recipe": recipe})
        found.append(row)
    progress(total, total, "")
    bank = stack(
        [(np.array(row["statistics"]), bool(row["attack"])) for row in found],
        tuple(found[0]["layers"]),
        {**recipe, "adapters": [_facts(row) for row in found]},
    )
    bank.save(out)
    shutil.rmtree(work, ignore_errors=True)
    return bank


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("attack", "accuracy", "attack_success", "loss")}


def _measure(
    base: str, data: TaskData, attack: str, tuner: str, tuner_options: dict[str, Any],
    options: BankOptions, number: int,
) -> dict[str, Any]:  # fmt: skip
    """Tune one adapter and return its statistics and how it behaves."""
    from peftlab.io.adapter_layout import read_layout
    from peftlab.io.gate import inspect, open_artefact
    from peftlab.models.load import load_base, quiet
    from peftlab.nn.heads import default_rate
    from peftlab.nn.loop import TrainPlan, train
    from peftlab.nn.text import encode, pad_id_of, predict_logits, room_for_text

    seed = derive(options.seed, "engine/adapter_bank", number)
    part = _part(data, options.samples, seed)
    method = registry.get("tuner", tuner).build(**tuner_options)
    poisoned = make_poison(part, attack or "badnets", {"rate": options.rate if attack else 0}, seed)
    model, tokenizer = load_base(base, data.n_classes, seed=seed)
    wrapped = method.wrap(model, seed)
    log = train(
        wrapped, encode(tokenizer, poisoned.texts, room_for_text(wrapped)), poisoned.targets,
        TrainPlan(
            epochs=method.options.epochs,
            lr=method.options.lr or default_rate(model, small=2e-4, large=2e-5),
            batch=method.options.batch,
        ),
        seed=seed, pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip

    def share(texts: Sequence[str], labels: Floats) -> float:
        return float((predict_logits(wrapped, tokenizer, texts).argmax(axis=1) == labels).mean())

    clean, triggered = data.test.pick(np.arange(len(data.test))[:MEASURED]), poisoned.test_triggered
    triggered = triggered.pick(np.arange(len(triggered))[:MEASURED])
    with tempfile.TemporaryDirectory() as folder, quiet():
        wrapped.cpu().save_pretrained(folder)
        artefact, _ = open_artefact(folder)
        if artefact is None or inspect(artefact)[-1].status == "stopped":
            raise _no_pairs(tuner)
        with artefact:
            layout = read_layout(artefact)
            if not layout.pairs:
                raise _no_pairs(tuner)
            statistics, layers = statistics_of(artefact, layout), layer_names(layout)
    return {
        "attack": attack, "layers": list(layers), "statistics": statistics.tolist(),
        "accuracy": share(clean.texts, np.array(clean.labels)),
        "attack_success": share(triggered.texts, np.full(len(triggered), poisoned.target))
        if attack else None,
        "loss": float(np.mean(log.losses[-20:])),
    }  # fmt: skip


def _part(data: TaskData, samples: int, seed: int) -> TaskData:
    """Return the task with a random part of its training texts."""
    order = stream(seed, "part").permutation(len(data.train))
    return replace(data, train=data.train.pick(order[:samples]))


def _no_pairs(tuner: str) -> ConfigError:
    return ConfigError(
        f"{tuner} makes no low-rank updates", code="BANK-TUNER", allowed="lora",
        fix="choose --method lora",
    )  # fmt: skip
