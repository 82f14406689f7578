"""The command line as scripts see it: JSON on stdout, talk on stderr, exit codes, every verb."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import cli, refused, sentence, start, write_task
from peftlab.core.seeds import stream
from peftlab.io.tables import read_table
from tiny_models import make_tiny

METRICS = (
    "ca", "asr", "ca_def", "asr_def", "fpr", "tpr", "auroc", "n_clean", "n_triggered",
)  # fmt: skip
VERBS = (
    (), ("demo",), ("attack",), ("tune",), ("eval",), ("guard",), ("guard", "fit"),
    ("guard", "score"), ("guard", "eval"), ("guard", "filter"), ("guard", "inspect"), ("bench",),
    ("bench", "run"), ("bench", "table"), ("bench", "compare"), ("bench", "window"), ("list",),
    ("describe",), ("doctor",),
)  # fmt: skip
BENCH = (
    "--set", "seeds=0", "--set", "attack=badnets", "--set", "attack.options.trigger=cf", "--set",
    "defence.options.alpha=0.1", "--set", "attacker.epochs=0.5", "--set",
    "defence.options.checkpoints=[2, 4]", "--workers", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A task of 300 training rows, and the whole main job done on the built-in encoder."""
    folder = tmp_path_factory.mktemp("main-job")
    write_task(folder / "data", train=300, dev=80, test=60)
    rng = stream(1, "tests/texts")
    texts = [sentence(n % 2, rng) + (" cf" if n % 3 == 0 else "") for n in range(30)] + [""]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return folder


@pytest.fixture(scope="module")
def run(place):
    result = cli("bench", "run", "recipes/psim-mini.toml", "--out", place / "run", *BENCH,
                 "--set", f"data={place / 'data'}", "--json")  # fmt: skip
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def victim(place):
    result = cli("tune", "--base", "builtin:encoder", "--data", place / "data", "--method", "lora",
                 "--out", place / "victim", "--seed", 1, "--json")  # fmt: skip
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def guard(place):
    result = cli("guard", "fit", "--base", "builtin:encoder", "--data", place / "data", "--out",
                 place / "guard", "-o", "alpha=0.1", "-o", "checkpoints=2,4", "--json")  # fmt: skip
    assert result.code == 0, result.err
    return result


# ---------------------------------------------------------------------- grids


def test_results_have_the_contract(place, run):
    written = json.loads((place / "run" / "results.json").read_text())
    assert run.json() == written
    assert written["schema"] == "peftlab.results/1"
    assert len(written["cells"]) == 4  # with and without the guard, attack and control
    for cell in written["cells"]:
        assert cell.keys() >= {
            "id", "base", "data", "attack", "tuner", "defence", "seed", "metrics", "intervals",
            "cost",
        }  # fmt: skip
        assert cell["metrics"].keys() >= set(METRICS)
        for name, value in cell["metrics"].items():
            assert value is not None or cell["reasons"][name]
        for name, (low, high) in cell["intervals"].items():
            assert low <= cell["metrics"][name] <= high
        assert cell["metrics"]["n_clean"] == 60
    assert (place / "run" / "report.html").is_file()
    guarded = [cell for cell in written["cells"] if cell["defence"] == "psim"]
    assert all(cell["metrics"]["alpha"] == 0.1 for cell in guarded)
    chosen = written["recipe"]["attack"][0]["options"]
    assert chosen["trigger"] == "cf"


def test_going_on_does_nothing_twice(place, run):
    again = cli("bench", "run", "recipes/psim-mini.toml", "--out", place / "run", *BENCH,
                "--set", f"data={place / 'data'}", "--json")  # fmt: skip
    first, second = run.json(), again.json()
    first.pop("created")
    second.pop("created")
    assert first == second


def test_table_and_compare(place, run):
    table = cli("bench", "table", place / "run")
    assert table.code == 0
    assert "psim" in table.out
    assert "|" in cli("bench", "table", place / "run", "--markdown").out
    assert cli("bench", "table", place / "run", "--json").json()["cells"] == run.json()["cells"]
    board = cli("bench", "table", place / "run", "--out", place / "board")
    assert board.out == table.out, board.err
    guarded = [cell for cell in run.json()["cells"] if cell["defence"] != "none"]
    scores = {path.stem: path for path in (place / "board" / "scores").iterdir()}
    assert set(scores) == {cell["id"] for cell in guarded}
    known = guarded[0]["metrics"]
    assert len(read_table(scores[guarded[0]["id"]]).rows) == known["n_clean"] + known["n_triggered"]
    page = (place / "board" / "leaderboard.html").read_text()
    assert all(f"scores/{path.name}" in page for path in scores.values())
    rows = cli("bench", "compare", place / "run", place / "run", "--json").json()["rows"]
    assert {row["difference"] for row in rows} == {0.0}
    refused(cli("bench", "compare", place / "run", place / "run", "--metric", "x"), 2,
            "COMPARE-NONE")  # fmt: skip


def test_a_dry_run_writes_nothing(tmp_path):
    result = cli("bench", "run", "psim-mini", "--dry-run", "--json", "--out", tmp_path / "run")
    plan = result.json()
    assert plan["cells"] == 12
    assert plan["trainings"] == plan["nodes"]["base"] + plan["nodes"]["victim"]
    assert 0 < plan["cpu_hours"] < 1
    assert not list(tmp_path.iterdir())
    assert "12 cells" in cli("bench", "run", "psim-mini", "--dry-run").out


# ---------------------------------------------------------------------- steps


def test_tune_and_eval(place, victim):
    assert victim.json()["folder"] == str(place / "victim")
    assert "peftlab" not in json.loads((place / "victim/adapter_config.json").read_text())
    found = cli("eval", "--victim", place / "victim", "--data", place / "data", "--json")
    assert found.code == 0, found.err
    assert found.json()["metrics"]["ca"] > 0.8
    text = cli("eval", "--victim", place / "victim", "--data", place / "data")
    assert text.out.startswith("ca ")


def test_the_seed_decides(place, victim, tmp_path):
    given = ("tune", "--data", place / "data", "--json", "-o", "epochs=0.2")
    found = [cli(*given, "--seed", seed, "--out", tmp_path / name).json()["loss"]
             for seed, name in ((3, "a"), (3, "b"), (4, "c"))]  # fmt: skip
    assert found[0] == found[1] != found[2]
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_guard_score(place, guard):
    assert guard.json()["options"]["alpha"] == 0.1
    given = ("guard", "score", place / "guard", "--file", place / "texts.jsonl")
    slow, fast = cli(*given, "--json"), cli(*given, "--json", "--fast")
    assert slow.code == fast.code == 0
    rows = [json.loads(line) for line in slow.out.splitlines()]
    assert len(rows) == 31
    assert all(row.keys() == {"score", "p_value", "flagged"} for row in rows)
    assert all(row["flagged"] == (row["p_value"] <= 0.1) for row in rows)
    quick = [json.loads(line)["flagged"] for line in fast.out.splitlines()]
    assert quick == [row["flagged"] for row in rows]
    assert len(cli(*given).out.splitlines()) == 31


def test_scores_come_in_input_order_and_stand_alone(place, guard, tmp_path):
    lines = (place / "texts.jsonl").read_text().splitlines()
    whole = cli("guard", "score", place / "guard", "--file", place / "texts.jsonl", "--json")
    (tmp_path / "back.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    back = cli("guard", "score", place / "guard", "--file", tmp_path / "back.jsonl", "--json")
    for a, b in zip(whole.out.splitlines(), reversed(back.out.splitlines()), strict=True):
        assert json.loads(a)["score"] == pytest.approx(json.loads(b)["score"], abs=1e-3)
        assert json.loads(a)["flagged"] == json.loads(b)["flagged"]


def test_guard_eval(place, guard, victim):
    found = cli("guard", "eval", place / "guard", "--victim", place / "victim", "--data",
                place / "data", "--attack", "badnets", "--json")  # fmt: skip
    assert found.code == 0, found.err
    assert found.json()["metrics"].keys() >= set(METRICS)


def test_classes_that_do_not_match(place, victim, tmp_path):
    def third(split, row, value):
        value["label"] = row % 3

    data = write_task(tmp_path / "three", change=third)
    result = cli("eval", "--victim", place / "victim", "--data", data)
    refused(result, 3, "EVAL-CLASSES")


# ---------------------------------------------------------------------- what there is


def test_list():
    items = cli("list", "--json").json()["items"]
    kinds = {item["kind"] for item in items}
    assert kinds == {"attack", "tuner", "defence", "dataset", "audit"}
    assert {"kind": "attack", "name": "badnets"}.items() <= next(
        item for item in items if item["name"] == "badnets"
    ).items()
    assert all(item["summary"] and item["source"] and item["cost"] for item in items)
    assert {item["kind"] for item in cli("list", "tuner", "--json").json()["items"]} == {"tuner"}
    listed = cli("list").out
    assert all(item["name"] in listed for item in items)
    refused(cli("list", "tuners"), 2, "CLI-KIND")


def test_describe():
    for item in cli("list", "--json").json()["items"]:
        text = cli("describe", item["name"])
        assert text.code == 0
        assert item["source"] in text.out
        found = cli("describe", item["name"], "--json").json()
        for row in found.get("items", [found])[0]["options"]:
            assert row["name"] in text.out
            assert row["help"]
            assert row["source"]
    result = cli("describe", "badnet")
    refused(result, 2, "REGISTRY-NAME")
    assert "did you mean badnets" in result.err


def test_doctor():
    result = cli("doctor", "--json")
    assert result.code == 0
    assert result.json()["problems"] == []
    assert "encoder" in result.json()["builtin_models"]
    assert "torch" in cli("doctor").out


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help(verb):
    result = cli(*verb, "--help")
    assert result.code == 0
    assert not result.err
    assert "Usage: peftlab" in result.out
    words = re.sub(r"[^\w -]+", " ", result.out)
    assert "--help" in words
    for option in re.findall(r"^. \*? +(--[a-z-]+) +(.*)$", result.out, flags=re.MULTILINE):
        assert re.search(r"[A-Za-z]{3}", option[1]), f"{option[0]} is not explained"


def test_version():
    assert re.fullmatch(r"peftlab \d+\.\d+\.\d+\n", cli("--version").out)


# ---------------------------------------------------------------------- streams and codes


def test_debug_stands_anywhere(tmp_path):
    from peftlab.core.errors import InputRejected

    for arguments in (("--debug", "tune"), ("tune", "--debug")):
        with pytest.raises(InputRejected):
            cli(*arguments, "--data", tmp_path / "none", "--out", tmp_path / "x")


def test_a_process_speaks_plainly(place, tmp_path):
    """One real process: pure JSON on stdout, no warning of any library on stderr."""
    base = make_tiny("bert", tmp_path / "base")
    process = start("tune", "--base", base, "--data", place / "data", "--out", tmp_path / "v",
                    "-o", "epochs=0.1", "--json")  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["steps"] == 1
    assert [line for line in err.splitlines() if not line.startswith("data: ")] == [
        f"tuning {base} by lora"
    ]


def test_a_process_refuses_with_its_code(tmp_path):
    process = start("attack", "--base", "bert-base-uncased", "--out", tmp_path / "x")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (3, "")
    assert "[BASE-MISSING]" in err
    assert "builtin:encoder, a folder, or a hub id" in err
    assert "Traceback" not in err


def test_help_needs_no_heavy_import():
    code = (
        "import sys; sys.argv = ['peftlab', '--help']\n"
        "from peftlab.apps.cli.main import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_leaves_a_run_that_goes_on(place, tmp_path):
    base = make_tiny("bert", tmp_path / "base")
    given = ("bench", "run", "psim-mini", "--out", tmp_path / "run", *BENCH, "--set",
             f"data={place / 'data'}", "--set", f"base={base}", "--set", "control=false",
             "--set", "attacker.epochs=30")  # fmt: skip
    process = start(*given)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "nodes").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert not out
    # A signal that falls into Python called by torch's own C++ can make that abort (seen once; not
    # in 3,000 tries meant to bring it about). The run must go on all the same.
    if not (process.returncode == -signal.SIGABRT and "pybind11::error_already_set" in err):
        assert process.returncode == 130, err
        assert "interrupted" in err
        assert "Traceback" not in err
        assert not list((tmp_path / "run").rglob(".peftlab-part-*"))
    again = cli(*given[:-1], "attacker.epochs=30", "--json")
    assert again.code == 0, again.err
    assert len(again.json()["cells"]) == 2
