"""Step 2: what the listing alone says, before any file is opened.

Names are checked in full even for files that are never opened: another program may unpack or copy
the artefact after the audit. Sizes count for the files that are opened, and for all of an archive.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import Entry
from peftlab.io.gate.step import concluded

NAME = rule(
    "GATE-NAME",
    Severity.HIGH,
    "a file name that can reach or pretend to be something else",
    why="it leaves the folder when it is unpacked, hides its ending, or steers a terminal",
    fix="rename the file, or ask the publisher why it is called that",
)
CASE = rule(
    "GATE-CASE",
    Severity.HIGH,
    "two file names that some file systems take for one",
    why="which of the two is loaded depends on the machine",
    fix="remove one of them",
)
LINK = rule(
    "GATE-LINK",
    Severity.HIGH,
    "a link in place of a file",
    why="it can point to any file of this machine, and to another one later",
    fix="copy the folder with its links resolved (cp -rL) after a look at where they point",
)
KIND = rule(
    "GATE-KIND",
    Severity.HIGH,
    "a pipe, socket or device in place of a file",
    why="reading it can block for ever, or never end",
    fix="remove it",
)
COUNT = rule(
    "GATE-COUNT",
    Severity.HIGH,
    "more files than the gate looks at",
    why="an endless listing costs endless time",
    fix="audit the adapter alone, or raise the limit `files`",
)
SIZE = rule(
    "GATE-SIZE",
    Severity.HIGH,
    "more bytes than the gate looks at",
    why="it fills disk or memory",
    fix="raise the limit `file_bytes` or `total_bytes` if this size is expected",
)
DEPTH = rule(
    "GATE-DEPTH",
    Severity.HIGH,
    "folders nested too deeply",
    why="an endless tree costs endless time",
    fix="audit the adapter's own folder, or raise the limit `depth`",
)
BOMB = rule(
    "GATE-BOMB",
    Severity.HIGH,
    "an archive that grows too much when it is unpacked",
    why="it fills disk or memory",
    fix="do not unpack it; ask for the files themselves",
)
NESTED = rule(
    "GATE-NESTED",
    Severity.HIGH,
    "an archive inside an archive",
    why="archives in archives multiply past any limit, and hide names",
    fix="unpack it in a place you can lose and audit the inner one",
)
ARCHIVES = (
    ".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".whl", ".jar",
    ".egg", ".cab", ".iso",
)  # fmt: skip
# C0 and C1 controls, what is invisible or turns the reading direction, lone surrogates (a name
# that is not UTF-8), private use
_ODD = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
RATIO_MATTERS = 2**20  # below this a high ratio harms nobody: an empty log packs 1000 to 1


def check_names(
    entries: Sequence[Entry], opened: Collection[str], limits: Limits, *, archive: bool
) -> Check:
    """Check names, kinds and sizes of a listing.

    Args:
        entries: all of it, or one more than the limit allows.
        opened: names that are going to be opened.
        limits: of the gate.
        archive: whether all of it would be unpacked by someone else.
    """
    findings = [
        *_amounts(entries, opened, limits, everything=archive),
        *(found for entry in entries for found in _of(entry, limits)),
        *_twins(entries),
    ]
    hard = any(finding.severity >= Severity.HIGH for finding in findings)
    return concluded(
        "gate-names",
        findings,
        stop=hard,
        most=limits,
        facts={"files": len(entries), "bytes": sum(entry.size for entry in entries)},
    )


def why_bad_name(name: str, limits: Limits) -> str:
    r"""Return what is wrong with a file name, or an empty string.

    Examples:
        >>> why_bad_name("sub/adapter_config.json", Limits())
        ''
        >>> why_bad_name("../x.json", Limits())
        'a part that is empty, . or ..'
    """
    return next(_faults(name, name.split("/"), limits), "")


def _faults(name: str, parts: list[str], limits: Limits) -> Iterator[str]:
    if "\\" in name or ":" in name:
        yield "a backslash or a colon: a path or a drive on other systems"
    if name.startswith("/"):
        yield "absolute"
    if not all(parts) or {".", ".."} & set(parts):
        yield "a part that is empty, . or .."
    if any(unicodedata.category(letter) in _ODD for letter in name):
        yield "control, invisible or invalid characters"
    if unicodedata.normalize("NFC", name) != name:
        yield "not in the composed form of Unicode (NFC)"
    if any(part != part.strip(" ") or part.endswith(".") for part in parts):
        yield "a part that begins or ends with a space, or ends with a dot"
    if any(_RESERVED.fullmatch(part) for part in parts):
        yield "a name of a device on Windows"
    if any(len(part.encode("utf-8", "replace")) > limits.name_bytes for part in parts):
        yield f"a part of more than {limits.name_bytes} bytes"


def _of(entry: Entry, limits: Limits) -> Iterator[Finding]:
    why = why_bad_name(entry.name, limits)
    if why:
        yield NAME.found(entry.name, why)
    if entry.name.count("/") >= limits.depth:
        yield DEPTH.found(entry.name, f"more than {limits.depth} levels")
    if entry.kind == "link":
        yield LINK.found(entry.name, "symbolic link")
    elif entry.kind == "device":
        yield KIND.found(entry.name)
    elif entry.kind == "file" and entry.links > 1:
        # the bytes are copied, so nothing can change later, and the hub's own cache links so
        yield LINK.found(entry.name, f"{entry.links} hard links", severity=Severity.MEDIUM)
    if entry.packed is None:
        return
    if entry.size > max(RATIO_MATTERS, limits.zip_ratio * entry.packed):
        yield BOMB.found(entry.name, f"{entry.packed} bytes become {entry.size}")
    if entry.name.lower().endswith(ARCHIVES):
        yield NESTED.found(entry.name)


def _amounts(
    entries: Sequence[Entry], opened: Collection[str], limits: Limits, *, everything: bool
) -> Iterator[Finding]:
    if len(entries) > limits.files:
        yield COUNT.found("the listing", f"more than {limits.files}")
    counted = [entry for entry in entries if everything or entry.name in opened]
    for entry in counted:
        if entry.size > limits.file_bytes:
            yield SIZE.found(entry.name, f"{entry.size} bytes, allowed {limits.file_bytes}")
    total = sum(entry.size for entry in counted)
    if total > limits.total_bytes:
        yield SIZE.found("all files", f"{total} bytes, allowed {limits.total_bytes}")


def _twins(entries: Iterable[Entry]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for entry in entries:
        folded = unicodedata.normalize("NFC", entry.name).casefold()
        if folded in seen:
            yield CASE.found(entry.name, f"beside {seen[folded]}")
        seen[folded] = entry.name
