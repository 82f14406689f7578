"""Steps 1 to 3 and 10: an artefact is found, listed, chosen from, copied and hashed."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

from peftlab.core.findings import Check
from peftlab.core.printable import printable
from peftlab.io.artefact import Artefact
from peftlab.io.gate.allowed import Choice, choose, conclude_choice, conclude_files
from peftlab.io.gate.archive import ZipSource
from peftlab.io.gate.hashes import check_hashes
from peftlab.io.gate.hub import HubSource
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import SOURCE, Source, Stop
from peftlab.io.gate.local import FileSource, FolderSource
from peftlab.io.gate.names import check_names
from peftlab.io.gate.step import concluded, skipped
from peftlab.io.snapshot import Snapshots

STEPS = ("gate-source", "gate-names", "gate-files", "gate-hashes")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}(@[\w.\-/]{1,200})?")


def open_artefact(
    reference: str,
    *,
    limits: Limits | None = None,
    offline: bool = False,
    endpoint: str | None = None,
) -> tuple[Artefact | None, list[Check]]:
    """Open an adapter or checkpoint from outside, so that it can be inspected.

    Args:
        reference: a folder, a .safetensors file, a zip, or a hub id ``org/name[@revision]``.
        limits: of the gate.
        offline: never ask the hub.
        endpoint: address of the hub, if not the usual one.

    Returns:
        The artefact, or None after a hard failure; and one check per step.

    Raises:
        ResourceLimit: ``DISK-FULL``, no room for the private copy.

    Examples:
        >>> artefact, checks = open_artefact("no/such/folder/here")
        >>> artefact, checks[0].status, checks[0].findings[0].code
        (None, 'stopped', 'GATE-SOURCE')
    """
    bounds, start = limits or Limits(), time.perf_counter()
    try:
        source = find(reference, bounds, offline=offline, endpoint=endpoint)
    except Stop as stop:
        found = concluded("gate-source", facts={"source": printable(reference)})
        return None, _ended([found], stop, start)
    try:
        return _open(reference, source, bounds, start)
    finally:
        source.close()


def find(reference: str, limits: Limits, *, offline: bool, endpoint: str | None) -> Source:
    """Return the source that a reference names.

    Raises:
        Stop: there is nothing of a kind that can be audited.
    """
    path = Path(reference)
    try:
        mode = os.stat(reference).st_mode  # noqa: PTH116  a Path would hide a null byte
    except (OSError, ValueError) as error:
        if not isinstance(error, FileNotFoundError) or not HUB_ID.fullmatch(reference):
            why = getattr(error, "strerror", None) or str(error)
            raise Stop(SOURCE.found(reference, f"no such artefact: {why}")) from None
        return HubSource(reference, limits, offline=offline, endpoint=endpoint)
    if stat.S_ISDIR(mode):
        return FolderSource(path, limits)
    if not stat.S_ISREG(mode):
        raise Stop(SOURCE.found(reference, "neither a file nor a folder"))
    file = FileSource(path)
    return ZipSource(file, limits) if path.suffix.lower() == ".zip" else file


def _open(
    reference: str, source: Source, limits: Limits, start: float
) -> tuple[Artefact | None, list[Check]]:
    facts = {"source": printable(reference), "kind": source.kind, "commit": source.commit}
    checks = [concluded("gate-source", facts={**facts, **source.facts})]
    choice = choose(source.entries)
    opened = {entry.name for entry in choice.opened}
    names = check_names(source.entries, opened, limits, archive=source.kind == "zip")
    checks.append(names)
    if names.status == "stopped":
        return None, _rest(checks, start)
    if choice.stop:
        return None, _rest([*checks, conclude_choice(choice, limits)], start)
    artefact = Artefact(reference, source.kind, source.commit, recorded=choice.recorded)
    try:
        _copy_all(artefact, source, choice)
    except Stop as stop:
        artefact.close()
        if stop.step == "gate-hashes":
            checks.append(conclude_choice(choice, limits))
        return None, _ended(checks, stop, start)
    except BaseException:
        artefact.close()
        raise
    checks += [conclude_files(choice, artefact, limits), check_hashes(artefact, limits)]
    return artefact, _timed(checks, start)


def _copy_all(artefact: Artefact, source: Source, choice: Choice) -> None:
    snapshots = Snapshots()
    for entry in choice.opened:
        artefact.files[entry.name] = source.fetch(entry, snapshots)


def _ended(checks: list[Check], stop: Stop, start: float) -> list[Check]:
    """Return the checks with the step that stopped, in place of what it had passed before."""
    before = [check for check in checks if STEPS.index(check.name) < STEPS.index(stop.step)]
    return _rest([*before, concluded(stop.step, [stop.finding], stop=True)], start)


def _rest(checks: list[Check], start: float) -> list[Check]:
    """Return the checks, and those that could not run."""
    reason = f"the gate stopped at {checks[-1].name}"
    left = STEPS[len(checks) :]
    return [*_timed(checks, start), *(skipped(name, reason) for name in left)]


def _timed(checks: list[Check], start: float) -> list[Check]:
    """Return the checks; the time of all of them stands at the last, which did the copying."""
    return [*checks[:-1], checks[-1].took(time.perf_counter() - start)]
