"""CREHate by country, against the figures of our first prototype; none are published."""

import pytest
from tests.unit.audits.test_rating_sets import real

from peftlab.audits.raters import GraspOptions, grasp
from peftlab.audits.raters.sets import load_set

# IRR, XRR, GAI, plurality, voting agreement
TABLE = {
    "United States": (0.462, 0.391, 1.181, 0.846, 0.711),
    "United Kingdom": (0.425, 0.388, 1.094, 0.831, 0.696),
    "Australia": (0.408, 0.382, 1.067, 0.825, 0.697),
    "Singapore": (0.343, 0.333, 1.032, 0.805, 0.579),
    "South Africa": (0.351, 0.348, 1.010, 0.808, 0.614),
}


@pytest.fixture(scope="module")
def rows():
    ratings = load_set("crehate", real("crehate/ratings.csv.gz", "crehate"))
    options = GraspOptions(bootstrap=0, permutations=500, within=("gender", "age_band"))
    found = grasp(ratings, ["nationality"], options)
    return {row["group"]: row for row in found["groups"]}


def test_every_number_is_within_its_rounding(rows):
    for group, numbers in TABLE.items():
        for metric, number in zip(("irr", "xrr", "gai", "plurality", "voting"), numbers,
                                  strict=True):  # fmt: skip
            assert rows[group][metric] == pytest.approx(number, abs=0.0006), (group, metric)


def test_who_differs_plainly_and_within_gender_and_age(rows):
    differ = {"United States", "United Kingdom", "Australia"}
    for kind in ("q_gai", "q_within_gai"):
        assert {group for group, row in rows.items() if row[kind] < 0.05} == differ, kind
