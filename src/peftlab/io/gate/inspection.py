"""Steps 4 to 9 of the gate, on an artefact that is open."""

from __future__ import annotations

import time
from collections.abc import Callable

from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate.config import check_config
from peftlab.io.gate.headers import check_headers
from peftlab.io.gate.json_files import check_json
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.patterns import check_patterns
from peftlab.io.gate.semantic import check_semantic
from peftlab.io.gate.step import skipped
from peftlab.io.gate.values import check_values


def inspect(
    artefact: Artefact, *, limits: Limits | None = None, against: Artefact | None = None
) -> list[Check]:
    """Check what an open artefact holds, and fill its config, tensors and metadata.

    Args:
        artefact: from ``open_artefact``.
        limits: of the gate.
        against: the base that the operator trusts, inspected before.

    Returns:
        One check per step. After one with status ``stopped`` the others are ``not checked``.
    """
    bounds = limits or Limits()
    steps: list[tuple[str, Callable[[], Check]]] = [
        ("gate-json", lambda: check_json(artefact, bounds)),
        ("gate-config", lambda: check_config(artefact, bounds)),
        ("gate-patterns", lambda: check_patterns(artefact, bounds)),
        ("gate-headers", lambda: check_headers(artefact, bounds)),
        ("gate-semantic", lambda: check_semantic(artefact, bounds, against)),
        ("gate-values", lambda: check_values(artefact, bounds)),
    ]
    done: list[Check] = []
    stopped = ""
    for name, step in steps:
        if stopped:
            done.append(skipped(name, f"the gate stopped at {stopped}"))
            continue
        start = time.perf_counter()
        check = step().took(time.perf_counter() - start)
        done.append(check)
        stopped = name if check.status == "stopped" else ""
    return done
