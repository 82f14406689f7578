"""Activation clustering: the rows of a poisoned class fall into two groups, one of them small.

Idea: rows that were relabelled into a class, and rows that belong there, give the same answer for
different reasons, so their last hidden states form two groups. Within each class the states are
reduced to ``dims`` principal components and split by 2-means into a larger and a smaller cluster.
Which smaller clusters are poison is one of four rules:

    smaller         every one, in every class
    relative-size   those that hold less than ``size`` of their class
    silhouette      those of relative-size whose class has a mean silhouette above ``silhouette``
    distance        a cluster whose median is nearer to the median of another class than to that of
                    its own class, while the other cluster of its class is not

    suspicion = position of a row on the way from the larger cluster's centre (0) to the smaller
                one's (1), cut to [0, 1]; minus 1 in a class without a poisoned cluster

so a dropped row lies above 1/2 and above all others (with ``distance``, which may accuse the larger
cluster, the way runs to the accused one).

Paper: Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering",
2018 (arXiv 1811.03728). Public code: Trusted-AI/adversarial-robustness-toolbox (ART).

Known differences:
    - the default rule is ``silhouette``. ART's, ``smaller``, drops a part of every clean class,
      often nearly half of it;
    - ART's silhouette rule, where it finds poison, marks the *same* cluster clean and poisoned, so
      that the rows of the other cluster get no verdict at all (uninitialised memory). Here the
      other cluster is kept;
    - ART's distance rule compares medians of different classes after each class was centred and
      reduced on its own, where they mean nothing. Here they are medians of the states themselves;
    - the paper reduces by independent component analysis. That is a rotation of the whitened
      principal components, and k-means does not see rotations: ``reduce = "whitened"`` splits a
      class as ICA does. ART fails when a class has fewer rows than dimensions; here the dimensions
      give way;
    - exclusionary reclassification, which trains a second model without the accused rows, is not
      here: a filter has the model of the suspect set alone.

Limits: 2-means cuts where a class varies most, which need not be between clean and poisoned. In a
model that is not sure of its training set the small cluster is what it is unsure of: clean rows,
label errors among them. Measured on 800 generated reviews, 3 passes, one seed: 1 % of the poisoned
and 22 % of the clean rows dropped for a word, none for a sentence, 4 and 16 % for a syntactic
trigger, none where nothing was poisoned. Classes of fewer than 10 rows are not judged.

Cost: one forward pass a row; 2-means O(n d); for the silhouette O(n^2 d), at most 30,000 rows of
one class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import FilterContext, Filtered
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints

FEWEST = 10  # rows of a class that is judged; ours
_ART = "Trusted-AI/adversarial-robustness-toolbox:clustering_analyzer.py"


class ActivationClusteringOptions(Options):
    """Options of activation clustering."""

    dims: int = option(
        10, "components that the hidden states of a class are reduced to",
        source="arXiv 1811.03728", ge=1, le=1000,
    )  # fmt: skip
    reduce: Literal["pca", "whitened"] = option(
        "pca", "principal components, or these scaled to variance 1 (splits as ICA does)",
        source="Trusted-AI/adversarial-robustness-toolbox:activation_defence.py (paper: ICA)",
    )  # fmt: skip
    rule: Literal["smaller", "relative-size", "silhouette", "distance"] = option(
        "silhouette", "which clusters are poison", source=f"ours (ART: smaller); rules: {_ART}"
    )
    size: float = option(
        0.35, "share of its class below which a cluster is small", source=_ART, gt=0, le=0.5
    )
    silhouette: float = option(
        0.1, "mean silhouette above which two clusters are really two", source=_ART, ge=-1, lt=1
    )


@dataclass(frozen=True, slots=True)
class Split:
    """One class, split in two.

    Attributes:
        rows: (m,) row numbers of the class.
        points: (m, k) reduced hidden states.
        labels: (m,) 0: larger cluster, 1: smaller.
        centres: (2, k).
        share: of the smaller cluster.
    """

    rows: Ints
    points: Floats
    labels: Ints
    centres: Floats
    share: float


@defence(
    "activation-clustering",
    options=ActivationClusteringOptions,
    source="arXiv 1811.03728; Trusted-AI/adversarial-robustness-toolbox",
    cost="one pass a row; 2-means a class, silhouettes O(n^2)",
)
class ActivationClustering:
    """Drops the small one of the two groups that the hidden states of a class form."""

    def __init__(self, options: ActivationClusteringOptions) -> None:
        self.options = options

    def keep(self, context: FilterContext) -> Filtered:
        """Return how near each row is to the poisoned cluster of its class, and who is in it.

        Raises:
            ResourceLimit: ``CLUSTER-ROWS``, a class of more than 30,000 rows and ``silhouette``.
        """
        from peftlab.nn.clustering import check_rows
        from peftlab.nn.last_states import last_states

        labels = np.asarray(context.suspect.labels, dtype=np.int64)
        if self.options.rule == "silhouette":
            check_rows(int(np.bincount(labels, minlength=1).max()))
        model, tokenizer = context.load_trained()
        context.progress("activation-clustering: last hidden states of all rows")
        features = last_states(model, tokenizer, context.suspect.texts)
        return self.judge(features, labels, context.seed)

    def judge(self, features: Floats, labels: Ints, seed: int) -> Filtered:
        """Return what the rows of these features and labels come to.

        Args:
            features: (n, d) last hidden states.
            labels: (n,) classes as received.
            seed: of the first centres.
        """
        suspicion, dropped = np.full(len(labels), -1.0), np.zeros(len(labels), dtype=np.bool_)
        by_class: dict[str, Any] = {}
        for c in np.unique(labels):
            split = self._split(features, np.flatnonzero(labels == c), seed, int(c))
            about: dict[str, Any] = {"rows": int((labels == c).sum()), "split": split is not None}
            by_class[str(c)] = about
            if split is None:
                continue
            accused, reasons = self._accused(split, features, labels)
            about |= {"smaller": split.share, "poisoned": accused is not None} | reasons
            side = 1 if accused is None else accused
            way = split.centres[side] - split.centres[1 - side]
            position = (split.points - split.centres[1 - side]) @ way / (way @ way)
            suspicion[split.rows] = np.clip(position, 0, 1) - (accused is None)
            if accused is not None:
                dropped[split.rows] = split.labels == accused
        return Filtered(suspicion, dropped, {"by_class": by_class, "rule": self.options.rule})

    def _split(self, features: Floats, rows: Ints, seed: int, c: int) -> Split | None:
        """Return the two clusters of a class, or None where it is too small or all the same."""
        from peftlab.nn.clustering import k_means
        from peftlab.nn.principal import principal_components

        if len(rows) < FEWEST:
            return None
        points = principal_components(
            features[rows], self.options.dims, whiten=self.options.reduce == "whitened"
        )
        if not points.shape[1]:
            return None
        found = k_means(points, 2, stream(seed, "defence/activation-clustering", c))
        counts = np.bincount(found.labels, minlength=2)
        if not counts.all():  # places that differ by rounding alone
            return None
        order = [0, 1] if counts[0] >= counts[1] else [1, 0]
        labels = np.asarray(order)[found.labels]  # its own inverse
        return Split(rows, points, labels, found.centres[order], float(counts.min() / len(rows)))

    def _accused(
        self, split: Split, features: Floats, labels: Ints
    ) -> tuple[int | None, dict[str, Any]]:
        """Return which cluster is poison, if any, and what was measured for it."""
        from peftlab.nn.clustering import silhouettes

        if self.options.rule == "smaller":
            return 1, {}
        if self.options.rule == "distance":
            return strayed(split, features, labels), {}
        small = split.share < self.options.size
        if self.options.rule == "relative-size":
            return (1 if small else None), {}
        mean = float(silhouettes(split.points, split.labels).mean())
        sure = small and mean > self.options.silhouette
        return (1 if sure else None), {"silhouette": mean}


def strayed(split: Split, features: Floats, labels: Ints) -> int | None:
    """Return the cluster that is nearer to another class than to its own, while the other is not.

    Args:
        split: the clusters of one class.
        features: (n, d) of all rows, in one space.
        labels: (n,) classes.
    """
    own = int(labels[split.rows[0]])
    medians = [np.median(features[split.rows[split.labels == side]], axis=0) for side in (0, 1)]
    home = _lengths(medians, np.median(features[split.rows], axis=0))
    for c in np.unique(labels):
        if c == own:
            continue
        away = _lengths(medians, np.median(features[labels == c], axis=0))
        nearer = away < home
        if nearer[0] != nearer[1]:
            return int(nearer[1])
    return None


def _lengths(points: list[Floats], origin: Floats) -> Floats:
    return np.array([float(np.linalg.norm(point - origin)) for point in points])
