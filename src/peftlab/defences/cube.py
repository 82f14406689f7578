"""CUBE: cluster the training set by density, and keep the main cluster of each label.

Idea: in a model trained on the suspect set, rows that carry a trigger gather in a dense group of
their own. The last hidden states of all rows are reduced to a few dimensions and clustered by
HDBSCAN. Among the rows of one label the largest cluster is the label's body; every other cluster
with less than ``share`` of the label's rows is dropped.

    suspicion = 0 in the body of the label, else 1 - (rows of the label in this cluster) /
                (rows of the label)

Paper: Cui et al., "A Unified Evaluation of Textual Backdoor Learning: Frameworks and Benchmarks",
NeurIPS 2022 (arXiv 2206.08514). Public code: thunlp/OpenBackdoor.

Known differences:
    - principal components only. The paper goes on from 20 of them to two dimensions by UMAP, which
      is a large dependency, and which pulls dense groups apart. Without it density thins out in 20
      dimensions (hence ``dims`` = 5), more rows belong to no cluster, and the gap between two
      classes hides a smaller one within either. Each label is therefore clustered on its own
      (``scope = "label"``; the paper: ``"all"``);
    - HDBSCAN calls rows that belong to no cluster noise (-1). OpenBackdoor counts them as one more
      cluster: where they are fewer than half of a label they are all dropped, and where they
      outnumber the label's real cluster *that* is dropped. Here each goes with the nearest row
      that has a cluster (``noise = "nearest"``), or is kept (``"keep"``); ``"cluster"`` is theirs;
    - ``min_samples`` counts the row itself, and is at most a twentieth of the rows (or 10): of few
      rows 100 would be more than there are poisoned ones;
    - the hidden state at the first position (last, for decoders); OpenBackdoor takes what the
      pooler makes of it;
    - the model that is looked at is the caller's, trained on the suspect set with the caller's
      settings; OpenBackdoor always trains RoBERTa-base for 10 epochs.

Limits: it needs a model that has learned the set well. In one that has not, a trigger's rows lie
within the cluster of the target class, and what is dropped is what the model gets wrong. A trigger
whose rows are denser than the clean rows of their label can become the body of that label.
Measured on 800 generated reviews, 3 passes, one seed, shares of poisoned and clean rows dropped: a
word 99 and 1 %, a sentence 100 and 33 %, a syntactic trigger 0 and 8 %, nothing poisoned 0 %.
``dims`` and ``scope`` were chosen on these very runs, so expect less. 20 components of all rows, as
the paper but for UMAP, drop 0 and 7 to 11 %, with noise as a cluster up to 12 and 30 to 44 %. On
SST-2 others report a success rate that stays at 0.7 (thunlp/OpenBackdoor, issue 26).

Cost: one forward pass a row and O(n^2) distances; at most 30,000 rows.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import FilterContext, Filtered
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.types import Bools, Floats, Ints

REDUCTION = "principal components (the paper: and then UMAP)"
LEAST = 10  # to which min_samples may shrink; with fewer, small clouds fall to pieces (ours)
SHARE = 20  # min_samples is at most one in so many rows (ours; 1 in 69 on SST-2 as published)
_CODE = "thunlp/OpenBackdoor:cube_defender.py"


class CubeOptions(Options):
    """Options of CUBE."""

    dims: int = option(
        5, "principal components that the hidden states are reduced to",
        source="ours (thunlp/OpenBackdoor: 20, then UMAP to 2)", ge=1, le=1000,
    )  # fmt: skip
    scope: Literal["label", "all"] = option(
        "label", "cluster the rows of each label on their own, or all rows together",
        source="ours (thunlp/OpenBackdoor: all, after UMAP)",
    )  # fmt: skip
    min_samples: int = option(
        100, "rows that a core distance reaches over; at most a twentieth of them, or 10",
        source=_CODE, ge=1, le=10_000,
    )  # fmt: skip
    min_cluster_size: int = option(
        5, "rows of the smallest cluster", source="scikit-learn-contrib/hdbscan, as OpenBackdoor",
        ge=2, le=10_000,
    )  # fmt: skip
    noise: Literal["nearest", "keep", "cluster"] = option(
        "nearest", "rows in no cluster: join that of the nearest row, are kept, or are a cluster",
        source=f"ours (cluster: {_CODE})",
    )  # fmt: skip
    share: float = option(
        0.5, "share of its label below which a cluster that is not the largest is dropped",
        source=_CODE, gt=0, le=1,
    )  # fmt: skip


@defence(
    "cube",
    options=CubeOptions,
    source="arXiv 2206.08514; thunlp/OpenBackdoor",
    cost="one pass a row, and distances between all rows",
)
class Cube:
    """Drops the rows that lie outside the main cluster of their label."""

    def __init__(self, options: CubeOptions) -> None:
        self.options = options

    def keep(self, context: FilterContext) -> Filtered:
        """Return how small the cluster of each row is within its label, and who is dropped.

        Raises:
            ResourceLimit: ``CLUSTER-ROWS`` above 30,000 rows.
        """
        from peftlab.nn.clustering import check_rows
        from peftlab.nn.last_states import last_states

        labels = np.asarray(context.suspect.labels, dtype=np.int64)
        check_rows(max((int(rows.sum()) for rows in self._scopes(labels)), default=0))
        model, tokenizer = context.load_trained()
        context.progress("cube: last hidden states of all rows")
        features = last_states(model, tokenizer, context.suspect.texts)
        context.progress("cube: distances between all rows")
        return self.judge(features, labels)

    def judge(self, features: Floats, labels: Ints) -> Filtered:
        """Return what the rows of these features and labels come to.

        Args:
            features: (n, d) last hidden states.
            labels: (n,) classes as received.
        """
        found = np.zeros(len(labels), dtype=np.int64)
        scopes = []
        for rows in self._scopes(labels):
            found[rows], about = self._cluster(features[rows])
            scopes.append(about)
        suspicion, dropped = np.zeros(len(labels)), np.zeros(len(labels), dtype=np.bool_)
        by_class: dict[str, Any] = {}
        for c in np.unique(labels):
            mine = labels == c
            sizes = _sizes(found[mine], count_noise=self.options.noise == "cluster")
            by_class[str(c)] = {"rows": int(mine.sum()), "clusters": sorted(sizes.values())[::-1]}
            body = max(sizes, key=lambda each: sizes[each], default=None)
            for cluster, size in sizes.items():
                rows = mine & (found == cluster)
                if cluster != body:
                    suspicion[rows] = 1 - size / mine.sum()
                    dropped[rows] = size < self.options.share * mine.sum()
        facts = {"reduction": REDUCTION, "scope": self.options.scope, "clustered": scopes}
        return Filtered(suspicion, dropped, {**facts, "by_class": by_class})

    def _scopes(self, labels: Ints) -> list[Bools]:
        """Return the sets of rows that are clustered together; none where there is no row."""
        if self.options.scope == "all" and len(labels):
            return [np.ones(len(labels), dtype=np.bool_)]
        return [labels == c for c in np.unique(labels)]

    def _cluster(self, features: Floats) -> tuple[Ints, dict[str, Any]]:
        """Return the cluster of each row, or -1, and facts."""
        from peftlab.nn.density_clusters import NOISE, density_clusters
        from peftlab.nn.principal import principal_components

        points = principal_components(features, self.options.dims)
        samples = min(self.options.min_samples, max(len(points) // SHARE, LEAST))
        found = density_clusters(
            points, min_samples=samples, min_cluster_size=self.options.min_cluster_size
        )
        facts = {
            "dims": points.shape[1],
            "min_samples": samples,
            "clusters": int(found.max()) + 1,
            "noise_share": float((found == NOISE).mean()),
        }
        if self.options.noise == "nearest":
            found = join_nearest(points, found)
        return found, facts


def join_nearest(points: Floats, clusters: Ints) -> Ints:
    """Return clusters in which every row of noise has the cluster of the nearest row that has one.

    Args:
        points: (n, k).
        clusters: (n,) 0 .. or -1; returned as they are where there is no cluster.

    Examples:
        >>> join_nearest(np.array([[0.0], [4], [6], [9]]), np.array([0, -1, -1, 1])).tolist()
        [0, 0, 1, 1]
    """
    from peftlab.nn.clustering import distances

    lost, sure = np.flatnonzero(clusters < 0), np.flatnonzero(clusters >= 0)
    joined = clusters.copy()
    if len(sure):
        for rows, apart in distances(points[lost], points[sure]):
            joined[lost[rows]] = clusters[sure[apart.argmin(axis=1)]]
    return joined


def _sizes(clusters: Ints, *, count_noise: bool) -> dict[int, int]:
    used, counts = np.unique(clusters, return_counts=True)
    return {
        int(each): int(count)
        for each, count in zip(used, counts, strict=True)
        if each >= 0 or count_noise
    }
