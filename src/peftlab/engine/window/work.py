"""What each node of a window plan does; the run loop calls ``execute``.

base  the poisoned base, a stock folder
path  one un-learning of that base, looked at step by step: ``window.json``, and the looks
      themselves, so that another score needs no other un-learning: ``looks.safetensors``
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.options import parse_options
from peftlab.core.types import Floats, PoisonedData, TaskData
from peftlab.engine.splits import guard_splits
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from peftlab.engine.window.recipe import WindowRecipe
from peftlab.io.files import write_json
from peftlab.io.store import Node
from peftlab.models.load import load_base

if TYPE_CHECKING:
    from peftlab.nn.unlearning import Identifier

MODEL = "model"
FILE, LOOKS = "window.json", "looks.safetensors"


def execute(
    node: Node, needs: dict[str, Path], folder: Path, recipe: WindowRecipe, data: TaskData
) -> dict[str, Any]:
    """Do one node: read the folders that it needs, write into ``folder``, return its result."""
    import torch

    del recipe  # all that counts is in the node's key
    torch.set_num_threads(1)  # sums in the same order, so the same bits with any --workers
    if node.kind == "base":
        return _base(node.key, folder, data)
    return _path(node.key, needs[node.key["needs"]["base"]] / MODEL, folder, data)


def _poisoned(key: dict[str, Any], data: TaskData) -> PoisonedData:
    return make_poison(data, key["attack"]["name"], key["attack"]["options"], key["seed"])


def _base(key: dict[str, Any], folder: Path, data: TaskData) -> dict[str, Any]:
    facts = train_base(
        key["base"], _poisoned(key, data), data.n_classes, folder / MODEL,
        attack=key["attack"]["name"], options=key["attack"]["options"], seed=key["seed"],
        training=parse_options(AttackerOptions, key["attacker"], "attacker"),
    )  # fmt: skip
    return {"facts": {name: facts[name] for name in ("loss", "training")}}


def _path(key: dict[str, Any], base: Path, folder: Path, data: TaskData) -> dict[str, Any]:
    from safetensors.numpy import save_file

    from peftlab.engine.window.curves import Seen, curves, look_of

    poisoned, splits = _poisoned(key, data), guard_splits(data, key["seed"])
    groups = {
        "reference": splits.reference.texts,
        "calibration": splits.calibration.texts,
        "clean": data.test.texts,
        "triggered": poisoned.test_triggered.texts,
    }
    texts = [text for group in groups.values() for text in group]
    started = time.process_time()
    logits = read_path(_identifier(key), base, data, texts, key["precision"])
    spent = time.process_time() - started
    parts = np.split(logits, np.cumsum([len(group) for group in groups.values()])[:-1])
    looks = {
        name: look_of([part], part[:, 0].argmax(axis=1))
        for name, part in zip(groups, parts, strict=True)
    }
    found = {
        "ca": float((looks["clean"].predicted == np.asarray(data.test.labels)).mean()),
        "asr": float((looks["triggered"].predicted == poisoned.target).mean()),
        "n_clean": len(groups["clean"]),
        "n_triggered": len(groups["triggered"]),
        "n_calibration": len(groups["calibration"]),
        "steps": key["steps"],
        **curves(Seen(**looks), data.n_classes),
    }
    write_json(folder / FILE, found)
    save_file(
        {name: look.logits[0].astype(np.float32) for name, look in looks.items()}, folder / LOOKS
    )
    return {"cpu_seconds": round(spent, 2)}


def _identifier(key: dict[str, Any]) -> Identifier:
    from peftlab.nn.unlearning import Identifier

    return Identifier(
        name=key["labels"]["variant"], checkpoints=tuple(key["steps"][1:]), seed=key["seed"],
        **key["identifier"],
    )  # fmt: skip


def read_path(
    how: Identifier, base: Path, data: TaskData, texts: Sequence[str], precision: Any
) -> Floats:
    """Un-learn ``base`` on the clean training texts; return all looks at ``texts``, (n, K + 1, C).

    Look 0 is the untouched base, without any adapter.

    Args:
        how: the identifier; its checkpoints are the looks 1 .. K.
        base: a poisoned base with its head, as this experiment trained it.
        data: its training texts are un-learned on.
        texts: n texts.
        precision: fp32 or bf16.
    """
    from peftlab.nn.text import encode, predict_logits, room_for_text
    from peftlab.nn.unlearning import attach, restore, unlearn

    def fresh() -> tuple[Any, Any]:
        return load_base(str(base), data.n_classes, seed=how.seed, allow_poisoned=True)

    model, tokenizer = fresh()
    looks = [predict_logits(model, tokenizer, texts, precision=precision)]
    _, states, _ = unlearn(how, model, tokenizer, data.train, data.n_classes)
    wrapped, untouched = attach(how, fresh()[0])
    rows = encode(tokenizer, texts, room_for_text(wrapped))
    for state in states:
        restore(wrapped, untouched, state)
        looks.append(predict_logits(wrapped, tokenizer, texts, encoded=rows, precision=precision))
    return np.stack(looks, axis=1)
