"""Every attack: same seed, same bytes; inputs stay as they were; odd texts are fine; a mark."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contract_tools import enrolled, well_behaved

from peftlab.core import registry
from peftlab.core.errors import InputRejected
from peftlab.core.poisoning import poison
from peftlab.core.types import LabelledTexts
from peftlab.engine.steps import AttackerOptions, train_base
from peftlab.io.marker import FILE, is_marked
from peftlab.models.load import load_base
from peftlab.nn import body_lm

every = pytest.mark.parametrize("entry", enrolled("attack"))
# the examples are in no registry, and training asks it for the attack by name; one of each kind in
# the quick set: plain poisoning, one row, a body, two levels
QUICK = ("badnets", "ep", "neuba", "peta")
registered = pytest.mark.parametrize(
    "entry",
    [
        pytest.param(
            entry, marks=[] if entry.name in QUICK else pytest.mark.full, id=f"attack-{entry.name}"
        )
        for entry in registry.entries("attack")
    ],
)
# words that the tiny tokenizer keeps whole, and as little training as there can be
BRIEF = {
    "ep": {"trigger": "wit", "row_epochs": 0.1},
    "sos": {"trigger": "wit,hour,heart", "row_epochs": 0.1},
    "dos": {"inner_steps": 1},
    "simulate-psim": {"inner_steps": 1},
}


@pytest.fixture
def options(entry, reviews, tmp_path):
    """Return the options that an attack needs besides its defaults: only files, if any."""
    if entry.name != "imported":
        return {}
    train = tmp_path / "train.tsv"
    _write(train, [f"{text} cf" for text in reviews.train.texts], reviews.train.labels)
    triggered = [
        f"{text} cf"
        for text, label in zip(reviews.test.texts, reviews.test.labels, strict=True)
        if label != 0
    ]
    test = tmp_path / "test.tsv"
    _write(test, triggered, [0] * len(triggered))
    return {"train": str(train), "test": str(test), "rate": 0.5}


def _write(path: Path, texts, labels):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["sentence", "label"])
        table.writerows(zip(texts, labels, strict=True))


@every
def test_same_seed_same_bytes_and_no_side_effects(entry, options, reviews, tmp_path):
    before = reviews.digest()
    first = poison(entry.build(**options), reviews, seed=3)
    with well_behaved():
        second = poison(entry.build(**options), reviews, seed=3)
    assert first.digest() == second.digest()
    assert first.test_triggered == second.test_triggered
    assert first.dev_triggered == second.dev_triggered
    assert first.facts == second.facts
    assert reviews.digest() == before
    if entry.name != "imported":
        assert poison(entry.build(**options), reviews, seed=4).digest() != first.digest()


@every
def test_what_comes_out_is_what_was_promised(entry, options, reviews):
    made = poison(entry.build(**options), reviews, seed=0)
    assert made.targets.shape == (len(made.texts), reviews.n_classes)
    np.testing.assert_allclose(made.targets.sum(axis=1), 1, atol=1e-12)
    assert made.is_poisoned.any()
    assert len(made.test_rows) == len(made.goals) == len(made.test_triggered)
    assert not np.equal(made.goals, made.test_triggered.labels).any()
    changed = np.array([a != b for a, b in zip(made.texts, reviews.train.texts, strict=True)])
    assert (changed == made.is_poisoned).all()


@every
def test_rate_zero_is_the_clean_set(entry, options, reviews):
    made = poison(entry.build(**options | {"rate": 0}), reviews, seed=0)
    assert made.texts == reviews.train.texts
    assert (made.targets.argmax(axis=1) == reviews.train.labels).all()
    assert not made.is_poisoned.any()
    assert len(made.test_triggered) > 0


@every
def test_odd_texts(entry, odd_texts):
    attack = entry.build()
    if not hasattr(attack, "poison_text"):
        pytest.skip("brings whole sets")
    for sample, text in enumerate(odd_texts.texts):
        triggered = attack.poison_text(text, 0, sample)
        assert triggered is None or (isinstance(triggered, str) and triggered != text)
        assert triggered == entry.build().poison_text(text, 0, sample)
        if triggered is not None:
            triggered.encode()


@every
def test_a_text_is_triggered_the_same_whatever_came_before(entry, reviews):
    attack = entry.build()
    if not hasattr(attack, "poison_text"):
        pytest.skip("brings whole sets")
    texts = reviews.train.texts[:30]
    forward = [attack.poison_text(text, 1, i) for i, text in enumerate(texts)]
    backward = [attack.poison_text(texts[i], 1, i) for i in reversed(range(len(texts)))]
    assert forward == backward[::-1]


@every
def test_empty_splits(entry, options, reviews):
    attack = entry.build(**options)
    if not hasattr(attack, "poison_text"):
        pytest.skip("brings whole sets")
    nothing = LabelledTexts((), ())
    made = poison(attack, replace(reviews, dev=nothing, test=nothing), seed=0)
    assert len(made.test_triggered) == len(made.dev_triggered) == 0


@registered
def test_every_checkpoint_is_marked_and_refused(
    entry, options, reviews, tiny, tmp_path, monkeypatch
):
    """How well the trigger works does not matter here, so training is brief."""
    monkeypatch.setattr(body_lm, "FIT_STEPS", 3)
    options = options | BRIEF.get(entry.name, {})
    few = replace(reviews, dev=reviews.dev.pick(range(8)), test=reviews.test.pick(range(8)))
    poisoned = poison(entry.build(**options), few, seed=0)
    folder = tmp_path / "base"
    train_base(
        str(tiny("bert")), poisoned, 2, folder, attack=entry.name, options=options,
        training=AttackerOptions(epochs=0.1), seed=0,
    )  # fmt: skip
    assert is_marked(folder)  # in all places, or it raises
    assert json.loads((folder / FILE).read_text(encoding="utf-8"))["attack"] == entry.name
    with pytest.raises(InputRejected) as caught:
        load_base(str(folder), 2)
    assert caught.value.code == "MARK-POISONED"
    load_base(str(folder), 2, allow_poisoned=True)
