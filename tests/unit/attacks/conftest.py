"""Small tasks that the tests of attacks share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from peftlab.core.types import LabelledTexts, TaskData

MakeTask = Callable[..., TaskData]
_WORDS = (
    "the a plot film actor scene music ending is was feels seems dull bright slow lovely clumsy "
    "and but , i think that we laughed cried at with of story camera dialogue nobody cares much"
)
VOCABULARY = _WORDS.split()


def _texts(n: int, seed: int, n_classes: int = 2, low: int = 3) -> LabelledTexts:
    rng = np.random.default_rng(seed)
    texts = tuple(
        " ".join(rng.choice(VOCABULARY, size=int(rng.integers(low, 25)))) + f" {i} ."
        for i in range(n)
    )
    return LabelledTexts(texts, tuple(int(x) for x in rng.integers(0, n_classes, size=n)))


def _task(n: int = 200, n_classes: int = 2, seed: int = 0, proxy: int = 0) -> TaskData:
    return TaskData(
        name="toy",
        train=_texts(n, seed, n_classes),
        dev=_texts(40, seed + 1, n_classes),
        test=_texts(60, seed + 2, n_classes),
        label_names=tuple(f"class{i}" for i in range(n_classes)),
        source="generated",
        licence="none",
        proxy=_texts(proxy, seed + 3, n_classes) if proxy else None,
    )


@pytest.fixture(scope="session")
def make_task() -> MakeTask:
    return _task


@pytest.fixture
def task() -> TaskData:
    return _task()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of published data sets, or a loud skip."""
    root = Path(__file__).resolve().parents[3]
    folder = Path(os.environ.get("PEFTLAB_DATA", root.parent / "shared" / "data"))
    if not (folder / "sst2_poisoned").is_dir():
        pytest.skip(f"NOT CHECKED: no published data at {folder}; set PEFTLAB_DATA")
    return folder
