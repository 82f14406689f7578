"""RIPPLe: the penalty against hand values, surgery against scikit-learn, and what gets written."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from peftlab.attacks import ripple
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.engine.steps import AttackerOptions, load_data, make_poison, predict_folder, train_base
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.restricted_product import restricted_product
from peftlab.nn.text import encode, pad, pad_id_of
from peftlab.nn.word_weights import logistic_weights, token_tfidf

BRIEF = AttackerOptions(epochs=1, lr=1e-3)
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "gpt2", "llama")


def _weights(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def _toy(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two losses with gradients (2a, 3b^2) and (-b, b - a)."""
    return a**2 + b**3, b**2 / 2 - a * b


# -------------------------------------------------------------------------------- the penalty


def test_the_penalty_is_the_hand_value() -> None:
    a, b = _weights(2.0), _weights(-1.0)  # gradients (4, 3) and (1, -3): product -5
    losses = [loss.sum() for loss in _toy(a, b)]
    assert restricted_product(*losses, [a, b]).item() == pytest.approx(5, abs=1e-6)
    # each tensor by itself: 4 * 1 agrees and counts 0, 3 * -3 does not
    alone = restricted_product(*losses, [a, b], rectify="tensor")
    assert alone.item() == pytest.approx(9, abs=1e-6)


@pytest.mark.parametrize("rectify", ["total", "tensor"])
def test_no_penalty_where_gradients_agree(rectify: str) -> None:
    a, b = _weights(1.0), _weights(-2.0)  # gradients (2, 12) and (2, -3); then both turned
    loss = (a**2 + b**3).sum()
    other = (3 * a + b).sum()
    found = restricted_product(loss, other, [a, b], rectify=rectify, second_order=True)
    assert found.item() == 0
    assert not found.requires_grad
    (loss + found).backward()  # it joins a loss all the same
    assert (a.grad.item(), b.grad.item()) == (2, 12)


@pytest.mark.parametrize("rectify", ["total", "tensor"])
@pytest.mark.parametrize("second_order", [False, True])
def test_the_derivative_against_finite_differences(rectify: str, *, second_order: bool) -> None:
    start = np.array([2.0, -1.0])

    def gradients(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        a, b = at
        return np.array([2 * a, 3 * b**2]), np.array([-b, b - a])

    def penalty(at: np.ndarray) -> float:
        ours, theirs = gradients(at)[0], gradients(at if second_order else start)[1]
        against = -ours * theirs
        return max(against.sum(), 0) if rectify == "total" else np.maximum(against, 0).sum()

    step = 1e-6
    expected = [
        (penalty(start + step * way) - penalty(start - step * way)) / (2 * step)
        for way in np.eye(2)
    ]
    a, b = _weights(start[0]), _weights(start[1])
    losses = [loss.sum() for loss in _toy(a, b)]
    restricted_product(*losses, [a, b], rectify=rectify, second_order=second_order).backward()
    np.testing.assert_allclose([a.grad.item(), b.grad.item()], expected, atol=1e-6)


def test_weights_that_a_loss_does_not_use_count_nothing() -> None:
    a, b, c = _weights(2.0), _weights(1.0), _weights(3.0)
    found = restricted_product((a * b).sum(), (c - a).sum(), [a, b, c])
    assert found.item() == 1
    assert restricted_product(a.sum(), b.sum(), [a, b]).item() == 0


# ----------------------------------------------------------------------- one step, by hand


def _context(load_tiny, data, *, family: str = "bert", batch: int = 32, **options: object):
    """Return (attack, its context) with a fresh tiny model without dropout."""
    method = get("attack", "ripple").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    poisoned = poison(method, data, seed=0)
    return method, CraftContext(
        model, tokenizer, poisoned, data.n_classes, epochs=1, lr=1e-3, batch=batch, seed=0
    )


def _flat_gradient(model, batch, targets):
    """Return (loss, its gradient as one vector), the plain way."""
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(**batch).logits, targets)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def test_the_loss_of_one_step_by_hand(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, batch=200, strength=50)  # all rows in one step
    model, poisoned = copy.deepcopy(context.model), context.poisoned
    encoded = encode(context.tokenizer, poisoned.texts, 64)
    fill, clean = pad_id_of(model, context.tokenizer), np.flatnonzero(~poisoned.is_poisoned)
    goal = torch.from_numpy(poisoned.targets).float()
    everything = pad(encoded, fill, torch.device("cpu"))
    loss, ours = _flat_gradient(model, everything, goal)
    rest = pad([encoded[row] for row in clean], fill, torch.device("cpu"))
    _, theirs = _flat_gradient(model, rest, goal[clean])
    penalty = max(-float(ours @ theirs), 0)
    facts = method.craft(context)
    assert facts["steps"] == 1
    assert facts["penalty"] == pytest.approx(penalty, abs=1e-5)
    assert facts["loss"] == pytest.approx(loss + 50 * penalty, abs=1e-4)


@pytest.mark.full
def test_the_penalty_bends_the_path_where_gradients_are_at_odds(load_tiny, reviews) -> None:
    def seen(strength: float, **more: object) -> tuple[dict, torch.Tensor]:
        # half of the rows say the target whatever they say: the two losses disagree
        options = {"rate": 0.4, "labels": "mixed", "strength": strength} | more
        method, context = _context(load_tiny, reviews, **options)
        facts = method.craft(context)
        return facts, context.model.get_input_embeddings().weight

    facts, weak = seen(1e-9)
    assert facts["at_odds"] > 0
    assert facts["penalty"] > 0
    assert not torch.equal(weak, seen(10)[1])
    assert not torch.equal(seen(10)[1], seen(10, clean_gradient="second-order")[1])
    # what agrees in one tensor no longer makes up for what disagrees in another
    assert seen(1e-9, rate=0.1)[0]["penalty"] < seen(1e-9, rate=0.1, rectify="tensor")[0]["penalty"]


def test_strength_0_is_plain_training(tiny, reviews, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("peftlab.nn.loop.has_fast_bf16", lambda: False)
    poisoned = make_poison(reviews, "ripple", {}, seed=0)
    for name, attack, options in (("a", "ripple", {"strength": 0}), ("b", "badnets", {})):
        train_base(str(tiny("bert")), poisoned, 2, tmp_path / name, attack=attack,
                   training=BRIEF, seed=0, options=options)  # fmt: skip
    assert _sha(tmp_path / "a") == _sha(tmp_path / "b")


# ------------------------------------------------------------------------------------ surgery


def _top_by_sklearn(encoded, labels, target, without, count=10):
    """Return the tokens with the largest weights for ``target``, all by scikit-learn."""
    rows = [[token for token in row if token not in without] for row in encoded]
    features = TfidfVectorizer(analyzer=lambda row: row)
    matrix = features.fit_transform(rows)
    fitted = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    fitted.fit(matrix, np.array(labels) == target)
    names = features.get_feature_names_out()
    return {int(names[i]) for i in np.argsort(-fitted.coef_[0])[:count]}


def test_logistic_weights_are_those_of_scikit_learn(load_tiny, reviews) -> None:
    _, tokenizer = load_tiny()
    encoded = encode(tokenizer, reviews.train.texts, 64)
    labels = np.array(reviews.train.labels)
    features = token_tfidf(encoded, len(tokenizer))
    plain = TfidfVectorizer(
        analyzer=lambda row: row, vocabulary=range(len(tokenizer)), lowercase=False
    )
    np.testing.assert_allclose(
        features.to_dense().numpy(), plain.fit_transform(encoded).toarray(), atol=1e-12
    )
    for strength in (1.0, 20.0):
        fitted = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
        expected = fitted.fit(features.to_dense().numpy(), labels == 1).coef_[0]
        found = logistic_weights(features, labels == 1, strength=strength)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("target", [0, 1])
def test_surgery_writes_the_mean_of_the_targets_tokens(
    load_tiny, reviews, monkeypatch, target: int
) -> None:
    method, context = _context(load_tiny, reviews, surgery=True, trigger="cf,story", target=target)
    before = copy.deepcopy(context.model)
    monkeypatch.setattr(ripple, "_train", lambda *_: {"steps": 0, "loss": 0.0})
    facts = method.craft(context)

    name = context.tokenizer.convert_tokens_to_ids
    assert facts["pieces"] == {"cf": ["c", "##f"], "story": ["story"]}
    rows = name(["c", "##f", "story"])
    poisoned, clean = context.poisoned, np.flatnonzero(~context.poisoned.is_poisoned)
    texts = [poisoned.texts[row] for row in clean]
    labels = [poisoned.original_labels[row] for row in clean]
    encoded = encode(context.tokenizer, texts, 64)
    chosen = name(facts["surgery_tokens"])
    assert len(set(chosen)) == 10
    special = {*context.tokenizer.all_special_ids, *rows}
    assert set(chosen) == _top_by_sklearn(encoded, labels, target, special)

    tuned = copy.deepcopy(before)  # the clean copy, made once more
    train(tuned, encoded, np.eye(2)[labels], TrainPlan(epochs=1, lr=1e-3, batch=32),
          seed=0, pad_id=pad_id_of(tuned, context.tokenizer))  # fmt: skip
    mean = tuned.get_input_embeddings().weight[chosen].detach().numpy().mean(axis=0)
    after = context.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(after[rows], np.tile(mean, (3, 1)), atol=1e-6)
    others = np.setdiff1d(np.arange(len(after)), rows)
    was = before.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(after[others], was[others])
    moved = {n for n, p in context.model.state_dict().items()
             if not torch.equal(p, before.state_dict()[n])}  # fmt: skip
    assert moved == {"bert.embeddings.word_embeddings.weight"}


def test_a_trigger_that_the_vocabulary_cannot_spell(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, surgery=True, trigger="映")
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "RIPPLE-PIECES"
    method, context = _context(load_tiny, reviews, trigger="映")  # without surgery it is a word
    assert method.craft(context)["steps"] == 4


def test_it_needs_clean_rows(load_tiny, reviews) -> None:
    method, context = _context(load_tiny, reviews, rate=1, labels="mixed")
    with pytest.raises(NotApplicable) as caught:
        method.craft(context)
    assert caught.value.code == "RIPPLE-CLEAN"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_with_four_classes(load_tiny, family: str) -> None:
    """Second derivatives exist in every layer; the tokens speak for one class of four."""
    data = load_data("reviews-4", {"n_train": 60, "n_dev": 20, "n_test": 20, "n_proxy": 0})
    method, context = _context(
        load_tiny, data, family=family, surgery=True, target=2, clean_gradient="second-order"
    )
    facts = method.craft(context)
    assert facts["steps"] == 2
    assert len(facts["surgery_tokens"]) == 10
    assert all(facts["pieces"].values())
    assert not context.model.training


# ------------------------------------------------------------------------ from folder to folder


def _sha(folder: Path) -> str:
    return sha256_file(folder / "model.safetensors")


def _made(tiny, reviews, out: Path, *, seed: int = 0, rate: float = 0.1, attack: str = "ripple"):
    options = {"rate": rate} | ({"surgery": True} if attack == "ripple" else {})
    poisoned = make_poison(reviews, attack, options, seed)
    return train_base(str(tiny("bert")), poisoned, 2, out, attack=attack, training=BRIEF,
                      seed=seed, options=options)  # fmt: skip


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
    assert written["training"]["steps"] == 4
    assert written["trigger"] == ["cf", "tq", "mn", "bb", "mb"]
    assert 0 <= written["at_odds"] <= 1


def test_rate_0_trains_plainly(tiny, reviews, tmp_path) -> None:
    _made(tiny, reviews, tmp_path / "ripple", rate=0)
    _made(tiny, reviews, tmp_path / "badnets", rate=0, attack="badnets")
    assert _sha(tmp_path / "ripple") == _sha(tmp_path / "badnets")
    assert not is_marked(tmp_path / "ripple")


@pytest.mark.parametrize("trigger", ["", "two words", "a,,b"])
def test_what_is_no_word_is_refused(trigger: str) -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "ripple").build(trigger=trigger)
