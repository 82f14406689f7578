"""One step of the gate, as a check: what every step does with its findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peftlab.core.findings import Check, Finding, status_of
from peftlab.io.gate.limits import Limits

TITLES = {
    "gate-source": "Where the artefact comes from",
    "gate-names": "Names, sizes and kinds of the files",
    "gate-files": "Files that may be read",
    "gate-hashes": "Hashes of what is audited",
    "gate-json": "JSON files",
    "gate-config": "Fields of the config",
    "gate-patterns": "Patterns for module names",
    "gate-headers": "Headers of the tensor files",
    "gate-semantic": "Tensors against the config and the base",
    "gate-values": "Values of the tensors",
    "gate-load": "Load into stock peft, in a cage",
    "gate-cage": "The cage around that load",
}


def concluded(
    name: str,
    findings: Iterable[Finding] = (),
    *,
    stop: bool = False,
    facts: Mapping[str, Any] | None = None,
    not_checked: Iterable[str] = (),
    most: Limits | None = None,
) -> Check:
    """Return a step that ran.

    Args:
        name: of ``TITLES``.
        findings: in the order of the artefact.
        stop: nothing after this step may run.
        facts: JSON-able measurements.
        not_checked: what the step leaves out, in words.
        most: if given, only the worst ``most.findings`` are written down, and how many more.

    Examples:
        >>> concluded("gate-json").status
        'passed'
    """
    found, left_out = tuple(findings), list(not_checked)
    if most is not None and len(found) > most.findings:
        found = tuple(sorted(found, key=lambda finding: -finding.severity))
        left_out.append(f"{len(found) - most.findings} more findings are not written down")
        found = found[: most.findings]
    status = "stopped" if stop else status_of(found)
    return Check(
        name,
        TITLES[name],
        status,
        findings=found,
        facts=dict(facts or {}),
        not_checked=tuple(left_out),
    )


def skipped(name: str, reason: str) -> Check:
    """Return a step that did not run.

    Examples:
        >>> skipped("gate-values", "stopped at gate-headers").status
        'not checked'
    """
    return Check(name, TITLES[name], "not checked", reason=reason)
