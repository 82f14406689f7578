"""Files and folders are wholly there or not at all, also when the disk fills up."""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError, ResourceLimit
from peftlab.io import files
from peftlab.io.files import (
    clean_leftovers,
    new_folder,
    parse_json,
    read_json,
    sha256_file,
    write_atomic,
    write_json,
)
from peftlab.io.process import domain, identity, is_alive

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@given(PLAIN)
def test_json_round_trip(value):
    assert parse_json(files.dump_json(value).encode("utf-8"), "test") == value


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(content):
    with suppress(InputRejected):
        parse_json(content, "test")


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', "NaN", "[Infinity]", "-Infinity", "1e999", '{"a"', "", "\ufeff{}",
     "[" * 100_000, "1" * 5000],
)  # fmt: skip
def test_surprising_json_is_refused(text):
    with pytest.raises(InputRejected, match="JSON-BAD"):
        parse_json(text.encode(), "test")


def test_json_files(tmp_path):
    import numpy as np

    path = tmp_path / "deep" / "er" / "a.json"
    write_json(path, {"é": np.float64(0.5), "n": np.arange(3), "surrogate": "\ud800"})
    assert read_json(path) == {"é": 0.5, "n": [0, 1, 2], "surrogate": "\ud800"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path)["é"] == 0.5
    assert hidden(path.parent) == []


def test_reading_has_limits(tmp_path):
    (tmp_path / "big.json").write_text(json.dumps("x" * 100))
    assert read_json(tmp_path / "big.json", 102) == "x" * 100
    for path, code in ((tmp_path / "big.json", "FILE-SIZE"), (tmp_path, "FILE-KIND"),
                       (tmp_path / "none.json", "FILE-READ")):  # fmt: skip
        with pytest.raises(InputRejected) as caught:
            read_json(path, 101)
        assert caught.value.code == code
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputRejected, match="FILE-KIND"):
        read_json(tmp_path / "fifo")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputRejected, match="JSON-BAD"):
        read_json(tmp_path / "latin.json")


def test_hash(tmp_path):
    write_atomic(tmp_path / "a", b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf")
    with pytest.raises(InputRejected, match="FILE-READ"):
        sha256_file(tmp_path / "b")


def test_new_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "b"
    with new_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1"
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"), new_folder(target):
        pass
    with pytest.raises(KeyError), new_folder(target, overwrite=True) as folder:  # noqa: PT012
        (folder / "y").write_text("2")
        raise KeyError
    assert [path.name for path in target.iterdir()] == ["sub"]
    with new_folder(target, overwrite=True) as folder:
        (folder / "y").write_text("2")
    assert [path.name for path in target.iterdir()] == ["y"]
    assert hidden(target.parent) == []


def test_overwriting_leaves_what_a_link_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "keep").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "link", overwrite=True):
        pass
    assert (tmp_path / "real" / "keep").exists()
    assert not (tmp_path / "link").is_symlink()


def test_the_current_folder_is_never_overwritten(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (".", "..", "/", str(tmp_path)):
        with pytest.raises(ConfigError), new_folder(Path(target), overwrite=True):
            pass
    assert (tmp_path / "here").is_dir()


def test_a_target_made_in_the_meantime_is_kept(tmp_path):
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"), new_folder(tmp_path / "a"):  # noqa: PT012
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").write_text("1")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "theirs"]


@pytest.mark.parametrize("both", [False, True])
def test_a_killed_overwrite_is_mended(tmp_path, both):
    (tmp_path / f"{files.BACKUP_PREFIX}a").mkdir()
    (tmp_path / f"{files.BACKUP_PREFIX}a" / "old").write_text("1")
    if both:
        (tmp_path / "a").mkdir()
    with pytest.raises(ConfigError, match="FOLDER-EXISTS"), new_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a" / "old").exists() is not both
    assert hidden(tmp_path) == []


def test_leftovers_of_the_dead_are_cleaned(tmp_path):
    gone = subprocess.run(
        [sys.executable, "-c", "from peftlab.io.process import identity; print(identity())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    names = [f"{gone}-aa", f"{identity()}-aa", "elsewhere-1-1-aa", f"{domain()}-1-0-aa"]
    for name in names:
        (tmp_path / f"{files.PREFIX}{name}").mkdir()
    os.utime(tmp_path / f"{files.PREFIX}elsewhere-1-1-aa")
    assert clean_leftovers(tmp_path) == 2  # the gone process, and pid 1 with another start time
    assert len(hidden(tmp_path)) == 2
    os.utime(tmp_path / f"{files.PREFIX}elsewhere-1-1-aa", (0, 0))
    write_atomic(tmp_path / "x", "1")
    assert hidden(tmp_path) == [f"{files.PREFIX}{identity()}-aa"]
    assert clean_leftovers(tmp_path / "none") == 0


def test_identities():
    assert is_alive(identity()) is True
    place, pid, start = identity().split("-")
    assert is_alive(f"{place}-{pid}-{int(start) + 1}") is False
    assert is_alive(f"other-{pid}-{start}") is None
    assert is_alive("nonsense") is None
    with pytest.raises(ProcessLookupError):
        identity(2**22 + 1)


class FullDisk:
    """Lets k calls that write pass, then fails one with 'no space left'."""

    def __init__(self, monkeypatch, k, number=errno.ENOSPC):
        self.left, self.number, self.failed = k, number, False
        for owner, name in ((os, "fsync"), (Path, "mkdir"), (Path, "open"), (Path, "rename"),
                            (Path, "replace"), (Path, "write_text")):  # fmt: skip
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, real):
        def call(*args, **kwargs):
            if args[1:2] and args[1] in ("r", "rb"):
                return real(*args, **kwargs)
            if self.left == 0:
                self.left, self.failed = -1, True
                raise OSError(self.number, os.strerror(self.number))
            self.left -= 1
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_every_write_of_a_file(tmp_path, number):
    for k in range(50):
        target = tmp_path / f"{k}.txt"
        target.write_text("old")
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, k, number)
            with suppress(ResourceLimit):
                write_atomic(target, "new")
        assert target.read_text() in (("old", "new") if disk.failed else ("new",))
        assert hidden(tmp_path) == []
        if not disk.failed:
            assert k >= 4
            return
    pytest.fail("it never succeeds")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_at_every_write_of_a_folder(tmp_path, overwrite):
    for k in range(50):
        target = tmp_path / str(k)
        if overwrite:
            target.mkdir()
            (target / "a").write_text("old")
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, k)
            with suppress(ResourceLimit), new_folder(target, overwrite=overwrite) as folder:
                (folder / "a").write_text("new")
                (folder / "b").write_text("new")
        found = {path.name: path.read_text() for path in target.iterdir()} if target.exists() else 0
        before = {"a": "old"} if overwrite else 0
        after = {"a": "new", "b": "new"}
        assert found in ((before, after) if disk.failed else (after,))
        assert [name for name in hidden(tmp_path) if name.startswith(files.PREFIX)] == []
        if not disk.failed:
            assert k >= 7
            return
    pytest.fail("it never succeeds")


def test_errors_of_others_say_disk_full_too(tmp_path):
    with pytest.raises(ResourceLimit, match="DISK-FULL"), new_folder(tmp_path / "a"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(PeftlabError) as caught, new_folder(tmp_path / "a"):
        raise ConfigError("mine", code="MINE")
    assert caught.value.code == "MINE"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="PATH-WRITE"):
        write_atomic(tmp_path / "a", "x")


def test_impossible_paths(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "a", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match="PATH-WRITE"):
            write_atomic(target, "x")
    with pytest.raises(ConfigError), new_folder(tmp_path / "file" / "a"):
        pass
    assert hidden(tmp_path) == []
