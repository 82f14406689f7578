"""The fixture of the paper's table 5, and the comparison of one's own run with it."""

import math

import pytest

from peftlab.audits.raters import published
from peftlab.audits.raters.axes import make_axis
from peftlab.audits.raters.published import (
    AXIS_OF,
    D3_AGES,
    D3_GENDERS,
    D3_RATERS,
    DSI,
    METRICS,
    TABLE_5,
    compare_with_table5,
    paper_group,
)
from peftlab.audits.raters.sets import load_set
from peftlab.core.errors import InputRejected


def test_twenty_rows_of_seven_cells():
    assert len(TABLE_5) == 20
    assert all(tuple(cells) == METRICS for cells in TABLE_5.values())
    sizes = [list(AXIS_OF.values()).count(axis) for axis in DSI]
    assert sizes == [3, 2, 5, 10]


def test_cells_stand_where_the_paper_has_them():
    asian, white = TABLE_5["Asian woman"], TABLE_5["White man"]
    assert (asian["irr"].value, asian["irr"].mark, asian["voting"].mark) == (0.073, "*", "")
    assert (white["gai"].value, white["gai"].mark) == (1.262, "**")
    assert (white["plurality"].value, white["voting"].value) == (0.835, 0.446)


@pytest.mark.parametrize("group", TABLE_5)
def test_gai_is_the_ratio_of_its_parts(group):
    """And the sharper bound that rounding of the three numbers allows."""
    irr, xrr, gai = (TABLE_5[group][name].value for name in ("irr", "xrr", "gai"))
    assert abs(irr / xrr - gai) <= 0.006
    half = published.ROUNDING
    assert (irr - half) / (xrr + half) - half <= gai <= (irr + half) / (xrr - half) + half


@pytest.mark.parametrize("axis", DSI)
def test_dsi_is_the_largest_gai_of_the_axis(axis):
    assert DSI[axis] == max(
        cells["gai"].value for name, cells in TABLE_5.items() if AXIS_OF[name] == axis
    )


def test_bounds_of_the_metrics():
    for cells in TABLE_5.values():
        assert 0 < cells["negentropy"].value < math.log(3)
        assert 1 / 3 < cells["plurality"].value <= 1


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("millenial", "millennial"),
        ("gen x+", "gen x+"),
        ("Man", "Man"),
        ("Asian/Asian subcontinent", "Asian"),
        ("LatinX, Latino, Hispanic or Spanish Origin * Woman", "Latine woman"),
        ("Asian * Man", "Asian man"),
        ("White woman", "White woman"),
        ("Other", None),
        ("Other * Man", None),
        ("Man * Asian", None),
        ("", None),
    ],
)
def test_names_of_the_file(name, paper):
    assert paper_group(name) == paper


def test_every_group_can_be_reached_from_the_file():
    races = [*published.PAPER_NAMES, "White", "Multiracial"]
    names = [*races, "gen z", "gen x+", "Man", "Woman"]
    names += [f"{race} * {gender}" for race in races for gender in ("Man", "Woman")]
    assert {paper_group(name) for name in names} >= set(TABLE_5)


def test_own_run_beside_the_table():
    rows = {
        "Black/African American": {"irr": 0.195, "gai": math.nan, "alpha": 1.0},
        "gen z": {"xrr": 0.172},
        "College degree or higher": {"irr": 0.2},
    }
    found = compare_with_table5(rows)
    assert [(row["group"], row["metric"]) for row in found] == [
        ("gen z", "xrr"), ("Black", "irr"), ("Black", "gai"),
    ]  # fmt: skip
    assert found[0]["difference"] == 0
    assert found[1] == {
        "group": "Black", "metric": "irr", "ours": 0.195, "published": 0.193, "mark": "",
        "difference": pytest.approx(0.002),
    }  # fmt: skip
    assert math.isnan(found[2]["difference"])
    assert compare_with_table5({}) == []


def test_the_table_agrees_with_itself():
    rows = {
        name: {metric: cell.value for metric, cell in cells.items()}
        for name, cells in TABLE_5.items()
    }
    found = compare_with_table5(rows)
    assert len(found) == 140
    assert not any(row["difference"] for row in found)


def test_raters_of_d3_add_up():
    sums = [(sum(genders), sum(ages)) for genders, ages in D3_RATERS.values()]
    assert all(genders == ages for genders, ages in sums)
    assert sum(genders for genders, _ in sums) == 4309
    assert sum(genders[2] for genders, _ in D3_RATERS.values()) == 41  # as the paper says


def test_the_loader_counts_48_of_48_cells(tmp_path):
    """From a raters file with these counts to the cells of both axes."""
    rows = []
    for region, (genders, ages) in D3_RATERS.items():
        gender = [name for name, n in zip(D3_GENDERS, genders, strict=True) for _ in range(n)]
        age = [name for name, n in zip(D3_AGES, ages, strict=True) for _ in range(n)]
        rows += [(region, *pair) for pair in zip(gender, age, strict=True)]
    raters = ["rater_id,Age,Gender,Region,Country,SES"]
    raters += [f"r{j},{age},{gender},{region},X,5" for j, (region, gender, age) in enumerate(rows)]
    ratings = ["item_id,rater_id,rating_raw,rating_binary"]
    ratings += [f"i{j % 7},r{j},{4 * (j % 2)},{j % 2}" for j in range(len(rows))]
    (tmp_path / "d3-raters.csv").write_text("\n".join(raters))
    (tmp_path / "d3-ratings.csv").write_text("\n".join(ratings))
    found = load_set("d3code", tmp_path)
    cells = 0
    for name, which, groups in (("Gender", 0, D3_GENDERS), ("Age", 1, D3_AGES)):
        region, other = found.attributes["Region"], found.attributes[name]
        for place, area in enumerate(region.values):
            for k, group in enumerate(groups):
                both = (region.codes == place) & (other.codes == other.values.index(group))
                assert both.sum() == D3_RATERS[area][which][k], (area, group)
                cells += 1
    assert cells == 48
    with pytest.raises(InputRejected) as refused:  # one rater alone is Indian and Other
        make_axis(found, ("Region", "Gender"), min_group=5)
    assert refused.value.code == "RATERS-SINGLE"
