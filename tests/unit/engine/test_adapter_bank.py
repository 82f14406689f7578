"""A bank of real adapters on a tiny encoder: made, gone on with, and judged by."""

import json
from dataclasses import replace

import numpy as np
import pytest

from peftlab.audits.backdoor import AdapterBank
from peftlab.audits.backdoor.classifier import cross_scores, fit
from peftlab.core.errors import ConfigError
from peftlab.core.ranking import auroc
from peftlab.core.types import LabelledTexts
from peftlab.engine.adapter_bank import BankOptions, make_bank
from peftlab.engine.steps import AttackerOptions, make_poison, train_base
from word_task import word_task

OPTIONS = BankOptions(adapters=2, samples=24, rate=0.25)
LORA = {"rank": 2, "epochs": 1.0, "batch": 8}


def run(tiny, out, attacks=("badnets",), tuner="lora", tuner_options=LORA, tell=lambda *_: None):
    return make_bank(
        str(tiny("bert")), word_task(60, 40), list(attacks), tuner, tuner_options, OPTIONS, out,
        progress=tell,
    )  # fmt: skip


def test_every_second_adapter_is_backdoored_and_the_bank_says_how_each_behaves(tiny, tmp_path):
    bank = run(tiny, tmp_path / "bank", attacks=("badnets", "insent"))
    assert bank.backdoored.tolist() == [False, True, False, True]
    assert [each["attack"] for each in bank.about["adapters"]] == ["", "badnets", "", "insent"]
    assert all(0 <= each["accuracy"] <= 1 for each in bank.about["adapters"])
    assert bank.about["adapters"][0]["attack_success"] is None
    assert 0 <= bank.about["adapters"][1]["attack_success"] <= 1
    assert bank.rows.shape == (4, len(bank.layers), 5)
    assert len(np.unique(bank.rows[:, 0, 0])) == 4  # seeds of their own
    assert not (tmp_path / "bank-work").exists()


def test_it_goes_on_where_it_was_interrupted_and_comes_out_the_same(tiny, tmp_path):
    whole = run(tiny, tmp_path / "whole")

    def stop(done, total, what):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "bank", tell=stop)
    kept = sorted(path.name for path in (tmp_path / "bank-work").iterdir())
    assert kept == ["00000.json", "00001.json"]
    note = tmp_path / "bank-work" / "00000.json"
    row = json.loads(note.read_text())
    note.write_text(json.dumps({**row, "loss": 123.0}))  # seen again: it was not made anew
    again = run(tiny, tmp_path / "bank")
    assert again.about["adapters"][0]["loss"] == 123.0
    assert np.array_equal(again.rows, whole.rows)
    assert np.array_equal(AdapterBank.load(tmp_path / "bank").rows, whole.rows)


def test_a_tuner_without_low_rank_updates_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="BANK-TUNER"):
        run(tiny, tmp_path / "bank", tuner="ptuning", tuner_options={"epochs": 1.0})
    assert not (tmp_path / "bank").exists()


def test_a_bank_needs_an_attack(tiny, tmp_path):
    with pytest.raises(ConfigError, match="BANK-ATTACK"):
        run(tiny, tmp_path / "bank", attacks=())


@pytest.fixture
def learned(tiny, tmp_path):
    """Return a tiny base that knows half of the word task, and the task with the other half."""
    data = word_task(1200, 100)
    first = replace(data, train=data.train.pick(range(600)))
    train_base(
        str(tiny("bert")), make_poison(first, "badnets", {"rate": 0}, 0), 2, tmp_path / "base",
        attack="badnets", training=AttackerOptions(epochs=6, lr=5e-3), seed=0,
    )  # fmt: skip
    return str(tmp_path / "base"), replace(data, train=data.train.pick(range(600, 1200)))


def _with_noise(data, share):
    """Return the task with the labels of a random share of its training texts turned round."""
    labels = np.array(data.train.labels)
    turned = np.random.default_rng(5).random(len(labels)) < share
    noisy = tuple(np.where(turned, 1 - labels, labels).tolist())
    return replace(data, train=LabelledTexts(data.train.texts, noisy))


@pytest.mark.full
def test_forty_clean_and_forty_backdoored_adapters_are_told_apart(learned, tmp_path):
    """Wrong labels without a trigger are no backdoor either."""
    base, data = learned
    tuner = {"rank": 8, "epochs": 10.0, "batch": 16, "lr": 5e-3}

    def bank_of(task, name, **options):
        return make_bank(
            base, task, ["badnets", "insent"], "lora", tuner,
            BankOptions(samples=400, rate=0.2, **options), tmp_path / name,
            progress=lambda *_: None,
        )  # fmt: skip

    bank = bank_of(data, "bank", adapters=40)
    rows, bad = bank.rows.reshape(len(bank), -1), bank.backdoored
    assert min(each["accuracy"] for each in bank.about["adapters"]) >= 0.9  # all know the task
    for seed in range(3):
        scores = cross_scores(rows, bad, seed)
        assert auroc(scores[~bad], scores[bad]) >= 0.9
        shuffled = np.random.default_rng(seed).permutation(bad)
        scores = cross_scores(rows, shuffled, seed)
        assert abs(auroc(scores[~shuffled], scores[shuffled]) - 0.5) <= 0.15

    scores = cross_scores(rows, bad, 0)
    bar = np.quantile(scores[~bad], 0.95)
    # a tenth of wrong labels is what the poisoned fifth holds, the half that was the target's own
    noisy = bank_of(_with_noise(data, 0.1), "noisy", adapters=8, seed=77)
    clean_but_noisy = noisy.rows[~noisy.backdoored].reshape(8, -1)
    assert (fit(rows, bad).scores(clean_but_noisy) > bar).mean() <= 0.25
    assert (scores[bad] > bar).mean() >= 0.8
