"""What is fuzzed: four parsers of bytes from outside, each with what must hold of its answer.

A target takes any bytes. It returns whether they were accepted, and raises only when the parser is
wrong: an error of another class than it promises, or an answer that differs from what the library
behind the gate would read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import safetensors

from peftlab.core.errors import ConfigError
from peftlab.core.findings import Check, Severity
from peftlab.io.adapter_layout import read_layout
from peftlab.io.artefact import Artefact, OpenFile
from peftlab.io.gate import open_artefact, patterns
from peftlab.io.gate.config import check_config
from peftlab.io.gate.headers import check_headers
from peftlab.io.gate.json_files import check_json
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.patterns import check_patterns
from peftlab.io.gate.semantic import check_semantic
from peftlab.io.gate.values import check_values
from peftlab.io.policy import parse_policy

LIMITS = Limits()
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# what the patterns of an accepted config are tried on: long, repetitive, and no full match
MODULES = ("model.layers.10.self_attn.q_proj", "a" * 48, "encoder.layer.0." * 4 + "!", "0." * 24)


class Wrong(AssertionError):
    """The parser gave an answer that it may not give."""


def header(data: bytes) -> bool:
    """Check a safetensors file; what passes must be read by the library in the same way."""
    artefact = _artefact(WEIGHTS, data)
    if _stopped(check_headers(artefact, LIMITS)):
        return False
    check_semantic(artefact, LIMITS, None)
    check_values(artefact, LIMITS)
    read_layout(artefact)
    theirs = dict(safetensors.deserialize(data))
    if theirs.keys() != artefact.tensors.keys():
        raise Wrong(f"names {sorted(theirs)} and {sorted(artefact.tensors)}")
    for name, info in artefact.tensors.items():
        mine = (info.dtype, info.shape, bytes(artefact.tensor_bytes(name)))
        found = theirs[name]
        if mine != (found["dtype"], tuple(found["shape"]), bytes(found["data"])):
            raise Wrong(f"{name} is another tensor to the library")
    return True


def config(data: bytes) -> bool:
    """Check a config: JSON, fields, patterns; what passes is finite, and its patterns are fast.

    A pattern that is told neither safe nor dangerous by its form counts as refused here: a cage for
    each would take all the time.
    """
    artefact = _artefact(CONFIG, data)
    for step in (check_json, check_config, check_patterns):
        with mock.patch.object(patterns, "has_cage", return_value=False):
            check = step(artefact, LIMITS)
        if _stopped(check):
            return False
        if any(finding.severity >= Severity.HIGH for finding in check.findings):
            return False
    json.dumps(artefact.config, allow_nan=False)
    if json.loads(data) is None:
        raise Wrong("passed, and holds nothing")
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = artefact.config.get(key)
        _try_pattern(value if isinstance(value, str) and value != "all-linear" else "")
    for key in ("rank_pattern", "alpha_pattern"):
        value = artefact.config.get(key)
        for pattern in value if isinstance(value, dict) else ():
            _try_pattern(rf"(.*\.)?({pattern})")  # as peft builds it
    check_semantic(artefact, LIMITS, None)
    return True


def _try_pattern(pattern: str) -> None:
    """Match a pattern as ``peft`` would; one that hangs is found by the limit on time."""
    for module in MODULES if pattern else ():
        re.fullmatch(pattern, module)


def archive(data: bytes) -> bool:
    """Open a zip; what passes must unpack to the same files with Python's own reader."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112
    with tempfile.NamedTemporaryFile(suffix=".zip", dir=folder) as file:
        file.write(data)
        file.flush()
        artefact, checks = open_artefact(file.name, offline=True)
    if artefact is None:
        if not any(map(_stopped, checks)):
            raise Wrong("nothing was opened, and no check says why")
        return False
    with artefact, zipfile.ZipFile(io.BytesIO(data)) as theirs:
        top = str(checks[0].facts["folder"])
        for name, mine in artefact.files.items():
            if theirs.read(top + name) != bytes(mine.view):
                raise Wrong(f"{name} is another file to zipfile")
    return True


def policy(data: bytes) -> bool:
    """Parse a policy; only its own error may come out of it."""
    try:
        parse_policy(data, "gate.toml")
    except ConfigError as error:
        if not error.code.startswith("POLICY-"):
            raise
        return False
    return True


def _artefact(name: str, data: bytes) -> Artefact:
    """Return an artefact of one file, in memory."""
    sha256 = hashlib.sha256(data).hexdigest()
    file = OpenFile(name, len(data), sha256, -1, memoryview(data))
    return Artefact("fuzz", "folder", files={name: file})


def _stopped(check: Check) -> bool:
    return check.status == "stopped"


TARGETS: dict[str, Callable[[bytes], bool]] = {
    "header": header,
    "config": config,
    "archive": archive,
    "policy": policy,
}
CORPUS = Path(__file__).parent / "corpus"
