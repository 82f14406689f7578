"""Step 5: what the configs say, field by field; what the gate refuses is not handed on.

``adapter_config.json`` is held against the fields of its PEFT type. ``config.json`` and the files
of a tokenizer have no such list (there are hundreds of families); they are searched for hooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.core.printable import printable
from peftlab.io.artefact import Artefact
from peftlab.io.gate.fields import facts, judge_fields, unknown_texts
from peftlab.io.gate.hooks import Path as Place
from peftlab.io.gate.hooks import hooks_of, without, written
from peftlab.io.gate.json_files import ADAPTER_CONFIG, MODEL_CONFIG, WORDS, sound_json
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded

HOOK = rule(
    "GATE-HOOK",
    Severity.HIGH,
    "a field that makes a library import, fetch or open something else",
    why="code from elsewhere runs, or another file is read, although only tensors were asked for",
    fix="remove the field; an adapter of tensors and numbers does not need it",
)
BASE = rule(
    "GATE-BASE",
    Severity.LOW,
    "a base that is named by a path, an address or odd text; it is not followed",
    why="a loader that follows it reads another model, and a path gives away its author's machine",
    fix="name the base yourself when you load the adapter",
)
TEMPLATE = rule(
    "GATE-TEMPLATE",
    Severity.MEDIUM,
    "a chat template that reaches for more than the messages",
    why="a renderer without a sandbox runs what it says",
    fix="use the template of the base",
)

HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.\-]{0,95}/)?[A-Za-z0-9][\w.\-]{0,95}", re.ASCII)
REACHES = re.compile(
    r"[.\[|]\s*['\"]?__\w+__|\|\s*attr\b|\battr\s*\(|\b(?:cycler|joiner|lipsum)\b"
    r"|\{%[-+]?\s*(?:import|from|include|extends)\b"
)
SHOWN = 4096  # characters of a template
NO_SCHEMA = "fields of {}: searched for hooks only, for each model family has its own"


@dataclass(frozen=True)
class Judged:
    """What was found in one file.

    Attributes:
        findings: in the order of its fields.
        config: without the fields that were refused.
    """

    findings: tuple[Finding, ...]
    config: dict[str, Any]


def judge_adapter(config: Mapping[str, Any], file: str = ADAPTER_CONFIG) -> Judged:
    """Judge a parsed ``adapter_config.json``.

    Examples:
        >>> judged = judge_adapter({"peft_type": "LORA", "r": 8, "megatron_core": "os"})
        >>> [found.code for found in judged.findings], judged.config
        (['GATE-HOOK'], {'peft_type': 'LORA', 'r': 8})
    """
    hooks = set(hooks_of(config, adapter=True))
    hooks |= set(unknown_texts(without(dict(config), hooks)))
    kept = without(dict(config), hooks)
    odd = list(judge_fields(kept, file))
    findings = [
        *_of_hooks(config, hooks, file),
        *(finding for _, finding in odd),
        *_base(config, file),
    ]
    return Judged(tuple(findings), without(kept, {place for place, _ in odd}))


def judge_other(config: Mapping[str, Any], file: str) -> Judged:
    """Judge the config of a model, of a tokenizer or of generation."""
    hooks = set(hooks_of(config))
    findings = [*_of_hooks(config, hooks, file), *_base(config, file)]
    for name, text in templates_of(config).items():
        reaches = REACHES.search(text)
        if reaches:
            findings.append(TEMPLATE.found(f"{file}#{name}", reaches.group()))
    return Judged(tuple(findings), without(dict(config), hooks))


def _of_hooks(config: Mapping[str, Any], hooks: set[Place], file: str) -> Iterator[Finding]:
    for place in sorted(hooks, key=str):
        value: Any = config
        for key in place:
            value = value[key]
        yield HOOK.found(f"{file}#{written(place)}", str(value))


def _base(config: Mapping[str, Any], file: str) -> Iterator[Finding]:
    for key in ("base_model_name_or_path", "_name_or_path"):
        name = config.get(key)
        if isinstance(name, str) and name and (not HUB_NAME.fullmatch(name) or ".." in name):
            yield BASE.found(f"{file}#{key}", name)


def templates_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates in a JSON file of a tokenizer, by the field they stand in.

    Examples:
        >>> templates_of({"chat_template": "{{ messages }}"})
        {'chat_template': '{{ messages }}'}
    """
    found = config.get("chat_template")
    listed = found if isinstance(found, list) else [{"name": "", "template": found}]
    return {
        f"chat_template.{each.get('name')}".rstrip("."): each["template"]
        for each in listed
        if isinstance(each, dict) and isinstance(each.get("template"), str)
    }


def check_config(artefact: Artefact, limits: Limits) -> Check:
    """Check all configs and fill ``artefact.config``; what is refused is not in it."""
    findings: list[Finding] = []
    not_checked: list[str] = []
    about: dict[str, Any] = {"fields_of_peft": facts()["peft"], "templates": {}}
    judged: dict[str, Judged] = {}
    for name in artefact.files:
        base = name.rpartition("/")[2]
        if not base.endswith(".json") or base in WORDS or base.endswith(".index.json"):
            continue
        value = sound_json(artefact, name, limits)
        found = judge_adapter(value, name) if base == ADAPTER_CONFIG else judge_other(value, name)
        judged[name] = found
        findings += found.findings
        for field, text in templates_of(value).items():
            about["templates"][f"{name}#{field}"] = printable(text[:SHOWN])
        if base == MODEL_CONFIG:
            not_checked.append(NO_SCHEMA.format(name))
    main = next((name for name in (ADAPTER_CONFIG, MODEL_CONFIG) if name in judged), "")
    if main:
        artefact.config = dict(judged[main].config)
        about["base"] = printable(str(artefact.config.get("base_model_name_or_path") or ""))[:200]
    findings.sort(key=lambda finding: -finding.severity)
    kept, left = findings[: limits.findings], len(findings) - limits.findings
    if left > 0:
        not_checked.append(f"{left} more findings were not written down")
    check = concluded("gate-config", kept, facts=about, not_checked=not_checked)
    if main or kept:
        return check
    return replace(check, status="not applicable", reason="there is no config beside the tensors")
