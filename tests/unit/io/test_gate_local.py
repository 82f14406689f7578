"""Folders and files: what is opened, what is refused, and that nothing can change afterwards."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from peftlab.core.errors import ResourceLimit
from peftlab.io.gate import Limits, inspect, local, open_artefact
from peftlab.io.gate.listing import Stop
from peftlab.io.gate.local import FolderSource

CONFIG = {"peft_type": "LORA", "r": 2, "target_modules": ["q"]}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    save_file({"q.lora_A.weight": np.ones((2, 4), np.float32)}, folder / WEIGHTS)
    return folder


def opened(reference, **limits):
    artefact, checks = open_artefact(str(reference), limits=Limits(**limits), offline=True)
    assert [check.name for check in checks] == [
        "gate-source", "gate-names", "gate-files", "gate-hashes",
    ]  # fmt: skip
    assert (artefact is None) == any(check.status == "stopped" for check in checks)
    return artefact, checks


def refused(reference, step, code, **limits):
    artefact, checks = opened(reference, **limits)
    assert artefact is None
    at = next(number for number, check in enumerate(checks) if check.status == "stopped")
    assert (checks[at].name, checks[at].findings[0].code) == (step, code)
    assert all(check.status == "not checked" for check in checks[at + 1 :])
    assert all(step in check.reason for check in checks[at + 1 :])
    return checks[at].findings[0]


def test_a_folder(adapter):
    (adapter / "sub").mkdir()
    (adapter / "sub" / "more.txt").write_text("x")
    (adapter / ".git").mkdir()
    (adapter / ".git" / "config").write_text("x")
    (adapter / "empty").mkdir()
    artefact, checks = opened(adapter)
    assert set(artefact.files) == {"adapter_config.json", WEIGHTS}
    assert artefact.recorded == {"sub/more.txt": 1, ".git": 0}
    assert artefact.kind == "folder"
    assert artefact.commit is None
    assert checks[0].facts["kind"] == "folder"
    assert checks[-1].seconds > 0
    artefact.close()


def test_hashes_are_those_of_sha256sum(adapter):
    artefact, checks = opened(adapter)
    names = ["adapter_config.json", WEIGHTS]
    lines = subprocess.run(
        ["sha256sum", *names], cwd=adapter, capture_output=True, check=True
    ).stdout
    facts = checks[3].facts
    assert facts["tree_sha256"] == hashlib.sha256(lines).hexdigest()
    assert facts["files"] == {
        line.split()[1]: line.split()[0] for line in lines.decode().split("\n")[:-1]
    }
    artefact.close()


def test_the_hash_of_a_config_is_that_of_its_meaning(adapter):
    def config_hash(text):
        (adapter / "adapter_config.json").write_bytes(text)
        artefact, checks = opened(adapter, json_bytes=1000)
        artefact.close()
        return checks[3].facts["config_sha256"]

    first = config_hash(b'{"a": 1, "b": [1.0, null]}')
    assert first == config_hash(b'{ "b" :[1.0,null],\n"a":1}')
    assert first != config_hash(b'{"a": 2, "b": [1.0, null]}')
    assert first == hashlib.sha256(b'{"a":1,"b":[1.0,null]}').hexdigest()
    assert config_hash(b"{") is None
    assert config_hash(b'{"a":"' + b"x" * 1000 + b'"}') is None


def test_a_single_file(adapter, tmp_path):
    artefact, checks = opened(adapter / WEIGHTS)
    assert list(artefact.files) == [WEIGHTS]
    assert artefact.kind == "file"
    assert checks[3].facts["config_sha256"] is None
    artefact.close()
    link = tmp_path / "typed.safetensors"  # a link that the user names is the user's choice
    link.symlink_to(adapter / WEIGHTS)
    artefact, _ = opened(link)
    assert list(artefact.files) == ["typed.safetensors"]
    artefact.close()


def test_a_single_file_that_is_no_adapter(adapter):
    (adapter / "x.bin").write_bytes(b"\x80\x04")
    (adapter / "x.txt").write_bytes(b"hello")
    refused(adapter / "x.bin", "gate-files", "GATE-PICKLE")
    refused(adapter / "x.txt", "gate-files", "GATE-WEIGHTS")


@pytest.mark.parametrize(
    "reference",
    ["", "/nowhere", "../../nowhere", "a\0b", "--option", "http://127.0.0.1:1/x", "x" * 5000,
     "a/b/c", "/dev/null", "org/name"],
)  # fmt: skip
def test_what_cannot_be_opened(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finding = refused(reference, "gate-source", "GATE-SOURCE")
    assert finding.fix


def test_an_empty_folder(tmp_path):
    assert "no .safetensors" in refused(tmp_path, "gate-files", "GATE-WEIGHTS").evidence


def test_links_pipes_and_sockets(adapter, tmp_path, monkeypatch):
    place = adapter / "tokenizer.json"
    place.symlink_to("/etc/passwd")
    refused(adapter, "gate-names", "GATE-LINK")
    place.unlink()
    os.mkfifo(place)
    refused(adapter, "gate-names", "GATE-KIND")
    refused(place, "gate-source", "GATE-SOURCE")
    place.unlink()
    monkeypatch.chdir(adapter)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("tokenizer.json")
        refused(adapter, "gate-names", "GATE-KIND")
    place.unlink()
    (adapter / "sub").symlink_to(tmp_path)
    refused(adapter, "gate-names", "GATE-LINK")


def test_a_hard_link_is_said_and_read(adapter, tmp_path):
    os.link(adapter / WEIGHTS, tmp_path / "other")
    artefact, checks = opened(adapter)
    assert [finding.code for finding in checks[1].findings] == ["GATE-LINK"]
    assert checks[1].status == "found"
    artefact.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(adapter):
    (adapter / WEIGHTS).chmod(0)
    assert "ermission" in refused(adapter, "gate-files", "GATE-SOURCE").evidence
    adapter.chmod(0)
    assert "ermission" in refused(adapter, "gate-source", "GATE-SOURCE").evidence
    adapter.chmod(0o700)


def test_errors_of_the_system_are_said(adapter, monkeypatch):
    """The same as without permission, also for root."""

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(local.os, "scandir", denied)
        assert "denied" in refused(adapter, "gate-source", "GATE-SOURCE").evidence
    with monkeypatch.context() as patch:
        patch.setattr(local, "blocks_of", denied)
        assert "denied" in refused(adapter, "gate-files", "GATE-SOURCE").evidence
    with monkeypatch.context() as patch:
        real = os.open
        patch.setattr(local.os, "open", lambda name, *a, **k: (
            denied() if name == WEIGHTS else real(name, *a, **k)))  # fmt: skip
        refused(adapter, "gate-files", "GATE-SOURCE")
    before = set(Path("/proc/self/fd").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(local, "_kind", denied)
        refused(adapter, "gate-source", "GATE-SOURCE")
    with monkeypatch.context() as patch:
        patch.setattr(local, "_bounded", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_artefact(str(adapter))
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_system_that_cannot_open_below_a_folder(adapter, monkeypatch):
    def open_by_path(*_, **__):
        raise NotImplementedError("dir_fd unavailable on this platform")

    monkeypatch.setattr(local.os, "open", open_by_path)
    assert "platform" in refused(adapter, "gate-source", "GATE-SOURCE").evidence


def test_a_file_that_is_gone_again(adapter, monkeypatch):
    real = os.stat

    def stat(path, *more, **named):
        if "dir_fd" in named:
            raise FileNotFoundError(2, "No such file or directory")
        return real(path, *more, **named)

    monkeypatch.setattr(local.os, "stat", stat)
    refused(adapter / WEIGHTS, "gate-source", "GATE-SOURCE")


def test_a_loop_of_links_that_the_user_names(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path / "a", "gate-source", "GATE-SOURCE")
    with pytest.raises(Stop):
        local.FileSource(tmp_path / "a")


def test_wide_and_deep_folders_are_not_listed_to_their_end(adapter, monkeypatch):
    for number in range(70):
        (adapter / f"{number}.txt").touch()
    refused(adapter, "gate-names", "GATE-COUNT")
    source = FolderSource(adapter, Limits())
    assert len(source.entries) == 65
    source.close()
    artefact, _ = opened(adapter, files=100)
    artefact.close()
    for number in range(70):
        (adapter / f"{number}.txt").unlink()
        (adapter / f"{number}").mkdir()
    refused(adapter, "gate-names", "GATE-COUNT")


def test_deep_folders(adapter):
    (adapter / "a/b/c").mkdir(parents=True)
    (adapter / "a/b/c/x.txt").touch()
    opened(adapter)[0].close()
    (adapter / "a/b/c/d").mkdir()
    assert refused(adapter, "gate-names", "GATE-DEPTH").where == "a/b/c/d/*"


def test_sizes(adapter):
    with (adapter / WEIGHTS).open("r+b") as file:
        file.truncate(3 * 2**30)  # a hole: it takes no space
    refused(adapter, "gate-names", "GATE-SIZE")
    refused(adapter / WEIGHTS, "gate-names", "GATE-SIZE")
    (adapter / "model.bin").touch()
    os.truncate(adapter / "model.bin", 3 * 2**30)
    os.truncate(adapter / WEIGHTS, 100)
    opened(adapter)[0].close()


def test_nothing_stays_open_when_the_disk_is_full(adapter, monkeypatch):
    def full(self, name, blocks, size):
        raise ResourceLimit("full", code="DISK-FULL")

    before = set(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr("peftlab.io.snapshot.Snapshots.keep", full)
    with pytest.raises(ResourceLimit):
        open_artefact(str(adapter))
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_the_first_step_that_stops_is_the_last_that_runs(adapter):
    (adapter / WEIGHTS).write_bytes(b"no tensors")
    artefact, _ = opened(adapter)
    with artefact:
        checks = inspect(artefact, limits=Limits())
    status = {check.name: check.status for check in checks}
    assert status["gate-headers"] == "stopped"
    assert status["gate-semantic"] == status["gate-values"] == "not checked"
    assert "gate-headers" in checks[-1].reason
    assert all(check.seconds >= 0 for check in checks)


# what happens to a folder between two steps


def change_after_listing(monkeypatch, change):
    real = FolderSource.fetch

    def fetch(self, entry, snapshots):
        if entry.name == WEIGHTS:
            change()
        return real(self, entry, snapshots)

    monkeypatch.setattr(FolderSource, "fetch", fetch)


@pytest.mark.parametrize("size", [0, 5, 10**6])
def test_a_file_of_another_size(adapter, monkeypatch, size):
    change_after_listing(monkeypatch, lambda: os.truncate(adapter / WEIGHTS, size))
    refused(adapter, "gate-hashes", "GATE-CHANGED")


def test_a_file_that_became_a_link_or_a_pipe(adapter, monkeypatch):
    target = shutil.copy(adapter / WEIGHTS, adapter.parent / "copy")

    def link():
        (adapter / WEIGHTS).unlink()
        (adapter / WEIGHTS).symlink_to(target)

    def pipe():
        (adapter / WEIGHTS).unlink()
        os.mkfifo(adapter / WEIGHTS)

    with monkeypatch.context() as patch:
        change_after_listing(patch, link)
        refused(adapter, "gate-files", "GATE-SOURCE")
    (adapter / WEIGHTS).unlink()
    shutil.copy(target, adapter / WEIGHTS)
    with monkeypatch.context() as patch:
        change_after_listing(patch, pipe)
        refused(adapter, "gate-hashes", "GATE-CHANGED")


def test_a_file_that_is_written_while_it_is_copied(adapter, monkeypatch):
    real = local.blocks_of

    def blocks(descriptor):
        for block in real(descriptor, 16):
            yield block
            with (adapter / WEIGHTS).open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\xff")
            os.utime(adapter / WEIGHTS, ns=(1, 1))

    monkeypatch.setattr(local, "blocks_of", blocks)
    refused(adapter / WEIGHTS, "gate-hashes", "GATE-CHANGED")


def test_a_file_that_shrinks_while_it_is_copied(adapter, monkeypatch):
    monkeypatch.setattr(local, "blocks_of", lambda _: iter([b"short"]))
    refused(adapter, "gate-hashes", "GATE-CHANGED")


def test_a_folder_swapped_for_another_reaches_nothing_new(adapter, tmp_path, monkeypatch):
    """Below the folder that was opened, paths are not walked again."""
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    (other / WEIGHTS).write_bytes(b"other")

    def swap():
        adapter.rename(tmp_path / "away")
        adapter.symlink_to(other)

    before = hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
    change_after_listing(monkeypatch, swap)
    artefact, _ = opened(adapter)
    assert artefact.files[WEIGHTS].sha256 == before
    artefact.close()


@pytest.mark.parametrize("change", ["rewritten", "truncated", "removed"])
def test_after_the_copy_nothing_changes(adapter, change):
    """No check and no load sees what becomes of the folder; a mapping of it would die here."""
    artefact, checks = opened(adapter)
    path = adapter / WEIGHTS
    if change == "rewritten":
        path.write_bytes(b"\xff" * path.stat().st_size)
    elif change == "truncated":
        os.truncate(path, 0)
    else:
        shutil.rmtree(adapter)
    inspected = {check.name: check.status for check in inspect(artefact)}
    assert inspected["gate-headers"] == "passed"
    assert inspected["gate-values"] == "passed"
    content = artefact.read(WEIGHTS)
    assert hashlib.sha256(content).hexdigest() == checks[3].facts["files"][WEIGHTS]
    artefact.close()


# the cache of the hub keeps its files as links to blobs


@pytest.fixture
def cached(adapter, tmp_path):
    snapshot = tmp_path / "hub/models--o--n/snapshots" / COMMIT
    blobs = tmp_path / "hub/models--o--n/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("adapter_config.json", WEIGHTS):
        blob = hashlib.sha256((adapter / name).read_bytes()).hexdigest()
        shutil.copy(adapter / name, blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    return snapshot


def test_a_snapshot_of_the_hub_cache(cached):
    artefact, checks = opened(cached)
    assert artefact.commit == COMMIT
    assert set(artefact.files) == {"adapter_config.json", WEIGHTS}
    assert checks[1].findings == ()
    artefact.close()


@pytest.mark.parametrize(
    "target",
    ["../../blobs/abc", "/etc/passwd", "../../../blobs/" + "0" * 64, "../../blobs/" + "f" * 64],
)
def test_other_links_in_the_hub_cache(cached, target):
    (cached / "tokenizer.json").symlink_to(target)
    refused(cached, "gate-names", "GATE-LINK")


def test_a_blob_that_is_a_link_itself(cached):
    blob = (cached / WEIGHTS).resolve()
    blob.rename(blob.with_name("moved"))
    blob.symlink_to("moved")
    refused(cached, "gate-names", "GATE-LINK")


def test_a_blob_that_is_not_what_its_name_says(cached):
    with (cached / WEIGHTS).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    refused(cached, "gate-hashes", "GATE-CHANGED")


def test_such_links_elsewhere(cached, tmp_path):
    moved = cached.rename(cached.with_name("main"))
    refused(moved, "gate-names", "GATE-LINK")
