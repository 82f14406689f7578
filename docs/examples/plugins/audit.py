"""Rank budget: an adapter larger than a team agreed to serve is a finding.

It reads shapes alone, so it costs nothing and says nothing about what the weights do.
"""

from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.findings import Severity, rule
from peftlab.core.options import Options, option
from peftlab.core.registry import audit

RANK = rule(
    "EXAMPLE-RANK", Severity.MEDIUM, "an update has a higher rank than was agreed",
    why="memory for serving was planned for less", fix="ask for an adapter of a lower rank",
)  # fmt: skip


class RankOptions(Options):
    """Options of ``example-rank``."""

    most: int = option(64, "highest rank that is served", source="ours", ge=1, le=1024)


@audit("example-rank", options=RankOptions, source="ours", cost="none: shapes only")
class RankBudget:
    """Flag low-rank updates above a rank that a team agreed on."""

    def __init__(self, options: RankOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return a reason where there is no rank to look at."""
        return "" if context.layout.pairs else "no low-rank updates in it"

    def run(self, context: AuditContext) -> AuditResult:
        """Return one finding per update that is too large."""
        pairs = context.layout.pairs
        above = [pair for pair in pairs if pair.rank > self.options.most]
        return AuditResult(
            findings=tuple(RANK.found(pair.a, f"rank {pair.rank}") for pair in above),
            facts={"largest_rank": max(pair.rank for pair in pairs)},
        )
