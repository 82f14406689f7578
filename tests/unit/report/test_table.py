import pytest
from made_up_results import NO_FILTER, NO_HEAD, make_bench, make_cell, make_results

from peftlab.report.table import markdown, text

GOLDEN = """\
| attack | tuner | defence | CA | ASR | CA guarded | ASR guarded | FPR | TPR | AUROC | seeds |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
| badnets | lora | none | 86.0 [85.0-87.0] | 99.0 [98.0-100.0] | – | – | – | – | – | 2 |
| badnets | lora | psim | 86.0 [85.0-87.0] | 99.0 [98.0-100.0] | 82.0 | 1.5 [1.0-2.0] | 5.0 [4.0-6.0] | 98.0 [98.0-98.0] | 0.995 [0.990-1.000] | 2 |

Negative control (rate 0):

| attack | tuner | defence | CA | ASR | CA guarded | ASR guarded | FPR | TPR | AUROC | seeds |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
| badnets | lora | psim | 86.0 | 6.0 [4.0-8.0] | – | – | – | – | 0.510 | 1 |

In per cent (AUROC as is): mean over seeds [smallest-largest; with one seed, 95 % interval].
"""  # noqa: E501, RUF001


def small():
    def cell(defence, seed, metrics, control=False, intervals=None):
        made = make_cell("badnets", "lora", defence, seed, control)
        return {**made, "metrics": metrics, "intervals": intervals or {}}

    cells = [
        cell("none", 0, {"ca": 0.85, "asr": 1.0, "fpr": None}),
        cell("none", 1, {"ca": 0.87, "asr": 0.98}),
        cell("psim", 0, {"ca": 0.85, "asr": 1.0, "ca_def": 0.82, "asr_def": 0.01, "fpr": 0.04,
                         "tpr": 0.98, "auroc": 0.99}),
        cell("psim", 1, {"ca": 0.87, "asr": 0.98, "asr_def": 0.02, "fpr": 0.06, "tpr": 0.98,
                         "auroc": 1.0}),
        cell("psim", 0, {"ca": 0.86, "asr": 0.06, "auroc": 0.51}, True, {"asr": [0.04, 0.08]}),
    ]  # fmt: skip
    return {"schema": "peftlab.results/1", "cells": cells}


def test_markdown_golden():
    assert markdown(small()) == GOLDEN


def test_markdown_escapes_names():
    results = small()
    results["cells"][0]["attack"] = "a|b\n<script>`x`"
    table = markdown(results)
    assert "a\\|b\ufffd\\<script\\>\\`x\\`" in table
    assert "<script>" not in table


def test_base_and_data_columns_appear_where_they_differ():
    results = make_results(("badnets",), ("lora",), ("psim",), (0,), control=False)
    results["cells"].append({**results["cells"][0], "data": "other"})
    assert markdown(results).startswith("| data | attack |")


def test_text_is_aligned_and_separates_the_control(full):
    shown = text(full)
    lines = shown.splitlines()
    assert lines[0].split()[:3] == ["attack", "tuner", "defence"]
    assert "negative control (rate 0)" in lines
    assert len({len(line) for line in lines[:19]}) == 1


def test_no_cells(minimal):
    assert markdown(minimal).startswith("No cell has finished.")
    assert text(minimal).startswith("No cell has finished.")


@pytest.mark.parametrize("render", [markdown, text])
def test_what_makes_no_sense_has_a_footnote_and_no_number(render):
    results = make_bench(("badnets", "neuba"), ("none", "cube", "dbs"), seeds=(0, 1))
    for cell in results["cells"]:
        if cell["not_applicable"]:
            cell["metrics"] = {"tpr": 0.123, "asr_def": 0.456}
    shown = render(results)
    cube = [line for line in shown.splitlines() if " cube " in line]
    dbs = next(line for line in shown.splitlines() if "neuba" in line and "dbs" in line)
    assert len(cube) == 4  # two attacks, and their controls
    for line in [*cube, dbs]:
        assert line.count("n/a") == 7
        assert "12.3" not in line
        assert "45.6" not in line
    assert all("n/a [1]" in line for line in cube)
    assert "n/a [2]" in dbs
    notes = shown.replace("\\", "")
    assert f"[1] not applicable: {NO_FILTER}" in notes
    assert f"[2] not applicable: {NO_HEAD}" in notes
