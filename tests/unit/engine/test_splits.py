"""Fit, reference and calibration never share a text, and the test split is never touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError
from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine import splits
from peftlab.engine.splits import guard_splits


def task(n_dev):
    def split(name, n):
        return LabelledTexts(
            tuple(f"{name} {i}" for i in range(n)), (0, 1) * (n // 2) + (0,) * (n % 2)
        )

    return TaskData("toy", split("train", 30), split("dev", n_dev), split("test", 10), ("a", "b"),
                    "generated", "none")  # fmt: skip


@given(st.integers(20, 400), st.integers(0, 50))
def test_parts_are_apart_and_use_everything(n_dev, seed):
    data = task(n_dev)
    parts = guard_splits(data, seed)
    reference, calibration = set(parts.reference.texts), set(parts.calibration.texts)
    assert parts.fit == data.train
    assert not reference & calibration
    assert reference | calibration == set(data.dev.texts)
    assert 0 <= len(calibration) - len(reference) <= 1
    assert not (reference | calibration) & set(data.test.texts)
    assert guard_splits(data, seed) == parts


def test_the_seed_decides():
    assert guard_splits(task(60), 0).reference != guard_splits(task(60), 1).reference


def test_labels_stay_with_their_texts():
    data = task(60)
    known = dict(zip(data.dev.texts, data.dev.labels, strict=True))
    part = guard_splits(data, 3).calibration
    assert all(known[text] == label for text, label in zip(part.texts, part.labels, strict=True))


def test_large_dev_sets_are_cut(monkeypatch):
    monkeypatch.setattr(splits, "DEV_CAP", 50)
    parts = guard_splits(task(400), 0)
    assert len(parts.reference) == len(parts.calibration) == 25


def test_too_few():
    with pytest.raises(ConfigError) as caught:
        guard_splits(task(19), 0)
    assert caught.value.code == "GUARD-FEW"
    assert caught.value.got == 19
