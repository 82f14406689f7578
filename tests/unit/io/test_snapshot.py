"""Private copies: exact, hashed, unchangeable, and small in memory."""

import errno
import fcntl
import hashlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from peftlab.core.errors import ResourceLimit
from peftlab.io import snapshot
from peftlab.io.artefact import Artefact, TensorInfo, open_file
from peftlab.io.snapshot import Snapshots, WrongSize

CONTENT = bytes(range(256)) * 64  # 16 KiB


@pytest.fixture(params=["memory", "disk", "no memfd"])
def keeper(request, monkeypatch):
    if request.param == "no memfd":
        monkeypatch.delattr(os, "memfd_create")
    return Snapshots(0 if request.param == "disk" else snapshot.MEMORY_BYTES)


def test_a_copy_has_the_bytes_and_their_hash(keeper):
    for content in (CONTENT, b"", b"x"):
        file = keeper.keep("a", [content[:5000], memoryview(content)[5000:]], len(content))
        assert bytes(file.view) == content
        assert file.view.readonly
        assert file.sha256 == hashlib.sha256(content).hexdigest()
        assert os.pread(file.descriptor, 10**6, 0) == content
        file.close()


def test_more_or_fewer_bytes_than_announced(keeper):
    for blocks in ([CONTENT, b"x"], [CONTENT[:-1]], []):
        with pytest.raises(WrongSize):
            keeper.keep("a", blocks, len(CONTENT))


def test_an_endless_source_is_left_at_the_first_byte_too_many(keeper):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield CONTENT

    with pytest.raises(WrongSize):
        keeper.keep("a", endless(), 3 * len(CONTENT))
    assert len(asked) == 4


def test_no_descriptor_is_left_behind(keeper):
    def failing():
        yield b"x"
        raise RuntimeError("torn")

    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(RuntimeError):
        keeper.keep("a", failing(), 2)
    keeper.keep("a", [CONTENT], len(CONTENT)).close()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_memory_is_used_up_and_then_the_disk():
    keeper = Snapshots(len(CONTENT))
    files = [keeper.keep(name, [CONTENT], len(CONTENT)) for name in "ab"]
    places = [str(Path(f"/proc/self/fd/{file.descriptor}").readlink()) for file in files]
    assert "memfd:peftlab" in places[0]
    assert places[1].startswith(tempfile.gettempdir())
    assert places[1].endswith("(deleted)")
    for file in files:
        file.close()


def test_a_copy_in_memory_is_sealed():
    file = Snapshots().keep("a", [CONTENT], len(CONTENT))
    for change in (
        lambda: os.pwrite(file.descriptor, b"x", 0),
        lambda: os.ftruncate(file.descriptor, 0),
        lambda: fcntl.fcntl(file.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda: mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    assert bytes(file.view) == CONTENT
    file.close()


def test_a_full_disk_is_said_so(keeper, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceLimit, match="DISK-FULL"):
        keeper.keep("a", [CONTENT], len(CONTENT))


def test_forgotten_pages_come_back(keeper):
    content = CONTENT * 64  # 1 MiB
    file = keeper.keep("a", [content], len(content))
    array = np.frombuffer(file.view, np.uint8)
    for start, stop in ((0, None), (1, 5), (0, 1), (5000, 100_000), (0, len(content))):
        file.forget(start, stop)
        assert array.tobytes() == content
    keeper.keep("empty", [], 0).forget()
    file.close()
    assert array.tobytes() == content  # an array keeps what it shows


def test_forgetting_gives_memory_back():
    size = 32 * 2**20
    file = Snapshots(0).keep("a", (bytes(2**20) for _ in range(32)), size)
    assert np.frombuffer(file.view, np.uint8).sum() == 0
    before = _mapped()
    file.forget()
    assert before - _mapped() > 0.9 * size
    file.close()


def _mapped():
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_a_file_of_a_path_is_copied_and_links_are_not_followed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    file = open_file(path, "inside")
    path.write_bytes(b"other")
    assert (file.name, bytes(file.view)) == ("inside", CONTENT)
    file.close()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link"):
        open_file(tmp_path / "link", "link")


def test_an_artefact_gives_tensors_and_closes_its_files():
    file = Snapshots().keep("t", [CONTENT], len(CONTENT))
    with Artefact("x", "file", files={"t": file}) as artefact:
        artefact.tensors["w"] = TensorInfo("t", "U8", (3,), 2, 5)
        assert bytes(artefact.tensor_bytes("w")) == b"\x02\x03\x04"
        artefact.forget("w")
        assert artefact.read("t") == CONTENT
    assert not artefact.files
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(file.descriptor)
