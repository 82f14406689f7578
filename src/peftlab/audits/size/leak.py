"""How much an adapter tells about its size, in bits: mutual information of size and guess.

    I = sum over n, m of p(n, m) log2( p(n, m) / (p(n) p(m)) )

from a confusion matrix of adapters that the head has not seen. The plug-in estimate is too high by
about (R - 1)(C - 1) / (2 N ln 2) bits with R, C rows and columns in use (Miller and Madow 1955),
which is taken off. It is what *this* head reads, so a lower bound on what the weights tell; the
upper bound is the entropy of the sizes.
"""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Floats, Ints


def entropy_bits(counts: Ints | Floats) -> float:
    """Return the entropy of a distribution given by counts."""
    share = np.asarray(counts, dtype=float)
    share = share[share > 0] / max(share.sum(), 1e-300)
    return float(-(share * np.log2(share)).sum()) + 0.0


def mutual_information(confusion: Ints | Floats) -> float:
    """Return I in bits, at least 0, with the bias of small samples taken off.

    Args:
        confusion: (K, K) counts: true size by guessed size.

    Examples:
        >>> round(mutual_information(np.eye(4) * 1000), 2)
        2.0
        >>> mutual_information(np.ones((4, 4)))
        0.0
    """
    table = np.asarray(confusion, dtype=float)
    total = table.sum()
    if total <= 0:
        return 0.0
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    plain = entropy_bits(rows) + entropy_bits(columns) - entropy_bits(table.ravel())
    used = table > 0
    # Miller and Madow correct each entropy by (cells in use - 1) / 2N
    spare = (int(used.sum()) - 1) - (int((rows > 0).sum()) - 1) - (int((columns > 0).sum()) - 1)
    return max(0.0, float(plain - spare / (2 * total * np.log(2))))
