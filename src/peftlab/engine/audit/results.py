"""The results dict of an audit: plain values, equal for equal inputs except under ``run``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peftlab.core.findings import RULES, Check, Finding
from peftlab.engine.audit import requirements, verdict
from peftlab.engine.audit.plain import plain
from peftlab.engine.audit.report import worst_first
from peftlab.engine.audit.verdict import Failure, Waived
from peftlab.io.adapter_layout import AdapterLayout
from peftlab.io.artefact import Artefact
from peftlab.io.policy import Policy

SCHEMA = "peftlab-audit/1"
CAGE, MEASURED = "gate-cage", ("cpu_seconds", "peak_bytes")
PACKAGES = ("peftlab", "numpy", "torch", "transformers", "peft", "safetensors")


def results_of(
    checks: Sequence[Check],
    waived: Sequence[Waived],
    failures: Sequence[Failure],
    artefact: Mapping[str, Any],
    *,
    policy: Mapping[str, Any],
    against: Mapping[str, Any] | None,
    bank: str | None,
    seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Return all that an audit has to say."""
    source = str(artefact["source"])
    made: dict[str, Any] = plain({
        "schema": SCHEMA,
        "name": source.rstrip("/").rpartition("/")[2] or source,
        "run": _run_facts(checks, seconds),
        "versions": _versions(),
        "seed": seed,
        "artefact": artefact,
        "against": against,
        "bank": bank,
        "policy": policy,
        "verdict": verdict.verdict(checks, waived, failures, policy["fail_on"]),
        "checks": [_lasting(check) for check in checks],
        "waived": [each.to_json() for each in waived],
        "not_checked": _not_checked(checks),
        "failures": [failure.to_json() for failure in failures],
        "rules": _rules([*worst_first(checks), *(each.finding for each in waived)]),
    })  # fmt: skip
    return made


def about(
    reference: str,
    artefact: Artefact | None,
    layout: AdapterLayout | None,
    checks: Sequence[Check],
) -> dict[str, Any]:
    """Return what the artefact is, as far as the gate let it be read."""
    hashes = next((check.facts for check in checks if check.name == "gate-hashes"), {})
    files = {} if artefact is None else artefact.files
    recorded = {} if artefact is None else artefact.recorded
    return {
        "source": reference,
        "kind": None if artefact is None else artefact.kind,
        "commit": None if artefact is None else artefact.commit,
        "format": None if layout is None else layout.format,
        "peft_type": None if layout is None else layout.peft_type,
        "files": [
            {"name": file.name, "bytes": file.size, "sha256": file.sha256}
            for file in files.values()
        ],
        "recorded": [{"name": name, "bytes": size} for name, size in recorded.items()],
        "config_sha256": hashes.get("config_sha256"),
        "tree_sha256": hashes.get("tree_sha256"),
    }


def _measured(check: Check) -> dict[str, Any]:
    """Return the facts of a check that differ between two runs: what the cage used."""
    return {key: check.facts[key] for key in MEASURED if check.name == CAGE and key in check.facts}


def _run_facts(checks: Sequence[Check], seconds: float) -> dict[str, Any]:
    """Return all that differs between two runs on the same bytes."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {
            **{check.name: round(check.seconds, 3) for check in checks},
            "all": round(seconds, 3),
        },
        "cage": {key: value for check in checks for key, value in _measured(check).items()},
    }


def _lasting(check: Check) -> dict[str, Any]:
    """Return a check without what differs between two runs on the same bytes."""
    values = {key: value for key, value in check.to_json().items() if key != "seconds"}
    gone = _measured(check)
    return {**values, "facts": {k: v for k, v in values["facts"].items() if k not in gone}}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def policy_facts(policy: Policy, source: str | None, level: str, day: date) -> dict[str, Any]:
    """Return the policy as it was applied."""
    return {
        "source": source,
        **policy.model_dump(mode="json"),
        "fail_on": level,
        "expired": verdict.expired(policy, day),
    }


def _not_checked(checks: Iterable[Check]) -> list[dict[str, str]]:
    """Return what nobody looked at, and why: a verdict says what it does not cover."""
    found = []
    for check in checks:
        if check.status in {"not checked", "not applicable"} and check.name != requirements.NAME:
            found.append({"name": check.name, "reason": check.reason})
        found += [{"name": check.name, "reason": reason} for reason in check.not_checked]
    return found


def _rules(findings: Iterable[Finding]) -> dict[str, dict[str, str]]:
    """Return the rules that were broken, so that a reader needs nothing but the results."""
    found = {}
    for finding in findings:
        rule = RULES.get(finding.code)
        found[finding.code] = {
            "title": finding.title if rule is None else rule.title,
            "severity": (finding.severity if rule is None else rule.severity).word,
            "why": "" if rule is None else rule.why,
            "fix": finding.fix if rule is None else rule.fix,
        }
    return dict(sorted(found.items()))
