"""P values corrected for asking many times: Benjamini and Hochberg 1995, Holm 1979."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Correction = Literal["bh", "holm", "none"]


def corrected(p: Sequence[float], method: Correction = "bh") -> list[float]:
    """Return p values corrected for their number; NaN stays and does not count.

    Args:
        p: raw p values of one family.
        method: ``bh`` (false discovery rate), ``holm`` (any false positive), ``none``.

    Examples:
        >>> corrected([0.01, 0.04, 0.03])
        [0.03, 0.04, 0.04]
    """
    found = np.array(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(found))
    if method == "none" or len(known) == 0:
        return [float(value) for value in found]
    m = len(known)
    order = known[np.argsort(found[known], kind="stable")]
    ranks = np.arange(1, m + 1)
    if method == "bh":
        steps = np.minimum.accumulate((found[order] * m / ranks)[::-1])[::-1]
    else:
        steps = np.maximum.accumulate(found[order] * (m + 1 - ranks))
    found[order] = np.minimum(steps, 1.0)
    return [round(float(value), 12) for value in found]
