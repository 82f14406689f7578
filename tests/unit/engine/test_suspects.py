"""Filtering a training set and judging a base outside a grid."""

import json

import numpy as np
import pytest

from peftlab.core import registry
from peftlab.core.contracts import Filtered
from peftlab.core.errors import ConfigError
from peftlab.core.options import Options
from peftlab.engine.steps import AttackerOptions, load_data
from peftlab.engine.suspects import filter_data, inspect_base


class Shortest:
    """Drops the five shortest texts."""

    def __init__(self, options):
        self.options = options

    def keep(self, context):
        short = -np.array([float(len(text)) for text in context.suspect.texts])
        return Filtered(short, np.argsort(np.argsort(-short)) < 5, {"kept": 1})


@pytest.fixture
def shortest(monkeypatch):
    registry.entries()
    entry = registry.Entry("defence", "toy-shortest", Shortest, Options, "ours", "nothing", "")
    monkeypatch.setitem(registry._entries, ("defence", "toy-shortest"), entry)


def test_what_is_left_is_a_data_folder(shortest, tiny, reviews, tmp_path):
    out = tmp_path / "kept"
    facts = filter_data(
        str(tiny("bert")), reviews, ("toy-shortest", {}), out, seed=0,
        training=AttackerOptions(epochs=0.1),
    )  # fmt: skip
    lengths = np.array([len(text) for text in reviews.train.texts])
    dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert facts["dropped"] == len(dropped) == 5 == sum(facts["dropped_by_label"].values())
    assert max(lengths[row["row"]] for row in dropped) <= np.sort(lengths)[4]
    assert all(row["text"] == reviews.train.texts[row["row"]] for row in dropped)
    again = load_data(str(out))
    assert len(again.train) == len(reviews.train) - 5
    assert again.dev == reviews.dev
    assert again.test == reviews.test
    rows = {row["row"] for row in dropped}
    kept = [text for row, text in enumerate(reviews.train.texts) if row not in rows]
    assert list(again.train.texts) == kept


def test_a_defence_of_another_kind_is_refused_before_any_work(reviews, tmp_path):
    with pytest.raises(ConfigError) as caught:
        filter_data(
            "builtin:encoder", reviews, ("psim", {}), tmp_path / "out", seed=0,
            training=AttackerOptions(),
        )  # fmt: skip
    assert caught.value.code == "DEFENCE-STAGE"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="DEFENCE-STAGE"):
        inspect_base("builtin:encoder", reviews, ("onion", {}), seed=0)
