import re
import subprocess
import sys

import pytest
from made_up_results import NO_FILTER, arrays_of, make_bench, make_results
from page_reader import HOSTILE, Page

from peftlab.report import figures
from peftlab.report.html import render
from peftlab.report.read import read_cells
from peftlab.report.results import group


def check_safe(page):
    """Nothing is loaded, nothing runs, every reference has its target."""
    parsed = Page(page)
    banned = {"script", "img", "link", "iframe", "object", "embed", "base", "form", "foreignobject"}
    assert not banned & set(parsed.tags)
    for tag, key, value in parsed.attributes:
        assert not key.startswith("on")
        assert key != "src"
        if key.endswith("href"):
            assert value.startswith("#")
            assert value[1:] in parsed.ids
        for target in re.findall(r"url\(([^)]*)\)", value):
            assert target.strip("\"'")[1:] in parsed.ids, (tag, key)
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", page)
    return parsed


@pytest.fixture(scope="module")
def full_page(_full, full_arrays):
    return render(_full, full_arrays)


def test_full(full_page):
    parsed = check_safe(full_page)
    for part in ("glance", "table", "scores", "before-after", "paths", "calibration", "control",
                 "cost", "data", "reading", "provenance"):  # fmt: skip
        assert part in parsed.ids
    assert "Synthetic: reviews was generated" in full_page
    assert "Shown are 6 of 12 combinations" in full_page
    assert full_page.count("<svg") == full_page.count('role="img"') == full_page.count("<desc")
    assert parsed.tags.count("figure") == full_page.count("Numbers of this figure")
    assert len(full_page.encode()) < 1_000_000


def test_colours_follow_the_theme(full_page):
    svg = "".join(re.findall(r"<svg.*?</svg>", full_page, re.DOTALL))
    assert "var(--ink)" in svg
    assert not re.search(r"#[0-9a-fA-F]{6}\b", svg)
    assert "prefers-color-scheme: dark" in full_page


def test_triggered_is_hatched_and_dashed(full_page):
    assert "<pattern" in full_page
    assert "stroke-dasharray" in full_page


def test_same_results_same_bytes(full, full_arrays, full_page):
    assert render(full, full_arrays) == full_page


def test_failures_are_said(single):
    single["failures"] = [
        {"id": "x", "kind": "guard", "state": "failed", "code": "TRAIN-NAN", "message": "<b>loss"}
    ]
    page = render(single, {})
    check_safe(page)
    assert "Incomplete: 1 step of the run did not finish" in page
    assert "&lt;b&gt;loss" in page


def test_minimal(minimal):
    page = render(minimal, {})
    check_safe(page)
    assert "No cell has finished, so there is no verdict." in page
    assert render(minimal) == page


def test_one_seed(single):
    page = render(single, {cell["id"]: arrays_of(cell) for cell in single["cells"]})
    check_safe(page)
    assert "One seed only" in page


def test_nulls_show_a_dash_and_the_reason(single):
    for cell in single["cells"]:
        cell["metrics"] = dict.fromkeys(cell["metrics"])
        cell["reasons"] = {"asr": 'too few <texts> "left"'}
        cell["cost"] = {"fit_seconds": None}
        cell["intervals"] = None
    arrays = {
        single["cells"][2]["id"]: {
            "clean_scores": [None, 1.0, float("nan")], "triggered_scores": [2.0],
            "threshold": None, "trajectory": {"steps": [0, 10], "series": [{"name": None}]},
        },
        single["cells"][3]["id"]: {"clean_scores": None, "trajectory": None},
    }  # fmt: skip
    for metadata in ("versions", "machine", "recipe", "data", "created", "question"):
        single[metadata] = None
    page = render(single, arrays)
    check_safe(page)
    assert 'title="too few &lt;texts&gt; &#34;left&#34;"' in page
    assert "There is no single threshold to draw." in page


def test_what_makes_no_sense_is_hatched_and_has_a_reason():
    results = make_bench(("badnets", "insent"), ("none", "psim", "cube", "dbs"), seeds=(0,))
    page = render(results, {})
    check_safe(page)
    cells = re.findall(r'<td class="senseless" colspan="7"[^>]*>(.*?)</td>', page)
    assert cells == ['not applicable <a href="#not-applicable">[1]</a>'] * 4
    assert f"<li>[1] {NO_FILTER}</li>" in page
    assert f"Not applicable here: cube ({NO_FILTER})." in page
    assert "dbs called 2 of 2 poisoned models poisoned" in page
    assert "<h3><span>cube" not in page
    assert render(results, {}) == page


def test_hostile_names_are_text(single):
    for cell in single["cells"]:
        cell["attack"] = cell["tuner"] = HOSTILE
        cell["defence"] = HOSTILE if cell["defence"] != "none" else "none"
        cell["reasons"] = dict.fromkeys(cell["metrics"], HOSTILE)
    for key in ("name", "question", "created"):
        single[key] = HOSTILE
    for key in ("versions", "machine", "recipe"):
        single[key] = {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}
    single["data"] = {HOSTILE: {"label_names": [HOSTILE], "notes": HOSTILE, "source": HOSTILE}}
    arrays = {cell["id"]: arrays_of({**cell, "defence": "psim"}) for cell in single["cells"]}
    for held in arrays.values():
        held["trajectory"]["series"][0]["name"] = HOSTILE
    page = render(single, arrays)
    parsed = check_safe(page)
    assert any("<script>alert(1)</script>" in words for words in parsed.words)


def test_lone_surrogates_and_foreign_scripts_can_be_written(single):
    single["question"] = "\ud800 觸發 ثغرة"
    single["cells"][2]["attack"] = "後門"
    page = render(single, {})
    check_safe(page)
    page.encode()


def test_a_page_of_many_cells_stays_small():
    results = make_results(tuple(f"attack{i}" for i in range(15)), ("lora", "prefix", "ia3"))
    assert len(results["cells"]) == 810
    page = render(results, {})
    assert len(page.encode()) < 3_000_000
    assert "The first 24 of 45 are drawn." in page


def test_representatives_take_lora_and_every_attack_first(full):
    chosen = figures.representatives(group(read_cells(full)))
    assert [(one.attack, one.defence) for one in chosen[:4]] == [
        ("badnets", "psim"), ("insent", "psim"), ("synattack", "psim"), ("badnets", "weak"),
    ]  # fmt: skip
    assert {one.tuner for one in chosen} == {"lora"}
    assert not any(one.control for one in chosen)


def test_torch_is_not_imported():
    code = (
        "import sys; from peftlab.report import html, table; "
        "html.render({'schema': 'peftlab.results/1', 'cells': []}); "
        "sys.exit(bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
