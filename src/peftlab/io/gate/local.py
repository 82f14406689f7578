"""Folders and single files of this machine, opened without a second look at any path.

The folder is opened once; everything below it is listed and opened relative to that descriptor,
and no link is followed, so that swapping a folder for a link in between reaches nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import CHANGED, SOURCE, Entry, Kind, Stop
from peftlab.io.gate.names import COUNT
from peftlab.io.snapshot import OpenFile, Snapshots, WrongSize, blocks_of


def _flags(*names: str) -> int:
    """Return flags of ``os.open``; a system that lacks one is refused when a folder is opened."""
    return sum(getattr(os, name, 0) for name in names)


NO_LINK = _flags("O_NOFOLLOW")
# O_NONBLOCK: a pipe that took the place of a file must not block
FILE_FLAGS = _flags("O_RDONLY", "O_CLOEXEC", "O_NONBLOCK") | NO_LINK
FOLDER_FLAGS = _flags("O_RDONLY", "O_CLOEXEC", "O_DIRECTORY")
COMMIT = re.compile(r"[0-9a-f]{40}")
BLOB = re.compile(r"\.\./\.\./blobs/([0-9a-f]{40}|[0-9a-f]{64})")


class FolderSource:
    """A folder, listed down to the limits."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.kind, self.commit = "folder", _hub_commit(path)
        self.facts: dict[str, object] = {}
        self._limits, self._folders = limits, 0
        self._folder = _open(path, FOLDER_FLAGS, None)
        self._blobs: dict[str, str] = {}
        try:
            found = _bounded(self._walk(self._folder, ""), limits.files + 1)
            self.entries: Sequence[Entry] = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.close()
            raise _refused(path.name, error) from None
        except BaseException:
            self.close()
            raise

    def fetch(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        """Copy one file of the folder."""
        folder, opened = self._folder, [os.dup(self._folder)]
        try:
            *parents, name = entry.name.split("/")
            if entry.name in self._blobs:
                parents, name = ["..", "..", "blobs"], self._blobs[entry.name]
            for parent in parents:
                flags = FOLDER_FLAGS | (0 if parent == ".." else NO_LINK)
                folder = _open(parent, flags, opened[-1])
                opened.append(folder)
            file = _copy(name, opened[-1], entry, snapshots)
        finally:
            for descriptor in opened:
                os.close(descriptor)
        named = self._blobs.get(entry.name, "")
        if len(named) == 64 and named != file.sha256:
            file.close()
            why = "it has another hash than the hub's cache says"
            raise Stop(CHANGED.found(entry.name, why), "gate-hashes")
        return file

    def close(self) -> None:
        """Close the folder."""
        os.close(self._folder)

    def _walk(self, folder: int, prefix: str) -> Iterator[Entry]:
        with os.scandir(folder) as listed:
            for item in listed:
                name = prefix + item.name
                about = item.stat(follow_symlinks=False)
                if not stat.S_ISDIR(about.st_mode):
                    yield self._entry(item.name, name, folder, about)
                elif item.name.startswith("."):
                    # .git and .cache: no library looks for weights there, and neither do we
                    yield Entry(name, 0, "folder")
                elif name.count("/") + 1 >= self._limits.depth:
                    yield Entry(f"{name}/*", 0, "folder")
                else:
                    yield from self._below(item.name, name, folder)

    def _below(self, item: str, name: str, folder: int) -> Iterator[Entry]:
        self._folders += 1
        if self._folders > self._limits.files:
            why = f"more than {self._limits.files} folders"
            raise Stop(COUNT.found("the listing", why), "gate-names")
        inner = _open(item, FOLDER_FLAGS | NO_LINK, folder)
        try:
            yield from self._walk(inner, f"{name}/")
        finally:
            os.close(inner)

    def _entry(self, item: str, name: str, folder: int, about: os.stat_result) -> Entry:
        if not stat.S_ISLNK(about.st_mode):
            return Entry(name, about.st_size, _kind(about.st_mode), about.st_nlink)
        target = BLOB.fullmatch(os.readlink(item, dir_fd=folder))
        if self.commit is None or target is None or item != name:
            return Entry(name, 0, "link")
        # the hub's own cache: snapshots/COMMIT/name -> ../../blobs/HASH
        with suppress(OSError):
            blob = os.stat(target[0], dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(blob.st_mode):
                self._blobs[name] = target[1]
                return Entry(name, blob.st_size)
        return Entry(name, 0, "link")


class FileSource:
    """One file that the user named."""

    def __init__(self, path: Path) -> None:
        self.kind = "file"
        self.commit: str | None = None
        self.facts: dict[str, object] = {}
        try:
            real = path.resolve(strict=True)  # a link that the user typed is the user's choice
        except (OSError, RuntimeError, ValueError) as error:
            raise _refused(path.name, error) from None
        self._folder, self._name = _open(real.parent, FOLDER_FLAGS, None), real.name
        try:
            about = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except OSError as error:
            self.close()
            raise _refused(path.name, error) from None
        self.entries = [Entry(path.name, about.st_size, _kind(about.st_mode))]

    def fetch(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        """Copy the file."""
        return _copy(self._name, self._folder, entry, snapshots)

    def close(self) -> None:
        """Close the folder of the file."""
        os.close(self._folder)


def _bounded(entries: Iterator[Entry], most: int) -> list[Entry]:
    """Return the first ``most`` entries; a folder of millions is not listed to its end."""
    return [entry for entry, _ in zip(entries, range(most), strict=False)]


def _copy(name: str, folder: int, entry: Entry, snapshots: Snapshots) -> OpenFile:
    descriptor = _open(name, FILE_FLAGS, folder, "gate-files")
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode) or before.st_size != entry.size:
            raise Stop(CHANGED.found(entry.name, "since it was listed"), "gate-hashes")
        file = snapshots.keep(entry.name, blocks_of(descriptor), before.st_size)
        if _stamp(os.fstat(descriptor)) != _stamp(before):
            file.close()
            raise Stop(CHANGED.found(entry.name, "while it was copied"), "gate-hashes")
    except WrongSize as error:
        raise Stop(CHANGED.found(entry.name, str(error)), "gate-hashes") from None
    except OSError as error:
        raise _refused(entry.name, error, "gate-files") from None
    else:
        return file
    finally:
        os.close(descriptor)


def _stamp(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _open(path: str | Path, flags: int, folder: int | None, step: str = "gate-source") -> int:
    try:
        return os.open(path, flags, dir_fd=folder)
    except (OSError, ValueError, NotImplementedError) as error:
        raise _refused(str(path), error, step) from None


def _refused(name: str, error: Exception, step: str = "gate-source") -> Stop:
    why = error.strerror if isinstance(error, OSError) else None
    return Stop(SOURCE.found(name, why or str(error)), step)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    return "link" if stat.S_ISLNK(mode) else "device"


def _hub_commit(path: Path) -> str | None:
    """Return the commit of a folder in the hub's cache, ``.../snapshots/COMMIT``."""
    name = path.absolute().name
    in_cache = path.absolute().parent.name == "snapshots" and COMMIT.fullmatch(name)
    return name if in_cache else None
