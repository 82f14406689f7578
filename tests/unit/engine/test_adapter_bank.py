"""A bank of real adapters on a tiny encoder: made, gone on with, and judged by."""

import json

import numpy as np
import pytest

from peftlab.audits.backdoor import AdapterBank
from peftlab.core.errors import ConfigError
from peftlab.engine.adapter_bank import BankOptions, make_bank
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
