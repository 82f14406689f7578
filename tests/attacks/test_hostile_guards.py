"""Guards that were tampered with, or whose base was: refused before anything is scored."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import cli, refused, write_task
from peftlab.core.errors import InputRejected
from peftlab.engine import guard as engine
from peftlab.engine.guard import Guard
from tiny_models import make_tiny


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A base, a psim and an onion guard of it, and two texts."""
    place = tmp_path_factory.mktemp("fitted")
    make_tiny("bert", place / "base")
    write_task(place / "data", train=40, dev=60, test=20)
    for name, more in (("psim", ("-o", "checkpoints=[2]")), ("onion", ())):
        result = cli("guard", "fit", "--base", place / "base", "--data", place / "data",
                     "--defence", name, *more, "--out", place / name)  # fmt: skip
        assert result.code == 0, result.err
    (place / "texts.txt").write_text("a lovely film\na dull story\n")
    return place


def score(guard, fitted):
    return cli("guard", "score", guard, "--file", fitted / "texts.txt")


@pytest.fixture(params=["psim", "onion"])
def guard(request, fitted, tmp_path):
    return shutil.copytree(fitted / request.param, tmp_path / "guard")


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_copy_works(guard, fitted):
    result = score(guard, fitted)
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}", b"null", b'{"format": 3}',
                                     b'{"format": "peftlab.guard/1"}', b"[" * 10**5])  # fmt: skip
def test_a_corrupted_guard_json(guard, fitted, content):
    (guard / "guard.json").write_bytes(content)
    result = score(guard, fitted)
    assert "[JSON-BAD]" in result.err or "[GUARD-STATE]" in result.err
    assert result.code == 3
    assert "to mend it:" in result.err


def test_no_guard_json(guard, fitted):
    (guard / "guard.json").unlink()
    refused(score(guard, fitted), 3, "GUARD-MISSING")


@pytest.mark.parametrize(
    "change",
    [{"base": 3}, {"n_classes": "two"}, {"calibration": []}, {"options": None}, {"seed": None}],
)
def test_wrong_types(guard, fitted, change):
    rewrite(guard / "guard.json", **change)
    refused(score(guard, fitted), 3, "GUARD-STATE")


def test_a_calibration_that_is_not_sound(guard, fitted):
    about = json.loads((guard / "guard.json").read_text())
    for change in ({"scores": ["high"]}, {"format": "x"}, {"sides": "left"}):
        rewrite(guard / "guard.json", calibration={**about["calibration"], **change})
        refused(score(guard, fitted), 3, "CAL-STATE")


def test_unknown_methods_and_options(guard, fitted):
    rewrite(guard / "guard.json", defence="psimm")
    refused(score(guard, fitted), 2, "REGISTRY-NAME")
    rewrite(guard / "guard.json", defence="psim", options={"alhpa": 1})
    refused(score(guard, fitted), 2, "OPTION-UNKNOWN")


def test_files_of_the_defence_damaged_or_gone(guard, fitted):
    for path in [path for path in guard.iterdir() if path.name != "guard.json"]:
        whole = path.read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"{}", b"[1, 2]", b"\x00" * 100):
            path.write_bytes(content)
            result = score(guard, fitted)
            assert result.code == 3, result.err
            assert "to mend it:" in result.err
        path.unlink()
        assert score(guard, fitted).code == 3
        path.write_bytes(whole)
    assert score(guard, fitted).code == 0


def test_a_base_that_changed_or_went(guard, fitted, tmp_path):
    base = shutil.copytree(fitted / "base", tmp_path / "base")
    rewrite(guard / "guard.json", base=str(base))
    assert score(guard, fitted).code == 0
    rewrite(base / "config.json", hidden_dropout_prob=0.3)
    refused(score(guard, fitted), 3, "GUARD-BASE")
    shutil.rmtree(base)
    refused(score(guard, fitted), 3, "BASE-MISSING")


def test_a_guard_of_a_marked_base_needs_leave(fitted, tmp_path):
    given = ("--base", fitted / "base", "--data", fitted / "data")
    assert cli("attack", *given, "--epochs", 0.1, "--out", tmp_path / "bad").code == 0
    given = ("--base", tmp_path / "bad", "--data", fitted / "data", "--defence", "onion")
    (tmp_path / "out").mkdir()
    guard = tmp_path / "out" / "guard"
    refused(cli("guard", "fit", *given, "--out", guard), 3, "MARK-POISONED", tmp_path / "out")
    assert cli("guard", "fit", *given, "--out", guard, "--allow-poisoned").code == 0
    refused(score(guard, fitted), 3, "MARK-POISONED")


# Below, states that are whole files of the right form with wrong numbers in them.

QUICK = {  # with as little work as each can do
    "counterweight": ("candidates=2", "trials=4"),
    "lmsanitator": ("rounds=1", "steps=2", "batch=4", "spread=1", "distance=0", "own=1"),
    "margin": (),
    "mdp": ("variants=2", "anchors=4"),
    "paraphrase": (),
    "rap": ("epochs=1", "steps=2"),
    "strip": ("copies=2", "donors=opposite"),
}
WRONG = (None, True, "x", [], {}, -1, 2**40, 2**70, 1e308, 5e-324, math.nan)
ARRAYS = {
    "nan": lambda a: np.full_like(a, np.nan),
    "largest": lambda a: np.full_like(a, np.finfo(a.dtype).max),
    "short": lambda a: a[:0],
    "long": lambda a: np.concatenate([a, a]),
    "another shape": lambda a: a[None],
    "another kind": lambda a: np.ones(a.shape, dtype=bool),
}


@pytest.fixture(scope="module", params=QUICK)
def quick(request, fitted):
    """A guard of the base, fitted on little; its base is read once for all its states."""
    folder = fitted / request.param
    options = [part for value in QUICK[request.param] for part in ("-o", value)]
    result = cli("guard", "fit", "--base", fitted / "base", "--data", fitted / "data",
                 "--defence", request.param, *options, "--out", folder)  # fmt: skip
    assert result.code == 0, result.err
    pair = engine.load_base(str(fitted / "base"), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "load_base", lambda *_, **__: pair)
        yield folder


def is_refused(folder):
    """Do all that reads a guard's state; return whether it was refused in plain words at once."""
    try:
        guard = Guard.from_pretrained(folder)
    except InputRejected:
        return True
    assert np.isfinite(guard.score(["a lovely film", ""]).scores).all()
    json.dumps(guard.defence.diagnostics(), allow_nan=False)
    return False


def leaves(node, path=()):
    """Return where values of a state stand, of long lists the first alone."""
    inner = node.items() if isinstance(node, dict) else enumerate(node[:1])
    for key, value in inner:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def test_any_value_of_a_state_may_be_wrong(quick):
    assert not is_refused(quick)
    for file in (path for path in quick.glob("*.json") if path.name != "guard.json"):
        whole, refusals = file.read_text(), 0
        for *path, last in leaves(json.loads(whole)):
            for value in WRONG:
                state = node = json.loads(whole)
                for key in path:
                    node = node[key]
                node[last] = value
                file.write_text(json.dumps(state))
                refusals += is_refused(quick)
        assert refusals > len(WRONG)
        file.write_text(whole)


def test_any_array_of_a_state_may_be_wrong(quick):
    for file in quick.glob("*.safetensors"):
        whole = load_file(file)
        for name, array in whole.items():
            for change in ARRAYS.values():
                save_file({**whole, name: change(array)}, file)
                assert is_refused(quick)
            save_file({key: each for key, each in whole.items() if key != name}, file)
            assert is_refused(quick)
        save_file(whole, file)
