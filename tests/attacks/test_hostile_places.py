"""Where results are to go: full disks, read-only folders, things already there."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from cli_tools import cli, refused, write_task
from tiny_models import make_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    make_tiny("bert", place / "base")
    write_task(place / "data", train=40, dev=60, test=20)
    return place


@pytest.fixture(scope="module")
def guard(made):
    assert cli("guard", "fit", "--base", made / "base", "--data", made / "data", "--defence",
               "onion", "--out", made / "guard").code == 0  # fmt: skip
    return made / "guard"


def steps(made, out):
    given = ("--base", made / "base", "--data", made / "data", "--out", out)
    return (
        ("attack", *given, "--epochs", 0.1),
        ("tune", *given, "-o", "epochs=0.1"),
        ("tune", *given, "-o", "epochs=0.1", "--method", "full"),
        ("guard", "fit", *given, "-o", "checkpoints=[2]"),
        ("guard", "fit", *given, "--defence", "onion"),
    )


def mount(place, options):
    """Put a file system of its own at ``place``, or skip loudly."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    if (
        shutil.which("mount") is None
        or subprocess.run(command, check=False, capture_output=True).returncode
    ):
        pytest.skip(f"NOT CHECKED: mounting a disk ({options}) is not allowed here")


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB, where mounting is allowed; else a loud skip."""
    place = tmp_path / "small"
    place.mkdir()
    mount(place, "size=64k")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(made, small_disk):
    (small_disk / "old.txt").write_text("old")
    for number in (0, 2, 3):  # what the others write would fit
        refused(cli(*steps(made, small_disk / "new")[number]), 4, "DISK-FULL")
        assert [path.name for path in small_disk.iterdir()] == ["old.txt"]
    assert (small_disk / "old.txt").read_text() == "old"


def test_a_full_disk_leaves_what_was_to_be_overwritten(made, guard, small_disk):
    shutil.copytree(guard, small_disk / "guard")
    before = content(small_disk)
    step = steps(made, small_disk / "guard")[3]
    refused(cli(*step, "--overwrite"), 4, "DISK-FULL")
    assert content(small_disk) == before


@pytest.mark.parametrize("number", range(5))
def test_a_disk_that_fills_at_the_last_moment(made, tmp_path, monkeypatch, number):
    """The same without a mount: the disk is full when the folder is made durable."""
    place = tmp_path / "out"
    place.mkdir()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(cli(*steps(made, place / "new")[number]), 4, "DISK-FULL", clean=place)


def test_a_run_on_a_full_disk_goes_on_when_there_is_space(made, tmp_path, monkeypatch):
    import numpy as np

    given = ("bench", "run", "psim-mini", "--out", tmp_path / "run", "--workers", 1,
             "--set", f"data={made / 'data'}", "--set", f"base={made / 'base'}", "--set", "seeds=0",
             "--set", "defence=none", "--set", "control=false")  # fmt: skip
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(np, "save", full)
        result = cli(*given)
        assert result.code == 4, result.err
        assert "[DISK-FULL]" in result.err
    result = cli(*given)
    assert result.code == 0, result.err
    assert not list((tmp_path / "run").rglob(".peftlab-part-*"))


# ---------------------------------------------------------------------- places to write


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody may write to: read-only mount for root, mode bits for others."""
    place = tmp_path / "locked"
    place.mkdir()
    if os.geteuid():
        place.chmod(0o500)
        yield place
        place.chmod(0o700)
        return
    mount(place, "ro")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_read_only_folder(made, locked):
    for step in steps(made, locked / "new"):
        refused(cli(*step), 2, "PATH-WRITE", clean=locked)
    result = cli("bench", "run", "psim-mini", "--out", locked / "run")
    refused(result, 2, "PATH-WRITE", clean=locked)


def test_out_that_exists(made, tmp_path):
    out = tmp_path / "there"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for step in steps(made, out):
        refused(cli(*step), 2, "FOLDER-EXISTS")
    refused(cli("bench", "run", "psim-mini", "--out", out), 2, "FOLDER-EXISTS")
    assert content(out).keys() == {"mine.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_out_that_is_refused_costs_no_training(made, tmp_path):
    (tmp_path / "there").mkdir()
    for step in steps(made, tmp_path / "there"):
        result = cli(*step)
        assert result.code == 2
        assert result.err.startswith("error:")


def test_out_below_a_file(made, tmp_path):
    (tmp_path / "file").touch()
    refused(cli(*steps(made, tmp_path / "file" / "new")[1]), 2, "PATH-WRITE")


def test_overwrite_replaces_the_whole_folder(made, guard, tmp_path):
    shutil.copytree(guard, tmp_path / "new")
    result = cli(*steps(made, tmp_path / "new")[1], "--overwrite")
    assert result.code == 0, result.err
    assert not (tmp_path / "new" / "guard.json").exists()
    assert (tmp_path / "new" / "victim.json").is_file()


def test_a_run_folder_of_another_recipe(made, tmp_path):
    given = ("bench", "run", "psim-mini", "--out", tmp_path / "run", "--workers", 1, "--set",
             f"data={made / 'data'}", "--set", f"base={made / 'base'}", "--set", "defence=none",
             "--set", "control=false", "--set", "attacker.epochs=0.1")  # fmt: skip
    assert cli(*given, "--set", "seeds=0").code == 0
    refused(cli(*given, "--set", "seeds=1"), 2, "RUN-OTHER")
