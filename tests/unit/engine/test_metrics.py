"""Metrics: identities, brute force, oracles, denominators, and the official accounting."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from peftlab.core.errors import RunFailed
from peftlab.core.ranking import auroc
from peftlab.engine.metrics import (
    auroc_interval,
    beta_binomial_band,
    evaluate,
    summarise,
    tpr_at_fpr,
    wilson,
)

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared/data"))


def random_cell(rng, classes=3, n=40):
    labels = rng.integers(0, classes, n)
    labels[0] = 1
    rows = np.flatnonzero(labels != 0)
    k = len(rows)
    scores = np.round(rng.normal(size=n), 1), np.round(rng.normal(0.7, size=k), 1)
    return {
        "labels": labels,
        "clean_pred": np.where(rng.random(n) < 0.7, labels, rng.integers(0, classes, n)),
        "triggered_pred": np.where(rng.random(k) < 0.8, 0, rng.integers(0, classes, k)),
        "target": 0,
        "triggered_labels": labels[rows],
        "clean_scores": scores[0],
        "triggered_scores": scores[1],
        "clean_flags": scores[0] > 1,
        "triggered_flags": scores[1] > 1,
        "test_rows": rows,
    }


def test_equal_to_a_brute_force_count():
    """1,000 cases, counted text by text; FRR is the FPR and FAR is 1 - TPR."""
    rng = np.random.default_rng(0)
    tied = 0
    for _ in range(1000):
        cell = random_cell(rng, classes=int(rng.integers(2, 5)), n=int(rng.integers(2, 30)))
        got = evaluate(**cell)["metrics"]
        # plain numbers count in a tenth of the time that those of an array take
        plain = {name: cell[name].tolist() for name in cell if name != "target"}
        clean, trig = (
            list(zip(*(plain[name] for name in names.split()), strict=True))
            for names in (
                "labels clean_pred clean_flags clean_scores",
                "triggered_pred triggered_flags triggered_scores test_rows",
            )
        )
        n, k = len(clean), len(trig)
        frr = sum(f for _, _, f, _ in clean) / n  # clean texts that are turned away
        far = sum(not f for _, f, _, _ in trig) / k  # triggered texts that are let in
        clean_scores, trig_scores = [s for *_, s in clean], [s for _, _, s, _ in trig]
        expected = {
            "ca": sum(y == p for y, p, _, _ in clean) / n,
            "asr": sum(p == 0 for p, *_ in trig) / k,
            "ca_def": sum(y == p and not f for y, p, f, _ in clean) / n,
            "asr_def": sum(p == 0 and not f for p, f, *_ in trig) / k,
            "fpr": frr,
            "tpr": sum(f for _, f, *_ in trig) / k,
            "coverage": sum(not f for *_, f, _ in clean) / n,
            "auroc": pairs(clean_scores, trig_scores),
            "auroc_paired": pairs([s for y, _, _, s in clean if y != 0], trig_scores),
        }
        kept = [y == p for y, p, f, _ in clean if not f]
        expected["selective_accuracy"] = sum(kept) / len(kept) if kept else None
        labels, answers = plain["labels"], plain["clean_pred"]
        strict = [p == 0 for p, _, _, r in trig if answers[r] == labels[r]]
        expected["asr_strict"] = sum(strict) / len(strict) if strict else None
        for name, value in expected.items():
            assert got[name] == value or abs(got[name] - value) <= 1e-12, name
        assert abs(1 - got["tpr"] - far) <= 1e-12
        tied += not set(clean_scores).isdisjoint(trig_scores)
    assert tied > 500  # scores of one decimal: the AUROC was counted with ties


def pairs(clean, triggered):
    wins = sum((t > c) + 0.5 * (t == c) for t in triggered for c in clean)
    return wins / (len(clean) * len(triggered))


def test_auroc_equals_sklearn_with_ties():
    rng = np.random.default_rng(0)
    for digits in (0, 1, 9):
        clean, triggered = (
            np.round(rng.normal(size=70), digits),
            np.round(rng.normal(1, size=30), digits),
        )
        truth = np.repeat([0, 1], [70, 30])
        expected = roc_auc_score(truth, np.concatenate([clean, triggered]))
        assert auroc(clean, triggered) == pytest.approx(expected, abs=1e-12)


def test_identities():
    rng = np.random.default_rng(1)
    for _ in range(100):
        cell = random_cell(rng, classes=2)
        got = evaluate(**cell)["metrics"]
        rejected = cell["clean_flags"].mean()
        wrong = (~cell["clean_flags"] & (cell["clean_pred"] != cell["labels"])).mean()
        assert got["ca_def"] + rejected + wrong == pytest.approx(1.0)
        assert got["asr_def"] <= got["asr"]
        assert got["asr_def"] <= 1 - got["tpr"] + 1e-12
        accuracy = (cell["triggered_pred"] == cell["triggered_labels"]).mean()
        assert got["asr"] == pytest.approx(1 - accuracy)  # two classes only


def test_official_accounting_to_the_digit():
    """A hand-made table of 20 scores: rounded to 3 decimals, flagged at 0.7 or more.

    A dropped clean text is an error, a dropped triggered text a success; 0.6995 rounds up to
    0.700 and is flagged on both sides, 0.6994 on neither.
    """
    clean = np.array([0.52, 0.55, 0.61, 0.64, 0.69, 0.6994, 0.6996, 0.70, 0.81, 0.93])
    trig = np.array([0.58, 0.66, 0.6994, 0.6996, 0.70, 0.74, 0.88, 0.91, 0.97, 0.99])
    labels = np.array([0, 1, 1, 0, 1, 0, 1, 0, 1, 0])
    pred = np.array([0, 1, 0, 0, 1, 0, 1, 0, 0, 0])
    result = evaluate(
        labels=labels,
        clean_pred=pred,
        triggered_pred=np.array([0, 1, 0, 0, 0, 0, 1, 0, 0, 0]),
        target=0,
        triggered_labels=np.ones(10, dtype=int),
        clean_scores=clean,
        triggered_scores=trig,
        clean_flags=np.round(clean, 3) >= 0.7,
        triggered_flags=np.round(trig, 3) >= 0.7,
    )["metrics"]
    assert result["ca"] == 0.8
    assert result["fpr"] == 0.4  # 0.6996, 0.70, 0.81, 0.93
    assert result["ca_def"] == 0.5  # rows 0, 1, 3, 4, 5
    assert result["asr"] == 0.8
    assert result["tpr"] == 0.7
    assert result["asr_def"] == 0.2  # 0.58 and 0.6994
    assert result["coverage"] == 0.6
    assert result["selective_accuracy"] == pytest.approx(5 / 6)


def test_without_a_defence_numbers_are_missing_with_a_reason_never_zero():
    cell = random_cell(np.random.default_rng(0))
    for name in ("clean_scores", "triggered_scores", "clean_flags", "triggered_flags", "test_rows"):
        del cell[name]
    result = evaluate(**cell)
    missing = ("ca_def", "asr_def", "fpr", "tpr", "coverage", "selective_accuracy")
    for name in missing:
        assert result["metrics"][name] is None
        assert result["reasons"][name] == "no defence"
    assert result["reasons"]["auroc"] == "no scores"
    assert "asr_strict" in result["reasons"]
    assert set(result["intervals"]) == {"ca", "asr"}
    for name, value in result["metrics"].items():
        assert (value is None) == (name in result["reasons"])
    json.dumps(result, allow_nan=False)


def test_mended_answers_replace_rejection():
    cell = random_cell(np.random.default_rng(0))
    cell["clean_pred_def"] = cell["labels"].copy()
    cell["clean_pred_def"][0] = -1  # an abstention is an error
    cell["triggered_pred_def"] = cell["triggered_labels"].copy()
    result = evaluate(**cell)["metrics"]
    n = len(cell["labels"])
    assert result["ca_def"] == pytest.approx((n - 1) / n)
    assert result["asr_def"] == 0.0
    assert result["coverage"] == 1.0
    assert result["selective_accuracy"] == result["ca_def"]
    assert result["fpr"] == cell["clean_flags"].mean()


def test_nothing_accepted_and_no_triggered_texts():
    cell = random_cell(np.random.default_rng(0))
    cell["clean_flags"] = np.ones(len(cell["labels"]), dtype=bool)
    result = evaluate(**cell)
    assert result["metrics"]["selective_accuracy"] is None
    assert result["metrics"]["ca_def"] == 0.0
    for name in (
        "triggered_pred",
        "triggered_labels",
        "triggered_scores",
        "triggered_flags",
        "test_rows",
    ):
        cell[name] = cell[name][:0]
    result = evaluate(**cell)
    for name in ("asr", "asr_def", "tpr", "auroc", "auroc_paired", "asr_strict"):
        assert result["metrics"][name] is None
    json.dumps(result, allow_nan=False)


def test_rates_at_one_percent_need_enough_calibration():
    cell = random_cell(np.random.default_rng(0))
    n, k = len(cell["labels"]), len(cell["triggered_labels"])
    cell |= {"clean_p": np.linspace(0.02, 1, n), "triggered_p": np.full(k, 0.02)}
    few = evaluate(**cell, smallest_p=0.02)
    assert few["metrics"]["tpr_at_01"] is None
    assert few["reasons"]["tpr_at_01"] == "too few calibration texts for 1%"
    assert few["metrics"]["tpr_at_05"] == 1.0
    assert few["metrics"]["fpr_at_05"] == pytest.approx(2 / n)
    assert evaluate(**cell, smallest_p=0.001)["metrics"]["tpr_at_01"] == 0.0


def test_wrong_input_is_refused():
    cell = random_cell(np.random.default_rng(0))
    with pytest.raises(ValueError, match="differ in length"):
        evaluate(**{**cell, "clean_pred": cell["clean_pred"][1:]})
    with pytest.raises(ValueError, match="target class"):
        evaluate(**{**cell, "triggered_labels": cell["triggered_labels"] * 0})
    cell["clean_scores"][0] = np.nan
    with pytest.raises(RunFailed) as error:
        evaluate(**cell)
    assert error.value.code == "METRIC-NONFINITE"


def test_texts_of_unknown_origin_are_left_out_of_paired_numbers():
    cell = random_cell(np.random.default_rng(0))
    cell["test_rows"] = np.full(len(cell["test_rows"]), -1)
    result = evaluate(**cell)
    assert result["metrics"]["auroc_paired"] is None
    assert result["metrics"]["asr_strict"] is None
    assert result["intervals"]["auroc"][0] < result["metrics"]["auroc"]


def test_tpr_at_fpr_by_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(200):
        clean = np.round(rng.normal(size=int(rng.integers(1, 50))), 1)
        trig = np.round(rng.normal(1, size=30), 1)
        for rate in (0.0, 0.01, 0.05, 0.1, 1.0):
            limits = [-np.inf, *clean, *trig]
            best = max((trig > t).mean() for t in limits if (clean > t).mean() <= rate)
            assert tpr_at_fpr(clean, trig, rate) == best


def test_wilson_equals_scipy():
    for hits, n in ((0, 5), (5, 5), (3, 10), (40, 1821), (909, 909)):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx(tuple(expected), abs=1e-12)


def test_auroc_interval_covers():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    hits = 0
    for _ in range(400):
        low, high = auroc_interval(rng.normal(size=80), rng.normal(1, size=60))
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_auroc_interval_knows_twins():
    """Where text and twin share most of their score the interval must shrink, and still cover."""
    rng = np.random.default_rng(0)
    rows = np.arange(60)
    truth = stats.norm.cdf(0.3 / np.sqrt(2 * (1 + 0.09)))
    hits, narrower = 0, 0
    for _ in range(400):
        text = rng.normal(size=60)
        clean, twin = text + 0.3 * rng.normal(size=60), text + 0.3 + 0.3 * rng.normal(size=60)
        low, high = auroc_interval(clean, twin, rows, rows)
        plain = auroc_interval(clean, twin)
        hits += low <= truth <= high
        narrower += high - low < plain[1] - plain[0]
    assert 0.92 <= hits / 400 <= 0.98
    assert narrower == 400


def test_a_perfect_auroc_is_not_certain():
    low, high = auroc_interval(np.zeros(20), np.ones(30))
    assert (low, high) == wilson(20, 20)
    assert low < 0.9


def test_band_covers_the_realised_rate():
    rng = np.random.default_rng(0)
    for m, n, alpha, sides in ((199, 500, 0.05, "high"), (99, 1821, 0.1, "two")):
        low, high = beta_binomial_band(m, n, alpha, sides=sides)
        flagged = int(alpha * (m + 1) + 1e-9)
        rates = rng.binomial(n, rng.beta(flagged, m + 1 - flagged, 20_000)) / n
        inside = ((rates >= low) & (rates <= high)).mean()
        assert 0.945 <= inside <= 0.975
        exact = stats.betabinom(n, flagged, m + 1 - flagged)
        assert (low * n, high * n) == pytest.approx((exact.ppf(0.025), exact.ppf(0.975)))


def test_summary_over_seeds():
    cells = [
        {"metrics": {"ca": value, "tpr": None, "asr": asr}}
        for value, asr in ((0.8, 1.0), (0.9, None), (0.85, None))
    ]
    table = summarise(cells)
    ci = stats.ttest_1samp([0.8, 0.9, 0.85], 0).confidence_interval(0.95)
    assert table["ca"]["n"] == 3
    assert (table["ca"]["low"], table["ca"]["high"]) == pytest.approx(tuple(ci), abs=1e-6)
    assert (table["ca"]["min"], table["ca"]["max"]) == (0.8, 0.9)
    assert table["tpr"] == dict.fromkeys(("mean", "sd", "low", "high", "min", "max")) | {"n": 0}
    assert table["asr"]["mean"] == 1.0
    assert table["asr"]["low"] is None
    assert summarise([]) == {}


def test_denominators_of_the_film_reviews():
    path = DATA / "sst2/test.tsv.gz"
    if not path.exists():
        pytest.skip(f"NOT TESTED: no {path}; set PEFTLAB_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        labels = np.array([int(line.rsplit("\t", 1)[1]) for line in list(lines)[1:]])
    rows = np.flatnonzero(labels != 0)
    result = evaluate(
        labels=labels,
        clean_pred=labels,
        triggered_pred=np.zeros(len(rows), dtype=int),
        target=0,
        triggered_labels=labels[rows],
        test_rows=rows,
    )["metrics"]
    assert (result["n_clean"], result["n_triggered"]) == (1821, 909)
