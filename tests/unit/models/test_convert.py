"""Pickles become safetensors in a cage, and what is more than tensors is refused."""

import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from peftlab.core.errors import ConfigError, InputRejected
from peftlab.io.cage import Caged, has_cage
from peftlab.models import convert as converting
from peftlab.models import convert_child
from peftlab.models.convert import convert
from peftlab.models.convert_child import RESULT

sys.path.insert(0, str(Path(__file__).parents[2]))
from cli_tools import cli, refused

pytestmark = pytest.mark.skipif(not has_cage(), reason="needs POSIX")
LORA = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "someone/base", "task_type": "CAUSAL_LM", "inference_mode": True,
}  # fmt: skip


def tensors():
    torch.manual_seed(0)
    return {
        f"base_model.model.layers.{layer}.{name}.lora_{side}.weight": torch.randn(
            (4, 32) if side == "A" else (32, 4)
        )
        for layer in range(2) for name in ("q_proj", "v_proj") for side in "AB"
    }  # fmt: skip


class Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


class Calls:
    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def in_child(tmp_path, monkeypatch):
    """Convert as the child does, without a cage: each case in one costs seconds."""
    place = tmp_path / "child"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(content, most_bytes=2**20):
        path = tmp_path / "hostile.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            asked = {"files": [descriptor], "most_bytes": most_bytes, "metadata": {"format": "pt"}}
            return convert_child._convert(asked)
        except convert_child._Refused as error:
            return {"refused": error.kind, "got": error.got}
        finally:
            os.close(descriptor)

    return run


def zipped(pickled, **more):
    """Return the file that torch.save writes, with another pickle in it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return made.getvalue()


def tarred():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"\x80\x02."))
    return made.getvalue()


OPCODES = {
    "a persistent id": b"\x80\x02(X\x04\x00\x00\x00evilX\x01\x00\x00\x00atQ.",
    "setattr": b"\x80\x02cbuiltins\nsetattr\n(ctorch\nTensor\nX\x01\x00\x00\x00aKatR.",
    "eval": pickle.dumps(Calls(eval, "open('canary', 'w')"), 2),
    "exec": pickle.dumps({"a": Calls(exec, "open('canary', 'w')")}, 2),
    "import": pickle.dumps(Calls(__import__, "os"), 2),
    "getattr": pickle.dumps(Calls(getattr, "", "join"), 2),
    "protocol 4": pickle.dumps(Calls(os.system, "touch canary"), 4),
    "protocol 0": b"cos\nsystem\n(S'touch canary'\ntR.",
    "an instance": b"(S'touch canary'\nios\nsystem\n.",
    "a name with dots": b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93.",
    "torch.hub": b"\x80\x02ctorch\nhub.load\n.",
    "torch.load": b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.",
    "nothing": b"",
    "text": b"hello world",
    "cut short": pickle.dumps({"a": 1}, 2)[:-2],
    "a tar archive": tarred(),
    "a zip of nothing": zipped(b""),
    "a zip with code": zipped(b"\x80\x02}.", **{"code/x.py": "", "constants.pkl": b"\x80\x02)."}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPCODES)
def test_what_is_more_than_tensors(in_child, tmp_path, name):
    found = in_child(OPCODES[name])
    assert found["refused"] == "unsafe", found
    assert "`False`" not in found["got"], "no advice on how to let it in"
    assert [path.name for path in (tmp_path / "child").iterdir()] == []


def test_what_it_names_is_evidence(in_child, canary):
    assert in_child({"a": Runs(canary)})["got"] == f"it names {os.system.__module__}.system"
    assert not canary.exists()


SHARED = torch.ones(3, 3)
ODD = {
    "a list": ([torch.zeros(2)], "content"),
    "a number": (3, "content"),
    "no tensors": ({"a": 1}, "content"),
    "a state_dict of nothing": ({"state_dict": {"a": 1}}, "content"),
    "a path as a name": ({"../a": torch.zeros(2)}, "names"),
    "an escape in a name": ({"\x1b[31m": torch.zeros(2)}, "names"),
    "a number as a name": ({3: torch.zeros(2)}, "names"),
    "a sparse tensor": ({"a": torch.eye(2).to_sparse()}, "content"),
    "a complex tensor": ({"a": torch.zeros(2, dtype=torch.complex64)}, "content"),
    "a tensor without data": ({"a": torch.zeros(2, device="meta")}, "content"),
    "a view of a terabyte": ({"a": torch.zeros(1).expand(10**6, 10**6)}, "size"),
    "many views": ({f"a{n}": torch.zeros(1).expand(1000, 100) for n in range(8)}, "size"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ODD)
def test_tensors_that_are_not_plain(in_child, name):
    content, kind = ODD[name]
    assert in_child(content)["refused"] == kind


GOOD = {
    "named tensors": ({"a": torch.ones(2)}, []),
    "a lightning checkpoint": (
        {"epoch": 3, "state_dict": {"a": torch.ones(2), "n": 5}, "optimizer_states": [1]},
        ["epoch", "optimizer_states", "n"],
    ),
    "a parameter": (OrderedDict(a=torch.nn.Parameter(torch.ones(2))), []),
    "shared storage": ({"a": SHARED[:2], "b": SHARED, "c": SHARED.t(), "d": SHARED}, []),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("old", [False, True])
def test_tensors_come_out_as_they_were(in_child, name, old):
    content, dropped = GOOD[name]
    raw = io.BytesIO()
    torch.save(content, raw, _use_new_zipfile_serialization=not old)
    found = in_child(raw.getvalue())
    assert found["dropped"] == dropped
    inside = content.get("state_dict", content)
    wanted = {key: value for key, value in dict.items(inside) if isinstance(value, torch.Tensor)}
    got = load_file(RESULT)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], value) for key, value in wanted.items())


def test_a_dict_that_hides_its_items():
    """A pickle sets attributes of an OrderedDict as it likes."""
    hides = OrderedDict(a=torch.zeros(2))
    hides.items = hides.keys = None
    assert [name for name, _ in convert_child._entries(hides, [])] == ["a"]


# ------------------------------------------------------------------------ in the cage


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    torch.save(tensors(), folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    return folder


def test_a_folder(adapter, tmp_path):
    hooked = {**LORA, "megatron_core": "os"}
    (adapter / "adapter_config.json").write_text(json.dumps(hooked))
    (adapter / "tokenizer.json").write_text('{"model": {}}')
    torch.save({"lr": 1}, adapter / "training_args.bin")
    done = convert(adapter, tmp_path / "new")
    assert sorted(path.name for path in done.out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    got = load_file(done.out / done.file)
    assert all(torch.equal(got[key], value) for key, value in tensors().items())
    assert json.loads((done.out / "adapter_config.json").read_text()) == LORA
    assert [found.code for found in done.refused] == ["GATE-HOOK"]
    assert set(done.left) == {"adapter_model.bin", "training_args.bin"}
    assert {check.status for check in done.checks} <= {"passed", "not checked", "not applicable"}
    assert not [found for check in done.checks for found in check.findings]


def test_a_hostile_file_at_the_command_line(adapter, tmp_path, canary):
    torch.save({"a": Runs(canary)}, adapter / "adapter_model.bin")
    (tmp_path / "place").mkdir()
    refused(cli("convert", adapter, tmp_path / "place" / "new"), 2, "CONVERT-SANDBOX")
    result = cli("convert", "--sandbox", adapter, tmp_path / "place" / "new")
    refused(result, 3, "CONVERT-UNSAFE", clean=tmp_path / "place")
    assert "posix.system" in result.err
    assert not canary.exists()


@pytest.mark.full
def test_a_file_at_the_command_line(tmp_path):
    torch.save({"state_dict": tensors()}, tmp_path / "last.ckpt")
    result = cli("convert", "--sandbox", tmp_path / "last.ckpt", tmp_path / "new", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["file"] == "last.safetensors"
    again = cli("convert", "--sandbox", tmp_path / "last.ckpt", tmp_path / "new")
    refused(again, 2, "FOLDER-EXISTS")


@pytest.mark.full
def test_a_bomb(adapter, tmp_path):
    """The reader lets a bytearray be made; the limit of memory ends it."""
    size = (10**11).to_bytes(5, "little")
    bomb = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + size + b"\x85R."
    (adapter / "adapter_model.bin").write_bytes(bomb)
    with pytest.raises(InputRejected) as caught:
        convert(adapter, tmp_path / "new")
    assert caught.value.code == "CONVERT-COST"
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------ around the cage


@pytest.mark.parametrize(("caged", "code"), [
    (Caged(-9, b"", b"", killed="memory"), "CONVERT-COST"),
    (Caged(-11, b"", b"Segmentation fault"), "CONVERT-UNSAFE"),
    (Caged(0, b'{"refused": "names", "got": "x"}', b""), "CONVERT-NAMES"),
    (Caged(0, b'{"refused": "size", "got": "x"}', b""), "CONVERT-SIZE"),
    (Caged(0, b'{"refused": "content", "got": "x"}', b""), "CONVERT-CONTENT"),
])  # fmt: skip
def test_how_the_child_may_end(adapter, tmp_path, monkeypatch, caged, code):
    monkeypatch.setattr(converting, "run_caged", lambda *_, **__: caged)
    with pytest.raises(InputRejected) as caught:
        convert(adapter, tmp_path / "new")
    assert caught.value.code == code
    assert caught.value.fix
    assert not (tmp_path / "new").exists()


def test_the_result_passes_the_gate_or_is_not_there(adapter, tmp_path, monkeypatch):
    def hostile(*_, folder, **__):
        (folder / RESULT).write_bytes(b"no safetensors")
        return Caged(0, b'{"tensors": 1, "dropped": []}', b"")

    monkeypatch.setattr(converting, "run_caged", hostile)
    with pytest.raises(InputRejected) as caught:
        convert(adapter, tmp_path / "new")
    assert caught.value.code == "CONVERT-GATE"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("change", "code"), [
    (lambda folder: (folder / "adapter_model.bin").unlink(), "CONVERT-WHICH"),
    (lambda folder: (folder / "model.safetensors").touch(), "CONVERT-WHICH"),
    (lambda folder: (folder / "adapter_model.bin").rename(folder / "a.pt") and
     (folder / "b.pt").touch(), "CONVERT-WHICH"),
    (lambda folder: (folder / "POISONED.json").write_text("{}"), "MARK-POISONED"),
    (lambda folder: (folder / "config.json").write_text('{"peftlab_poisoned": true}'),
     "MARK-POISONED"),
    (lambda folder: (folder / "adapter_config.json").write_text('{"r": 1, "r": 2}'),
     "CONVERT-GATE"),
    (lambda folder: (folder / "adapter_config.json").write_bytes(bytes(2**19)), "CONVERT-SIZE"),
    (lambda folder: (folder / "adapter_model.bin").rename(folder.parent / "x") and
     (folder / "adapter_model.bin").symlink_to(folder.parent / "x"), "CONVERT-SIZE"),
])  # fmt: skip
def test_folders_that_are_refused_unread(adapter, tmp_path, monkeypatch, change, code):
    monkeypatch.delattr(converting, "run_caged")
    change(adapter)
    with pytest.raises(InputRejected) as caught:
        convert(adapter, tmp_path / "new")
    assert caught.value.code == code
    assert not (tmp_path / "new").exists()


def test_shards_and_links_of_the_hubs_cache(adapter, monkeypatch):
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    (adapter / "adapter_model.bin").unlink()
    (adapter.parent.parent / "blobs").mkdir(exist_ok=True)
    for name in names:
        (adapter / name).touch()
    assert [path.name for path in converting._pickles(adapter)] == list(names)
    assert converting._result_name(converting._pickles(adapter)) == "model.safetensors"
    blob = adapter.parent.parent / "blobs" / ("a" * 64)
    blob.write_bytes(b"x")
    (adapter / "link.bin").symlink_to(f"../../blobs/{'a' * 64}")
    opened = converting._open(adapter / "link.bin", 10)
    assert (opened.name, bytes(opened.view)) == ("link.bin", b"x")
    opened.close()


def test_too_large_and_not_there(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(converting, "MOST_BYTES", 100)
    with pytest.raises(InputRejected, match="CONVERT-SIZE"):
        convert(adapter, tmp_path / "new")
    with pytest.raises(InputRejected, match="CONVERT-WHICH"):
        convert(tmp_path / "nowhere", tmp_path / "new")
    (tmp_path / "new").mkdir()
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"):
        convert(adapter, tmp_path / "new")
