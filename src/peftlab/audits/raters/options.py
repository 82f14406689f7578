"""Options of the audit of rater groups, each with the source of its default."""

from __future__ import annotations

from pydantic import field_validator

from peftlab.audits.raters.cohesion import METRICS, SMOOTHING, Level, Metric, Ties
from peftlab.audits.raters.significance import PValue
from peftlab.core.corrections import Correction
from peftlab.core.options import Options, option


class GraspOptions(Options):
    """Options of the audit."""

    metrics: tuple[Metric, ...] = option(METRICS, "which statistics", source="arXiv 2311.05074")
    level: Level = option(
        "nominal", "distance of labels, for irr and xrr", source="arXiv 2311.05074 3.4.1"
    )
    permutations: int = option(
        2000, "shuffles of the raters; at least 2 tests / 0.05 - 1 of them for corrections to bite",
        source="ours", ge=19, le=1_000_000,
    )  # fmt: skip
    within: tuple[str, ...] = option(
        (), "also shuffle only within levels of these attributes; items: within raters who share "
        "items", source="ours",
    )  # fmt: skip
    correction: Correction = option(
        "bh", "over the groups of an axis: bh, holm, none", source="arXiv 2311.05074 3.3"
    )
    pvalue: PValue = option(
        "two-sided", "paper: the published rule, which rejects too often",
        source="ours; paper: arXiv 2311.05074 3.3",
    )  # fmt: skip
    min_group: int = option(5, "smaller groups are suppressed", source="ours", ge=2, le=1000)
    merge_small: bool = option(False, "merge small groups into (other)", source="ours")
    bootstrap: int = option(1000, "draws; 0: no intervals", source="ours", ge=0, le=100_000)
    ties: Ties = option("lowest", "plurality ties: lowest label, or drop the item", source="ours")
    smoothing: float = option(
        SMOOTHING, "added to counts in cross_negentropy", source="ours; the paper names none",
        gt=0, le=10,
    )  # fmt: skip
    seed: int = option(0, "of everything random", source="ours", ge=0)

    @field_validator("metrics")
    @classmethod
    def _some(cls, names: tuple[Metric, ...]) -> tuple[Metric, ...]:
        if not names or len(set(names)) < len(names):
            raise ValueError("metrics must name one or more different statistics")
        return names
