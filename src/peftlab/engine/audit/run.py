"""One artefact through the gate, the caged load and every audit that applies."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from peftlab.core import registry
from peftlab.core.contracts import AuditContext
from peftlab.core.errors import ConfigError
from peftlab.core.findings import RULES, Check
from peftlab.core.options import parse_options
from peftlab.engine.audit import requirements, verdict
from peftlab.engine.audit.base import TrustedBase, open_base
from peftlab.engine.audit.jobs import Job, Say, one_at_a_time, run_jobs
from peftlab.engine.audit.report import AuditReport, worst_first
from peftlab.engine.audit.results import about, policy_facts, results_of
from peftlab.engine.audit.verdict import Failure
from peftlab.io.adapter_layout import read_layout
from peftlab.io.artefact import Artefact
from peftlab.io.gate import inspect, open_artefact
from peftlab.io.gate.step import TITLES, skipped
from peftlab.io.policy import Level, Policy, read_policy

LOAD = "gate-load"


def audit(
    reference: str | Path,
    *,
    against: str | None = None,
    bank: str | Path | None = None,
    policy: Policy | str | Path | None = None,
    fail_on: Level | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    offline: bool = False,
    workers: int = 2,
    progress: Callable[[str], None] | None = None,
    today: date | None = None,
) -> AuditReport:
    """Say what is in an adapter or a checkpoint, without running anything of it.

    Args:
        reference: a folder, a ``.safetensors`` or zip file, or a hub id ``org/name@COMMIT``.
        against: the base that you trust: ``builtin:NAME``, a folder or a hub id. With it the
            adapter is loaded by stock ``peft`` in a cage, and its shapes and weights are compared.
        bank: folder of reference adapters for the audits that learn from examples.
        policy: what may pass, or the TOML file that says so.
        fail_on: lowest severity that fails, instead of the policy's; ``"never"`` for none.
        options: options by audit, over those of the policy.
        seed: of everything random.
        offline: never ask the hub.
        workers: audits at a time.
        progress: called with a line of text per step, maybe from other threads.
        today: the day on which waivers of the policy are judged, the current one by default.

    Raises:
        ConfigError: ``POLICY-...``, ``AUDIT-...`` or ``OPTION-...``: the command is wrong.
        InputRejected: there is no such artefact.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> folder = Path(tempfile.mkdtemp()) / "adapter"
        >>> folder.mkdir()
        >>> name = "base_model.model.layer.0.query.lora_{}.weight"
        >>> rng = np.random.default_rng(0)
        >>> tensors = {
        ...     name.format("A"): rng.normal(size=(4, 32)).astype("float32"),
        ...     name.format("B"): rng.normal(size=(32, 4)).astype("float32"),
        ... }
        >>> save_file(tensors, folder / "adapter_model.safetensors")
        >>> _ = (folder / "adapter_config.json").write_text(
        ...     '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"]}'
        ... )
        >>> report = audit(folder)
        >>> report.ok("high")
        True
    """
    start = time.perf_counter()
    rules, source = _policy(policy)
    level = fail_on or rules.fail_on
    say = one_at_a_time(progress)
    jobs = _jobs(rules, options or {})
    rules.check_names(RULES, [*TITLES, *(job.name for job in jobs)])
    request = _Request(str(reference), _folder(bank), rules, seed, offline, max(workers, 1), say)
    with ExitStack() as stack:
        base = open_base(against, rules.limits, offline=offline) if against else None
        trusted = None if base is None else base.to_json()
        if base is not None:
            stack.enter_context(base.artefact)
        looked = _look(request, base, jobs, stack)
    day = today or datetime.now(UTC).date()
    checks, waived = verdict.apply_policy(looked.checks, rules, day)
    made = results_of(
        checks, waived, looked.failures, looked.about, seconds=time.perf_counter() - start,
        policy=policy_facts(rules, source, level, day), seed=seed,
        against=trusted, bank=None if bank is None else str(bank),
    )  # fmt: skip
    return AuditReport(
        tuple(checks), worst_first(checks), tuple(waived), tuple(looked.failures), made
    )


@dataclass(frozen=True, slots=True)
class _Request:
    """What the user asked for, checked."""

    reference: str
    bank: Path | None
    policy: Policy
    seed: int
    offline: bool
    workers: int
    say: Say


@dataclass(frozen=True, slots=True)
class _Looked:
    """What was seen: checks in order, what crashed, and what the artefact is."""

    checks: list[Check]
    failures: list[Failure]
    about: dict[str, Any]


def _look(
    request: _Request, base: TrustedBase | None, jobs: Sequence[Job], stack: ExitStack
) -> _Looked:
    """Take the artefact as far as it gets."""
    limits = request.policy.limits
    artefact, checks = open_artefact(request.reference, limits=limits, offline=request.offline)
    if artefact is not None:
        stack.enter_context(artefact)
        against = None if base is None else base.artefact
        if not _stopped(checks):
            checks += inspect(artefact, limits=limits, against=against)
        if not _stopped(checks):
            request.say(f"gate: {sum(c.status == 'passed' for c in checks)} steps passed")
            checks += _load(artefact, base, request)
    stop = _stopped(checks)
    checks = _in_order(checks, stop)
    if artefact is None or stop:
        request.say(f"gate: stopped at {stop}")
        reason = f"the gate stopped at {stop}"
        checks += [Check(job.name, job.title, "not checked", reason) for job in jobs]
        return _Looked(checks, [], about(request.reference, artefact, None, checks))
    layout = read_layout(artefact)
    context = AuditContext(
        artefact, layout, None if base is None else base.artefact, request.bank, request.seed,
        request.say,
    )  # fmt: skip
    outcomes = run_jobs(jobs, context, request.workers)
    checks += [outcome.check for outcome in outcomes]
    required = requirements.check_requirements(artefact, layout.peft_type, checks, request.policy)
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    return _Looked(
        [*checks, required], failures, about(request.reference, artefact, layout, checks)
    )


def _load(artefact: Artefact, base: TrustedBase | None, request: _Request) -> list[Check]:
    """Let stock ``peft`` load it in a cage, if there is a base to load it onto."""
    if base is None:
        return [skipped(LOAD, "no trusted base was named (--against)")]
    from peftlab.models.caged_load import check_cage, check_load

    request.say("gate: loading into stock peft, in a cage")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="peftlab-") as name:
        base.write_config(Path(name))
        load = check_load(artefact, Path(name))
    load = load.took(time.perf_counter() - start)
    cage = check_cage(load)
    facts = {key: value for key, value in load.facts.items() if key != "cage"}
    return [replace(load, facts=facts), cage]


def _stopped(checks: Iterable[Check]) -> str:
    return next((check.name for check in checks if check.status == "stopped"), "")


def _in_order(checks: Sequence[Check], stop: str) -> list[Check]:
    """Return all steps of the gate in their order; those that nobody reached say why."""
    by_name = {check.name: check for check in checks}
    reason = f"the gate stopped at {stop}" if stop else "it belongs to the load, which did not run"
    return [by_name.get(name) or skipped(name, reason) for name in TITLES]


def _policy(given: Policy | str | Path | None) -> tuple[Policy, str | None]:
    if given is None or isinstance(given, Policy):
        return given or Policy(), None
    return read_policy(Path(given)), Path(given).name


def _jobs(policy: Policy, options: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """Return every registered audit, built with its options; a wrong option fails here."""
    for name in (*policy.audit, *options):
        registry.get("audit", name)
    jobs = []
    for entry in registry.entries("audit"):
        values = {**policy.audit.get(entry.name, {}), **options.get(entry.name, {})}
        parsed = parse_options(entry.options, values, f"audit {entry.name}")
        jobs.append(Job(entry.name, entry.summary.rstrip("."), entry.cls(parsed)))
    return jobs


def _folder(bank: str | Path | None) -> Path | None:
    if bank is None or Path(bank).is_dir():
        return None if bank is None else Path(bank)
    raise ConfigError(
        f"there is no bank at {bank}", code="AUDIT-BANK", allowed="a folder",
        fix="make one with `peftlab size farm`, or leave --bank out",
    )  # fmt: skip
