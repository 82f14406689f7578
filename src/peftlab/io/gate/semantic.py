"""Step gate-semantic; to be written."""

from __future__ import annotations

from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded


def check_semantic(artefact: Artefact, limits: Limits, against: Artefact | None) -> Check:
    """Check nothing yet."""
    del artefact, limits, against
    return concluded("gate-semantic")
