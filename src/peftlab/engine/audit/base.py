"""The base that the operator trusts, opened through the same gate with wider limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftlab.core.errors import ConfigError
from peftlab.core.findings import Check
from peftlab.io.artefact import Artefact
from peftlab.io.gate import Limits, inspect, open_artefact

BUILTIN = "builtin:"
UNTRAINED = "-random"
CONFIG = "config.json"
# A base is chosen by the operator and large by nature; the gate's limits are for strangers.
WIDER = {
    "files": 10_000, "total_bytes": 2**42, "file_bytes": 2**40, "json_bytes": 2**28,
    "json_depth": 100, "header_bytes": 64 * 2**20, "tensors": 2**22,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrustedBase:
    """A base, open: what the user called it, and its files."""

    reference: str
    artefact: Artefact

    def write_config(self, folder: Path) -> None:
        """Write the config that was checked, which is all that a load in the cage needs of it."""
        if CONFIG in self.artefact.files:
            (folder / CONFIG).write_bytes(self.artefact.read(CONFIG))

    def to_json(self) -> dict[str, Any]:
        """Return what results say of it."""
        return {
            "source": self.reference,
            "kind": self.artefact.kind,
            "commit": self.artefact.commit,
            "files": [
                {"name": file.name, "bytes": file.size, "sha256": file.sha256}
                for file in self.artefact.files.values()
            ],
        }


def open_base(reference: str, limits: Limits, *, offline: bool) -> TrustedBase:
    """Open the trusted base.

    Raises:
        ConfigError: ``AUDIT-BASE``, the gate stopped it; ``BASE-BUILTIN``.
    """
    from peftlab.models.load import resolve

    if reference.startswith(BUILTIN) and reference.endswith(UNTRAINED):
        raise ConfigError(
            f"{reference} has random weights, so there is nothing to trust or compare",
            code="AUDIT-BASE", fix=f"name {reference.removesuffix(UNTRAINED)}",
        )  # fmt: skip
    place = str(resolve(reference)) if reference.startswith(BUILTIN) else reference
    wide = {key: max(value, getattr(limits, key)) for key, value in WIDER.items()}
    bounds = limits.model_copy(update=wide)
    artefact, checks = open_artefact(place, limits=bounds, offline=offline)
    if artefact is not None:
        checks = [*checks, *inspect(artefact, limits=bounds)]
    stop = next((check for check in checks if check.status == "stopped"), None)
    if artefact is None or stop is not None:
        if artefact is not None:
            artefact.close()
        raise _stopped(reference, stop)
    return TrustedBase(reference, artefact)


def _stopped(reference: str, check: Check | None) -> ConfigError:
    finding = check.findings[0] if check is not None and check.findings else None
    return ConfigError(
        f"the base {reference} does not pass the gate itself", code="AUDIT-BASE",
        got=None if finding is None else f"{finding.title}: {finding.where} {finding.evidence}",
        fix="name a base that you trust; audit it alone to see all that is wrong with it",
    )  # fmt: skip
