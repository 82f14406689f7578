r"""Word vectors from counts: a warm start for the embeddings of a masked language model.

Count which tokens stand near each other, weighted by one over their distance, then

.. math:: M_{ij} = \max\left(0, \log\frac{C_{ij} \sum_k c_k^{0.75}}{r_i \, c_j^{0.75}}\right),
          \qquad M \approx U S V^T, \qquad E = U \sqrt{S}

with row sums :math:`r` and column sums :math:`c` of the counts :math:`C`.

Source: Levy, Goldberg and Dagan 2015 (context distribution smoothing, eigenvalue weighting);
Halko, Martinsson and Tropp 2011 (randomised SVD).

Cost: three dense passes of V x V float32, 268 MB and about ten seconds on one core at V = 8,192.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftlab.core.errors import ResourceLimit
from peftlab.core.seeds import stream

VOCABULARY_LIMIT = 32_768  # ours: 4 GiB of counts
_CHUNK = 2_000_000

Matrix = NDArray[np.float32]


def neighbour_counts(
    tokens: NDArray[np.unsignedinteger[Any]], vocabulary: int, window: int = 5
) -> Matrix:
    """Count neighbours in both directions, each pair weighted by one over its distance.

    Args:
        tokens: (n,) token numbers.
        vocabulary: V.
        window: largest distance.

    Returns:
        (V, V) symmetric counts.

    Raises:
        ResourceLimit: ``PPMI-SIZE``, the vocabulary is too large for a dense matrix.
    """
    if vocabulary > VOCABULARY_LIMIT:
        raise ResourceLimit(
            "the vocabulary is too large for the warm start",
            code="PPMI-SIZE",
            got=vocabulary,
            allowed=f"at most {VOCABULARY_LIMIT}",
            fix="choose a smaller vocabulary, or start from random embeddings",
        )
    counts = np.zeros(vocabulary * vocabulary, dtype=np.float32)
    for distance in range(1, window + 1):
        for start in range(0, len(tokens) - distance, _CHUNK):
            stop = min(start + _CHUNK, len(tokens) - distance)
            left = tokens[start:stop].astype(np.int64)
            right = tokens[start + distance : stop + distance].astype(np.int64)
            pairs, times = np.unique(left * vocabulary + right, return_counts=True)
            counts[pairs] += (times / distance).astype(np.float32)
    one_way = counts.reshape(vocabulary, vocabulary)
    return one_way + one_way.T


def ppmi(counts: Matrix, smoothing: float = 0.75) -> Matrix:
    """Return positive pointwise mutual information; 0 where nothing was counted.

    Args:
        counts: (V, V) weighted counts, row = word, column = context.
        smoothing: power of the context counts.

    Examples:
        >>> ppmi(np.array([[0, 2], [2, 0]], dtype=np.float32)).round(3).tolist()
        [[0.0, 0.693], [0.693, 0.0]]
    """
    rows = counts.sum(axis=1, dtype=np.float64)
    contexts = counts.sum(axis=0, dtype=np.float64) ** smoothing
    with np.errstate(divide="ignore"):
        log_rows = np.log(rows)
        log_contexts = np.log(contexts / contexts.sum()) if contexts.any() else np.log(contexts)
    result = np.zeros_like(counts)
    for row in range(len(counts)):  # by row: no second matrix of this size in float64
        seen = np.flatnonzero(counts[row])
        information = np.log(counts[row, seen]) - log_rows[row] - log_contexts[seen]
        result[row, seen] = np.maximum(information, 0)
    return result


def randomised_svd(
    matrix: Matrix, rank: int, seed: int, *, extra: int = 10, rounds: int = 2
) -> tuple[Matrix, Matrix]:
    """Return the leading left singular vectors and values of ``matrix``.

    Args:
        matrix: (m, n).
        rank: how many, at most min(m, n).
        seed: of the random test matrix.
        extra: further columns of the test matrix (Halko et al. 2011, 1.3: 5 or 10).
        rounds: power iterations, for spectra that fall slowly.

    Returns:
        U (m, rank) and S (rank,), largest first.
    """
    width = min(rank + extra, *matrix.shape)
    test = stream(seed, "ppmi/svd").standard_normal((matrix.shape[1], width), dtype=np.float32)
    basis = np.linalg.qr(matrix @ test)[0]
    for _ in range(rounds):
        basis = np.linalg.qr(matrix.T @ basis)[0]
        basis = np.linalg.qr(matrix @ basis)[0]
    left, values, _ = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left[:, :rank], values[:rank]


def warm_start(
    tokens: NDArray[np.unsignedinteger[Any]],
    vocabulary: int,
    width: int,
    seed: int,
    *,
    scale: float = 0.05,
) -> tuple[Matrix, Matrix]:
    """Return the embeddings and the output bias that a masked language model starts from.

    Args:
        tokens: (n,) token numbers of the training text.
        vocabulary: V.
        width: of the embeddings.
        seed: of the SVD, and of the rows of tokens that never occur (the special ones).
        scale: standard deviation of the embeddings.

    Returns:
        (V, width) embeddings; (V,) bias, the log of the smoothed unigram frequency.

    Source: our measurement; with it the loss leaves its long plateau after 4 M tokens.
    """
    matrix = ppmi(neighbour_counts(tokens, vocabulary))
    left, values = randomised_svd(matrix, min(width, vocabulary), seed)
    vectors = left * np.sqrt(values)
    embeddings = stream(seed, "ppmi/unseen").standard_normal((vocabulary, width), dtype=np.float32)
    embeddings *= scale
    seen = np.flatnonzero(matrix.any(axis=1))
    spread = vectors[seen].std() if len(seen) else 1.0
    embeddings[seen, : vectors.shape[1]] = vectors[seen] * (scale / spread)
    times = np.bincount(tokens, minlength=vocabulary) + 1.0
    return embeddings, np.log(times / times.sum()).astype(np.float32)
