"""Table 5 of the GRASP paper: cohesion of 20 groups of the raters of DICES-350, as published.

For users who have the file: their own run, cell by cell beside the published one. The paper's
cross-negentropy cannot be compared, as it does not say what happens where a group never gave a
label; it is listed all the same.

Source: Prabhakaran et al. 2024, "GRASP: A Disagreement Analysis Framework to Assess Group
Associations in Perspectives", arXiv 2311.05074v2, table 5; numbers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from peftlab.audits.raters.cohesion import Metric

Mark = Literal["", "*", "**"]
SOURCE = "arXiv 2311.05074v2, table 5 (DICES-350, 104 raters)"
METRICS: tuple[Metric, ...] = (
    "irr", "xrr", "negentropy", "cross_negentropy", "plurality", "voting", "gai",
)  # fmt: skip
SMALLEST = 4  # raters in the smallest group of the table (Multiracial woman)
ROUNDING = 0.0005  # the table has three decimals


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the table.

    Attributes:
        value: as printed.
        mark: ``*`` for raw p < 0.05, ``**`` for the same after Benjamini-Hochberg.
    """

    value: float
    mark: Mark


# One row a group, in the order of METRICS.
_ROWS = """
rater_age
gen x+               .166   .171    .402    .365    .693    .731    0.975
gen z                .166   .172    .386    .392    .698    .776    0.966
millennial           .189   .179    .415    .381    .703    .751    1.052
rater_gender
Man                  .187   .175    .419    .394    .707    .800    1.071
Woman                .160   .175    .362    .404    .685    .800    0.916
rater_race
Asian                .145   .166    .368    .323    .675    .740    0.872
Black                .193   .181    .411    .361    .705    .796    1.063
Latine               .215*  .189*   .467    .412    .716    .747    1.139*
Multiracial          .153   .168    .355*   .250*   .661*   .592    0.916
White                .145   .159*   .498*   .417*   .744*   .552**  0.908
rater_race * rater_gender
Asian man            .193   .188    .495    .417    .733    .722    1.024
Asian woman          .073*  .134*   .332*   .193*   .633*   .543    0.540*
Black man            .139   .167    .502    .371    .710    .604    0.831
Black woman          .213*  .188    .441    .349    .718    .749    1.130*
Latine man           .195   .183    .491    .383    .716    .687    1.069
Latine woman         .238*  .199**  .530    .437    .745    .704    1.196*
Multiracial man      .190   .182    .432    .273    .688    .562    1.043
Multiracial woman    .041   .131    .470*   .184    .674    .438    0.312
White man            .218*  .173    .724**  .505**  .835**  .446*   1.262**
White woman          .114*  .152*   .454    .381    .702    .663    0.752*
"""


def _parse(text: str) -> tuple[dict[str, dict[str, Cell]], dict[str, str]]:
    """Return the cells by group and metric, and the axis of each group."""
    table: dict[str, dict[str, Cell]] = {}
    axes: dict[str, str] = {}
    axis = ""
    for line in text.strip().splitlines():
        parts = line.split()
        if len(parts) <= len(METRICS):
            axis = line.strip()
            continue
        group, cells = " ".join(parts[: -len(METRICS)]), parts[-len(METRICS) :]
        table[group] = dict(zip(METRICS, map(_cell, cells), strict=True))
        axes[group] = axis
    return table, axes


def _cell(text: str) -> Cell:
    number = text.rstrip("*")
    return Cell(float(number), cast("Mark", text[len(number) :]))


TABLE_5, AXIS_OF = _parse(_ROWS)
DSI = {  # the largest GAI of each axis, as the paper gives it
    "rater_age": 1.052,
    "rater_gender": 1.071,
    "rater_race": 1.139,
    "rater_race * rater_gender": 1.262,
}

# Values in the released file (long names of races by the public TensorFlow loader of DICES), and
# those of its README.
PAPER_NAMES = {
    "millenial": "millennial",
    "Asian/Asian subcontinent": "Asian",
    "Black/African American": "Black",
    "LatinX, Latino, Hispanic or Spanish Origin": "Latine",
}


def paper_group(name: str) -> str | None:
    """Return the paper's name of a group, or None if table 5 has no such group.

    Args:
        name: a value of the file, ``race * gender`` for an intersection, or the paper's name.

    Examples:
        >>> paper_group("millenial"), paper_group("Black/African American * Woman")
        ('millennial', 'Black woman')
    """
    race, cross, gender = name.partition(" * ")
    found = PAPER_NAMES.get(race, race) + (f" {gender.lower()}" if cross else "")
    return found if found in TABLE_5 else None


def compare_with_table5(rows: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return your own run of DICES-350 beside the published table, cell by cell.

    Args:
        rows: for each group, by the paper's name or the file's, its numbers by metric; groups and
            metrics that the paper lacks are passed over.

    Returns:
        One mapping a cell in the paper's order: ``group``, ``metric``, ``ours``, ``published``,
        ``mark`` and ``difference`` (ours less published; NaN if ours is).
    """
    ours = {paper_group(name): row for name, row in rows.items()}
    return [
        {
            "group": group, "metric": metric, "ours": ours[group][metric],
            "published": cell.value, "mark": cell.mark,
            "difference": ours[group][metric] - cell.value,
        }
        for group, cells in TABLE_5.items()
        if group in ours
        for metric, cell in cells.items()
        if metric in ours[group]
    ]  # fmt: skip


# Raters of D3 by region: Man, Woman, Other; then 18-30, 30-50, 50+. Counted in the released
# d3-raters.csv (google-research-datasets/D3code, CC BY 4.0), and equal to table 3 of the paper in
# all 48 cells.
D3_GENDERS, D3_AGES = ("Man", "Woman", "Other"), ("18-30", "30-50", "50+")
D3_RATERS = {
    "Arab Culture": ((306, 205, 5), (269, 168, 79)),
    "Indian Cultural Sphere": ((308, 245, 1), (237, 198, 119)),
    "Latin America": ((271, 275, 3), (302, 176, 71)),
    "North America": ((220, 325, 6), (263, 175, 113)),
    "Oceania": ((203, 307, 7), (161, 221, 135)),
    "Sinosphere": ((280, 249, 11), (208, 228, 104)),
    "Sub Saharan Africa": ((309, 219, 2), (320, 157, 53)),
    "Western Europe": ((252, 294, 6), (259, 172, 121)),
}
