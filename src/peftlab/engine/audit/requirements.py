"""What a policy asks of an artefact beyond findings: commit, base, type, licence, checks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from peftlab.core.findings import Check, Finding, Severity, rule, status_of
from peftlab.io.artefact import Artefact
from peftlab.io.policy import Policy

NAME = "policy"
TITLE = "Requirements of the policy"
CARD = "card"  # the audit that reads the licence from the model card
PINNED = re.compile(r".+@[0-9a-f]{40}")
LOOKED = ("passed", "found", "stopped")

COMMIT = rule(
    "POLICY-COMMIT", Severity.HIGH, "the hub id is not pinned to a commit",
    why="what is loaded later may be another thing than what was audited",
    fix="audit and load org/name@COMMIT, with all 40 digits",
)  # fmt: skip
BASE = rule(
    "POLICY-BASE", Severity.HIGH, "the adapter is not for a base that the policy allows",
    why="on another base it does something else than it was reviewed for",
    fix="take an adapter for the required base, or add this base to required_base",
)  # fmt: skip
PEFT_TYPE = rule(
    "POLICY-PEFT-TYPE", Severity.HIGH, "the adapter is of a type that the policy does not allow",
    why="the stack that loads it was reviewed for other types",
    fix="take an adapter of an allowed type, or add this one to allowed_peft_types",
)  # fmt: skip
LICENCE = rule(
    "POLICY-LICENCE", Severity.HIGH, "the card states no licence that the policy allows",
    why="nobody has said that it may be used, or on which terms",
    fix="ask the publisher for a licence, or add this one to allowed_licences",
)  # fmt: skip
REQUIRED = rule(
    "POLICY-REQUIRED", Severity.HIGH, "a check that the policy requires did not run",
    why="a verdict without it says less than the policy promises",
    fix="give what the check needs (--against, --bank), or take it off required_checks",
)  # fmt: skip


def check_requirements(
    artefact: Artefact, peft_type: str, checks: Sequence[Check], policy: Policy
) -> Check:
    """Check what the policy requires; ``not applicable`` if it requires nothing."""
    wanted = {
        "require_commit": policy.require_commit, "required_base": policy.required_base,
        "allowed_peft_types": policy.allowed_peft_types,
        "allowed_licences": policy.allowed_licences, "required_checks": policy.required_checks,
    }  # fmt: skip
    asked = [name for name, value in wanted.items() if value]
    if not asked:
        return Check(NAME, TITLE, "not applicable", "no policy requires anything")
    found = (
        *_commit(artefact, policy), *_base(artefact, policy), *_type(peft_type, policy),
        *_licence(checks, policy), *_required(checks, policy),
    )  # fmt: skip
    return Check(NAME, TITLE, status_of(found), findings=found, facts={"required": asked})


def _commit(artefact: Artefact, policy: Policy) -> list[Finding]:
    pinned = artefact.kind != "hub" or PINNED.fullmatch(artefact.source)
    return [] if pinned or not policy.require_commit else [COMMIT.found("", artefact.source)]


def _base(artefact: Artefact, policy: Policy) -> list[Finding]:
    named = artefact.config.get("base_model_name_or_path")
    if not policy.required_base or named in policy.required_base:
        return []
    evidence = "no base is named" if named is None else str(named)
    return [BASE.found("adapter_config.json#base_model_name_or_path", evidence)]


def _type(peft_type: str, policy: Policy) -> list[Finding]:
    allowed = {name.upper() for name in policy.allowed_peft_types}
    if not allowed or peft_type.upper() in allowed:
        return []
    return [PEFT_TYPE.found("adapter_config.json#peft_type", peft_type or "none")]


def _licence(checks: Sequence[Check], policy: Policy) -> list[Finding]:
    allowed = {name.casefold() for name in policy.allowed_licences}
    facts = next((check.facts for check in checks if check.name == CARD), {})
    stated = [str(name) for name in facts.get("licence") or []]
    if [name.casefold() for name in stated] == ["other"]:  # the hub's way to name one of its own
        stated = [str(name) for name in facts.get("licence_name") or stated]
    if not allowed or (stated and {name.casefold() for name in stated} <= allowed):
        return []
    return [LICENCE.found("README.md#license", ", ".join(stated) or "no licence is stated")]


def _required(checks: Sequence[Check], policy: Policy) -> list[Finding]:
    by_name = {check.name: check for check in checks}
    found = []
    for name in policy.required_checks:
        check = by_name.get(name)
        if check is None or check.status not in LOOKED:
            reason = "there was nothing to run" if check is None else check.reason
            found.append(REQUIRED.found(name, reason))
    return found
