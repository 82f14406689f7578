"""PETA-style against plain poisoning: our bars on what ``benchmarks/peta_mini.py`` measures.

Figures in brackets are those of a first prototype of ours: one seed, bodies that were only drawn,
and poisoned rows in the clean pool as well.
"""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "benchmarks"))
peta_mini = importlib.import_module("peta_mini")

MOST_SECONDS = 2 * 15 * 60  # of CPU: 15 minutes of two cores
full = pytest.mark.full


@pytest.fixture(scope="module")
def found(real_data: Path) -> dict[str, Any]:
    """Return everything, measured anew."""
    made = peta_mini.measured(peta_mini.read_halves(real_data / "sst2"))
    print(json.dumps(made, indent=1))
    return made


def says_what_it_shows(differences: dict[str, dict[str, Any]]) -> bool:
    """Return whether no difference under two standard errors is called one."""
    return all(
        each["says"] == "not told apart"
        for each in differences.values()
        if each["error"] is None or abs(each["difference"]) < 2 * each["error"]
    )


def test_no_verdict_without_two_standard_errors() -> None:
    verdict = peta_mini.verdict
    assert verdict([0.1, 0.1, 0.11])["says"] == "higher"
    assert verdict([-0.1, -0.1, -0.11])["says"] == "lower"
    assert verdict([0.05, -0.02, 0.03])["says"] == "not told apart"
    assert verdict([0.5]) == {
        "difference": 0.5, "error": None, "seeds": 1, "says": "not told apart",
    }  # fmt: skip


def test_the_published_result_claims_no_more_than_it_shows() -> None:
    """On the committed run: the ablation is there, for every victim, with its error."""
    committed = json.loads((ROOT / "benchmarks" / "results" / "peta.json").read_text())
    differences = committed["peta_minus_dp"]
    assert len(differences) == 2 * (1 + len(peta_mini.VICTIMS))
    assert all(each["seeds"] >= 3 and each["error"] is not None for each in differences.values())
    assert says_what_it_shows(differences)


@full
@pytest.mark.timeout(7200)
def test_the_sentence(found: dict[str, Any]) -> None:
    """LFR at the end and after each victim, cost in accuracy, the ablation."""

    def mean(name: str, how: str, what: str) -> float:
        return float(np.mean([each[what] for each in found["rates"][f"{name}, {how}"]]))

    flips = mean("clean", "lora", "lfr")
    bars = {"clean control at most 55 (40.7)": mean("clean", "end", "lfr") <= 0.55}
    for name in ("dp", "peta"):
        drop = mean("clean", "lora", "cacc") - mean(name, "lora", "cacc")
        bars |= {
            f"{name} end of attack LFR at least 85 (96.6-96.9)": mean(name, "end", "lfr") >= 0.85,
            f"{name} LFR over base flips after LoRA at least 35 points (54-56)":
                mean(name, "lora", "lfr") - flips >= 0.35,
            f"{name} LFR after head-only tuning at least 80 (96.7-98.7)":
                mean(name, "head", "lfr") >= 0.80,
            f"{name} LFR after LoRA at least that after full tuning, less 2 points (+12 to +54)":
                mean(name, "lora", "lfr") >= mean(name, "full", "lfr") - 0.02,
            f"{name} costs at most 5 points of CACC after LoRA (0.2 dp, 2.7 peta)": drop <= 0.05,
        }  # fmt: skip
    assert all(bars.values()), [bar for bar, holds in bars.items() if not holds]
    assert says_what_it_shows(found["peta_minus_dp"])
    assert found["cpu_seconds"] <= MOST_SECONDS


@full
@pytest.mark.timeout(7200)
def test_a_style(found: dict[str, Any]) -> None:
    """At least 75 (84.9-87.0) where a clean body has few flips (27.7)."""
    lfr = {name: float(np.mean(each)) for name, each in found["style_lfr"].items()}
    assert lfr["dp"] >= 0.75
    assert lfr["peta"] >= 0.75
    assert lfr["clean"] <= 0.55


@full
@pytest.mark.timeout(7200)
def test_more_poison_never_lowers_the_rate(found: dict[str, Any]) -> None:
    """LFR at 1, 5, 10 and 25 % of D1 does not fall by more than 5 points."""
    lfr = [float(np.mean(each)) for each in found["lfr_by_share_of_d1"].values()]
    assert len(lfr) == 4
    assert all(after >= before - 0.05 for before, after in itertools.pairwise(lfr))


@full
@pytest.mark.timeout(7200)
def test_leaving_out_and_unfreezing(found: dict[str, Any]) -> None:
    """The cells that lower LFR by 20 points for at most 3 of CACC, or that none did."""
    made = found["leave_out_and_unfreeze"]
    before = made["before"]
    works = [
        cell for cell in made["cells"]
        if before["lfr"] - cell["lfr"] >= 0.20 and before["cacc"] - cell["cacc"] <= 0.03
    ]  # fmt: skip
    assert len(made["cells"]) == 9
    assert made["works"] == (works or "none did")
