"""peftlab raters on the command line: from a table to a report, in this process."""

import csv
import json

import pytest
from tests.cli_tools import cli

from peftlab.apps.cli.raters import as_long_csv
from peftlab.audits.raters.pools import Pool, draw_pool

FEW = ("--permutations", "99", "--bootstrap", "20")
COLUMNS = ("--item", "item_id", "--rater", "rater_id", "--label", "label")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    pool = draw_pool(Pool(raters=40, items=60, planted=12, strength=0.7), seed=3)
    path = tmp_path_factory.mktemp("raters") / "ratings.csv"
    path.write_text(as_long_csv(pool))
    return path


def test_one_command_from_a_table_to_a_report(table, tmp_path):
    out = tmp_path / "run"
    done = cli("raters", "grasp", table, *COLUMNS, "--by", "group", *FEW, "--out", out)
    assert done.code == 0, done.err
    assert "planted" in done.out
    assert str(out / "report.html") in done.out
    assert {path.name for path in out.iterdir()} == {
        "report.html", "raters.json", "groups.csv", "groups.tex",
    }  # fmt: skip
    rows = list(csv.DictReader((out / "groups.csv").open()))
    assert [row["group"] for row in rows] == ["others", "planted"]


def test_json_is_the_contract(table, tmp_path):
    arguments = ("raters", "grasp", table, *COLUMNS, "--by", "group", *FEW, "--json")
    first = cli(*arguments, "--out", tmp_path / "a").json()
    row = first["groups"][1]
    assert {"axis", "group", "raters", "irr", "xrr", "gai", "p_gai", "q_gai"} <= set(row)
    assert first["dsi"]["group"]["value"] == max(one["gai"] for one in first["groups"])
    assert first == cli(*arguments, "--out", tmp_path / "b").json()
    assert (tmp_path / "a" / "raters.json").read_bytes() == (
        tmp_path / "b" / "raters.json"
    ).read_bytes()


def test_labels_and_an_option_of_the_method(table, tmp_path):
    done = cli(
        "raters", "grasp", table, *COLUMNS, "--by", "group", *FEW, "--out", tmp_path, "--json",
        "--labels", "0,1,2", "--level", "ordinal", "-o", "metrics=irr,xrr,gai", "-o",
        "pvalue=paper",
    )  # fmt: skip
    assert done.code == 0, done.err
    settings = done.json()["settings"]
    assert (settings["level"], settings["pvalue"]) == ("ordinal", "paper")
    assert "plurality" not in done.json()["groups"][0]


def test_models_as_raters(table, tmp_path):
    for name, shift in (("before", 0), ("after", 1)):
        lines = [f"item-{i},{(i + shift) % 3}" for i in range(60)]
        (tmp_path / f"{name}.csv").write_text("item,label\n" + "\n".join(lines) + "\n")
    done = cli(
        "raters", "grasp", table, *COLUMNS, "--by", "group", *FEW, "--out", tmp_path / "run",
        "--model", f"before={tmp_path / 'before.csv'}", "--model",
        f"after={tmp_path / 'after.csv'}", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    models = done.json()["models"]
    assert models["names"] == ["before", "after"]
    assert [row["group"] for row in models["moves"]] == ["everybody", "others", "planted"]
    assert "after" in (tmp_path / "run" / "report.html").read_text()


def test_plan_never_spends_more_than_there_is(table):
    done = cli(
        "raters", "plan", "--pilot", table, *COLUMNS, "--by", "group", "--budget", "500",
        "--permutations", "99", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json()["spent"] <= 500
    assert "DSI of group" in cli(
        "raters", "plan", "--pilot", table, *COLUMNS, "--by", "group", "--budget", "500",
        "--permutations", "99",
    ).out  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (("--by", "grupp"), "RATERS-COLUMN", 2),
        ((), "RATERS-AXIS", 2),
        (("--by", "group", "--level", "close"), "OPTION-VALUE", 2),
        (("--by", "group", "--permutations", "0"), "OPTION-VALUE", 2),
        (("--by", "group", "--model", "x"), "CLI-OPTION", 2),
        (("--by", "group", "--model", "x=missing.csv"), "RATERS-FILE", 3),
        (("--by", "group", "--drop-raters", "missing.txt"), "RATERS-FILE", 3),
        (("--by", "group", "--labels", "0,1"), "RATERS-LABELS", 3),
        (("--by", "group", "--min-group", "20"), None, 0),
        (("--by", "group", "--min-group", "29"), "RATERS-GROUPS", 3),
        (("--set", "nothing"), "RATERS-AXIS", 2),
        (("--by", "group", "--drop-label", "maybe"), "RATERS-LABELS", 2),
        (("--set", "nothing", "--by", "group"), "RATERS-SET", 2),
    ],
)
def test_mistakes_are_told_with_a_code(table, tmp_path, arguments, code, exit_code):
    out = tmp_path / "run"
    done = cli("raters", "grasp", table, *COLUMNS, *FEW, "--out", out, *arguments)
    assert done.code == exit_code, done.err
    assert code is None or f"[{code}]" in done.err
    assert code is None or not out.exists()  # nothing half-written


def test_a_table_needs_its_columns_named(table):
    done = cli("raters", "grasp", table, "--by", "group")
    assert (done.code, "--item" in done.err) == (2, True)


def test_load_writes_a_table_that_grasp_reads(tmp_path):
    source = tmp_path / "crehate.csv"
    rows = [
        f"post-{i},{j},{'AB'[j % 2]},male,18-29,{(i * j + i) % 2}"
        for i in range(12) for j in range(12)
    ]  # fmt: skip
    source.write_text("item_id,rater_id,nationality,gender,age_band,label\n" + "\n".join(rows))
    made = tmp_path / "plain.csv"
    done = cli("raters", "load", "crehate", "--path", source, "--out", made, "--json")
    assert done.code == 0, done.err
    assert (done.json()["items"], done.json()["raters"]) == (12, 12)
    again = cli("raters", "grasp", made, *COLUMNS, "--by", "nationality", *FEW, "--out", tmp_path)
    assert again.code == 0, again.err


def test_demo_says_that_it_is_made_up(tmp_path):
    done = cli("raters", "demo", "--out", tmp_path / "demo")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "demo" / "raters.json").read_text())
    assert results["data"]["synthetic"] is True
    planted = next(row for row in results["groups"] if row["group"] == "planted")
    assert planted["q_gai"] < 0.05


def test_reproduce_prints_every_cell(tmp_path):
    names = ("item_id", "rater_id", "rater_gender", "rater_race", "rater_age", "rater_education",
             "Q_overall")  # fmt: skip
    races, ages = ("White", "Asian/Asian subcontinent"), ("gen z", "millenial", "gen x+")
    rows = [
        (f"{i}", f"{j}", ("Man", "Woman")[j % 2], races[j // 2 % 2], ages[j % 3], "College",
         ("No", "Unsure", "Yes")[(i * 7 + j * j) % 3])
        for i in range(20) for j in range(36)
    ]  # fmt: skip
    path = tmp_path / "diverse_safety_adversarial_dialog_350.csv"
    path.write_text("\n".join(",".join(row) for row in [names, *rows]))
    done = cli("raters", "reproduce", "--path", tmp_path, "--permutations", "19")
    assert done.code == 0, done.err
    assert "not comparable with the paper's 104" in done.out
    assert "Asian woman" in done.out
    found = cli("raters", "reproduce", "--path", tmp_path, "--permutations", "19", "--json").json()
    cell = found["cells"][0]
    assert cell["difference"] == pytest.approx(cell["ours"] - cell["published"])


def test_what_is_read_is_not_written_over(table, tmp_path):
    mine = tmp_path / "groups.csv"
    mine.write_bytes(table.read_bytes())
    done = cli("raters", "grasp", mine, *COLUMNS, "--by", "group", *FEW, "--out", tmp_path)
    assert (done.code, "[PATH-WRITE]" in done.err) == (2, True)
    done = cli("raters", "load", "crehate", "--path", mine, "--out", mine)
    assert (done.code, "[PATH-WRITE]" in done.err) == (2, True)
    assert mine.read_bytes() == table.read_bytes()
