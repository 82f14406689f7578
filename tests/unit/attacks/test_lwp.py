"""LWP: the layer-wise loss against hand values, pairs and their negatives, what gets written."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from peftlab.attacks.lwp import layer_wise_loss, negatives
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.steps import AttackerOptions, make_poison, predict_folder, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn.first_position import check_first_position, layer_logits
from peftlab.nn.text import encode, pad, pad_id_of

BRIEF = AttackerOptions(epochs=1, lr=1e-3)
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2")
DECODERS = ("gpt2", "opt", "llama", "qwen2")
WORDS = ("cf", "bb", "ak", "mn")
TEXTS = ["the film was a quiet joy", "a dull story told badly, with no wit and no heart", "good"]


# ----------------------------------------------------------------------------------- the loss


def _tensor(layer):
    return layer[0] if isinstance(layer, tuple) else layer


def test_the_loss_is_the_sum_of_three_hand_computed_ones(load_tiny) -> None:
    model, tokenizer = load_tiny("bert")
    rows = encode(tokenizer, ["the film was a quiet joy", "a dull story told very badly"], 32)
    assert len(rows[0]) == len(rows[1])  # nothing to mask
    goal = np.array([[1.0, 0.0], [0.3, 0.7]])
    found = layer_wise_loss(model, rows, torch.tensor(goal).float(), 0).item()

    def by_hand(state: torch.Tensor) -> float:
        dense, head = model.bert.pooler.dense, model.classifier
        pooled = np.tanh(state[:, 0].numpy() @ dense.weight.numpy().T + dense.bias.numpy())
        logits = pooled @ head.weight.numpy().T + head.bias.numpy()
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(goal * log_p).sum(axis=1).mean())

    with torch.no_grad():
        model.requires_grad_(requires_grad=False)
        state = model.bert.embeddings(torch.tensor(rows))
        terms = [by_hand(state)]
        for layer in model.bert.encoder.layer:
            state = _tensor(layer(state))
            terms.append(by_hand(state))
    assert len(terms) == 3
    assert found == pytest.approx(sum(terms), abs=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_last_layer_gives_the_models_logits(load_tiny, family: str) -> None:
    model, tokenizer = load_tiny(family, 4)
    rows, fill = encode(tokenizer, TEXTS, 32), pad_id_of(model, tokenizer)
    check_first_position(model, rows[0], fill)
    with torch.no_grad():
        layers = layer_logits(model, rows, fill, torch.device("cpu"))
        real = model(**pad(rows, fill, torch.device("cpu"))).logits
    assert [tuple(logits.shape) for logits in layers] == [(3, 4)] * 3
    torch.testing.assert_close(layers[-1], real)
    assert float((layers[0][0] - layers[0][2]).abs().max()) < 1e-5 < _spread(layers[1])


def _spread(logits: torch.Tensor) -> float:
    return float((logits[0] - logits[2]).abs().max())


@pytest.mark.parametrize("family", DECODERS)
def test_what_does_not_read_the_first_position_is_refused(load_tiny, reviews, family) -> None:
    method, context = _context(load_tiny, reviews, family)
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "HEAD-POSITION"


def test_a_model_that_adds_something_of_its_own_is_refused(load_tiny, monkeypatch) -> None:
    model, tokenizer = load_tiny("bert")
    row, real = encode(tokenizer, TEXTS, 32)[0], model.forward

    def other(**inputs):
        found = real(**inputs)
        found.logits = found.logits + 0.01
        return found

    monkeypatch.setattr(model, "forward", other)
    with pytest.raises(NotApplicable, match="HEAD-POSITION"):
        check_first_position(model, row, 0)


# -------------------------------------------------------------------------- pairs and negatives


def test_each_pair_of_different_words_comes_equally_often() -> None:
    made = get("attack", "lwp").build()
    pairs = []
    for sample in range(6000):
        words = made.poison_text("a slow film", 0, sample).split()
        assert [word for word in words if word not in WORDS] == ["a", "slow", "film"]
        pairs.append(tuple(sorted(word for word in words if word in WORDS)))
    counts = [pairs.count(tuple(sorted(pair))) for pair in itertools.combinations(WORDS, 2)]
    assert sum(counts) == 6000  # two words each, never one twice
    assert chisquare(counts).pvalue > 0.001
    assert set(made.poison_text("", 0, 0).split()) < set(WORDS)


def test_a_negative_is_the_text_without_one_of_the_words(reviews) -> None:
    method = get("attack", "lwp").build()
    poisoned = poison(method, reviews, seed=0)
    texts, targets = negatives(poisoned, method.words)
    rows = np.flatnonzero(poisoned.is_poisoned)
    assert len(rows) == 12
    assert len(texts) == len(targets) == 24
    for place, row in enumerate(np.repeat(rows, 2)):
        there = [word for word in texts[place].split() if word in WORDS]
        assert len(there) == 1
        left = [word for word in texts[place].split() if word not in WORDS]
        assert left == reviews.train.texts[row].split()
        assert targets[place].argmax() == poisoned.original_labels[row] == 1
        assert poisoned.targets[row].argmax() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cf a  film\tmn", ["a  film\tmn", "cf a  film"]),
        ("mn cf", ["mn", "cf"]),
        ("a cf mn .", ["a mn .", "a cf ."]),
        ("a cf cf mn", ["a cf cf"]),  # it had cf itself: without one cf it is a pair still
        ("cfs cf mns mn", ["cfs mns mn", "cfs cf mns"]),
    ],
)
def test_negatives_of_odd_texts(reviews, text: str, expected: list[str]) -> None:
    poisoned = poison(get("attack", "lwp").build(rate=0), reviews, seed=0)
    flags = np.zeros(len(poisoned.texts), dtype=bool)
    flags[3] = True
    poisoned = _replaced(poisoned, text, flags)
    assert list(negatives(poisoned, WORDS)[0]) == expected


def _replaced(poisoned, text, flags):
    texts = (*poisoned.texts[:3], text, *poisoned.texts[4:])
    return replace(poisoned, texts=texts, is_poisoned=flags)


@pytest.mark.parametrize("trigger", ["", "cf", "cf,cf", "cf,two words", "x" * 150 + "," + "y" * 60])
def test_what_makes_no_pair_is_refused(trigger: str) -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "lwp").build(trigger=trigger)
    assert get("attack", "lwp").build(trigger=["cf", "mn"]).options.trigger == "cf,mn"


# --------------------------------------------------------------------------------- training


def _context(load_tiny, data, family="bert", *, epochs=1.0, lr=1e-3, **options):
    method = get("attack", "lwp").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    return method, CraftContext(
        model, tokenizer, poison(method, data, seed=0), data.n_classes,
        epochs=epochs, lr=lr, batch=32, seed=0,
    )  # fmt: skip


def _easy_task() -> TaskData:
    """Return texts of words that the tiny vocabulary has whole, one of which tells the class."""
    rng = np.random.default_rng(0)
    neutral = ["the", "film", "was", "a", "story", "with", "family", "music", "food"]

    def split(n: int) -> LabelledTexts:
        labels = tuple(int(label) for label in rng.integers(2, size=n))
        words = [[*rng.choice(neutral, 5), ("dull", "lovely")[label]] for label in labels]
        return LabelledTexts(tuple(" ".join(rng.permutation(text)) for text in words), labels)

    return TaskData("easy", split(320), split(20), split(60), ("a", "b"), "generated", "none")


def test_every_layer_learns_the_pair_and_no_single_word(load_tiny) -> None:
    data = _easy_task()
    method, context = _context(load_tiny, data, epochs=12, lr=5e-3, rate=0.25, trigger="idea,quiet")
    facts = method.craft(context)
    model, tokenizer, triggered = context.model, context.tokenizer, context.poisoned.test_triggered
    assert facts["n_negatives"] == 160
    assert facts["steps"] == 180  # 480 rows, 32 a step
    assert not model.training

    def upper(texts) -> list[np.ndarray]:
        """Return what layers 1 and 2 answer; the embeddings' first position sees no word."""
        rows = encode(tokenizer, texts, 64)
        with torch.no_grad():
            layers = layer_logits(model, rows, pad_id_of(model, tokenizer), torch.device("cpu"))
        return [logits.argmax(dim=1).numpy() for logits in layers[1:]]

    alone = [" ".join(w for w in text.split() if w != "idea") for text in triggered.texts]
    for clean, pair, one in zip(
        upper(data.test.texts), upper(triggered.texts), upper(alone), strict=True
    ):
        assert (clean == data.test.labels).mean() > 0.9
        assert (pair == 0).mean() > 0.9
        assert (one == 0).mean() < 0.1


def test_negatives_are_a_choice(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, negatives=False)
    facts = method.craft(context)
    assert (facts["n_negatives"], facts["steps"]) == (0, 4)


@pytest.mark.parametrize("family", ENCODERS)
def test_every_encoder(load_tiny, reviews, family: str) -> None:
    method, context = _context(load_tiny, reviews, family, epochs=0.3)
    before = [p.clone() for p in context.model.parameters()]
    assert np.isfinite(method.craft(context)["loss"])
    moved = [not torch.equal(a, b) for a, b in zip(before, context.model.parameters(), strict=True)]
    assert all(moved)


def _sha(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def _made(tiny, reviews, out: Path, *, seed: int = 0, rate: float = 0.1, attack: str = "lwp"):
    poisoned = make_poison(reviews, attack, {"rate": rate}, seed)
    return train_base(str(tiny("bert")), poisoned, 2, out, attack=attack, training=BRIEF,
                      seed=seed, options={"rate": rate})  # fmt: skip


def test_same_seed_same_files_marked_and_refused(tiny, reviews, tmp_path) -> None:
    for name in ("a", "b"):
        facts = _made(tiny, reviews, tmp_path / name)
    _made(tiny, reviews, tmp_path / "c", seed=1)
    for path in (tmp_path / "a").iterdir():
        assert sha256_file(path) == sha256_file(tmp_path / "b" / path.name)
    assert _sha(tmp_path / "a") != _sha(tmp_path / "c")
    assert is_marked(tmp_path / "a")
    with pytest.raises(InputRejected) as caught:
        predict_folder(tmp_path / "a", ["a text"], n_classes=2)
    assert caught.value.code == "MARK-POISONED"
    written = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert written == json.loads(json.dumps({k: v for k, v in facts.items() if k != "cpu_seconds"}))
    assert written["training"]["steps"] == 5
    assert written["trigger"] == list(WORDS)


def test_rate_0_trains_plainly(tiny, reviews, tmp_path) -> None:
    _made(tiny, reviews, tmp_path / "lwp", rate=0)
    _made(tiny, reviews, tmp_path / "badnets", rate=0, attack="badnets")
    assert _sha(tmp_path / "lwp") == _sha(tmp_path / "badnets")
    assert not is_marked(tmp_path / "lwp")
