"""The page of a window experiment: honest words, safe text, figures that say what they show."""

import re
from html.parser import HTMLParser

import made_up_windows as made_up
import pytest

from peftlab.core.errors import InputRejected
from peftlab.report.window import figures
from peftlab.report.window.html import render_window
from peftlab.report.window.read import read_windows
from peftlab.report.window.words import sentences


class Balance(HTMLParser):
    """Checks that every tag is closed."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words(measured=None, **changes):
    return sentences(read_windows(made_up.results(measured, **changes)))


@pytest.fixture(scope="module")
def page():
    measured = made_up.units(attacks=("badnets",), variants=("lora",), seeds=(0, 1))
    return render_window(made_up.results(measured))


def test_the_page_stands_alone(page):
    checker = Balance()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page
    assert "<script" not in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers)


def test_the_page_shows_what_was_asked(page):
    for text in ("How wide is the window?", "Does pre-training widen it?", "open windows",
                 "Synthetic: made-up", "Made by peftlab from window.json"):  # fmt: skip
        assert text in page
    assert page.count("<svg") == 2 + 4 + 2  # width by base, windows, curves (not of the control)


def test_pretraining_that_widens_is_said_to_widen():
    found = words()
    assert found[0] == "More pre-training widens the window of a single step (from none to full)."
    assert "wider in 4 and narrower in 0 of 4" in found[1]
    assert any(text.startswith("Chosen on badnets alone, ") for text in found)
    assert any("none of 12 combinations shows a window" in text for text in found)
    assert any("still open at the last look (step 240)" in text for text in found)


def test_no_effect_is_said_to_be_none():
    measured = [
        made_up.unit(base, "badnets", "lora", seed, wide=20 + 9 * (seed if base == "full" else 1))
        for base in ("none", "full") for seed in (0, 1, 2)
    ]  # fmt: skip
    assert words(measured)[0].startswith("No clear effect of pre-training")
    shrunk = [
        made_up.unit(base, "badnets", "lora", seed, wide=40 if base == "none" else 15)
        for base in ("none", "full") for seed in (0, 1, 2)
    ]  # fmt: skip
    assert words(shrunk)[0].startswith("More pre-training narrows")
    assert "cannot be told from one seed" in words([each for each in shrunk if not each["seed"]])[0]


def test_nothing_found_is_said_first():
    measured = [made_up.unit("full", "badnets", "lora", 0, high=0.5)]
    found = words(measured)
    assert found[0].startswith("No window was found")
    assert "No unpoisoned control was run" in found[1]
    assert not any("Chosen" in text for text in found)


def test_one_base_says_nothing_of_pretraining():
    assert words(made_up.units(bases=("full",)))[0].startswith("One base was measured (full)")


def test_a_window_of_the_control_and_a_weak_backdoor_are_told():
    measured = [
        made_up.unit("full", "badnets", "lora", 0, asr=0.2),
        made_up.unit("full", "control", "lora", 0, control=True),
    ]
    found = " ".join(words(measured))
    assert "did not take, so little can stand out: badnets on full (ASR 20.0 %)" in found
    assert "odd text stands out, not the backdoor" in found


def test_no_way_serves_every_attack():
    measured = [
        made_up.unit("full", "badnets", "lora", 0),
        made_up.unit("full", "insent", "lora", 0, high=0.4),
    ]
    found = " ".join(words(measured))
    assert "0 steps at its worst attack (insent); no single step serves every attack" in found
    assert "No way to un-learn, by any score, has a window against every attack." in found


def test_an_empty_run_is_a_page():
    page = render_window(made_up.results([]))
    assert "No poisoned base was measured" in page
    assert "<svg" not in page


def test_names_are_escaped_and_gaps_are_shown():
    bad = "<b>x\u202e$&"
    measured = [made_up.unit(bad, "badnets", "lora", 0)]
    measured[0]["max_prob"]["tpr_05"] = None
    del measured[0]["confidence"]
    results = made_up.results([made_up.unit(bad, "badnets", "lora", 0)])
    page = render_window({**results, "units": measured, "compare": [3, {}], "choices": "no"})
    assert "<b>x" not in page
    assert "\u202e" not in page
    assert "&lt;b&gt;x" in page


def test_other_results_are_refused():
    with pytest.raises(InputRejected, match="REPORT-SCHEMA"):
        render_window({"schema": "peftlab.results/1"})


def test_figures_have_numbers_and_need_something_to_draw():
    found = read_windows(made_up.results(made_up.units(attacks=("badnets",), seeds=(0, 1))))
    curve = figures.by_step("k", found, "full", "badnets", "lora")
    assert len(curve.rows) == len(made_up.STEPS)
    assert {len(row) for row in curve.rows} == {len(curve.header)}
    bars = figures.by_variant("k", found, "full", "badnets")
    assert [row[0] for row in bars.rows] == ["lora", "all"]
    widths = figures.by_base("k", found, "badnets", "gap")
    assert widths.header == ("way to un-learn", "none", "full")
    assert figures.by_step("k", found, "full", "nobody", "lora") is None
    assert figures.by_variant("k", found, "full", "nobody") is None
    assert figures.by_base("k", found, "nobody", "gap") is None


def test_guards_of_several_looks_are_shown_and_said():
    found = made_up.results(guards=[
        *made_up.guards(), *made_up.guards(rate=0.2, chosen=False, attacks=("badnets",)),
        *made_up.guards(base="none", rate=0.5),
    ])  # fmt: skip
    page = render_window(found)
    assert "What do several looks find together?" in page
    assert page.count("lora at 5, 20") >= 2
    said = " ".join(sentences(read_windows(found)))
    assert "badnets and insent choose lora at 5, 20 (3 passes a text): 90.0 % and 90.0 %" in said
    assert "90.0 % of synrule, which had no say" in said


def test_without_guards_nothing_is_said_of_them(page):
    assert "several looks find" not in page
    assert not any("no say" in text for text in words())
    two = made_up.guards(attacks=("badnets", "insent"))
    assert not any("no say" in text for text in words(guards=two))


def test_broken_rows_of_guards_are_left_out():
    rows = [{"base": "<b>", "tpr_05": None}, 3, {"looks": 7, "passes": "x"}]
    assert read_windows(made_up.results(guards=rows)).guards == ()


def spoiled(value, depth=4):
    """Yield copies of nested data in each of which one part is something else."""
    if depth and isinstance(value, dict):
        for key, part in value.items():
            yield {name: each for name, each in value.items() if name != key}
            for other in spoiled(part, depth - 1):
                yield {**value, key: other}
    elif depth and isinstance(value, list) and value:
        for other in spoiled(value[0], depth - 1):
            yield [other, *value[1:]]
    yield from ([], {}, 5, -1e308, "x", None, True, [None], [[1, 2]], {"a": 1})


def is_window_file(results, good):
    return (
        isinstance(results, dict) and results.get("schema") == good["schema"]
        and isinstance(results.get("recipe"), dict)
        and results["recipe"].get("steps") == good["recipe"]["steps"]
    )  # fmt: skip


def test_whatever_one_part_of_the_file_is_there_is_a_page_or_a_plain_refusal():
    measured = made_up.units(attacks=("badnets",), variants=("lora",), seeds=(0, 1))
    good = {**made_up.results(measured), "guards": made_up.guards()}
    for bad in spoiled(good):
        try:
            assert sentences(read_windows(bad))
        except InputRejected:
            assert not is_window_file(bad, good)


@pytest.mark.parametrize("part", ["units", "table", "trained", "compare", "choices", "guards"])
def test_a_page_without_one_of_its_tables(part):
    measured = made_up.units(attacks=("badnets",), variants=("lora",), seeds=(0,))
    full = {**made_up.results(measured), "guards": made_up.guards()}
    assert "</html>" in render_window({name: rows for name, rows in full.items() if name != part})
