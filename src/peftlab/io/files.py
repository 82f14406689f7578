"""Files and folders that are either wholly there or not there at all.

Everything is written beside its target under a hidden name, synced, then renamed. A killed process
leaves at most a hidden leftover, which the next writer in the same place removes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peftlab.core.errors import ConfigError, InputRejected, PeftlabError, ResourceLimit
from peftlab.io.process import identity, is_alive
from peftlab.io.strict_json import dump_json, parse_json

__all__ = [
    "check_target",
    "clean_leftovers",
    "disk_errors",
    "dump_json",
    "full_disk_errors",
    "new_folder",
    "parse_json",
    "read_json",
    "read_limited",
    "sha256_file",
    "sync_tree",
    "write_atomic",
    "write_json",
]

PREFIX = ".peftlab-part-"
BACKUP_PREFIX = ".peftlab-old-"
JSON_LIMIT = 4 * 1024 * 1024
FOREIGN_LEFTOVER_SECONDS = 24 * 3600.0  # ours: no single artefact takes a day to write

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR,
            errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip


def _is_full(error: BaseException) -> bool:
    """Tell a full disk, also when a Rust library (safetensors, tokenizers) reports it as text."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)


def _full(path: Path, error: BaseException) -> ResourceLimit:
    return ResourceLimit(
        f"no space left to write {path}",
        code="DISK-FULL",
        got=str(error),
        fix="free some space or choose another folder; what was complete before is untouched",
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors of writing ``path`` into ours; others pass unchanged.

    Raises:
        ResourceLimit: ``DISK-FULL``, the disk or the quota is full.
        ConfigError: ``PATH-WRITE``, no permission, a read-only disk or an impossible path.
    """
    try:
        yield
    except PeftlabError:
        raise
    except Exception as error:
        if _is_full(error):
            raise _full(path, error) from error
        if isinstance(error, OSError) and error.errno in _REFUSED:
            raise ConfigError(
                f"cannot write {path}",
                code="PATH-WRITE",
                got=error.strerror,
                fix="choose a folder that you may write to",
            ) from error
        raise


def _sync_folder(path: Path) -> None:
    """Make renames in ``path`` durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, met anywhere in the block, into our error; others pass unchanged.

    Raises:
        ResourceLimit: ``DISK-FULL``.
    """
    try:
        yield
    except Exception as error:
        if _is_full(error) and not isinstance(error, PeftlabError):
            raise _full(path, error) from error
        raise


def sync_tree(folder: Path) -> None:
    """Make the files of a folder durable; a file system in common then shows them to others."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_symlink() or not path.is_file():
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        _sync_folder(Path(root))


def _part_name() -> str:
    return f"{PREFIX}{identity()}-{secrets.token_hex(4)}"


def _remove(path: Path) -> None:
    """Remove a file, a link or a tree; being gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_abandoned(part: Path) -> bool:
    alive = is_alive(part.name.removeprefix(PREFIX).rpartition("-")[0])
    if alive is not None:
        return not alive
    try:
        return time.time() - part.lstat().st_mtime > FOREIGN_LEFTOVER_SECONDS
    except OSError:
        return False


def clean_leftovers(folder: Path) -> int:
    """Remove what dead processes left half-written in ``folder``; return how many were removed.

    Leftovers of other machines are left alone until they are a day old.
    """
    try:
        parts = [entry for entry in folder.iterdir() if entry.name.startswith(PREFIX)]
    except OSError:
        return 0
    abandoned = [part for part in parts if _is_abandoned(part)]
    for part in abandoned:
        _remove(part)
    return len(abandoned)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Args:
        path: target; its parent folders are made.
        data: bytes, or text written as UTF-8 with the line ends it has.

    Raises:
        ResourceLimit: ``DISK-FULL``.
        ConfigError: ``PATH-WRITE``.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomic(target, "hello")
        >>> target.read_text()
        'hello'
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(path.parent)
        part = path.parent / _part_name()
        try:
            with part.open("xb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            _remove(part)
            raise


def write_json(path: Path, obj: object) -> None:
    """Write ``obj`` as strict JSON, atomically; numpy values become plain ones.

    Raises:
        ValueError, TypeError: as ``dump_json``.
        ResourceLimit: ``DISK-FULL``.
        ConfigError: ``PATH-WRITE``.
    """
    write_atomic(path, dump_json(obj, indent=2) + "\n")


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """Return the bytes of a regular file that may not be larger than ``limit_bytes``.

    Raises:
        InputRejected: ``FILE-READ``, ``FILE-KIND`` or ``FILE-SIZE``.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputRejected(
                f"{path} is not a file", code="FILE-KIND", fix="put a regular file there"
            )
        with path.open("rb") as handle:
            content = handle.read(limit_bytes + 1)
    except OSError as error:
        raise InputRejected(
            f"cannot read {path}", code="FILE-READ", got=error.strerror, fix="check the path"
        ) from error
    if len(content) > limit_bytes:
        raise InputRejected(
            f"{path} is too large",
            code="FILE-SIZE",
            allowed=f"at most {limit_bytes} bytes",
            fix="this is not a file that peftlab or a usual model writes; get it again",
        )
    return content


def read_json(path: Path, limit_bytes: int = JSON_LIMIT) -> Any:
    """Read a strict JSON file.

    Args:
        path: the file.
        limit_bytes: largest size that is read (4 MiB, ours).

    Raises:
        InputRejected: ``FILE-READ``, ``FILE-KIND``, ``FILE-SIZE`` or ``JSON-BAD``.
    """
    path = Path(path)
    return parse_json(read_limited(path, limit_bytes), str(path))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits.

    Raises:
        InputRejected: ``FILE-READ``.
    """
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputRejected(
            f"cannot read {path}", code="FILE-READ", got=error.strerror, fix="check the path"
        ) from error


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a place where ``new_folder`` could not put a folder, before hours of work.

    Raises:
        ConfigError: ``FOLDER-EXISTS`` or ``PATH-WRITE``.
    """
    if not _exists(target):
        return
    if not overwrite:
        raise ConfigError(
            f"{target} is already there",
            code="FOLDER-EXISTS",
            fix="choose another folder, or overwrite it on purpose",
        )
    if Path.cwd().resolve().is_relative_to(target.resolve()):
        raise ConfigError(
            f"{target} is the current folder or holds it; it is not overwritten",
            code="PATH-WRITE",
            fix="choose another folder",
        )


def _swap_in(part: Path, target: Path, *, overwrite: bool) -> None:
    """Rename ``part`` to ``target``; what was there steps aside and comes back on failure."""
    backup = target.with_name(BACKUP_PREFIX + target.name)
    moved = overwrite and _exists(target)
    if moved:
        target.replace(backup)
    try:
        part.rename(target)
    except OSError as error:
        if moved:
            backup.replace(target)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ConfigError(
                f"{target} was made by someone else in the meantime",
                code="FOLDER-EXISTS",
                fix="choose another folder",
            ) from error
        raise
    _sync_folder(target.parent)
    if moved:
        _remove(backup)


def _mend_swap(target: Path) -> None:
    """Undo or finish an overwrite that was killed between its two renames."""
    backup = target.with_name(BACKUP_PREFIX + target.name)
    if _exists(backup):
        if _exists(target):
            _remove(backup)
        else:
            backup.replace(target)


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:  # noqa: FBT001, FBT002
    """Fill a folder that appears under its name only when it is complete.

    Args:
        target: the folder to make; its parents are made.
        overwrite: replace an existing folder or file (the old one stays until the new is ready).

    Yields:
        A hidden empty folder beside ``target``: write there. At the end of the block everything
        is synced to disk and renamed; after an exception it is removed.

    Raises:
        ConfigError: ``FOLDER-EXISTS``, ``PATH-WRITE``.
        ResourceLimit: ``DISK-FULL``, also when the block itself fills the disk.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model"
        >>> with new_folder(target) as folder:
        ...     write_json(folder / "config.json", {"a": 1})
        >>> read_json(target / "config.json")
        {'a': 1}
    """
    target = Path(target).absolute()
    with disk_errors(target):
        if target.name and target.parent.is_dir():
            _mend_swap(target)
        check_target(target, overwrite=overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        clean_leftovers(target.parent)
        part = target.parent / _part_name()
        part.mkdir()
    try:
        with full_disk_errors(target):
            yield part
        with disk_errors(target):
            sync_tree(part)
            _swap_in(part, target, overwrite=overwrite)
    except BaseException:
        _remove(part)
        raise
