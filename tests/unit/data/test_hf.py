"""The hub loader: references and the mapping of splits, with a fetch function that is not a hub."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from peftlab.core.errors import BackendMissing, ConfigError, InputRejected
from peftlab.data.hf import HubData, HubOptions, Reference, fetch_from_hub, parse_reference


class Split:
    """Looks like a ``datasets.Dataset``."""

    def __init__(self, names=("neg", "pos"), **columns):
        self.columns = columns
        self.column_names = list(columns)
        self.features = {"label": SimpleNamespace(names=list(names))} if names else {}

    def __getitem__(self, column):
        return iter(self.columns[column])


def split(n: int, *, hidden: bool = False, **more) -> Split:
    labels = [-1] * n if hidden else [i % 2 for i in range(n)]
    return Split(sentence=[f"text {n} {i}" for i in range(n)], label=labels, **more)


def load(splits, reference="hf:a/b@c", **options):
    return HubData(HubOptions(**options), fetch=lambda _: splits).load(reference)


def test_mapping():
    task = load({"train": split(30), "validation": split(8), "test": split(6)})
    assert [len(part) for part in (task.train, task.dev, task.test)] == [30, 8, 6]
    assert task.label_names == ("neg", "pos")
    assert task.source == "hf:a/b@c"
    assert not task.notes


def test_hidden_or_missing_test_split():
    for splits in (
        {"train": split(30), "validation": split(8), "test": split(6, hidden=True)},
        {"train": split(30), "validation": split(8), "unsupervised": split(4)},
    ):
        task = load(splits, "hf:a")
        assert len(task.test) == 8
        assert len(task.train) + len(task.dev) == 30
        assert any("serves as test" in note for note in task.notes)
        assert any("no revision" in note for note in task.notes)


def test_no_usable_split():
    for splits in ({}, {"train": split(5)}, {"test": split(5), "validation": split(5)}):
        with pytest.raises(InputRejected) as caught:
            load(splits)
        assert caught.value.code == "DATA-MISSING"


def test_without_class_names_and_with_other_columns():
    part = Split(names=(), body=["a", "b"], stars=["low", "high"])
    task = load(
        {"train": part, "dev": part, "test": part}, text_column="body", label_column="stars"
    )
    assert task.label_names == ("high", "low")
    with pytest.raises(InputRejected, match="DATA-COLUMN"):
        load({"train": part, "dev": part, "test": part})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:imdb", ("imdb", None, None)),
        ("hf:org/name:config", ("org/name", "config", None)),
        ("hf:org/name@refs/pr/1", ("org/name", None, "refs/pr/1")),
        ("hf:org/name:plain_text@0a1b", ("org/name", "plain_text", "0a1b")),
    ],
)
def test_references(text, parts):
    assert parse_reference(text) == Reference(*parts)


@pytest.mark.parametrize(
    "text", ["hf:", "hf:../x", "hf:/etc", "hf:a/b/c", "imdb", "hf:a b", "hf:a@"]
)
def test_bad_references(text):
    with pytest.raises(ConfigError, match="DATA-NAME"):
        parse_reference(text)


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is not None, reason="datasets is installed"
)
def test_without_the_package():
    with pytest.raises(BackendMissing, match=r"peftlab\[hub\]"):
        fetch_from_hub(Reference("imdb", None, None))


def test_a_failing_hub_is_said_plainly(monkeypatch):
    import sys

    def load_dataset(*_args, **_kwargs):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputRejected, match="offline") as caught:
        fetch_from_hub(Reference("imdb", None, None))
    assert caught.value.code == "DATA-HUB"
