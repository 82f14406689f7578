"""``bench table`` on the command line: what it prints stays, what it writes is the leaderboard."""

import json
import sys
from pathlib import Path

import pytest

from cli_tools import cli

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from made_up_results import arrays_of, make_bench

SMALL = (("badnets", "insent", "ep"), ("none", "psim", "onion", "cube"))


@pytest.fixture
def place(tmp_path):
    """A run folder with made-up results, without a store."""
    (tmp_path / "run").mkdir()
    results = make_bench(*SMALL)
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    return tmp_path


@pytest.fixture
def with_scores(place, monkeypatch):
    """The same with scores for every guard, as ``gather_arrays`` gives them."""
    (place / "run" / "runs.db").touch()
    known = {cell["id"]: cell for cell in make_bench(*SMALL)["cells"]}

    def gather(out, cells):
        assert out == place / "run"
        return {key: arrays_of(known[key]) for key in cells if known[key]["defence"] == "psim"}

    monkeypatch.setattr("peftlab.engine.bench.gather_arrays", gather)
    return place


def test_without_a_folder_it_only_prints(place):
    found = cli("bench", "table", place / "run")
    assert found.code == 0, found.err
    assert "n/a [1]" in found.out
    assert "[1] not applicable: it filters training sets" in found.out
    assert "|---|" in cli("bench", "table", place / "run" / "results.json", "--markdown").out
    assert {path.name for path in (place / "run").iterdir()} == {"results.json"}


def test_with_a_folder_it_writes_the_leaderboard_and_prints_the_same(place):
    plain = cli("bench", "table", place / "run")
    found = cli("bench", "table", place / "run", "--out", place / "board")
    assert found.code == 0, found.err
    assert found.out == plain.out
    assert "no scores were written: there is no run folder" in found.err
    assert {path.name for path in (place / "board").iterdir()} == {
        "leaderboard.html", "leaderboard.json", "leaderboard.md"
    }  # fmt: skip
    written = json.loads((place / "board" / "leaderboard.json").read_text())
    assert written["schema"] == "peftlab.leaderboard/1"
    assert (place / "board" / "leaderboard.html").read_text().startswith("<!DOCTYPE html>")
    first = (place / "board" / "leaderboard.html").read_bytes()
    again = cli("bench", "table", place / "run", "--out", place / "board", "--json")
    assert again.json()["cells"] == cli("bench", "table", place / "run", "--json").json()["cells"]
    assert (place / "board" / "leaderboard.html").read_bytes() == first


def test_scores_are_written_beside_it_and_linked(with_scores):
    found = cli("bench", "table", with_scores / "run", "--out", with_scores / "board")
    assert found.code == 0, found.err
    files = sorted(path.name for path in (with_scores / "board" / "scores").iterdir())
    assert len(files) == 3 * 3 * 2  # attacks, seeds, and their controls
    assert "scores: 18 files" in found.err
    assert all(name.endswith(".parquet") for name in files)
    for page in ("leaderboard.html", "leaderboard.md"):
        text = (with_scores / "board" / page).read_text()
        assert all(f"scores/{name}" in text for name in files)


def test_without_pyarrow_scores_are_csv(with_scores, monkeypatch):
    monkeypatch.setattr("peftlab.report.leaderboard.scores.find_spec", lambda _: None)
    found = cli("bench", "table", with_scores / "run", "--out", with_scores / "board")
    assert found.code == 0, found.err
    assert "peftlab[parquet]" in found.err
    files = list((with_scores / "board" / "scores").iterdir())
    assert {path.suffix for path in files} == {".csv"}
    assert "attack,tuner,defence,seed" in files[0].read_text()


def test_a_part_of_a_run(place):
    found = cli("bench", "table", place / "run", "--attack", "ep", "--defence", "psim", "--json")
    cells = found.json()["cells"]
    assert {(cell["attack"], cell["defence"]) for cell in cells} == {("ep", "psim")}
    assert {cell["control"] for cell in cells} == {True, False}
    wrong = cli("bench", "table", place / "run", "--tuner", "lara")
    assert wrong.code == 2
    assert "TABLE-FILTER" in wrong.err
    assert "lora" in wrong.err


def test_what_is_no_run_is_refused(tmp_path):
    wrong = cli("bench", "table", tmp_path, "--out", tmp_path / "board")
    assert wrong.code == 3
    assert "RESULTS-MISSING" in wrong.err
    assert not (tmp_path / "board").exists()
