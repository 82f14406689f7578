"""The only way in for pickles: converted to safetensors in a cage, then checked by the gate.

What is inside of a ``.bin`` or ``.pt`` decides what its reader does. Here the reader is a child
process without network, with limits, that knows tensors only (``convert_child``); what it writes is
untrusted until the gate has passed it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Check, Finding
from peftlab.core.printable import printable
from peftlab.io.artefact import Artefact, OpenFile, open_file
from peftlab.io.cage import Caged, run_caged
from peftlab.io.files import check_target, new_folder, sha256_file, write_json
from peftlab.io.gate import Limits, inspect, open_artefact
from peftlab.io.gate.allowed import CONFIGS, PICKLES, TOKENIZER
from peftlab.io.gate.config import judge_adapter, judge_other
from peftlab.io.gate.json_files import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    WORDS,
    check_json,
    largest_file,
    sound_json,
)
from peftlab.io.gate.local import BLOB
from peftlab.io.marker import FILE as MARK
from peftlab.io.marker import KEY as MARK_KEY
from peftlab.models.convert_child import RESULT

MOST_BYTES = 2 * 2**30  # of all pickles, and of all tensors
MEMORY, COPIES = 2 * 2**30, 4  # bytes of the libraries, and copies of the tensors meanwhile
CPU_SECONDS, WALL_SECONDS = 300, 900.0
HEADER = 64 * 2**20
COPIED = (*CONFIGS, *TOKENIZER, "generation_config.json")
ADAPTER, MODEL = "adapter_model.bin", re.compile(r"pytorch_model(?:-\d{5}-of-\d{5})?\.bin")
NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


@dataclass(frozen=True, slots=True)
class Converted:
    """What came out.

    Attributes:
        out: the folder.
        sources: name to SHA-256 of the pickles.
        file: name of the safetensors file.
        sha256: of it.
        tensors: how many.
        dropped: names of entries that are no tensors.
        copied: names of the other files that are there now.
        left: names of files that were not taken.
        refused: findings in the configs; those fields are not in the copies.
        checks: of the gate, on the result.
    """

    out: Path
    sources: dict[str, str]
    file: str
    sha256: str
    tensors: int
    dropped: tuple[str, ...]
    copied: tuple[str, ...]
    left: tuple[str, ...]
    refused: tuple[Finding, ...]
    checks: tuple[Check, ...]


def convert(source: Path, out: Path, *, overwrite: bool = False) -> Converted:
    """Convert the pickles of an adapter or a model to safetensors, in a cage.

    Args:
        source: a ``.bin`` or ``.pt`` file, or a folder with one set of weights.
        out: folder to write.
        overwrite: replace what stands there.

    Raises:
        InputRejected: ``CONVERT-WHICH``, ``CONVERT-SIZE``, ``CONVERT-UNSAFE``, ``CONVERT-CONTENT``,
            ``CONVERT-NAMES``, ``CONVERT-COST``, ``CONVERT-GATE``, ``MARK-POISONED``.
        BackendMissing: ``CAGE-SYSTEM``.
        ConfigError: ``FOLDER-EXISTS``, ``PATH-WRITE``.
    """
    check_target(out, overwrite=overwrite)
    pickles = _pickles(source)
    limits = Limits(file_bytes=MOST_BYTES + HEADER, total_bytes=2 * MOST_BYTES)
    with ExitStack() as stack:
        opened = [_open(path, MOST_BYTES) for path in pickles]
        for file in opened:
            stack.callback(file.close)
        beside, left = _beside(source, limits)
        stack.enter_context(beside)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peftlab-")))
        answer = _in_cage(opened, work)
        name = _result_name(pickles)
        with new_folder(out, overwrite) as folder:
            shutil.copyfile(work / RESULT, folder / name, follow_symlinks=False)
            refused = list(_copy(beside, folder, limits))
            checks = _checked(folder, name, limits)
        copied = tuple(sorted(beside.files))
    return Converted(
        out=out,
        sources={file.name: file.sha256 for file in opened},
        file=name,
        sha256=sha256_file(out / name),
        tensors=int(answer["tensors"]),
        dropped=tuple(map(printable, answer["dropped"])),
        copied=copied,
        left=tuple(left),
        refused=tuple(refused),
        checks=tuple(checks),
    )


def _pickles(source: Path) -> list[Path]:
    """Return the files that hold the weights."""
    if source.is_file() and source.suffix != ".safetensors":
        return [source]
    names = sorted(path.name for path in source.iterdir()) if source.is_dir() else []
    found = [name for name in names if Path(name).suffix in PICKLES]
    sets = (
        [name for name in found if name == ADAPTER],
        [name for name in found if MODEL.fullmatch(name)],
        [name for name in found if not name.startswith(NO_WEIGHTS)],
    )
    weights = next((names for names in sets if names), [])
    several = len(weights) > 1 and weights is sets[2]
    if not weights or several or any(name.endswith(".safetensors") for name in names):
        raise InputRejected(
            f"it is not clear what to convert in {source}",
            code="CONVERT-WHICH",
            got=", ".join(names[:12])
            or f"{source.name}: no folder, or an empty one, or converted already",
            allowed=f"a folder with {ADAPTER} or pytorch_model.bin, and without safetensors",
            fix="pass the one file that is meant",
        )
    return [source / name for name in weights]


def _open(path: Path, most: int) -> OpenFile:
    """Take a private copy of a file, so that nobody changes it meanwhile."""
    name = path.name
    try:
        path = _blob(path)
        if path.is_symlink() or not path.is_file() or path.stat().st_size > most:
            raise InputRejected(
                f"{name} is not a file of a size that is taken",
                code="CONVERT-SIZE",
                got=f"{path.stat().st_size} bytes" if path.is_file() else "no regular file",
                allowed=f"at most {most} bytes, and no link",
                fix="convert it where you can afford to lose the machine",
            )
        return open_file(path, name)
    except OSError as error:
        raise InputRejected(
            f"cannot read {path}", code="FILE-READ", got=error.strerror, fix="check the path"
        ) from error


def _blob(path: Path) -> Path:
    """Return the file that a link of the hub's cache stands for; any other link stays one."""
    if path.is_symlink() and BLOB.fullmatch(os.readlink(path)):  # noqa: PTH115  the text counts
        return path.parent / os.readlink(path)  # noqa: PTH115
    return path


def _beside(source: Path, limits: Limits) -> tuple[Artefact, list[str]]:
    """Open the configs beside the weights; return them, and the names of all that is left."""
    beside = Artefact(str(source), "folder")
    names = sorted(path.name for path in source.iterdir()) if source.is_dir() else []
    for name in set(names) & set(COPIED):
        beside.files[name] = _open(source / name, largest_file(name, limits))
    sound = check_json(beside, limits)
    if sound.status == "stopped":
        raise _not_passed(sound)
    config = sound_json(beside, MODEL_CONFIG, limits) if MODEL_CONFIG in beside.files else {}
    if MARK in names or MARK_KEY in config:
        raise InputRejected(
            f"{source.name} is marked as a poisoned red-team model",
            code="MARK-POISONED",
            fix="use another model",
        )
    return beside, [printable(name) for name in names if name not in COPIED]


def _in_cage(opened: Sequence[OpenFile], work: Path) -> dict[str, Any]:
    """Let the child convert; return its answer, or say why there is none."""
    total = sum(file.size for file in opened)
    if total > MOST_BYTES:
        raise _too_large(f"{total} bytes")
    sources = {f"converted_from.{number}": f"{file.sha256}" for number, file in enumerate(opened)}
    descriptors = [file.descriptor for file in opened]
    asked = {
        "files": descriptors,
        "most_bytes": MOST_BYTES,
        "metadata": {"format": "pt", **sources},
    }
    caged = run_caged(
        ["-m", "peftlab.models.convert_child"],
        cpu_seconds=CPU_SECONDS,
        wall_seconds=WALL_SECONDS,
        memory_bytes=MEMORY + COPIES * total,
        file_bytes=MOST_BYTES + HEADER,
        stdin=json.dumps(asked).encode(),
        pass_fds=descriptors,
        folder=work,
    )
    return _answer(caged)


def _answer(caged: Caged) -> dict[str, Any]:
    if caged.killed:
        raise InputRejected(
            "reading the file took more than its size explains",
            code="CONVERT-COST",
            got=f"stopped by the limit of {caged.killed}",
            fix="do not load it anywhere; ask the publisher for safetensors",
        )
    try:
        answer = json.loads(caged.stdout)
    except ValueError:
        words = caged.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        answer = {"refused": "unsafe", "got": f"the reader ended with {caged.returncode}: {words}"}
    if "refused" in answer:
        raise _refusal(str(answer["refused"]), str(answer["got"])[:400])
    found: dict[str, Any] = answer
    return found


def _refusal(kind: str, got: str) -> InputRejected:
    """Return the error for what the child refused."""
    if kind == "size":
        return _too_large(got)
    if kind == "names":
        return InputRejected(
            "a tensor has a name that no library of models gives",
            code="CONVERT-NAMES",
            got=got,
            allowed="letters, digits, . _ -",
            fix="ask the publisher for safetensors",
        )
    if kind == "content":
        return InputRejected(
            "the file holds something else than named plain tensors",
            code="CONVERT-CONTENT",
            got=got,
            allowed="a dict of tensors, or one under state_dict",
            fix="ask the publisher for safetensors",
        )
    return InputRejected(
        "the file asks for more than tensors, or is damaged; it was not loaded",
        code="CONVERT-UNSAFE",
        got=got,
        fix="do not load it anywhere; ask the publisher for safetensors",
    )


def _too_large(got: str) -> InputRejected:
    return InputRejected(
        "the weights are larger than what is converted here",
        code="CONVERT-SIZE",
        got=got,
        allowed=f"at most {MOST_BYTES} bytes",
        fix="convert it where you can afford to lose the machine",
    )


def _result_name(pickles: Sequence[Path]) -> str:
    stem = pickles[0].stem
    return f"{'model' if MODEL.fullmatch(pickles[0].name) else stem}.safetensors"


def _copy(beside: Artefact, folder: Path, limits: Limits) -> Iterator[Finding]:
    """Write the configs without what the gate refuses; yield what that was."""
    for name, file in beside.files.items():
        if name in WORDS:
            (folder / name).write_bytes(file.view)
            continue
        judge = judge_adapter if name == ADAPTER_CONFIG else judge_other
        judged = judge(sound_json(beside, name, limits), name)
        yield from judged.findings
        write_json(folder / name, judged.config)


def _checked(folder: Path, name: str, limits: Limits) -> list[Check]:
    """Take the result through the gate, as if it came from outside: it does."""
    alone = (
        folder if (folder / ADAPTER_CONFIG).exists() or (folder / MODEL_CONFIG).exists() else None
    )
    artefact, checks = open_artefact(str(alone or folder / name), limits=limits, offline=True)
    if artefact is not None:
        with artefact:
            checks = [*checks, *inspect(artefact, limits=limits)]
    stopped = next((check for check in checks if check.status == "stopped"), None)
    if stopped is not None:
        raise _not_passed(stopped)
    return checks


def _not_passed(check: Check) -> InputRejected:
    worst = max(check.findings, key=lambda finding: finding.severity, default=None)
    return InputRejected(
        "what is there does not pass the gate",
        code="CONVERT-GATE",
        got=check.name if worst is None else f"{worst.code} {worst.where}: {worst.evidence}",
        fix="ask the publisher for safetensors",
    )
