"""Step gate-patterns; to be written."""

from __future__ import annotations

from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded


def check_patterns(artefact: Artefact, limits: Limits) -> Check:
    """Check nothing yet."""
    del artefact, limits
    return concluded("gate-patterns")
