"""Evaluation: never a concept on both sides, chance computed, control at chance, same bytes."""

import json

import numpy as np
import pytest

from peftlab.audits.size import SizeAuditor, evaluate, splits
from peftlab.audits.size.bench import OWN, bench
from peftlab.audits.size.chance import chance
from peftlab.audits.size.evaluate import score
from peftlab.audits.size.heads import HEADS
from peftlab.audits.size.leak import entropy_bits, mutual_information
from peftlab.audits.size.mismatch import mismatch
from peftlab.audits.size.study import curve, layer_map
from peftlab.audits.size.table import table_of
from peftlab.core.errors import ConfigError
from size_banks import make_bank

BANK = make_bank(concepts=20, layers=4, noise=0.15, own=0.15)


def test_no_concept_is_on_both_sides():
    for train, test in splits.by_name(BANK.names, 15, 10, 42):
        here, there = ({BANK.names[i] for i in rows} for rows in (train, test))
        assert not here & there
        assert (len(here), len(there)) == (15, 5)


def test_a_split_by_adapter_is_caught(monkeypatch):
    def by_adapter(names, train, repeats, seed):
        order = np.random.default_rng(seed).permutation(len(names))
        return [(order[:60], order[60:])] * repeats

    monkeypatch.setattr(splits, "by_name", by_adapter)
    with pytest.raises(AssertionError, match="both sides"):
        evaluate(BANK, repeats=1)
    with pytest.raises(AssertionError, match="both sides"):
        mismatch({"a": BANK, "b": BANK}, repeats=1)
    with pytest.raises(AssertionError, match="both sides"):
        layer_map(BANK, train=None, repeats=1, seed=0)
    with pytest.raises(ConfigError, match="SIZE-SPLIT"):
        evaluate(BANK, split="by-adapter")


def test_too_few_concepts_to_split():
    with pytest.raises(ConfigError, match="SIZE-SPLIT"):
        evaluate(BANK, train=20)
    one = BANK.of_concepts(BANK.concepts[:1])
    with pytest.raises(ConfigError, match="SIZE-SPLIT"):
        evaluate(one)
    assert evaluate(BANK.of_concepts(BANK.concepts[:2]), repeats=1).about["train"] == 1


def test_chance_is_that_of_the_sizes_that_occur():
    published = {
        (1, 2, 3, 4, 5, 6): (1.944, 1.5),
        (1, 10, 20, 30, 40, 50): (19.17, 14.83),
    }
    for sizes, (uniform, constant) in published.items():
        found = chance(np.array(sizes))
        assert found["uniform_mae"] == pytest.approx(uniform, abs=0.005)
        assert found["best_constant_mae"] == pytest.approx(constant, abs=0.005)


def test_shuffled_sizes_give_chance():
    found = evaluate(BANK, ("vote",), repeats=10, conformal=False)
    assert found.control == pytest.approx(found.chance["uniform_mae"], abs=0.15)
    assert found.mae < found.chance["best_constant_mae"]


def test_two_runs_give_the_same_bytes():
    texts = [json.dumps(bench(BANK, ("vote", "ridge"), repeats=1)) for _ in "ab"]
    assert texts[0] == texts[1]
    other = evaluate(BANK, ("vote", "ridge"), repeats=1, seed=1).to_json()
    assert other["heads"] != json.loads(texts[0])["heads"]


def test_result_has_the_promised_form():
    found = bench(BANK, ("vote", "frobenius"), repeats=2)
    assert [set(row) for row in found["heads"]] == [{"head", "mae", "mape", "accuracy"}] * 2
    assert set(found["chance"]) == {"uniform_mae", "best_constant_mae"}
    confusion = np.array(found["details"][0]["confusion"])
    assert confusion.sum() == 2 * 5 * 6
    assert found["heads"][0]["accuracy"] == pytest.approx(np.trace(confusion) / 60, abs=1e-5)
    assert [row["kinds"] for row in found["kinds"]] == [["A"], ["B"], ["BA"], ["A", "B", "BA"]]
    assert len(found["layer_map"]) == 12
    assert [box["size"] for box in found["norms"]] == [1, 2, 3, 4, 5, 6]
    means = [box["mean"] for box in found["norms"]]
    assert means == sorted(means, reverse=True)
    assert {row["train"] for row in found["curve"]} == {1, 2, 3, 5, 8, 12, 15}


def test_auditor_evaluates_its_own_head():
    found = SizeAuditor(("BA",), "lda").evaluate(BANK, repeats=2)
    assert [one.head for one in found.scores] == ["lda"]
    assert found.about["features"] == ["BA"]
    assert found.of("lda").accuracy == found.accuracy
    assert found.mae < found.chance["best_constant_mae"]


def test_more_concepts_help():
    rows = {row["train"]: row["mae"] for row in curve(BANK, ("norm",), repeats=3, seed=0)}
    assert rows[15] < rows[1]


def test_sizes_with_nought_have_no_percentage():
    bank = make_bank(concepts=6, sizes=(1, 2))
    zero = score("vote", table_of(bank, ("BA",)), bank.sizes - 1, bank.names,
                 splits.by_name(bank.names, 3, 2, 0))  # fmt: skip
    assert zero.mape is None


def test_mismatch_shows_what_another_recipe_does_and_what_references_mend():
    other = make_bank(concepts=20, layers=4, noise=0.15, own=0.15, scale=0.6)
    rows = mismatch({OWN: BANK, "half": other}, repeats=3)
    by_pair = {(row["bank"], row["target"]): row for row in rows}
    matched, crossed = by_pair[OWN, OWN], by_pair[OWN, "half"]
    assert crossed["mae"] > matched["mae"] + 0.4
    assert crossed["calibrated"]["3"] < crossed["mae"] - 0.3
    assert matched["flagged"] <= 0.1 < crossed["flagged"]
    with pytest.raises(ConfigError, match="SIZE-SPLIT"):
        mismatch({"a": BANK, "b": make_bank(concepts=4)}, repeats=1)


def test_information_in_bits():
    assert entropy_bits([1, 1, 1, 1]) == 2
    assert mutual_information(np.diag([500, 500])) == pytest.approx(1, abs=1e-3)
    assert mutual_information(np.zeros((2, 2))) == 0
    rng = np.random.default_rng(0)
    tables = [np.histogram2d(*rng.integers(0, 6, (2, 150)), bins=6)[0] for _ in range(200)]
    plain = [entropy_bits(t.sum(0)) + entropy_bits(t.sum(1)) - entropy_bits(t.ravel())
             for t in tables]  # fmt: skip
    assert np.mean(plain) > 0.1  # what the plug-in estimate claims about nothing
    assert np.mean([mutual_information(table) for table in tables]) < 0.025


@pytest.mark.full
def test_ten_heads_on_240_adapters_are_quick():
    import time

    bank = make_bank(concepts=40, layers=12)
    start = time.process_time()
    bench(bank, tuple(HEADS), repeats=10)
    assert time.process_time() - start < 30
