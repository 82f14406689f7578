"""An audit as SARIF 2.1.0 (OASIS), for code scanning: what was found, waived and not looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from peftlab import __version__
from peftlab.report.audit.read import WORST_FIRST, Audited, Finding, read_audit

SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "info": "note"}
# The middle of each band of the severities that code scanning shows.
SCORES = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "2.0", "info": "0.0"}
NOT_CHECKED, FAILED = "not-checked", "audit-failed"


def sarif(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return a SARIF log with one run.

    Locations are files within the artefact; if the artefact was named by a relative path, that
    path comes first, so that code scanning finds them in the repository.

    Args:
        results: what ``audit.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_audit(results)
    active = [(finding, False) for finding in found.findings]
    everything = [*active, *((finding, True) for finding in found.waived)]
    codes = sorted({finding.code for finding, _ in everything})
    place = _Place(found)
    run = {
        "tool": {"driver": _driver(found, codes, [finding for finding, _ in everything])},
        "automationDetails": {"id": f"peftlab-audit/{quote(found.name, safe='')}/"},
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(found)],
        "artifacts": [_artifact(file, place) for file in found.artefact.get("files") or []],
        "results": _results(everything, codes, place),
        "properties": {"peftlab/verdict": found.status, "peftlab/failOn": found.fail_on},
    }
    return {"$schema": SCHEMA_URI, "version": "2.1.0", "runs": [run]}


class _Place:
    """Turns ``file#part`` into SARIF locations."""

    def __init__(self, found: Audited) -> None:
        about = found.artefact
        source, kind = str(about.get("source") or ""), about.get("kind")
        relative = kind in {"folder", "file", "zip"} and not source.startswith(("/", "~"))
        outside = ".." in PurePosixPath(source).parts
        self._prefix = source if relative and not outside else ""
        self._single = kind == "file" and bool(self._prefix)
        files = [str(file.get("name")) for file in about.get("files") or []]
        recorded = [str(file.get("name")) for file in about.get("recorded") or []]
        self._known = {*files, *recorded}
        configs = [name for name in files if name.endswith("config.json")]
        self._default = next(iter([*sorted(configs), *sorted(files)]), found.name)

    def uri(self, name: str) -> str:
        """Return the percent-encoded URI of a file: relative, and never a way out."""
        path = self._prefix if self._single else f"{self._prefix}/{name}"
        parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
        return "/".join(quote(part, safe="") for part in parts)

    def of(self, where: str) -> dict[str, Any]:
        """Return the location of a finding; one that is of no file is shown at the first one."""
        name, _, part = (where, "", "") if where in self._known else where.partition("#")
        if not name or (self._known and name not in self._known):
            name, part = self._default, where
        location: dict[str, Any] = {
            "physicalLocation": {
                "artifactLocation": {"uri": self.uri(name)},
                "region": {"startLine": 1},
            }
        }
        if part:
            location["logicalLocations"] = [
                {"fullyQualifiedName": where, "name": part, "kind": "member"}
            ]
        return location


def _driver(found: Audited, codes: Sequence[str], findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "name": "peftlab",
        "semanticVersion": __version__,
        "rules": [_rule(found, code, findings) for code in codes],
        "notifications": [
            {"id": NOT_CHECKED, "shortDescription": {"text": "Something was not looked at."}},
            {"id": FAILED, "shortDescription": {"text": "An audit did not finish."}},
        ],
    }


def _rule(found: Audited, code: str, findings: Sequence[Finding]) -> dict[str, Any]:
    own = [finding for finding in findings if finding.code == code]
    worst = min((finding.severity for finding in own), key=WORST_FIRST.index)
    about: Mapping[str, Any] = found.rules.get(code) or {}
    title = str(about.get("title") or own[0].title)
    why, fix = str(about.get("why") or ""), str(about.get("fix") or own[0].fix)
    text = " ".join(f"{part[:1].upper()}{part[1:]}." for part in (title, why, fix) if part)
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in code.split("-")),
        "shortDescription": {"text": _sentence(title)},
        "fullDescription": {"text": _sentence(why or title)},
        "help": {"text": text},
        "defaultConfiguration": {"level": LEVELS[worst]},
        "properties": {
            "tags": ["security", "machine-learning", "peft"],
            "precision": "high",
            "security-severity": SCORES[worst],
        },
    }


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".rstrip(".") + "."


def _results(
    findings: Sequence[tuple[Finding, bool]], codes: Sequence[str], place: _Place
) -> list[dict[str, Any]]:
    seen: dict[tuple[str, str], int] = {}
    made = []
    for finding, waived in findings:
        key = (finding.code, finding.where)
        seen[key] = seen.get(key, 0) + 1
        message = ": ".join(filter(None, [finding.title, finding.evidence]))
        result: dict[str, Any] = {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": LEVELS[finding.severity],
            "message": {"text": f"{_sentence(message)} {_sentence(finding.fix)}".strip()},
            "locations": [place.of(finding.where)],
            "partialFingerprints": {"peftlabFinding/v1": _fingerprint(*key, seen[key])},
            "properties": {"severity": finding.severity, "check": finding.check},
        }
        if waived:
            result["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": finding.reason}
            ]
        made.append(result)
    return made


def _fingerprint(code: str, where: str, number: int) -> str:
    """Return what stays the same while the evidence changes: rule, place, and which of several."""
    return hashlib.sha256(f"{code}\0{where}\0{number}".encode()).hexdigest()[:32]


def _artifact(file: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    return {
        "location": {"uri": place.uri(str(file.get("name")))},
        "length": int(file.get("bytes") or 0),
        "hashes": {"sha-256": str(file.get("sha256"))},
    }


def _invocation(found: Audited) -> dict[str, Any]:
    """Return how the run ended; what was not checked is a notification, never silence."""
    notes = [
        _notification(NOT_CHECKED, "note", f"{name} was not checked: {reason}")
        for name, reason in found.not_checked
    ]
    notes += [
        _notification(FAILED, "error", f"{name} failed: {message} [{code}]")
        for name, code, message in found.failures
    ]
    return {
        "executionSuccessful": not found.failures,
        "exitCode": found.exit_code,
        "toolExecutionNotifications": notes,
    }


def _notification(kind: str, level: str, text: str) -> dict[str, Any]:
    return {"descriptor": {"id": kind}, "level": level, "message": {"text": text}}
