"""From checks to a verdict: what the policy changes, what counts, which exit code it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from peftlab.core.findings import Check, Finding, Severity, status_of
from peftlab.io.policy import IGNORE, NEVER, Change, Policy

CLEAN, FOUND, REJECTED, LIMIT, FAILED = 0, 1, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Waived:
    """A finding that a policy says to ignore, and why."""

    check: str
    finding: Finding
    reason: str
    until: date | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        until = None if self.until is None else self.until.isoformat()
        return {
            "check": self.check,
            **self.finding.to_json(),
            "reason": self.reason,
            "until": until,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """An audit that did not end: its name, and the error in words."""

    name: str
    code: str
    message: str
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as reports list what did not finish."""
        return {"kind": self.name, "state": "failed", "code": self.code, "message": self.message}


def apply_policy(
    checks: Iterable[Check], policy: Policy, today: date
) -> tuple[list[Check], list[Waived]]:
    """Return checks with the severities of the policy, and the findings that it waives.

    What stopped the gate stands as it is: nothing behind it was looked at, so no policy opens it.
    """
    kept: list[Check] = []
    waived: list[Waived] = []
    for check in checks:
        if check.status == "stopped":
            kept.append(check)
            continue
        own, gone = _changed(check, policy, today)
        waived += gone
        ran = check.status in {"passed", "found"}
        kept.append(replace(check, findings=own, status=status_of(own) if ran else check.status))
    return kept, waived


def _changed(check: Check, policy: Policy, today: date) -> tuple[tuple[Finding, ...], list[Waived]]:
    own: list[Finding] = []
    waived: list[Waived] = []
    for finding in check.findings:
        change = policy.severity.get(finding.code)
        if change is None or not change.holds(finding.where, today):
            own.append(finding)
        elif change.level == IGNORE:
            waived.append(Waived(check.name, finding, change.reason, change.until))
        else:
            own.append(replace(finding, severity=Severity[change.level.upper()]))
    return tuple(own), waived


def expired(policy: Policy, today: date) -> list[str]:
    """Return the rules whose change in the policy holds no more."""
    return [code for code, change in policy.severity.items() if _is_over(change, today)]


def _is_over(change: Change, today: date) -> bool:
    return change.until is not None and today > change.until


def reaches(findings: Iterable[Finding], level: str) -> bool:
    """Tell whether any finding is at ``level`` or above; nothing reaches ``never``."""
    return level != NEVER and any(f.severity >= Severity[level.upper()] for f in findings)


def exit_code(checks: Sequence[Check], failures: Sequence[Failure], level: str) -> int:
    """Return what the command ends with.

    The gate stopped: 3. A finding at or above ``level``: 1. An audit that crashed: 4 if it ran
    into a limit, else 5, as what was not looked at is not clean; with ``never`` it is 0.
    """
    if any(check.status == "stopped" for check in checks):
        return REJECTED
    if reaches((finding for check in checks for finding in check.findings), level):
        return FOUND
    if failures and level != NEVER:
        return LIMIT if any(failure.exit_code == LIMIT for failure in failures) else FAILED
    return CLEAN


def verdict(
    checks: Sequence[Check], waived: Sequence[Waived], failures: Sequence[Failure], level: str
) -> dict[str, Any]:
    """Return the verdict of a results dict."""
    findings = [finding for check in checks for finding in check.findings]
    counts = {
        severity.word: sum(finding.severity == severity for finding in findings)
        for severity in sorted(Severity, reverse=True)
    }
    worst = max((finding.severity for finding in findings), default=None)
    if any(check.status == "stopped" for check in checks):
        status = "rejected"
    elif worst is not None and worst > Severity.INFO:
        status = "findings"
    else:
        status = "incomplete" if failures else "clean"
    return {
        "status": status,
        "worst": None if worst is None else worst.word,
        "fail_on": level,
        "exit_code": exit_code(checks, failures, level),
        "counts": {**counts, "waived": len(waived)},
    }
