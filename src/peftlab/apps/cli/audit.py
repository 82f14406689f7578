"""The audit on the command line: one artefact, one verdict, one exit code, files on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json, say
from peftlab.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from peftlab.engine.audit import AuditReport

DEFAULT_OUT = Path("runs/audit")
FILES = {"html": "report.html", "json": "audit.json", "sarif": "audit.sarif"}
WORDS = {"report.html": "report", "audit.json": "numbers", "audit.sarif": "sarif"}
# Audits are threads already; pools of threads inside them would only wait for each other.
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LEVELS = ("never", "info", "low", "medium", "high", "critical")


def audit(
    reference: str,
    against: str,
    bank: Path | None,
    policy: Path | None,
    fail_on: str,
    formats: str,
    out: Path | None,
    option: Sequence[str],
    seed: int,
    *,
    offline: bool,
    as_json: bool,
) -> None:
    """Audit one artefact, print the verdict, write what was asked for, and end with its code."""
    for name in POOLS:  # read when numpy and torch are imported, which nothing has done so far
        os.environ.setdefault(name, "1")
    wanted = _formats(formats, out)
    folder = out or DEFAULT_OUT
    _check_places(reference, folder if wanted else None)
    if fail_on and fail_on not in LEVELS:
        raise ConfigError(
            f"--fail-on knows no severity {fail_on!r}", code="CLI-OPTION",
            fix=suggest(fail_on, LEVELS),
        )  # fmt: skip
    values = _options(option)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for every library that could ask the hub
    from peftlab.engine.audit import audit as run

    report = run(
        reference, against=against or None, bank=bank, policy=policy, seed=seed, offline=offline,
        fail_on=fail_on or None, options=values, progress=say,  # type: ignore[arg-type]
    )  # fmt: skip
    written = [_write(report, name, folder) for name in wanted]
    if as_json:
        out_json(report.to_json())
    else:
        put(report.to_text())
        for path in written:
            put(f"{WORDS[path.name]}: {path}")
    if report.exit_code:
        sys.exit(report.exit_code)


def _formats(given: str, out: Path | None) -> list[str]:
    """Return the files to write: those asked for, all for a folder alone, else none."""
    names = [part.strip() for part in given.split(",") if part.strip()]
    for name in names:
        if name not in FILES:
            raise ConfigError(
                f"--format knows no {name!r}", code="CLI-OPTION", fix=suggest(name, FILES)
            )
    if not names and out is not None:
        return list(FILES)
    return list(dict.fromkeys(names))


def _check_places(reference: str, folder: Path | None) -> None:
    """Refuse to write into what is audited: the next audit would find other files."""
    source = Path(reference)
    if folder is None or not source.exists():
        return
    inside = source if source.is_dir() else None
    target = folder.resolve()
    if inside is not None and target.is_relative_to(inside.resolve()):
        raise ConfigError(
            f"{folder} is inside the artefact and would change it", code="PATH-WRITE",
            fix="choose another --out",
        )  # fmt: skip


def _options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return ``AUDIT.KEY=VALUE`` options by audit; a value is read as its option wants it."""
    from peftlab.apps.cli.steps import option_values

    found: dict[str, dict[str, Any]] = {}
    for text in given:
        name, dot, pair = text.partition(".")
        if not dot or not name.strip() or "=" in name:
            raise ConfigError(
                "an option of an audit is not AUDIT.KEY=VALUE", code="CLI-OPTION", got=text,
                fix="write for example -o backdoor.alpha=0.01; `peftlab list audit` has the names",
            )  # fmt: skip
        found.setdefault(name.strip(), {}).update(option_values("audit", name.strip(), [pair]))
    return found


def _write(report: AuditReport, name: str, folder: Path) -> Path:
    from peftlab.io.files import write_atomic, write_json

    path = folder / FILES[name]
    writers: dict[str, Callable[[], None]] = {
        "html": lambda: write_atomic(path, report.to_html()),
        "json": lambda: write_json(path, report.to_json()),
        "sarif": lambda: write_json(path, report.to_sarif()),
    }
    writers[name]()
    return path
