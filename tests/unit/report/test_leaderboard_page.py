"""The leaderboard as HTML, Markdown and files: safe, whole, and the same every time."""

import base64
import csv
import hashlib
import io
import json
import re

import pytest
from made_up_results import NO_FILTER, arrays_of, make_bench
from page_reader import HOSTILE, Page

from peftlab.core.errors import ConfigError
from peftlab.io.tables import read_table
from peftlab.report.leaderboard.board import as_json, make_board
from peftlab.report.leaderboard.html import render_leaderboard
from peftlab.report.leaderboard.markdown import render_markdown
from peftlab.report.leaderboard.scores import (
    as_csv,
    as_parquet,
    file_name,
    has_parquet,
    score_table,
)
from peftlab.report.read import read_cells
from peftlab.report.select import select

SOME = (("badnets", "insent", "soft", "latent"), ("none", "psim", "psim-official", "pure", "cube",
                                                 "dbs"))  # fmt: skip


def page_of(results, scores=None):
    return render_leaderboard(results, make_board(results), scores)


def check_safe(page, links=()):
    """Nothing is loaded; the one script is ours; links go into the page or to score files."""
    parsed = Page(page)
    banned = {"img", "link", "iframe", "object", "embed", "base", "foreignobject"}
    assert not banned & set(parsed.tags)
    assert parsed.tags.count("script") == 1
    for _, key, value in parsed.attributes:
        assert not key.startswith("on")
        assert key not in {"src", "action", "formaction"}
        if key.endswith("href"):
            assert value in links or (value.startswith("#") and value[1:] in parsed.ids)
        assert "url(" not in value
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v for t, k, v in parsed.attributes if t == "meta" and "default-src" in v)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"'sha256-{digest}'" in policy
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    assert not re.search(r"@import|https?:", re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL))
    return parsed


@pytest.fixture(scope="module")
def results():
    return make_bench(*SOME, tuners=("lora", "prefix"))


@pytest.fixture(scope="module")
def page(results):
    return page_of(results)


def test_page_has_its_parts(page, results):
    parsed = check_safe(page)
    for part in ("filters", "board", "comparisons", "maps", "others", "cells", "not-applicable",
                 "data", "reading", "provenance"):  # fmt: skip
        assert part in parsed.ids
    assert page == page_of(results)
    assert len(page.encode()) < 400_000


def test_filters_name_every_attack_tuner_and_defence(page):
    for key, names in (("attack", SOME[0]), ("tuner", ("lora", "prefix")), ("defence", SOME[1])):
        select_ = re.search(rf'<select name="{key}">(.*?)</select>', page)[1]
        listed = re.findall(r'<option value="(\d*)">([^<]*)', select_)
        assert [name for _, name in listed] == ["all", *names]
        assert [number for number, _ in listed][1:] == [str(i) for i in range(len(names))]


def test_what_makes_no_sense_is_hatched_and_has_a_reason(page):
    """A cell with a number is never one without sense, and every reason is written out."""
    maps = page[page.index('id="maps"') : page.index('id="others"')]
    cells = re.findall(r'<td class="senseless"[^>]*>([^<]*)</td>', maps)
    assert cells
    assert set(cells) == {"n/a"}
    assert maps.count(f'title="not applicable: {NO_FILTER}"') == len(cells)
    grid = page[page.index('id="cells"') :]
    marked = re.findall(r'<td class="senseless" colspan="7"[^>]*>(.*?)</td>', grid)
    assert set(marked) == {'not applicable <a href="#not-applicable">[1]</a>'}
    assert len(marked) == grid.count("data-senseless>") == 4 * 2 * 2  # control cells, too
    assert f"<li>[1] {NO_FILTER}</li>" in page
    assert ".senseless" in page
    assert "repeating-linear-gradient" in page


def test_heat_map_tells_the_number_beside_the_colour(page, results):
    row = re.search(r'<tr data-attack="1"><th scope="row">insent</th>(.*?)</tr>', page)[1]
    shown = re.findall(r'style="--v:([\d.]+)">(\d+)<', row)
    rates = [c["metrics"]["tpr"] for c in results["cells"] if not c["control"]
             and (c["attack"], c["defence"], c["tuner"]) == ("insent", "psim", "lora")]  # fmt: skip
    assert shown[0] == (f"{sum(rates) / 3:.2f}", f"{100 * sum(rates) / 3:.0f}")


def test_links_lead_to_the_scores_of_each_seed(results):
    links = {c["id"]: f"scores/{c['id']}.parquet" for c in results["cells"]
             if c["defence"] == "psim"}  # fmt: skip
    page = page_of(results, links)
    parsed = check_safe(page, links.values())
    found = [value for tag, key, value in parsed.attributes if (tag, key) == ("a", "href")]
    assert set(links.values()) <= set(found)
    assert "scores of seed" in page
    text = render_markdown(results, make_board(results), links)
    assert "[0](scores/insent-lora-psim-0.parquet) [1](scores/insent-lora-psim-1" in text


def test_hostile_labels_are_text(results):
    hostile = json.loads(json.dumps(results))
    rename = {"psim": HOSTILE, "insent": f"{HOSTILE}|a`b", "lora": f"{HOSTILE}2"}
    for cell in hostile["cells"]:
        for key in ("attack", "tuner", "defence"):
            cell[key] = rename.get(cell[key], cell[key])
        if cell["not_applicable"]:
            cell["not_applicable"] = HOSTILE
    for key in ("name", "question", "created"):
        hostile[key] = HOSTILE
    hostile["recipe"] = {"chosen_on": [HOSTILE], HOSTILE: HOSTILE}
    parsed = check_safe(page_of(hostile))
    assert any("<script>alert(1)</script>" in words for words in parsed.words)
    text = render_markdown(hostile, make_board(hostile))
    assert "<script>" not in text
    assert not re.search(r"(?<!\\)\|a", text)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", text)
    json.dumps(as_json(make_board(hostile)), allow_nan=False)


def test_an_empty_run_is_a_page_and_a_text(minimal):
    check_safe(page_of(minimal))
    assert "no leaderboard" in render_markdown(minimal, make_board(minimal))


def test_one_cell(single):
    check_safe(page_of(single))
    assert "One seed only" in page_of(single)


def test_markdown_says_the_same(results):
    board = make_board(results)
    text = render_markdown(results, board)
    assert text == render_markdown(results, board)
    assert f"1. {NO_FILTER}" in text
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert any(line.startswith("| insent | 8") and line.endswith("| n/a [1] |") for line in tables)
    for start in (i for i, line in enumerate(lines) if re.match(r"\|---", line)):
        width = lines[start].count("|")
        assert lines[start - 1].count("|") == lines[start + 1].count("|") == width
    assert "| latent (did not take) |" in text
    assert "| badnets (settings chosen here) |" in text


def test_json_is_json(results):
    found = json.loads(json.dumps(as_json(make_board(results)), allow_nan=False))
    assert found["schema"] == "peftlab.leaderboard/1"
    assert found["chosen_on"] == ["badnets"]
    assert found["unseen"] == ["insent", "soft", "latent"]
    assert {row["tuner"] for row in found["rows"]} == {"lora", "prefix"}


def test_a_page_of_many_cells_stays_small():
    many = make_bench(tuners=("lora", "prefix", "ia3"), seeds=(0,))
    page = page_of(many)
    assert len(page.encode()) < 3_000_000
    assert "800 more are in results.json" in page


# ---------------------------------------------------------------------- parts of a run


def test_a_part_of_a_run_says_so(results):
    part = select(results, {"attack": ["insent"], "tuner": [], "defence": ["none", "psim"]})
    assert {cell["attack"] for cell in part["cells"]} == {"insent"}
    assert {cell["tuner"] for cell in part["cells"]} == {"lora", "prefix"}
    assert any(cell["control"] for cell in part["cells"])
    assert "Only a part of the run is in here: attack insent; defence none, psim." in page_of(part)
    whole = select(results, {"attack": [], "tuner": [], "defence": []})
    assert page_of(whole) == page_of(results)


def test_an_unknown_label_is_refused(results):
    with pytest.raises(ConfigError) as caught:
        select(results, {"defence": ["psin"]})
    assert caught.value.code == "TABLE-FILTER"
    assert "psim" in caught.value.render()


# ---------------------------------------------------------------------- scores


def cell_of(results, name):
    return next(cell for cell in read_cells(results) if cell.id == name)


def held():
    made = arrays_of({"seed": 0, "id": "x", "control": False, "attack": "a", "defence": "psim"})
    made["clean_p"] = [0.5] * len(made["clean_scores"])
    made["triggered_p"] = [None] * len(made["triggered_scores"])
    return made


def test_scores_become_one_row_a_text(results, tmp_path):
    cell = cell_of(results, "insent-lora-psim-1")
    made = held()
    table = score_table(cell, made)
    n, k = len(made["clean_scores"]), len(made["triggered_scores"])
    assert table["score"] == made["clean_scores"] + made["triggered_scores"]
    assert table["set"] == ["clean"] * n + ["triggered"] * k
    assert table["row"] == [*range(n), *range(k)]
    assert table["p"] == [0.5] * n + [None] * k
    assert set(table["threshold"]) == {1.64}
    assert set(table["seed"]) == {1}
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [float(row["score"]) for row in rows] == table["score"]
    assert rows[-1]["p"] == ""
    if has_parquet():
        file = tmp_path / file_name(cell, "parquet")
        file.write_bytes(as_parquet(table))
        read = read_table(file)
        assert list(read.columns) == list(table)
        assert [list(row) for row in zip(*read.rows, strict=True)] == list(table.values())
        assert as_parquet(table) == as_parquet(table)


def test_no_scores_is_an_empty_table(results):
    empty = score_table(cell_of(results, "insent-lora-psim-1"), {"clean_scores": None})
    assert {len(column) for column in empty.values()} == {0}
    assert as_csv(empty).count("\n") == 1
    if has_parquet():
        assert as_parquet(empty)


def test_file_names_cannot_leave_the_folder(results):
    cells = []
    for name in ("../../x", "a/b", "", "x" * 200, "CON ", "\u202ex", "badnets-0"):
        cell = {**results["cells"][0], "id": name}
        cells += read_cells({"schema": "peftlab.results/1", "cells": [cell]})
    names = [file_name(cell, "csv") for cell in cells]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.csv", name) for name in names)
    assert len(set(names)) == len(names)
    assert names[-1] == "badnets-0.csv"


def test_csv_holds_no_formula(results):
    cell = cell_of(results, "insent-lora-psim-1")
    evil = [{**results["cells"][0], "defence": "=1+1", "attack": "@x", "not_applicable": None}]
    cell = read_cells({"schema": "peftlab.results/1", "cells": evil})[0]
    text = as_csv(score_table(cell, {"clean_scores": [-1.5]}))
    assert text.splitlines()[1].startswith("'@x,")
    assert ",'=1+1," in text
    assert ",-1.5," in text
