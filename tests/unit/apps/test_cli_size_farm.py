"""peftlab size farm and defend: banks that the other verbs read, tables, errors."""

import pytest
from tests.cli_tools import cli


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a small bank."""
    root = tmp_path_factory.mktemp("farm")
    done = cli("size", "farm", "--backbone", "tiny-denoiser", "--range", "low", "--concepts", 6,
               "--seed", 3, "--steps", 12, "--snapshots", "3,6", "-o", "batch=2",
               "--out", root / "bank", "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json()
    assert (found["adapters"], found["steps"]) == (36, [3, 6, 12])
    assert (found["recipe"]["batch"], found["recipe"]["seed"]) == (2, 3)
    assert "bank.json" in found["files"]
    assert not (root / "bank-work").exists()
    return root


@pytest.mark.parametrize("folder", ["bank", "bank/low_4_denoiser_step3"])
def test_bench_reads_what_the_farm_wrote(place, folder):
    done = cli("size", "bench", "--bank", place / folder, "--heads", "vote,frobenius,ridge,lda",
               "--repeats", 2, "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json()
    assert [row["head"] for row in found["heads"]] == ["vote", "frobenius", "ridge", "lda"]
    assert set(found["chance"]) == {"uniform_mae", "best_constant_mae"}


def test_defend_prints_both_attackers(place, tmp_path):
    done = cli("size", "defend", "--bank", place / "bank", "--defence", "rescale,noise",
               "--repeats", 1, "-o", "noise=2", "--out", tmp_path / "defend")  # fmt: skip
    assert done.code == 0, done.err
    assert "rescale  naive" in done.out
    assert "rescale  adaptive" in done.out
    assert "best constant 1.500" in done.out
    assert "Leak against utility" in (tmp_path / "defend" / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (("farm", "--range", "huge"), "OPTION-VALUE"),
        (("farm", "--snapshots", "x"), "CLI-OPTION"),
        (("farm", "-o", "wings=2"), "OPTION-UNKNOWN"),
        (("defend", "--defence", "flp"), "SIZE-DEFENCE"),
        (("defend", "--bank", "builtin:nothing"), "SIZE-BANK-NAME"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, given, code):
    done = cli("size", *given, "--out", tmp_path / "out")
    assert done.code == 2
    assert code in done.err


def test_an_old_bank_is_not_overwritten_by_chance(place):
    done = cli("size", "farm", "--concepts", 2, "--steps", 2, "--out", place / "bank")
    assert done.code == 2
    assert "FOLDER-EXISTS" in done.err


def test_a_bank_that_no_farm_made_cannot_be_defended(tmp_path):
    from size_banks import make_bank

    make_bank(concepts=4).save(tmp_path / "bank")
    done = cli("size", "defend", "--bank", tmp_path / "bank")
    assert done.code == 2
    assert "SIZE-DEFEND-BANK" in done.err
