"""The fixture of the paper's table 5, and the comparison of one's own run with it."""

import math

import pytest

from peftlab.audits.raters import published
from peftlab.audits.raters.published import (
    AXIS_OF,
    DSI,
    METRICS,
    TABLE_5,
    compare_with_table5,
    paper_group,
)


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
    """Acceptance check 6, and the sharper bound that rounding of the three numbers allows."""
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
