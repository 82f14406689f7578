"""An audit in words: the verdict first, then what was found, then what nobody looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftlab.report.audit.read import WORST_FIRST, Audited, Group, Step, read_audit

MOST_PLACES = 5  # of one rule on the terminal; the report has them all
LOOKED = ("passed", "found", "stopped")
UNITS = ("bytes", "kB", "MB", "GB", "TB")
NO_PROOF = "A clean audit is no proof that a model is harmless."


def summary(results: Mapping[str, Any]) -> str:
    """Return an audit as text for a terminal: no line of it begins with words of the artefact.

    Args:
        results: what ``audit.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_audit(results)
    parts = ["\n".join(verdict(found)), _table(_artefact(found))]
    parts += [_group(group) for group in found.groups]
    ran = [step.name for step in (*found.steps, *found.audits) if step.status == "passed"]
    if ran:
        parts.append(f"passed: {', '.join(ran)}")
    if found.waived:
        parts.append(_list("waived by the policy", _waived(found)))
    if found.not_checked:
        told = [f"{name}: {one_line(reason)}" for name, reason in joined(found.not_checked)]
        parts.append(_list("not checked", told))
    return "\n\n".join(parts)


def verdict(found: Audited) -> list[str]:
    """Return the verdict in sentences, the shortest first.

    Args:
        found: an audit that was read.
    """
    counted = counts(found)
    stopped = found.stopped
    if stopped is not None:
        what = stopped.findings[0].title if stopped.findings else stopped.title
        return [
            f"REJECTED: the gate stopped {found.name}: {what}.",
            "Nothing behind that step was looked at; do not load it.",
        ]
    lines = [_first_line(found, counted)]
    if found.failures:
        many = len(found.failures)
        lines.append(
            f"{many} audit{_s(many)} did not finish, so this verdict says less than it should."
        )
    expired = found.policy.get("expired")
    if isinstance(expired, Sequence) and expired:
        lines.append(f"The policy's changes to {', '.join(map(str, expired))} have expired.")
    if not found.findings and not found.failures:
        lines.append(NO_PROOF)
    return lines


def _first_line(found: Audited, counted: str) -> str:
    if found.exit_code == 1:
        return f"FAILED: {found.name} has {counted}; {found.fail_on} and above fails."
    if found.failures and found.fail_on != "never":
        return f"INCOMPLETE: {found.name}: {counted or 'nothing found by what did finish'}."
    if not counted:
        looked = sum(step.status in LOOKED for step in found.audits)
        return f"CLEAN: nothing found in {found.name}, by the gate and {looked} audit{_s(looked)}."
    if found.fail_on == "never":
        return f"REPORTED: {found.name} has {counted}; no finding fails."
    return f"PASSED: {found.name} has {counted}, below {found.fail_on}."


def counts(found: Audited) -> str:
    """Return how many findings there are by severity: ``1 critical and 2 low findings``."""
    parts = [f"{found.counts[word]} {word}" for word in WORST_FIRST if found.counts.get(word)]
    total = sum(found.counts.get(word, 0) for word in WORST_FIRST)
    listed = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    return f"{listed} finding{_s(total)}" if total else ""


def _s(number: int) -> str:
    return "" if number == 1 else "s"


def one_line(text: str) -> str:
    """Return a text on one line, so that it can forge no line of ours."""
    return " ".join(text.split())


def human(size: float) -> str:
    """Return a number of bytes for people.

    Examples:
        >>> human(812), human(51_200_000)
        ('812 bytes', '51.2 MB')
    """
    step = 0
    while size >= 1000 and step < len(UNITS) - 1:
        size /= 1000
        step += 1
    return f"{size:.0f} {UNITS[step]}" if step == 0 else f"{size:.1f} {UNITS[step]}"


def kind_of(artefact: Mapping[str, Any]) -> str:
    """Return what an artefact is: ``LORA (peft), from a folder``."""
    kind, peft_type, form = (artefact.get(key) for key in ("kind", "peft_type", "format"))
    form = "checkpoint" if form == "model" else form
    what = f"{peft_type} ({form})" if peft_type and form else form
    sources = {"hub": "from the hub", "zip": "a zip", "file": "one file", "folder": "a folder"}
    return ", ".join(filter(None, [what, sources.get(str(kind))])) or "not known"


def _artefact(found: Audited) -> list[tuple[str, str]]:
    about = found.artefact
    files = [file for file in about.get("files") or [] if isinstance(file, Mapping)]
    size = sum(int(file.get("bytes") or 0) for file in files)
    rows = [("artefact", str(about.get("source"))), ("kind", kind_of(about))]
    if about.get("commit"):
        rows.append(("commit", str(about["commit"])))
    if files:
        rows.append(("read", f"{len(files)} file{_s(len(files))}, {human(size)}"))
    if about.get("tree_sha256"):
        rows.append(("sha256", str(about["tree_sha256"])))
    return [(key, one_line(value)) for key, value in rows]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"{key:{width}}  {value}" for key, value in rows)


def _group(group: Group) -> str:
    lines = [f"{group.severity.upper()} {group.code}: {group.title}"]
    for finding in group.findings[:MOST_PLACES]:
        seen = f": {one_line(finding.evidence)}" if finding.evidence else ""
        lines.append(f"  at       {one_line(finding.where) or 'the artefact'}{seen}")
    more = len(group.findings) - MOST_PLACES
    lines += [f"  at       {more} more place{_s(more)}"] if more > 0 else []
    lines += [f"  because  {group.why}"] if group.why else []
    return "\n".join([*lines, f"  mend     {group.fix}"])


def _waived(found: Audited) -> list[str]:
    return [
        f"{each.code} at {one_line(each.where) or 'the artefact'}: {one_line(each.reason)}"
        + (f" (until {each.until})" if each.until else "")
        for each in found.waived
    ]


def joined(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put those together that have one reason: ``(a, b)`` for ``a`` and ``b``."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in pairs:
        names = by_reason.setdefault(reason, [])
        if name not in names:
            names.append(name)
    return [(", ".join(names), reason) for reason, names in by_reason.items()]


def _list(title: str, items: Iterable[str]) -> str:
    return "\n".join([f"{title}:", *(f"  {item}" for item in items)])


def outcome(step: Step) -> str:
    """Return the status of a step in words, with how much it found."""
    if step.status == "found":
        return f"{len(step.findings)} finding{_s(len(step.findings))}"
    return step.status
