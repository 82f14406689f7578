"""Each step writes a stock folder, all or nothing, the same for the same seed, and marked."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.engine.steps import (
    AttackerOptions,
    load_data,
    make_poison,
    predict_folder,
    train_base,
    tune,
)
from peftlab.io.files import sha256_file
from peftlab.io.marker import is_marked

BRIEF = AttackerOptions(epochs=1, lr=1e-3)


def make_base(tiny, reviews, out, *, rate=0.1, seed=0):
    poisoned = make_poison(reviews, "badnets", {"rate": rate}, seed)
    return train_base(
        str(tiny("bert")), poisoned, 2, out, attack="badnets", training=BRIEF, seed=seed
    )


def hashes(folder):
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_two_runs_give_identical_files(tiny, reviews, tmp_path):
    for name in ("a", "b"):
        make_base(tiny, reviews, tmp_path / name)
    make_base(tiny, reviews, tmp_path / "c", seed=1)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    weights = "model.safetensors"
    assert hashes(tmp_path / "a")[weights] != hashes(tmp_path / "c")[weights]


def test_every_poisoned_checkpoint_is_marked_and_refused(tiny, reviews, tmp_path):
    """An adapter of a marked base is marked too."""
    base, victim = tmp_path / "base", tmp_path / "victim"
    make_base(tiny, reviews, base)
    assert is_marked(base)
    with pytest.raises(InputRejected) as caught:
        tune(str(base), reviews, "lora", {"epochs": 0.5}, victim, seed=0)
    assert caught.value.code == "MARK-POISONED"
    assert not victim.exists()
    tune(str(base), reviews, "lora", {"epochs": 0.5}, victim, seed=0, allow_poisoned=True)
    assert is_marked(victim)
    for folder in (base, victim):
        with pytest.raises(InputRejected) as caught:
            predict_folder(folder, ["a text"], n_classes=2)
        assert caught.value.code == "MARK-POISONED"


def test_the_control_and_its_victims_are_not_marked(tiny, reviews, tmp_path):
    make_base(tiny, reviews, tmp_path / "base", rate=0)
    tune(str(tmp_path / "base"), reviews, "lora", {"epochs": 0.5}, tmp_path / "victim", seed=0)
    assert not is_marked(tmp_path / "base")
    assert not is_marked(tmp_path / "victim")


def test_notes_tell_what_was_done(tiny, reviews, tmp_path):
    facts = make_base(tiny, reviews, tmp_path / "base")
    written = json.loads((tmp_path / "base" / "attack.json").read_text())
    assert written == json.loads(json.dumps({k: v for k, v in facts.items() if k != "cpu_seconds"}))
    assert written["realised_rate"] == 0.1
    assert written["training"] == {"epochs": 1.0, "lr": 1e-3, "batch": 32, "steps": 4}
    tuned = tune(str(tiny("bert")), reviews, "prompt", {"epochs": 1}, tmp_path / "v", seed=3)
    note = json.loads((tmp_path / "v" / "victim.json").read_text())
    assert note["seed"] == 3
    assert note["steps"] == 4
    assert note["data"]["sha256"] == reviews.digest()
    assert note["trainable"] == tuned["trainable"] == 5 * 32 + 32 * 2 + 2
    assert note["label_names"] == ["negative", "positive"]


def test_a_victim_of_a_changed_base_is_refused(tiny, reviews, tmp_path):
    base, victim = tmp_path / "base", tmp_path / "victim"
    make_base(tiny, reviews, base, rate=0)
    tune(str(base), reviews, "lora", {"epochs": 0.5}, victim, seed=0)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    with pytest.raises(InputRejected) as caught:
        predict_folder(victim, ["a text"], n_classes=2)
    assert caught.value.code == "VICTIM-BASE"


def test_predictions_do_not_depend_on_the_working_folder(tiny, reviews, tmp_path, monkeypatch):
    base = tmp_path / "base"
    make_base(tiny, reviews, base, rate=0)
    monkeypatch.chdir(tmp_path)
    tune("base", reviews, "lora", {"epochs": 0.5}, tmp_path / "victim", seed=0)
    here = predict_folder(tmp_path / "victim", ["a text"], n_classes=2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(
        predict_folder(tmp_path / "victim", ["a text"], n_classes=2), here
    )


def test_answers_of_an_untrained_head_are_refused():
    from peftlab.models.load import resolve

    with pytest.raises(InputRejected) as caught:
        predict_folder(resolve("builtin:encoder"), ["a text"], n_classes=2)
    assert caught.value.code == "VICTIM-HEAD"


def test_nothing_is_left_when_training_fails(tiny, reviews, tmp_path):
    poisoned = make_poison(reviews, "badnets", {}, 0)
    poisoned.targets[:] = np.nan
    with pytest.raises(Exception, match="TRAIN-NONFINITE"):
        train_base(str(tiny("bert")), poisoned, 2, tmp_path / "base",
                   attack="badnets", training=BRIEF, seed=0)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_load_data_by_name_folder_and_options(tmp_path):
    assert len(load_data("reviews", {"n_train": 40}).train) == 40
    assert load_data("reviews-4").n_classes == 4
    with pytest.raises(InputRejected):
        load_data(str(tmp_path / "nowhere"))


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=30))
def test_any_reference_is_data_or_a_plain_refusal(reference):
    if reference.startswith("hf:") or reference in {"reviews", "reviews-4"}:
        return
    with pytest.raises((InputRejected, ConfigError)):
        load_data(reference or "no-such-folder")
