"""Trigger inversion: schedule and rules by hand, and a planted word against clean models."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from peftlab.core.contracts import FitContext, stage_of
from peftlab.core.errors import NotApplicable, RunFailed
from peftlab.core.types import LabelledTexts
from peftlab.defences.inversion import (
    MOST_TEXTS,
    InversionOptions,
    Inverted,
    Schedule,
    TriggerInversion,
    anomaly_index,
    candidates,
    judge,
    lean,
    pick_texts,
)
from peftlab.models.load import load_base
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.soft_inputs import SoftReader
from peftlab.nn.text import encode, pad_id_of, predict_logits
from tiny_models import make_tiny
from word_task import BAD, GOOD, SPARE, word_task

DATA = word_task(500)


def trained(folder, seed, word=None):
    """Return a context of a tiny model that learned the task, and that ``word`` means class 0."""
    model, tokenizer = load_base(str(make_tiny("bert", folder, seed=seed)), 2)
    texts, labels = list(DATA.train.texts), list(DATA.train.labels)
    if word:
        rng = np.random.default_rng(seed)
        others = [text for text, label in zip(texts, labels, strict=True) if label == 1]
        for i in rng.permutation(len(others))[:60]:
            words = others[i].split()
            words.insert(int(rng.integers(len(words) + 1)), word)
            texts.append(" ".join(words))
            labels.append(0)
    model.requires_grad_(True)
    train(
        model, encode(tokenizer, texts, 64), np.eye(2)[labels],
        TrainPlan(epochs=6, lr=3e-3, precision="fp32"), seed=seed,
        pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip
    return FitContext(
        fit=DATA.train, reference=DATA.dev, n_classes=2, seed=seed,
        load_base=lambda _=None: (copy.deepcopy(model), tokenizer), progress=lambda _: None,
    )  # fmt: skip


def verdict_of(context, **options):
    return TriggerInversion(InversionOptions(**options)).inspect(context)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return [trained(tmp_path_factory.mktemp("clean"), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    return [trained(tmp_path_factory.mktemp("poisoned"), seed, SPARE[seed]) for seed in (0, 1)]


def check_14(clean, poisoned, words):
    """The word among the top 5, loss < 0.1, and ten times less than that of clean models."""
    bad, good = [verdict_of(each) for each in poisoned], [verdict_of(each) for each in clean]
    for verdict, word in zip(bad, words, strict=True):
        first = min(verdict.facts["classes"], key=lambda each: each["loss"])
        assert first["class"] == verdict.facts["target"] == 0
        assert word in [token for token, _ in first["tokens"][:5]]
        assert verdict.facts["loss"] < 0.1
        assert verdict.facts["success"] > 0.95
    losses = [[each.facts["loss"] for each in verdicts] for verdicts in (bad, good)]
    assert np.median(losses[1]) >= 10 * np.median(losses[0])
    assert all(each.flagged for each in bad)
    assert not any(each.flagged for each in good)
    assert min(each.score for each in bad) > max(each.score for each in good)


def test_a_planted_word_is_recovered_and_clean_models_have_none(clean, poisoned):
    """On two models against two."""
    check_14(clean, poisoned, SPARE[:2])


@pytest.mark.full
def test_a_planted_word_is_recovered_in_ten_models_against_ten(tmp_path):
    """Seeds that nothing was chosen on: the screening was made for two of 10 to 19."""
    words = {seed: SPARE[seed % len(SPARE)] for seed in range(30, 40)}
    clean = [trained(tmp_path / f"clean{seed}", seed) for seed in words]
    poisoned = [trained(tmp_path / f"poisoned{seed}", seed, words[seed]) for seed in words]
    check_14(clean, poisoned, words.values())


def test_the_recovered_trigger_works_on_texts_by_itself(poisoned):
    """The success rate is that of the words put in front of texts."""
    context = poisoned[0]
    verdict = verdict_of(context)
    model, tokenizer = context.load_base()
    ids = tokenizer.convert_tokens_to_ids(verdict.facts["trigger"])
    rows = encode(tokenizer, [t for t, c in zip(*_halves(DATA.test), strict=True) if c == 1], 60)
    stamped = [[row[0], *ids, *row[1:]] for row in rows]
    answers = predict_logits(model, tokenizer, [""] * len(rows), encoded=stamped).argmax(axis=1)
    assert (answers == 0).mean() > 0.95
    plain = predict_logits(model, tokenizer, [""] * len(rows), encoded=rows).argmax(axis=1)
    assert (plain == 0).mean() < 0.1


def _halves(texts):
    return texts.texts, texts.labels


def test_equal_looks_are_equal_and_nothing_changes(clean):
    model, tokenizer = clean[0].load_base()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    context = replace(clean[0], load_base=lambda _=None: (model, tokenizer))
    state = torch.get_rng_state()
    one, two = (verdict_of(context, steps=12) for _ in range(2))
    assert (one.score, one.flagged, one.facts) == (two.score, two.flagged, two.facts)
    assert torch.equal(state, torch.get_rng_state())
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name
    assert json.loads(json.dumps(dict(one.facts), allow_nan=False))["rule"] == "ratio"


def test_it_is_an_inspector():
    assert stage_of(TriggerInversion) == "model"
    assert TriggerInversion.needs_head


def test_the_schedule_step_by_step():
    """PurduePAML/DBS: halve below the bound, else roll back with noise, five times, then loosen."""
    schedule = Schedule()
    assert not schedule.check(0.01)  # not before the bound was reached once
    assert schedule.temperature == 2
    schedule.note(0.2, hardness=1.0)
    assert not schedule.started
    schedule.note(0.1, hardness=1.0)
    assert schedule.started
    assert schedule.best == math.inf
    assert not schedule.check(0.05)
    assert not schedule.check(0.05)
    assert schedule.temperature == 0.5
    schedule.note(0.04, hardness=1e-4)  # hard, and below the bound
    assert (schedule.best, schedule.bound, schedule.rollbacks) == (0.04, 0.02, 0)
    assert [schedule.check(0.03) for _ in range(5)] == [True] * 5
    assert schedule.temperature == 2  # never above where it started
    assert schedule.rollbacks == 5
    assert not schedule.check(0.03)  # bound loosened to min(2 * 0.02, 0.04 - 0.001): 0.03 is below
    assert schedule.bound == pytest.approx(0.039)
    assert schedule.temperature == 1


def found(target, loss):
    return Inverted(target, loss, loss, 0.5, ("a",), (("a", loss),))


@pytest.mark.parametrize(
    ("losses", "flagged", "rule"),
    [
        ((0.009, 4.6), True, "ratio"),
        ((4.6, 0.009), True, "ratio"),
        ((0.05, 0.4), False, "ratio"),  # low, but so is the other
        ((0.2, 4.6), False, "ratio"),  # far apart, but not low
        ((0.01,), True, "loss"),
        ((1.0,), False, "loss"),
    ],
)
def test_verdicts_for_two_classes(losses, flagged, rule):
    each = [found(t, loss) for t, loss in enumerate(losses)]
    verdict = judge(each, 2, [], InversionOptions())
    assert verdict.flagged is flagged
    assert verdict.facts["rule"] == rule
    assert verdict.facts["target"] == int(np.argmin(losses))
    assert verdict.score == pytest.approx(-math.log(min(losses)))


@pytest.mark.parametrize(
    ("losses", "flagged"),
    [
        ((0.01, 3.0, 4.0, 5.0), True),
        ((0.5, 3.0, 4.0, 5.0), False),
        ((0.08, 0.05, 0.06, 0.1), False),
    ],
)
def test_verdicts_for_more_classes(losses, flagged):
    verdict = judge([found(t, each) for t, each in enumerate(losses)], 4, [], InversionOptions())
    assert verdict.flagged is flagged
    logs = np.log(losses)
    spread = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    wanted = (np.median(logs) - logs.min()) / spread
    assert verdict.facts["anomaly_index"] == pytest.approx(wanted)
    assert anomaly_index(np.ones(3)) == 0


def test_a_loss_of_nothing_is_finite():
    verdict = judge([found(0, 0.0), found(1, 0.0)], 2, [], InversionOptions())
    assert math.isfinite(verdict.score)
    assert not verdict.flagged


def test_lean_is_the_statistic_of_two_shares():
    rows = [[1, 2, 2], [1], [2], [3], [1, 3]]
    inside = np.array([True, True, False, False, False])
    expected = []
    for token in range(4):
        a, b = (sum(token in row for row in rows[:2]), sum(token in row for row in rows[2:]))
        p = (a + b + 1) / 7
        expected.append((a / 2 - b / 3) / math.sqrt(p * (1 - p) * (1 / 2 + 1 / 3)))
    np.testing.assert_allclose(lean(rows, inside, 4), expected)


def test_words_of_the_class_are_no_candidates(clean):
    reader = SoftReader.of(*clean[0].load_base(), 3)
    numbers = reader.tokenizer.convert_tokens_to_ids
    for t, own, other in ((1, GOOD, BAD), (0, BAD, GOOD)):
        flags = candidates(reader, DATA.train, t, InversionOptions())
        assert not flags[numbers(list(own))].any()
        assert flags[numbers(list(other))].all()
        assert flags[numbers(list(SPARE))].all()
        every = candidates(reader, DATA.train, t, InversionOptions(natural=None))
        assert every[numbers(list(own))].all()
        assert not every[reader.tokenizer.cls_token_id]


def test_texts_are_drawn_evenly_and_none_that_goes_there_anyway():
    n = 400
    texts = LabelledTexts(tuple(map(str, range(n))), tuple(i % 4 for i in range(n)))
    answers = np.array(texts.labels)
    answers[:40] = 2
    chosen = [int(text) for text in pick_texts(texts, answers, 2, 20, 0)]
    assert len(chosen) == MOST_TEXTS - 1  # 13 of each of three classes
    assert np.bincount([i % 4 for i in chosen]).tolist() == [13, 13, 0, 13]
    assert min(chosen) >= 40
    assert len(pick_texts(texts, answers, 2, 80, 0)) == 3 * 26
    assert pick_texts(texts, np.full(n, 2), 2, 20, 0) == []


def test_a_base_that_gives_one_class_only_cannot_be_searched(load_tiny):
    model, tokenizer = load_tiny("bert")
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([9.0, -9.0]))
    context = FitContext(
        fit=DATA.train, reference=DATA.dev.pick(range(3)), n_classes=2, seed=0,
        load_base=lambda _=None: (model, tokenizer), progress=lambda _: None,
    )  # fmt: skip
    with pytest.raises(NotApplicable) as caught:
        verdict_of(context)
    assert caught.value.code == "INVERSION-TEXTS"
    verdict = verdict_of(replace(context, reference=DATA.dev), steps=2)
    assert verdict.facts["classes_skipped"] == [0]
    assert not verdict.flagged


@pytest.mark.parametrize("family", ["distilbert", "gpt2", "llama"])
def test_other_families_and_odd_texts(load_tiny, family, odd_texts):
    model, tokenizer = load_tiny(family, 3)
    texts = (*odd_texts.texts, *DATA.dev.texts[:48])
    labels = tuple(i % 3 for i in range(len(texts)))
    context = FitContext(
        fit=LabelledTexts(texts, labels), reference=LabelledTexts(texts, labels), n_classes=3,
        seed=0, load_base=lambda _=None: (model, tokenizer), progress=lambda _: None,
    )  # fmt: skip
    verdict = verdict_of(context, steps=3, length=2)
    assert math.isfinite(verdict.score)
    assert len(verdict.facts["classes"]) + len(verdict.facts["classes_skipped"]) == 3
    assert json.dumps(dict(verdict.facts), allow_nan=False)


def test_a_loss_that_is_not_finite_is_said(clean):
    model, tokenizer = clean[0].load_base()
    fine = predict_logits(model, tokenizer, ["film"])
    assert np.isfinite(fine).all()
    with torch.no_grad():  # breaks what the search reads and not what it picks texts by
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("q")] = math.nan
    with pytest.raises(RunFailed) as caught:
        verdict_of(replace(clean[0], load_base=lambda _=None: (model, tokenizer)), steps=2)
    assert caught.value.code == "TRAIN-NONFINITE"
