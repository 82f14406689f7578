"""One self-contained ``report.html``: verdict, findings, gate, audits, files, what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftlab.report.audit.figures import draw
from peftlab.report.audit.read import WORST_FIRST, Audited, Step, read_audit
from peftlab.report.audit.words import human, joined, kind_of, outcome, verdict
from peftlab.report.page import MOST_LISTED, all_plain, common, environment
from peftlab.report.read import DASH, mapping

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_CHARTS = 24  # of one page, which stays under 4 MB
MOST_PLACES = 50  # of one rule
LOOKS = {
    "passed": "held", "found": "helped", "stopped": "failed", "not checked": "open",
    "not applicable": "open",
}  # fmt: skip
VERDICTS = {"rejected": "bad", "clean": "good", "incomplete": "mid"}


def render_audit(results: Mapping[str, Any]) -> str:
    """Return the whole page of an audit.

    Args:
        results: what ``audit.json`` holds.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    found = read_audit(results)
    engine = environment()
    engine.filters["breakable"] = _breakable
    page = engine.get_template("audit.html.j2")
    sentences = verdict(found)
    word, _, rest = sentences[0].partition(": ")
    return page.render(
        **_common(results, found),
        verdict=sentences,
        word=word.capitalize(),
        headline=rest if rest.startswith(found.name) else rest[:1].upper() + rest[1:],
        sentences=sentences[1:],
        look=_look(found),
        counts=[(name, found.counts.get(name, 0)) for name in WORST_FIRST],
        fail_on=found.fail_on,
        exit_code=found.exit_code,
        n_checks=len(found.steps) + len(found.audits),
        groups=_groups(found),
        steps=[_step(step) for step in found.steps],
        audits=_audits(found),
        missing=joined(found.not_checked),
        waived=[
            (each.code, each.where or DASH, each.reason, each.until or DASH)
            for each in found.waived
        ],
        about=_about(found),
        files=_files(found),
        recorded=_recorded(found),
        policy=json.dumps(dict(found.policy), indent=2, ensure_ascii=False),
    )


def _breakable(text: object) -> Markup:
    """Let a long name of dotted parts break between them; everything in it is escaped."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[._/#])", str(text)))


def _common(results: Mapping[str, Any], found: Audited) -> dict[str, Any]:
    seed = results.get("seed")
    about = {
        **results,
        "name": found.name,
        "question": f"What is in {found.name}?",
        "created": mapping(results.get("run")).get("created"),
        "data": {},
    }
    return common(about, [seed] if isinstance(seed, int) else [], "audit.json")


def _look(found: Audited) -> str:
    """Return the colour of the verdict; what passed with medium findings is not plainly good."""
    if found.exit_code:
        return "mid" if found.status == "incomplete" else "bad"
    medium = any(found.counts.get(word) for word in WORST_FIRST[: WORST_FIRST.index("medium") + 1])
    return VERDICTS.get(found.status, "mid" if medium else "good")


def _groups(found: Audited) -> list[dict[str, Any]]:
    return [
        {
            "severity": group.severity,
            "code": group.code,
            "title": group.title[:1].upper() + group.title[1:],
            "why": group.why[:1].upper() + group.why[1:],
            "fix": group.fix[:1].upper() + group.fix[1:],
            "checks": ", ".join(dict.fromkeys(each.check for each in group.findings)),
            "places": [
                (each.where or found.name, each.evidence) for each in group.findings[:MOST_PLACES]
            ],
            "more": max(len(group.findings) - MOST_PLACES, 0),
        }
        for group in found.groups
    ]


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "title": step.title[:1].upper() + step.title[1:],
        "outcome": outcome(step),
        "look": LOOKS.get(step.status, "open"),
        "reason": step.reason,
    }


def _audits(found: Audited) -> list[dict[str, Any]]:
    """Return the audits that say something; those that did not run are listed further down."""
    shown, left = [], MOST_CHARTS
    for number, step in enumerate((*found.audits, *found.steps)):
        gate = step in found.steps
        drawn = all_plain([
            draw(f"c{number}-{k}", chart) for k, chart in enumerate(step.charts[:left])
        ])  # fmt: skip
        left -= len(drawn)
        if step.status not in LOOKS or step.status.startswith("not ") or (gate and not step.tables):
            continue
        shown.append({
            **_step(step),
            "facts": _facts(step.facts),
            "tables": [made for table in step.tables if (made := _table(table))["rows"]],
            "figures": drawn,
            "not_checked": step.not_checked,
            "seconds": None if step.seconds is None else f"{step.seconds:.2f} s",
        })  # fmt: skip
    return shown


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [(_spaced(key), value_text(value)) for key, value in facts.items()]
    return [(key, text) for key, text in shown if text != DASH]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def value_text(value: Any) -> str:
    """Return a measured value for people.

    Examples:
        >>> value_text(0.123456), value_text(["q", "v"]), value_text(True)
        ('0.1235', 'q, v', 'yes')
    """
    if value is None or value in ("", [], {}):
        return DASH
    if isinstance(value, bool | int | float):
        return _number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {value_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(value_text, value))
    return str(value)


def _number(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "\u2212")
    return (f"{value:,}" if abs(value) >= 10_000 else str(value)).replace(",", "\u202f")


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    rows = [row for row in table.get("rows") or [] if isinstance(row, Sequence) and row]
    return {
        "title": str(table.get("title") or ""),
        "header": [_spaced(str(name)) for name in table.get("header") or []],
        "rows": [list(map(value_text, row)) for row in rows[:MOST_LISTED]],
        "more": max(len(rows) - MOST_LISTED, 0),
    }


def _about(found: Audited) -> list[tuple[str, str]]:
    about = found.artefact
    rows = [
        ("source", about.get("source")), ("kind", kind_of(about)), ("commit", about.get("commit")),
        ("tree sha256", about.get("tree_sha256")), ("config sha256", about.get("config_sha256")),
    ]  # fmt: skip
    return [(key, str(value)) for key, value in rows if value]


def _files(found: Audited) -> list[list[str]]:
    return [
        [str(file.get("name")), human(int(file.get("bytes") or 0)), str(file.get("sha256"))]
        for file in (found.artefact.get("files") or [])[:MOST_LISTED]
    ]


def _recorded(found: Audited) -> list[list[str]]:
    return [
        [str(file.get("name")), human(int(file.get("bytes") or 0))]
        for file in (found.artefact.get("recorded") or [])[:MOST_LISTED]
    ]
