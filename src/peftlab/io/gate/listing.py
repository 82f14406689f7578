"""What every kind of source has in common: a list of entries, and the bytes of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from peftlab.core.findings import Finding, Severity, rule
from peftlab.io.snapshot import OpenFile, Snapshots

Kind = Literal["file", "folder", "link", "device"]

SOURCE = rule(
    "GATE-SOURCE",
    Severity.HIGH,
    "what was asked for cannot be opened",
    why="nothing can be said about it",
    fix="pass a folder, a .safetensors file, a zip, or a hub id such as org/name@COMMIT",
)
CHANGED = rule(
    "GATE-CHANGED",
    Severity.HIGH,
    "a file changed while it was read",
    why="the checks and the library could see different bytes",
    fix="audit a copy that nothing writes to",
)


class Stop(Exception):
    """The gate ends here.

    Attributes:
        finding: why.
        step: name of the check that it belongs to.
    """

    def __init__(self, finding: Finding, step: str = "gate-source") -> None:
        super().__init__(finding.evidence)
        self.finding, self.step = finding, step


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a listing.

    Attributes:
        name: inside the artefact, parts joined by ``/``.
        size: in bytes, as the source announces it.
        kind: file, folder (one that is not looked into), link, or device (all the rest).
        links: how many names the file has on its disk.
        packed: bytes that it takes in an archive; None outside of one.
    """

    name: str
    size: int
    kind: Kind = "file"
    links: int = 1
    packed: int | None = None


class Source(Protocol):
    """Where the files of an artefact come from.

    Attributes:
        kind: folder, file, zip or hub.
        commit: of a hub repository.
        entries: all names, at most one more than the limit allows.
        facts: JSON-able, for the report.
    """

    kind: str
    commit: str | None
    facts: dict[str, object]

    @property
    def entries(self) -> Sequence[Entry]:
        """Return the listing."""

    def fetch(self, entry: Entry, snapshots: Snapshots) -> OpenFile:
        """Return a private copy of one file.

        Raises:
            Stop: it cannot be had, or is not what was announced.
        """

    def close(self) -> None:
        """Give back what the source holds."""
