"""Spectral signatures: poisoned rows pull their class in one direction of the feature space.

Idea: a class that holds poisoned rows is a mixture of two groups whose means differ, and where the
gap is large against the spread within either, it is the direction in which the class varies most.
With the last hidden states h_i of the n rows of one class, their mean m, and v the top right
singular vector of the matrix of rows h_i - m,

    s_i = ((h_i - m) . v)^2                       suspicion_i = s_i / (mean of s over the class)

and the ``multiplier * epsilon * n`` rows of largest s are dropped, in every class. The division
makes classes of different spread comparable; it changes no order within a class.

Paper: Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks", NeurIPS 2018 (arXiv
1811.00636). Public code: MadryLab/backdoor_data_poisoning, Trusted-AI/adversarial-robustness-
toolbox (ART).

Known differences:
    - the original script takes v from the centred rows and then projects the rows *uncentred* (and
      takes the absolute value). A class whose mean lies far along v then has its outliers on the
      side of the origin score lowest. ``compat`` does as the script does;
    - the original script looks at the class that it knows to be the target; here, as in ART, every
      class is judged, since nobody knows it;
    - epsilon is 0.1 as in the original's configuration. ART's default, 0.33, drops half of every
      class;
    - a class whose rows are all the same has no direction, and loses none.

Limits: epsilon is knowledge that a defender rarely has, and that share of each class is dropped
even where nothing is poisoned (0.15 n with the defaults). Epsilon is a share of a class: with two
classes of equal size, a tenth of the whole set that was relabelled into one of them is a sixth of
it. A class varies for other reasons too: in a model that is not sure of its training set, the top
direction is how sure it is. Measured on 800 generated reviews, 3 passes, one seed: AUROC 0.73 for
a word, 0.85 for a sentence, 0.53 for a syntactic trigger, with 14, 29 and 9 % of the poisoned rows
dropped; ``compat``, whose one-sided score happened to point at the poison, 0.85, 0.95 and 0.68.

Cost: one forward pass a row, and one singular value decomposition a class: O(n d^2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from peftlab.core.contracts import FilterContext, Filtered
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.types import Floats, Ints


class SpectralSignaturesOptions(Options):
    """Options of spectral signatures."""

    epsilon: float = option(
        0.1, "largest share of a class that may be poisoned",
        source="MadryLab/backdoor_data_poisoning:config.json, 500 of 5,000 (ART: 0.33)",
        gt=0, le=0.5,
    )  # fmt: skip
    multiplier: float = option(
        1.5, "the share that is dropped of each class, in epsilons",
        source="arXiv 1811.00636", gt=0, le=2,
    )  # fmt: skip
    compat: bool = option(
        False, "project without centring and take the absolute value, as the original script",
        source="MadryLab/backdoor_data_poisoning:compute_corr.py",
    )  # fmt: skip


@defence(
    "spectral-signatures",
    options=SpectralSignaturesOptions,
    source="arXiv 1811.00636; MadryLab/backdoor_data_poisoning",
    cost="one pass a row, one singular value decomposition a class",
)
class SpectralSignatures:
    """Drops the rows that stand out along the direction in which their class varies most."""

    def __init__(self, options: SpectralSignaturesOptions) -> None:
        self.options = options

    def keep(self, context: FilterContext) -> Filtered:
        """Return the normalised squared projection of each row, and the largest of each class."""
        from peftlab.nn.last_states import last_states

        model, tokenizer = context.load_trained()
        context.progress("spectral-signatures: last hidden states of all rows")
        features = last_states(model, tokenizer, context.suspect.texts)
        return self.judge(features, np.asarray(context.suspect.labels, dtype=np.int64))

    def judge(self, features: Floats, labels: Ints) -> Filtered:
        """Return what the rows of these features and labels come to.

        Args:
            features: (n, d) last hidden states.
            labels: (n,) classes as received.
        """
        suspicion, dropped = np.zeros(len(labels)), np.zeros(len(labels), dtype=np.bool_)
        share = self.options.multiplier * self.options.epsilon
        by_class: dict[str, Any] = {}
        for c in np.unique(labels):
            rows = np.flatnonzero(labels == c)
            scores, variance = signature_scores(features[rows], centred=not self.options.compat)
            count = min(int(share * len(rows) + 0.5), len(rows) - 1) if scores.any() else 0
            worst = rows[np.argsort(-scores, kind="stable")[:count]]
            dropped[worst] = True
            suspicion[rows] = scores / (scores.mean() or 1.0)
            by_class[str(c)] = {"rows": len(rows), "dropped": count, "variance_share": variance}
        return Filtered(suspicion, dropped, {"by_class": by_class, "share_of_each_class": share})


def signature_scores(features: Floats, *, centred: bool = True) -> tuple[Floats, float]:
    """Return the score of each row of one class, and the share of its variance along v.

    Args:
        features: (n, d) rows of one class, n >= 1.
        centred: project the centred rows and square; otherwise the rows as they are, absolute.

    Returns:
        (n,) scores, all 0 where the rows are all the same; share in [0, 1].

    Examples:
        >>> scores, share = signature_scores(np.array([[0.0, 1], [0, 1], [3, 1]]))
        >>> scores.round(6).tolist(), round(share, 6)
        ([1.0, 1.0, 4.0], 1.0)
    """
    from peftlab.nn.principal import all_equal, top_direction

    if all_equal(features):
        return np.zeros(len(features)), 0.0
    moved = features - features.mean(axis=0)
    direction = top_direction(moved)
    squares = (moved @ direction) ** 2
    share = min(float(squares.sum() / (moved**2).sum()), 1.0)
    return (squares if centred else np.abs(features @ direction)), share
