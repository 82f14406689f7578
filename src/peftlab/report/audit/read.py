"""``audit.json`` into typed parts: strict about the schema, tolerant of gaps, safe to print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Severity
from peftlab.report.read import clean_text, clean_tree, mapping

SCHEMA = "peftlab-audit/1"
WORST_FIRST = tuple(severity.word for severity in sorted(Severity, reverse=True))
GATE = "gate-"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, as results hold it."""

    check: str
    code: str
    severity: str
    title: str
    where: str
    evidence: str
    fix: str
    reason: str = ""
    until: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """All findings of one rule that are as bad: told once, with every place."""

    code: str
    severity: str
    title: str
    why: str
    fix: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the gate, or one audit."""

    name: str
    title: str
    status: str
    reason: str
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any]
    tables: Sequence[Mapping[str, Any]]
    charts: Sequence[Mapping[str, Any]]
    not_checked: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Audited:
    """What reports show of an audit.

    Attributes:
        name: of the artefact.
        status: clean, findings, incomplete or rejected.
        fail_on: lowest severity that fails, or never.
        exit_code: of the command.
        counts: findings by severity, and those waived.
        steps: of the gate, in order.
        audits: the policy's requirements among them.
        waived: with reasons.
        not_checked: (name, reason).
        failures: (name, code, message).
        rules: by code.
        artefact: source, kind, files and hashes.
        policy: as it was applied.
    """

    name: str
    status: str
    fail_on: str
    exit_code: int
    counts: Mapping[str, int]
    steps: tuple[Step, ...]
    audits: tuple[Step, ...]
    waived: tuple[Finding, ...]
    not_checked: tuple[tuple[str, str], ...]
    failures: tuple[tuple[str, str, str], ...]
    rules: Mapping[str, Any]
    artefact: Mapping[str, Any]
    policy: Mapping[str, Any]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return all findings that count, the worst first."""
        found = [finding for step in (*self.steps, *self.audits) for finding in step.findings]
        return tuple(sorted(found, key=lambda finding: WORST_FIRST.index(finding.severity)))

    @property
    def groups(self) -> list[Group]:
        """Return the findings by rule, the worst first."""
        together: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            together.setdefault((finding.severity, finding.code), []).append(finding)
        return [
            Group(
                code, severity, found[0].title, str(mapping(self.rules.get(code)).get("why", "")),
                found[0].fix, tuple(found),
            )
            for (severity, code), found in together.items()
        ]  # fmt: skip

    @property
    def stopped(self) -> Step | None:
        """Return the step at which the gate stopped."""
        return next((step for step in self.steps if step.status == "stopped"), None)


def read_audit(results: Mapping[str, Any]) -> Audited:
    """Return the parts of a results dict.

    Args:
        results: what ``audit.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    if results.get("schema") != SCHEMA:
        raise InputRejected(
            "this is not the result of an audit", code="REPORT-SCHEMA",
            got=clean_text(results.get("schema")), allowed=SCHEMA,
            fix="give the audit.json that `peftlab audit --format json` wrote",
        )  # fmt: skip
    clean: Mapping[str, Any] = clean_tree(results)
    verdict = mapping(clean.get("verdict"))
    seconds = mapping(mapping(clean.get("run")).get("seconds"))
    steps = [_step(each, seconds) for each in _listed(clean.get("checks"))]
    return Audited(
        name=clean_text(clean.get("name") or "artefact"),
        status=str(verdict.get("status") or "incomplete"),
        fail_on=str(verdict.get("fail_on") or "high"),
        exit_code=int(verdict.get("exit_code") or 0),
        counts={key: int(value) for key, value in mapping(verdict.get("counts")).items()},
        steps=tuple(step for step in steps if step.name.startswith(GATE)),
        audits=tuple(step for step in steps if not step.name.startswith(GATE)),
        waived=tuple(_finding(each, str(each.get("check"))) for each in _listed(clean["waived"])),
        not_checked=tuple(
            (str(each.get("name")), str(each.get("reason")))
            for each in _listed(clean.get("not_checked"))
        ),
        failures=tuple(
            (str(each.get("kind")), str(each.get("code")), str(each.get("message")))
            for each in _listed(clean.get("failures"))
        ),
        rules=mapping(clean.get("rules")),
        artefact=mapping(clean.get("artefact")),
        policy=mapping(clean.get("policy")),
    )


def _listed(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _step(raw: Mapping[str, Any], seconds: Mapping[str, Any]) -> Step:
    name = str(raw.get("name"))
    taken = seconds.get(name)
    return Step(
        name=name,
        title=str(raw.get("title") or name),
        status=str(raw.get("status")),
        reason=str(raw.get("reason") or ""),
        findings=tuple(_finding(each, name) for each in _listed(raw.get("findings"))),
        facts=mapping(raw.get("facts")),
        tables=_listed(raw.get("tables")),
        charts=_listed(raw.get("charts")),
        not_checked=tuple(map(str, raw.get("not_checked") or ())),
        seconds=float(taken) if isinstance(taken, int | float) else None,
    )


def _finding(raw: Mapping[str, Any], check: str) -> Finding:
    severity = str(raw.get("severity"))
    return Finding(
        check=check,
        code=str(raw.get("code")),
        severity=severity if severity in WORST_FIRST else WORST_FIRST[0],
        title=str(raw.get("title")),
        where=str(raw.get("where") or ""),
        evidence=str(raw.get("evidence") or ""),
        fix=str(raw.get("fix") or ""),
        reason=str(raw.get("reason") or ""),
        until=str(raw.get("until") or ""),
    )
