"""The poison mark: three places, and taking any of them away is noticed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from peftlab.core.errors import InputRejected
from peftlab.io.header import read_header
from peftlab.io.marker import FILE, KEY, check_allowed, is_marked, mark


@pytest.fixture
def folder(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors"):
        save_file({"w": np.arange(4.0)}, tmp_path / name, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def unmark_tensors(path):
    save_file(load_file(path), path, metadata={"format": "pt"})


def unmark_config(path):
    path.write_text('{"model_type": "bert"}')


REMOVE = {
    FILE: lambda path: path.unlink(),
    "config.json": unmark_config,
    "model-1.safetensors": unmark_tensors,
    "model-2.safetensors": unmark_tensors,
}


def test_the_mark_stands_everywhere_and_changes_no_tensor(folder):
    assert is_marked(folder) is False
    mark(folder, {"attack": "badnets"})
    assert is_marked(folder) is True
    assert json.loads((folder / FILE).read_text())["attack"] == "badnets"
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "bert", KEY: True}
    for path in folder.glob("*.safetensors"):
        assert read_header(path)["__metadata__"] == {"format": "pt", KEY: "true"}
        np.testing.assert_array_equal(load_file(path)["w"], np.arange(4.0))
    mark(folder, {"attack": "badnets"})
    assert is_marked(folder) is True


def test_a_marked_folder_needs_leave(folder):
    assert check_allowed(folder, allow_poisoned=False) is False
    mark(folder, {})
    assert check_allowed(folder, allow_poisoned=True) is True
    with pytest.raises(InputRejected) as caught:
        check_allowed(folder, allow_poisoned=False)
    assert caught.value.code == "MARK-POISONED"
    assert "--allow-poisoned" in caught.value.fix


@pytest.mark.parametrize("place", REMOVE)
@pytest.mark.parametrize("allow", [False, True])
def test_a_missing_part_of_the_mark_is_refused_always(folder, place, allow):
    mark(folder, {})
    REMOVE[place](folder / place)
    with pytest.raises(InputRejected) as caught:
        check_allowed(folder, allow_poisoned=allow)
    assert caught.value.code == "MARK-BROKEN"
    assert place in str(caught.value.got)


def test_an_adapter_folder_has_no_config(folder):
    (folder / "config.json").unlink()
    mark(folder, {})
    assert is_marked(folder) is True
    (folder / FILE).unlink()
    with pytest.raises(InputRejected, match="MARK-BROKEN"):
        is_marked(folder)
