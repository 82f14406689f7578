"""Hostile model folders at the command line: exit code, words, and nothing left behind."""

import json
import shutil
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from safetensors.numpy import load_file, save_file

from cli_tools import cli, refused, write_task
from tiny_models import make_tiny

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("task") / "data", train=40, dev=60, test=20)


@pytest.fixture(scope="module")
def clean_base(tmp_path_factory):
    return make_tiny("bert", tmp_path_factory.mktemp("clean") / "bert")


@pytest.fixture(scope="module")
def poisoned_base(tmp_path_factory, clean_base, task):
    out = tmp_path_factory.mktemp("poisoned") / "base"
    result = cli("attack", "--base", clean_base, "--data", task, "--epochs", 0.5, "--out", out)
    assert result.code == 0, result.err
    return out


@pytest.fixture
def base(clean_base, tmp_path):
    return shutil.copytree(clean_base, tmp_path / "base")


@pytest.fixture
def poisoned(poisoned_base, tmp_path):
    return shutil.copytree(poisoned_base, tmp_path / "base")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def verbs(base, task, place):
    """Return one command line for each verb that takes a base."""
    given = ("--base", base, "--data", task, "--out", place / "new")
    return [
        ("attack", *given, "--epochs", 0.1),
        ("tune", *given, "-o", "epochs=0.1"),
        ("guard", "fit", *given, "--defence", "onion"),
    ]


def everywhere(base, task, place, exit_code, code, *more):
    for command in verbs(base, task, place):
        extra = more if command[0] != "attack" else ()
        refused(cli(*command, *extra), exit_code, code, clean=place)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_pickle_only_base(base, task, place):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    everywhere(base, task, place, 3, "BASE-PICKLE")


def test_code_from_elsewhere(base, task, place):
    rewrite(base / "config.json", auto_map={"AutoConfig": "evil.Evil"})
    (base / "evil.py").write_text("raise SystemExit('the code ran')")
    everywhere(base, task, place, 3, "BASE-CODE")


def test_a_missing_base(task, place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    everywhere("bert-base-uncased", task, place, 3, "BASE-MISSING")
    everywhere(place / "nowhere", task, place, 3, "BASE-MISSING")
    everywhere("builtin:nothing", task, place, 2, "BASE-BUILTIN")


def test_a_marked_base_needs_leave(poisoned, task, place):
    everywhere(poisoned, task, place, 3, "MARK-POISONED")


REMOVE = {
    "POISONED.json": lambda path: path.unlink(),
    "config.json": lambda path: path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if "poison" not in k})
    ),
    "model.safetensors": lambda path: save_file(load_file(path), path, metadata={"format": "pt"}),
}


@pytest.mark.parametrize("mark", REMOVE)
def test_a_mark_that_was_tampered_with(poisoned, task, place, mark):
    REMOVE[mark](poisoned / mark)
    everywhere(poisoned, task, place, 3, "MARK-BROKEN", "--allow-poisoned")


def test_leave_does_not_reach_the_attack(poisoned, task, place):
    """A poisoned base is never the start of another attack."""
    assert cli("attack", "--base", poisoned, "--allow-poisoned", "--out", place / "x").code == 2


def _header(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADERS = {
    "empty": b"",
    "huge length": struct.pack("<Q", 2**62) + b"{}",
    "not JSON": _header(b"hello"),
    "duplicate keys": _header(b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2)),
    "a hole": _header({"a": {**ONE, "data_offsets": [8, 16]}}, bytes(16)),
    "an overlap": _header({"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}}, bytes(12)),
    "a path as a name": _header({"../x": ONE}),
    "an escape in a name": _header({"a\u001b[2J": ONE}),
    "truncated": _header({"a": ONE}, bytes(3)),
    "trailing": _header({"a": ONE}, bytes(99)),
    "unknown type": _header({"a": {**ONE, "dtype": "PICKLE"}}),
    "huge shape": _header({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 0]}}, b""),
    "shape is a number": _header({"a": {**ONE, "shape": 2}}),
    "metadata is a list": _header({"__metadata__": ["x"], "a": ONE}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header(base, task, place, name):
    (base / "model.safetensors").write_bytes(HEADERS[name])
    result = cli(*verbs(base, task, place)[1])
    refused(result, 3, "TENSORS-HEADER", clean=place)
    assert "\x1b" not in result.err


def test_escapes_in_names_do_not_reach_the_terminal(base, task, place):
    rewrite(base / "config.json", model_type="\u001b]0;owned\u0007\u202egpj")
    result = cli(*verbs(base, task, place)[1])
    assert result.code == 3
    assert not set("\x1b\x07\u202e") & set(result.err)


# ---------------------------------------------------------------------- adapters


@pytest.fixture
def victim(poisoned_base, task, tmp_path):
    out = tmp_path / "victim"
    result = cli("tune", "--base", poisoned_base, "--data", task, "-o", "epochs=0.1",
                 "--allow-poisoned", "--out", out)  # fmt: skip
    assert result.code == 0, result.err
    return out


def try_victim(victim, task, code):
    refused(cli("eval", "--victim", victim, "--data", task, "--allow-poisoned"), 3, code)


def test_hostile_adapters(victim, task):
    config = victim / "adapter_config.json"
    good = config.read_text()
    for change, code in (
        ({"auto_mapping": {"parent_library": "os", "base_model_class": "x"}}, "BASE-CODE"),
        ({"megatron_core": "os"}, "BASE-CODE"),
        ({"corda_config": {"cache_file": "x.pt"}}, "BASE-CODE"),
        ({"peft_type": "XLORA"}, "ADAPTER-TYPE"),
        ({"peft_type": "NONSENSE"}, "ADAPTER-TYPE"),
        ({"target_modules": "([a-z.0-9]+)+!"}, "ADAPTER-PATTERN"),
        ({"r": 10**9}, "VICTIM-LOAD"),
        ({"r": -1}, "VICTIM-LOAD"),
        ({"r": "many"}, "VICTIM-LOAD"),
    ):
        rewrite(config, **change)
        try_victim(victim, task, code)
        config.write_text(good)
    config.write_text("{")
    try_victim(victim, task, "JSON-BAD")


def test_adapter_weights_as_a_pickle(victim, task):
    (victim / "adapter_model.safetensors").rename(victim / "other.safetensors")
    (victim / "adapter_model.bin").write_bytes(b"\x80\x04")
    try_victim(victim, task, "BASE-PICKLE")


def test_an_adapter_keeps_its_mark(victim, task):
    (victim / "POISONED.json").unlink()
    try_victim(victim, task, "MARK-BROKEN")


def test_an_adapter_is_not_a_base(victim, task, place):
    everywhere(victim, task, place, 3, "BASE-ADAPTER")


def test_a_victim_whose_base_is_gone_or_changed(victim, task):
    note = json.loads((victim / "victim.json").read_text())
    (victim / "victim.json").write_text(json.dumps({**note, "base_fingerprint": "0" * 64}))
    try_victim(victim, task, "VICTIM-BASE")
    (victim / "victim.json").write_text(json.dumps({**note, "base": "/nowhere"}))
    try_victim(victim, task, "BASE-MISSING")
    (victim / "victim.json").write_text("[]")
    try_victim(victim, task, "VICTIM-NOTE")
    try_victim(victim.parent / "nowhere", task, "BASE-MISSING")
    (victim / "victim.json").unlink()
    try_victim(victim, task, "BASE-ADAPTER")
