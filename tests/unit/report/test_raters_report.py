"""The page, the CSV file and the LaTeX table of a rater audit: honest words and safe text."""

import copy
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from peftlab.core.errors import InputRejected
from peftlab.report.raters import figures
from peftlab.report.raters.html import render_raters
from peftlab.report.raters.read import read_raters
from peftlab.report.raters.tables import to_csv, to_latex
from peftlab.report.raters.words import LONGEST, sentences, short

METRICS = ["irr", "xrr", "plurality", "voting", "negentropy", "cross_negentropy", "gai", "gap"]
NATIONS = {"Australia": 216, "Singapore": 102, "South Africa": 173, "United Kingdom": 406,
           "United States": 167}  # fmt: skip
GENDERS = {"man": 530, "woman": 520}
HOSTILE = "<script>alert(1)</script>\u202e$&_%#{}~^\\\x1b[31m"


def significant(metric):
    """Return which group of which metric differs, with p, corrected p and side."""
    if metric == "voting":
        return {"South Africa": (0.01, 0.03, "below")}
    return {
        "United States": (0.001, 0.005, "above"),
        "United Kingdom": (0.03, 0.07, "above"),
        "Singapore * woman": (0.004, 0.02, "below"),
    }


def numbers(name, metric, value, *, within, bootstrap):
    """Return the keys of one metric of one group."""
    p, q, side = significant(metric).get(name, (0.48, 0.6, "above"))
    row = {metric: value, f"p_{metric}": p, f"q_{metric}": q, f"side_{metric}": side}
    if bootstrap:
        row |= {f"low_{metric}": value - 0.05, f"high_{metric}": value + 0.06}
    if within:
        row |= {f"p_within_{metric}": 2 * p, f"q_within_{metric}": 0.2 if "*" in name else q}
    return row


def group(axis, name, raters, *, within, bootstrap, metrics=METRICS):
    rng = np.random.default_rng(len(name) * 31 + raters)
    ratio = {"United States": 1.181, "Singapore * woman": 0.54, "United Kingdom": 1.094}
    xrr = round(0.36 + 0.03 * float(rng.normal()), 4)
    gai = ratio.get(name, round(1 + 0.04 * float(rng.normal()), 4))
    values = {
        "xrr": xrr, "gai": gai, "irr": round(gai * xrr, 4), "gap": round((gai - 1) * xrr, 4),
        "plurality": 0.81, "voting": 0.62, "negentropy": 0.31, "cross_negentropy": 0.28,
    }  # fmt: skip
    row = {
        "axis": axis, "group": name, "raters": raters, "ratings": 37 * raters,
        "suppressed": False, "tie_share": 0.01, "reasons": {},
    }  # fmt: skip
    for metric in metrics:
        row |= numbers(name, metric, values[metric], within=within, bootstrap=bootstrap)
    return row


def nulls_of(row):
    """Return bell-shaped nulls, wider for small groups."""
    found = []
    for metric in ("gai", "irr", "xrr"):
        if row.get(metric) is None:
            continue
        middle = 1.0 if metric == "gai" else 0.37
        edges = middle + np.linspace(-3, 3, 31) * 0.5 / np.sqrt(row["raters"])
        counts = np.round(200 * np.exp(-(np.linspace(-2.9, 2.9, 30) ** 2) / 2))
        found.append({
            "axis": row["axis"], "group": row["group"], "metric": metric,
            "edges": edges.tolist(), "counts": counts.tolist(), "median": middle,
        })  # fmt: skip
    return found


def pairs_of(axis, names):
    return [
        {"axis": axis, "a": a, "b": b, "xrr": round(0.3 + 0.01 * i + 0.02 * j, 3)}
        for i, a in enumerate(names) for j, b in enumerate(names) if a < b
    ]  # fmt: skip


def models_of(rows):
    where = [("", "everybody"), *((row["axis"], row["group"]) for row in rows[:7])]
    listed, moves = [], []
    for number, (axis, name) in enumerate(where):
        before, change = 0.31 - 0.01 * number, 0.07 - 0.02 * number
        for model, xrr in (("before", before), ("after", before + change)):
            listed.append({"model": model, "axis": axis, "group": name, "xrr": xrr,
                           "low": xrr - 0.03, "high": xrr + 0.03})  # fmt: skip
        moves.append({"axis": axis, "group": name, "before": before, "after": before + change,
                      "change": change, "low": change - 0.02, "high": change + 0.02})  # fmt: skip
    return {"names": ["before", "after"], "rows": listed, "moves": moves}


def make(*, within=("gender",), bootstrap=1000, models=True, crossed=None, metrics=METRICS):
    """Return a made-up audit of two axes and their intersection, with one suppressed group."""
    if crossed is None:
        crossed = {f"{nation} * {gender}": 40 + 7 * len(nation) for nation in NATIONS
                   for gender in GENDERS}  # fmt: skip
    named = {"nationality": NATIONS, "gender": GENDERS, "nationality*gender": crossed}
    rows = [
        group(axis, name, raters, within=within, bootstrap=bootstrap, metrics=metrics)
        for axis, groups in named.items() for name, raters in groups.items()
    ]  # fmt: skip
    hidden = {"axis": "gender", "group": "other", "raters": None, "suppressed": True}
    sizes = [5, 8, 13, 20, 32, 50, 80, 130, 200, 320, 500]
    return {
        "schema": "peftlab.raters/1",
        "name": "made-up",
        "data": {
            "source": "ratings.csv.gz", "licence": "CC BY 4.0", "synthetic": True, "items": 1580,
            "raters": 1064, "ratings": 39475, "labels": ["0", "1"],
            "label_counts": [21774, 17701], "alpha": 0.373, "batches": 1,
            "notes": ["19 duplicate rows were dropped"],
        },
        "settings": {
            "level": "nominal", "permutations": 2000, "bootstrap": bootstrap,
            "within": list(within), "correction": "bh", "pvalue": "two-sided", "min_group": 5,
            "ties": "lowest", "smoothing": 0.5, "seed": 0, "metrics": list(metrics),
        },
        "axes": [
            {"axis": axis, "attributes": axis.split("*"), "raters": 1064, "unknown": 3,
             "groups": len(groups), "suppressed": ["other"] if axis == "gender" else [],
             "notes": []}
            for axis, groups in named.items()
        ],
        "groups": [*rows, hidden],
        "dsi": {
            "nationality": {"value": 1.181, "group": "United States", "p": 0.001, "q": 0.005,
                            "gap": {"value": 0.07, "group": "United States"}},
            "gender": {"value": 1.02, "group": "man", "p": 0.4, "q": 0.5,
                       "gap": {"value": 0.01, "group": "man"}},
            "nationality*gender": {"value": None, "group": None, "p": None, "q": None,
                                   "gap": None},
        },
        "pairs": [pair for axis, groups in named.items() for pair in pairs_of(axis, groups)],
        "nulls": [null for row in rows for null in nulls_of(row)],
        "power": {
            "sizes": sizes, "low": [1 - 1.6 / n**0.5 for n in sizes],
            "median": [1.0] * len(sizes), "high": [1 + 2.2 / n**0.5 for n in sizes],
        },
        "gaps": [
            {"axis": "nationality", "group": "United States", "item": f"SBIC-{n}",
             "gap": 0.6 - 0.01 * n, "ratings": 9 - n} for n in range(6)
        ],
        "models": models_of(rows) if models else None,
    }  # fmt: skip


class Balance(HTMLParser):
    """Checks that every tag is closed, and keeps the text."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    """Return tags and text of a page, after checking that it is whole."""
    checker = Balance()
    checker.feed(page)
    assert checker.open == []
    return checker.tags, " ".join(" ".join(checker.text).replace("\u00a0", " ").split())


def row_of(results, name):
    return next(row for row in results["groups"] if row["group"] == name)


@pytest.fixture(scope="module")
def _made():
    return make()


@pytest.fixture(scope="module")
def page(_made):
    return render_raters(_made)


@pytest.fixture
def made(_made):
    return copy.deepcopy(_made)


def small(**changes):
    """Return an audit with few groups, as drawing takes time."""
    return {**make(crossed={"Singapore * woman": 50}, models=False), **changes}


def test_the_page_stands_alone(page):
    tags, _ = read(page)
    assert "script" not in tags
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers)


def test_the_page_shows_what_was_asked(page):
    _, text = read(page)
    for words in (
        "Which groups of raters have a perspective of their own?", "DSI by axis",
        "GAI: nationality \u00d7 gender", "GAI against chance: nationality", "IRR: 3 figures",
        "XRR between groups: nationality", "IRR against XRR", "What can be detected",
        "Models and groups: gender", "How far it moved", "Plain test and test within gender",
        "5 items by gap, ids only", "1 item is left out: fewer than 5 ratings", "SBIC-0",
        "Groups under 5 raters are suppressed; no text of any item is in this report.",
        "19 duplicate rows were dropped", "alpha of all raters", "Synthetic: made-up",
        "Krippendorff's alpha", "Made by peftlab from raters.json",
    ):  # fmt: skip
        assert words in text, words
    # DSI; per axis: forest, three nulls, matrix; scatter and power; models on two axes
    assert page.count("<svg") == 1 + 3 * 5 + 2 + 2


def test_arrows_and_stars_stand_where_they_should(page):
    rows = dict(
        re.findall(r'<th scope="row">([^<]+)</th>(<td>.*?)</tr>', page.split("Plain test")[0])
    )
    assert rows["United States"].count('<span class="word held">↑**</span>') == 7
    assert rows["United Kingdom"].count('<span class="word failed">↑*</span>') == 7
    assert '<td>.620<span class="word held">↓**</span></td>' in rows["South Africa"]
    assert "<span" not in rows["Australia"]


def test_the_verdict_names_groups_directions_and_limits(made):
    found = sentences(made)
    whole = " ".join(found)
    assert found[0] == (
        "2 of 17 groups differ from chance in GAI after correction (Benjamini-Hochberg)."
    )
    assert "a perspective of their own): United States (nationality, 1.181)" in whole
    assert (
        "a split inside the group): Singapore \u00d7 woman (nationality \u00d7 gender, 0.540)"
        in whole
    )
    assert "a hint and no more: United Kingdom (nationality, ↑ p = 0.030)" in whole
    assert "stratified by gender confirms 1 of 2; not Singapore \u00d7 woman" in whole
    assert "South Africa (nationality, PlurAgree ↓)." in whole
    assert (
        "DSI, largest of all axes: nationality, 1.181, from United States (p = 0.001, 0.005 after "
        "correction). No DSI: nationality \u00d7 gender." in whole
    )
    assert "agreement with everybody: +.070 [+.050, +.090]" in whole
    assert "1 group is suppressed for having fewer than 5 raters: other (gender)." in whole
    assert "With 2000 permutations no p can be below 2/(N + 1) = 0.001." in whole
    assert "too few" not in whole


def test_too_few_permutations_are_said_to_be_too_few(made):
    made["settings"]["permutations"] = 100
    assert "too few for 10 groups on one axis" in " ".join(sentences(made))
    assert "400 permutations would do" in " ".join(sentences(made))
    made["settings"]["correction"] = "none"
    assert "too few" not in " ".join(sentences(made))


def test_without_correction_one_star_is_a_finding(made):
    made["settings"]["correction"] = "none"
    found = " ".join(sentences(made))
    assert found.startswith("3 of 17 groups differ from chance in GAI at p < 0.05 (nothing was")
    assert "**" not in to_latex(made)


def test_the_published_rule_is_warned_of(made):
    made["settings"]["pvalue"] = "paper"
    assert "about twice as many differences by chance" in " ".join(sentences(made))
    assert "published one-tail rule" in to_latex(made)


def test_no_difference_is_said_to_be_none(made):
    for row in made["groups"]:
        row.update({key: 0.5 for key in row if key.startswith(("p_", "q_"))})
    found = sentences(made)
    assert found[0].startswith("No group differs from chance in GAI after correction")
    assert "The test stratified by gender finds none either." in found
    assert "In none of the other numbers does a group differ from chance." in found


def test_no_bootstrap_no_strata_no_models_is_a_page():
    results = {**small(), "gaps": [], "power": None}
    results["groups"] = make(within=(), bootstrap=0, crossed={}, models=False)["groups"]
    results["settings"] |= {"bootstrap": 0, "within": []}
    _, text = read(render_raters(results))
    assert "No bootstrap was run, so no number has an interval." in text
    assert "so there are no intervals" in text
    for words in ("test within", "With whom does the model agree?", "On which items?",
                  "How large must a group be?", "bootstrap draws"):  # fmt: skip
        assert words not in text
    header = to_csv(results).split("\r\n", maxsplit=1)[0]
    assert "low_gai" not in header
    assert "p_within_gai" not in header


def test_everything_suppressed_is_a_page(made):
    made["groups"] = [
        {"axis": row["axis"], "group": row["group"], "raters": None, "suppressed": True}
        for row in made["groups"]
    ]
    page = render_raters(made)
    assert "There is no result: every group has fewer than 5 raters." in page
    assert page.count("<svg") == 2  # power and models against the whole pool
    assert to_latex(made).count(" & ") == 10
    assert len(to_csv(made).splitlines()) == 1 + len(made["groups"])


def test_nothing_at_all_is_a_page():
    page = render_raters({"schema": "peftlab.raters/1"})
    assert "No group was found" in page
    assert to_csv({"schema": "peftlab.raters/1"}).startswith("axis,group,raters")
    assert "\\bottomrule" in to_latex({"schema": "peftlab.raters/1"})


def leak():
    """Return an audit that carries numbers of a suppressed group, as it never should."""
    results = make(crossed={"Singapore * woman": 50})
    secret = 0.98765
    where = {"axis": "gender", "group": "other"}
    hidden = row_of(results, "other")
    hidden |= {"raters": 98765, "ratings": 98765, "irr": secret, "gai": secret, "p_gai": secret}
    hidden["reasons"] = {"irr": "98765"}
    results["dsi"]["gender"] = {"value": secret, "group": "other", "p": secret, "q": secret,
                                "gap": {"value": secret, "group": "other"}}  # fmt: skip
    results["pairs"].append({"axis": "gender", "a": "man", "b": "other", "xrr": secret})
    results["nulls"].append({**where, "metric": "gai", "edges": [0, 98765], "counts": [98765],
                             "median": secret})  # fmt: skip
    results["gaps"].append({**where, "item": "98765", "gap": secret, "ratings": 98765})
    results["models"]["rows"].append({**where, "model": "after", "xrr": secret, "low": secret,
                                      "high": secret})  # fmt: skip
    results["models"]["moves"].append({**where, "before": secret, "after": secret,
                                       "change": secret, "low": secret, "high": 1})  # fmt: skip
    next(each for each in results["axes"] if each["axis"] == "gender")["raters"] = 98765
    return results


@pytest.mark.parametrize("by_axis", [False, True], ids=["flag", "named by its axis"])
def test_a_suppressed_group_leaves_no_number(by_axis):
    results = leak()
    if by_axis:
        row_of(results, "other")["suppressed"] = False
    else:
        next(each for each in results["axes"] if each["axis"] == "gender")["suppressed"] = []
    for text in (render_raters(results), to_csv(results), to_latex(results)):
        assert not re.search(r"987[67]|98\.8|\.988", text)
    assert "suppressed, gender</dt>" in render_raters(results)
    own = next(row for row in csv.DictReader(io.StringIO(to_csv(results)))
               if row["group"] == "other")  # fmt: skip
    assert own["suppressed"] == "true"
    assert set(own.values()) == {"gender", "other", "true", ""}


def test_missing_values_have_a_dash_and_a_reason():
    results = small()
    why = "XRR is not above its null spread (50 % of shuffles)"
    row = row_of(results, "Singapore * woman")
    row |= {"gai": None, "p_gai": None, "q_gai": None, "side_gai": None, "low_gai": None,
            "high_gai": None, "irr": None, "reasons": {"gai": why}}  # fmt: skip
    row_of(results, "man")["gai"] = float("nan")
    results["nulls"] = [null for null in results["nulls"] if null["group"] != "man"]
    page = render_raters(results)
    _, text = read(page)
    assert f"1 no reason is given 2 {why}" in text or f"2 {why}" in text
    assert re.search(r"<td>\u2013<sup>\d</sup></td>", page)
    assert "nan" not in text.lower().split()
    assert "GAI is undefined for man (gender), Singapore \u00d7 woman" in text
    latex = to_latex(results)
    assert r"--$^{" in latex
    assert r"50 \% of shuffles" in latex
    assert "nan" not in to_csv(results)
    assert f"gai: {why}" in to_csv(results)


def hostile():
    results = make(crossed={"Singapore * woman": 50}, models=True)
    text = repr(results).replace("United States", "@NAME@").replace("Singapore", "@LONG@")
    results = eval(text)  # a literal of our own

    def put(value):
        if isinstance(value, str):
            return value.replace("@NAME@", HOSTILE).replace("@LONG@", "Ein sehr langer Name " * 9)
        if isinstance(value, dict):
            return {key: put(each) for key, each in value.items()}
        return [put(each) for each in value] if isinstance(value, list) else value

    results = put(results)
    results["name"] = HOSTILE
    results["data"]["notes"] = [HOSTILE]
    results["models"]["names"][0] = "before"
    row_of(results, "man")["reasons"] = {"gai": HOSTILE}
    row_of(results, "man")["gai"] = None
    return results


def test_hostile_names_are_escaped():
    results = hostile()
    page = render_raters(results)
    tags, _ = read(page)
    assert "script" not in tags
    for bad in ("<script", "\u202e", "\x1b"):
        assert bad not in page
        assert bad not in to_latex(results)
    assert "&lt;script&gt;" in page
    for bad in ("\u202e", "\x1b"):
        assert bad not in to_csv(results)


def bare(latex):
    """Return LaTeX without our own commands and escaped signs, so that what is left is text."""
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("%"))
    body = body.replace(r" \\", "")
    body = re.sub(r"\\(?:text\w+|ldots)\{\}", "", body)
    body = re.sub(r"\\[&%$#_{}]", "", body)
    body = re.sub(r"\$[^$\n]*\$", "", body)
    return re.sub(r"\\(?:begin|end|caption|label|centering|small|toprule|midrule|bottomrule)\b",
                  "", body)  # fmt: skip


@pytest.mark.parametrize("results", [make(), hostile()], ids=["plain", "hostile"])
def test_latex_is_balanced_and_has_no_raw_specials(results):
    latex = to_latex(results)
    unescaped = re.sub(r"\\[{}\\]", "", latex)
    depth = 0
    for sign in unescaped:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    assert not re.search(r"[\\%$#_~^<>]", bare(latex).replace("tab:raters", ""))
    body = [line for line in latex.splitlines() if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {10}


def test_latex_looks_like_the_published_table(made):
    latex = to_latex(made)
    assert r"axis & group & raters & IRR & XRR & NegE & CrossNegE & PlurSize" in latex
    assert r"1.181$\uparrow^{**}$" in latex
    assert r"0.540$\downarrow^{**}$" in latex
    assert r"Singapore $\times$ woman & 103" in latex
    assert latex.count(r"\midrule") == 3
    for words in (r"$^{**}$ also after Benjamini-Hochberg correction", "two-sided, 2000",
                  "DSI: nationality 1.181, gender 1.020.", "1064 raters, 1580 items",
                  "Groups under 5 raters are suppressed."):  # fmt: skip
        assert words in latex


def test_csv_parses_back(made):
    row_of(made, "Australia")["group"] = '=HYPERLINK("http://x","y")'
    row_of(made, "South Africa")["group"] = " +1"
    row_of(made, "man")["xrr"] = -0.25
    text = to_csv(made)
    assert text.count("\r\n") == text.count("\n") == len(made["groups"]) + 1
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["axis"] for row in rows] == [row["axis"] for row in made["groups"]]
    assert rows[0]["group"] == '\'=HYPERLINK("http://x","y")'
    assert rows[2]["group"] == "' +1"
    own = next(row for row in rows if row["group"] == "man")
    assert own["xrr"] == "-0.25"  # a number stays a number
    source = row_of(made, "United States")
    own = next(row for row in rows if row["group"] == "United States")
    for key, value in source.items():
        if isinstance(value, float):
            assert float(own[key]) == value
    assert list(own)[:6] == ["axis", "group", "raters", "ratings", "suppressed", "tie_share"]
    assert set(source) == set(own)


def test_same_numbers_same_bytes():
    results = small()
    again = copy.deepcopy(results)
    assert render_raters(results) == render_raters(again)
    assert results == again  # nothing was changed on the way
    assert to_csv(results) == to_csv(again)
    assert to_latex(results) == to_latex(again)


@pytest.mark.parametrize("make_text", [render_raters, to_csv, to_latex, sentences])
@pytest.mark.parametrize("schema", ["peftlab.window/1", None])
def test_other_results_are_refused(make_text, schema):
    with pytest.raises(InputRejected, match="REPORT-SCHEMA"):
        make_text({"schema": schema})


def test_many_groups_are_capped_and_said_to_be():
    crossed = {f"nation number {n} * a rather long word for gender": 30 + n for n in range(50)}
    found = read_raters(make(crossed=crossed, models=False))
    axis = found.axes[2]
    drawn = figures.forest("k", found, axis)
    assert "Drawn: the 20 of 50 groups with the smallest p." in drawn.caption
    assert len(drawn.rows) == 50
    drawn = figures.nulls("k", found, axis, "gai")
    assert "Drawn: the 12 of 50" in drawn.caption
    drawn = figures.matrix("k", found, axis)
    assert "Drawn: the 10 of 50 groups with the most raters." in drawn.caption
    assert len(drawn.rows) == figures.MOST_LISTED


def test_figures_have_numbers_and_need_something_to_draw(made):
    found = read_raters(made)
    empty = read_raters({"schema": "peftlab.raters/1", "models": {"names": ["a"]}})
    axis = found.axes[0]
    for drawn in (
        figures.dsi("k", found), figures.forest("k", found, axis),
        figures.nulls("k", found, axis, "irr"), figures.matrix("k", found, axis),
        figures.scatter("k", found), figures.power("k", found),
        figures.models("k", found, "nationality", "nationality"),
    ):  # fmt: skip
        assert drawn.rows
        assert {len(row) for row in drawn.rows} == {len(drawn.header)}
    assert figures.dsi("k", empty) is None
    assert figures.forest("k", empty, axis) is None
    assert figures.nulls("k", empty, axis, "gai") is None
    assert figures.matrix("k", empty, axis) is None
    assert figures.scatter("k", empty) is None
    assert figures.power("k", empty) is None
    assert figures.models("k", empty, "nationality", "nationality") is None


def test_one_model_is_told_of_without_moves(made):
    made["models"]["names"] = ["before"]
    made["models"]["moves"] = []
    made["models"]["rows"] = [row for row in made["models"]["rows"] if row["model"] == "before"]
    assert any(
        text.startswith("before agrees most with Australia (XRR") for text in sentences(made)
    )
    drawn = figures.models("k", read_raters(made), "nationality", "nationality")
    assert drawn.header == ("group", "before", "95 % interval")


def test_long_names_are_cut_in_the_middle_of_each_part():
    name = "Multiracial and other \u00d7 woman with a degree"
    assert len(short(name)) <= LONGEST
    assert short(name).count("…") == 2
    assert short("short") == "short"
