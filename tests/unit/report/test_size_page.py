"""The page of a size bench: all figures, names from outside as text, gaps without a crash."""

import pytest

from peftlab.audits.size import SizeAuditor
from peftlab.audits.size.bench import bench
from peftlab.core.errors import InputRejected
from peftlab.report.size.html import render_size
from peftlab.report.size.words import sentences
from size_banks import make_bank

EVIL = "<script>alert(1)</script>\u202e"


@pytest.fixture(scope="module")
def results():
    bank = make_bank(concepts=12, layers=3, noise=0.1, own=0.1)
    other = make_bank(concepts=12, layers=3, noise=0.1, own=0.1, scale=0.6)
    return bench(bank, ("vote", "lda"), repeats=2, others={"half": other})


def test_all_figures_and_the_lines_of_chance_are_there(results):
    page = render_size(results)
    for title in (
        "Error of each head", "Confusion: ", "Exact hits by number of training concepts",
        "Error by number of training concepts", "Error of the vote by kind of matrix",
        "Norm of the update by size", "Spectrum by size", "Which layers tell",
        "Error when the recipe is another one",
    ):  # fmt: skip
        assert title in page, title
    assert page.count("best constant") >= 3
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert len(page) < 1_000_000


def test_sentences_are_honest(results):
    said = " ".join(sentences(results))
    assert "Always guessing one size" in said
    assert "shuffled" in said
    assert "Recipe mismatch" in said
    lost = {**results, "heads": [{"head": "vote", "mae": 1.6, "mape": 0.5, "accuracy": 0.1}]}
    assert "no better than always guessing one size" in " ".join(sentences(lost))
    odd = {**results, "control": {"head": "vote", "mae": 0.5}}
    assert "look at the bank" in " ".join(sentences(odd))
    alone = {**results, "mismatch": []}
    assert "own recipe" in " ".join(sentences(alone))


def test_names_from_outside_stay_text(results):
    evil = {
        **results,
        "about": {"title": EVIL, "source": EVIL, "synthetic": True},
        "layer_map": [{"layer": EVIL, "kind": "A", "accuracy": 0.5, "mae": 1.0}],
        "heads": [{"head": EVIL, "mae": 1.0, "mape": 0.5, "accuracy": 0.5}],
        "recipe": {EVIL: EVIL},
    }
    page = render_size(evil)
    assert "<script>" not in page
    assert "\u202e" not in page
    assert "Synthetic" in page


def test_gaps_leave_figures_out(results):
    bare = {key: results[key] for key in ("schema", "kind", "heads", "chance")}
    page = render_size(bare)
    assert page == render_size(bare)
    assert "Error of each head" in page
    assert "Which layers tell" not in page
    assert "Nothing was measured" in render_size({"schema": results["schema"], "kind": "bench"})
    with pytest.raises(InputRejected, match="REPORT-SCHEMA"):
        render_size({"schema": "other"})


def test_page_of_a_prediction():
    bank = make_bank(concepts=12, layers=3)
    found = SizeAuditor().fit(bank).predict(bank.spectra(4), assume_recipe=True)
    page = render_size(found.to_json())
    assert "About 5 training examples" in page
    assert "Recipe assumed" in page
    assert "Layer by layer" in page
    assert "out of distribution" in page


def defended_results():
    plain = {
        "defence": "none", "setting": {}, "naive": {"vote": 1.0, "lda": 0.8},
        "adaptive": {"vote": 1.0, "lda": 0.8}, "accuracy": 0.45, "bits": 0.8, "loss": 0.2,
        "loss_seen": 0.1, "gain_kept": 1.0,
    }  # fmt: skip
    rescaled = {
        **plain, "defence": EVIL, "setting": {"norm": EVIL}, "naive": {"vote": 2.0, "lda": 1.9},
        "adaptive": {"vote": 1.4, "lda": 1.3}, "bits": 0.2, "gain_kept": 0.95,
    }  # fmt: skip
    return {
        "schema": "peftlab.size/1", "kind": "defend", "heads": ["vote", "lda"], "bits_head": "lda",
        "defences": [plain, rescaled], "most_bits": 2.58, "base_loss": 0.5, "adapters": 240,
        "chance": {"uniform_mae": 1.94, "best_constant_mae": 1.5}, "seed": 42, "concepts": 40,
        "train": 15, "repeats": 10, "recipe": {"lr": 1e-3},
    }  # fmt: skip


def test_page_of_defences():
    page = render_size(defended_results())
    assert "Leak against utility" in page
    assert "What attackers still read: lda" in page
    assert "MAE 1.300 against an adaptive attacker" in page
    assert "95 % of the gain kept".replace(" %", "\u00a0%") in page
    assert "<script>" not in page
    empty = {"schema": "peftlab.size/1", "kind": "defend"}
    assert "No defence was measured" in render_size(empty)


def test_error_by_steps_needs_two_of_them(results):
    assert "Error by steps of training" not in render_size(results)
    steps = [{"steps": 500, "mae": 1.0}, {"steps": 125, "mae": 1.2}]
    assert "Error by steps of training" in render_size({**results, "steps": steps})
