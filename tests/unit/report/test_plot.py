import re

import numpy as np
import pytest
from page_reader import HOSTILE, Page

from peftlab.report.curves import finite_array
from peftlab.report.plot import INK, Plot, finished
from peftlab.report.scales import Scale, as_numbers, as_percent, log_ticks, padded, ticks


def path_of(plot):
    return re.findall(r' d="([^"]*)"', plot.parts[-1])


def test_a_scale_holds_what_lies_beyond_at_its_ends():
    assert Scale(0, 1, 100, 0).at([-5, 0, 0.25, 1, 9]).tolist() == [100, 100, 75, 0, 0]
    assert Scale(1, 100, 0, 2, log=True).at([0, 1, 10, 1e9]).tolist() == [0, 0, 1, 2]
    assert Scale(3, -1, 0, 8).at([3, 1, -1]).tolist() == [0, 4, 8]  # first row on top


@pytest.mark.parametrize("values", [[0], [1e308, -1e308], [5e-324, 0], [1e16, 1e16 + 2],
                                    [float("nan")], [-7, 7]])  # fmt: skip
def test_any_axis_has_ends_and_few_ticks(values):
    low, high = padded(values)
    assert low < high
    at = ticks(low, high)
    assert len(at) <= 5
    assert all(low <= value <= high for value in at)
    assert all(len(word) < 12 for word in as_numbers(at))


def test_a_log_axis_over_all_floats():
    low, high = padded(finite_array([5e-324, 1e308]), log=True)
    assert 0 < low < high
    assert 2 <= len(log_ticks(low, high)) <= 8


def test_words_of_axes():
    assert as_percent(ticks(0, 0.1)) == ["0 %", "2.5 %", "5 %", "7.5 %", "10 %"]
    assert as_numbers([-1.0, 0.0]) == ["\N{MINUS SIGN}1", "0"]


def test_a_line_breaks_where_a_number_is_missing():
    plot = Plot(100, (0, 3), (0, 1), left=0)
    plot.line([0, 1, 2, 3], np.array([0, np.nan, 1, 1]), INK, 1, shape="square")
    line, marks = path_of(plot)
    assert line.count("M") == 2
    assert marks.count("z") == 3
    assert "nan" not in line + marks


def test_words_are_escaped_and_a_legend_stays_inside():
    plot = Plot(100, (0, 1), (0, 1), left=150)
    for word in ("twelve chars", HOSTILE, "more"):
        plot.marks([0.5], [0.5], INK, 3, label=word)
    plot.legend()
    parsed = Page(finished("k", 100, HOSTILE, HOSTILE, plot.parts))
    assert "script" not in parsed.tags
    assert min(float(x) for x in re.findall(r"translate\(([\d.-]+)", "".join(plot.parts))) == 4
