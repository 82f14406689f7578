"""The policy of an audit: a small TOML file that says what may pass, and decides the exit code.

fail_on = "high"

[severity]
CARD-LICENCE = "low"
GATE-CONFIG-UNKNOWN = { level = "ignore", reason = "our own field", until = 2027-01-31 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError, model_validator

from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.core.options import Options, option
from peftlab.io.files import read_limited
from peftlab.io.gate.limits import Limits

LONGEST = 64 * 2**10  # bytes
# A key of n parts costs a TOML parser n * n steps, so no line may be long.
LONGEST_LINE = 500
IGNORE = "ignore"
NEVER = "never"

Level = Literal["info", "low", "medium", "high", "critical"]


class Change(Options):
    """What a policy makes of the findings of one rule."""

    level: Literal["ignore", "info", "low", "medium", "high", "critical"] = option(
        ..., "severity from now on; ignore: waived, and shown as such", source="ours"
    )
    reason: str = option("", "why; a waiver needs it", source="ours", max_length=400)
    until: date | None = option(None, "last day on which this holds", source="ours")
    where: list[str] = option(
        ["*"], "places it holds for: file or file#tensor, with * and ?", source="ours",
        max_length=64,
    )  # fmt: skip

    @model_validator(mode="after")
    def _waivers_have_reasons(self) -> Self:
        if self.level == IGNORE and not self.reason.strip():
            raise ValueError("a finding is not ignored without a reason")
        return self

    def holds(self, where: str, today: date) -> bool:
        """Tell whether the change applies to a finding at ``where``."""
        if self.until is not None and today > self.until:
            return False
        return any(fnmatchcase(where, pattern) for pattern in self.where)


class Policy(Options):
    """What an artefact must be, and which findings fail it.

    Examples:
        >>> Policy().fail_on
        'high'
    """

    fail_on: Literal["never", "info", "low", "medium", "high", "critical"] = option(
        "high", "lowest severity that gives exit code 1", source="design.md, What users type"
    )
    required_checks: list[str] = option(
        [], "gate steps and audits that must have run; else a finding", source="ours",
        max_length=64,
    )  # fmt: skip
    require_commit: bool = option(
        False, "a hub id must be pinned to a commit by whoever runs the audit",
        source="ours",
    )  # fmt: skip
    required_base: list[str] = option(
        [], "the config must name one of these bases; empty: any", source="ours", max_length=256
    )
    allowed_licences: list[str] = option(
        [], "licences that the card may state; empty: any, or none", source="ours", max_length=256
    )
    allowed_peft_types: list[str] = option(
        [], "LORA, IA3, ...; empty: any that the gate lets through", source="ours", max_length=64
    )
    severity: dict[str, Change] = option({}, "by rule code", source="ours", max_length=1000)
    limits: Limits = option(Limits(), "limits of the gate", source="ours")
    audit: dict[str, dict[str, Any]] = option({}, "options by audit", source="ours", max_length=64)

    def check_names(self, rules: Collection[str], checks: Collection[str]) -> None:
        """Refuse a rule or a check that does not exist: a typo would be a hole.

        Args:
            rules: all codes there are.
            checks: names of all gate steps and audits.

        Raises:
            ConfigError: ``POLICY-RULE`` or ``POLICY-CHECK``.
        """
        for code in self.severity:
            if code not in rules:
                raise ConfigError(
                    f"the policy sets the severity of {code!r}, which no rule is called",
                    code="POLICY-RULE", fix=suggest(code, rules),
                )  # fmt: skip
        for name in self.required_checks:
            if name not in checks:
                raise ConfigError(
                    f"the policy requires a check {name!r} that does not exist",
                    code="POLICY-CHECK", fix=suggest(name, checks),
                )  # fmt: skip


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ConfigError: ``POLICY-READ``, ``POLICY-SIZE``, ``POLICY-SYNTAX``, ``POLICY-KEY`` or
            ``POLICY-VALUE``.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "gate.toml"
        >>> _ = file.write_text('fail_on = "medium"')
        >>> read_policy(file).fail_on
        'medium'
    """
    try:
        content = read_limited(Path(path), LONGEST)
    except InputRejected as error:
        size = error.code == "FILE-SIZE"
        raise ConfigError(
            f"the policy {path} is too large" if size else f"cannot read the policy {path}",
            code="POLICY-SIZE" if size else "POLICY-READ", got=error.got, allowed=error.allowed,
            fix="give --policy a TOML file; see the docs, Audit an adapter in CI",
        ) from error  # fmt: skip
    return parse_policy(content, str(path))


def parse_policy(content: bytes, source: str) -> Policy:
    """Parse the text of a policy strictly: known keys, right types, bounded size.

    Args:
        content: UTF-8 TOML.
        source: where it comes from, for messages.

    Raises:
        ConfigError: ``POLICY-SIZE``, ``POLICY-SYNTAX``, ``POLICY-KEY`` or ``POLICY-VALUE``.
    """
    values = _toml(content, source)
    table = values.get("severity")
    if isinstance(table, dict):  # CODE = "low" is short for CODE = { level = "low" }
        values["severity"] = {
            code: {"level": value} if isinstance(value, str) else value
            for code, value in table.items()
        }
    try:
        return Policy.model_validate(values, strict=True)
    except ValidationError as error:
        raise _mistake(error, source) from None


def _toml(content: bytes, source: str) -> dict[str, Any]:
    if len(content) > LONGEST:
        raise ConfigError(
            f"the policy {source} is too large", code="POLICY-SIZE", got=f"{len(content)} bytes",
            allowed=f"at most {LONGEST} bytes", fix="keep the policy to what it decides",
        )  # fmt: skip
    try:
        return tomllib.loads(_short_lines(content.decode("utf-8")))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(
            f"the policy {source} is not valid TOML", code="POLICY-SYNTAX", got=reason[:200],
            fix="mend the file; strings need quotes, dates do not",
        ) from None  # fmt: skip


def _short_lines(text: str) -> str:
    if max(map(len, text.split("\n"))) > LONGEST_LINE:
        raise ValueError(f"a line is longer than {LONGEST_LINE} characters")
    return text


def _mistake(error: ValidationError, source: str) -> ConfigError:
    """Return the first mistake of a policy in plain words."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join(path)[:200]
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"the policy {source} has a key that means nothing: {where}", code="POLICY-KEY",
            fix=suggest(path[-1][:64], _keys(path[:-1])),
        )  # fmt: skip
    message = str(first["msg"]).removeprefix("Value error, ")
    got = None if isinstance(first["input"], Mapping) else repr(first["input"])[:100]
    return ConfigError(
        f"the policy {source}: {where} is not valid: {message}", code="POLICY-VALUE", got=got,
        fix='write for example CODE = { level = "ignore", reason = "why" }'
        if path[0] == "severity" else "see the docs, Audit an adapter in CI",
    )  # fmt: skip


def _keys(path: list[str]) -> Collection[str]:
    """Return the keys that a table of the policy may have."""
    tables: dict[str, type[BaseModel]] = {"limits": Limits, "severity": Change}
    return (tables[path[0]] if path else Policy).model_fields
