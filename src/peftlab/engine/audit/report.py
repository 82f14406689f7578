"""What an audit found, as one object: for programs, for people, for code scanning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.core.findings import Check, Finding
from peftlab.engine.audit.verdict import Failure, Waived, exit_code


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Attributes:
        checks: steps of the gate, requirements of the policy, audits; after the policy.
        findings: of all checks, the worst first.
        waived: findings that the policy ignores, with reasons.
        failures: audits that crashed.
        results: the same and all the rest as plain values; see ``to_json``.
    """

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    waived: tuple[Waived, ...]
    failures: tuple[Failure, ...]
    results: Mapping[str, Any]

    @property
    def exit_code(self) -> int:
        """Return what the command ends with, at the ``fail_on`` of the policy."""
        return int(self.results["verdict"]["exit_code"])

    def ok(self, gate: str = "high") -> bool:
        """Tell whether nothing stopped, crashed, or is at ``gate`` or above.

        Args:
            gate: info, low, medium, high, critical; or never, which asks for the gate's steps only.
        """
        return exit_code(self.checks, self.failures, gate) == 0

    def to_json(self) -> dict[str, Any]:
        """Return all as plain values; equal inputs differ under ``run`` only."""
        return dict(self.results)

    def to_text(self) -> str:
        """Return the summary that the command prints."""
        from peftlab.report.audit.words import summary

        return summary(self.results)

    def to_html(self) -> str:
        """Return one self-contained page."""
        from peftlab.report.audit.html import render_audit

        return render_audit(self.results)

    def to_sarif(self) -> dict[str, Any]:
        """Return a SARIF 2.1.0 log for code scanning."""
        from peftlab.report.audit.sarif import sarif

        return sarif(self.results)


def worst_first(checks: Sequence[Check]) -> tuple[Finding, ...]:
    """Return all findings, the worst first, else in the order of the checks."""
    found = [finding for check in checks for finding in check.findings]
    return tuple(sorted(found, key=lambda finding: -finding.severity))
