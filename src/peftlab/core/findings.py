"""What a look at an artefact says: rules, findings, checks, and how bad each is.

A rule is declared once, as a module constant beside the code that applies it, and is looked up by
its code in policies, in SARIF and in the docs. A finding is one place where a rule was broken. A
check is one step of the gate or one audit: what it found, what it measured, or why it did not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

from peftlab.core.printable import printable

MOST_EVIDENCE = 400  # characters
Status = Literal["passed", "found", "stopped", "not checked", "not applicable"]


class Severity(IntEnum):
    """How bad a finding is; in files and on the command line by name."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def word(self) -> str:
        """Return the name as it is written: ``high``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that must hold of an artefact.

    Attributes:
        code: stable, such as ``GATE-SYMLINK``.
        severity: unless a policy changes it.
        title: what is wrong when it is broken, in one line.
        why: what can happen then.
        fix: what to do about it, imperative.
    """

    code: str
    severity: Severity
    title: str
    why: str
    fix: str

    def found(self, where: str, evidence: str = "", *, severity: Severity | None = None) -> Finding:
        """Return a finding of this rule.

        Args:
            where: file, ``file#tensor`` or ``file#field``; made safe to print here.
            evidence: what was seen, clipped to 400 characters and made safe to print here.
            severity: if this case is worse or milder than the rule says.
        """
        return Finding(
            self.code,
            self.severity if severity is None else severity,
            self.title,
            printable(where)[:MOST_EVIDENCE],
            printable(evidence)[:MOST_EVIDENCE],
            self.fix,
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where a rule is broken; all text in it is safe to print."""

    code: str
    severity: Severity
    title: str
    where: str
    evidence: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the severity by name."""
        return {**asdict(self), "severity": self.severity.word}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a report: every row has one cell per column."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of a report: named lines (or bars) of (x, y); x may be text for bars."""

    title: str
    caption: str
    x_label: str
    y_label: str
    lines: Mapping[str, tuple[tuple[float | str, float], ...]]
    kind: Literal["line", "bar", "point"] = "line"


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the gate, or one audit.

    Attributes:
        name: stable; of audits the registered name.
        title: one line for people.
        status: ``stopped`` is a hard failure of the gate: nothing after it ran.
        reason: why it did not run or does not apply; empty otherwise.
        findings: in the order of the artefact.
        facts: JSON-able numbers and words.
        tables: for the report.
        charts: for the report.
        not_checked: what this check leaves out, in words (a verdict says what it did not look at).
        seconds: wall time.
    """

    name: str
    title: str
    status: Status
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    not_checked: tuple[str, ...] = ()
    seconds: float = 0.0

    def took(self, seconds: float) -> Check:
        """Return the same check with its time."""
        return replace(self, seconds=seconds)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "findings": [finding.to_json() for finding in self.findings]}


def status_of(findings: tuple[Finding, ...]) -> Status:
    """Return ``found`` if there is anything above information, else ``passed``."""
    worst = max((finding.severity for finding in findings), default=Severity.INFO)
    return "found" if worst > Severity.INFO else "passed"


RULES: dict[str, Rule] = {}


def rule(code: str, severity: Severity, title: str, *, why: str, fix: str) -> Rule:
    """Declare a rule; its code is looked up in ``RULES`` from then on."""
    made = Rule(code, severity, title, why, fix)
    if RULES.setdefault(code, made) != made:
        raise ValueError(f"two rules are called {code}")
    return made
