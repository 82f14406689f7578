import copy

import pytest
from made_up_results import arrays_of, make_results


@pytest.fixture(scope="session")
def _full():
    return make_results()


@pytest.fixture
def full(_full):
    return copy.deepcopy(_full)


@pytest.fixture(scope="session")
def full_arrays(_full):
    return {
        cell["id"]: arrays_of(cell)
        for cell in _full["cells"]
        if cell["defence"] != "none" and cell["tuner"] == "lora"
    }


@pytest.fixture
def single():
    return make_results(("badnets",), ("lora",), ("none", "psim"), (0,))


@pytest.fixture
def minimal():
    return {"schema": "peftlab.results/1", "cells": []}
