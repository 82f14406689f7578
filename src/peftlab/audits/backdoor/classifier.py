"""Logistic regression on standardised statistics, and what its scores mean.

    score(x) = w . (x - mean) / std + b,   min over w, b of mean logistic loss + (l2 / 2) |w|^2

The number of features exceeds that of adapters, so the penalty matters; it is fixed (1), never
chosen on the bank. Classes are weighted equally.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats, Ints

L2 = 1.0  # ours: with standardised features and classes of equal weight, a strong pull to 0
STEPS, CLOSE = 50, 1e-10
FOLDS = 5  # ours


@dataclass(frozen=True, slots=True)
class Classifier:
    """A fitted logistic regression on F features."""

    mean: Floats
    std: Floats
    weights: Floats
    bias: float

    def scores(self, rows: Floats) -> Floats:
        """Return log odds of being backdoored, (n,), of rows (n, F)."""
        return ((rows - self.mean) / self.std) @ self.weights + self.bias


def fit(rows: Floats, backdoored: Bools, l2: float = L2) -> Classifier:
    """Fit by Newton's method in the span of the rows (n x n instead of F x F systems).

    Args:
        rows: (n, F).
        backdoored: (n,), both kinds among them.
        l2: weight of the penalty.
    """
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    std = np.where(std > 1e-9 * (1 + np.abs(mean)), std, 1.0)  # a constant feature says nothing
    centred = (rows - mean) / std
    kernel = centred @ centred.T
    share = np.where(backdoored, 0.5 / backdoored.sum(), 0.5 / (~backdoored).sum())
    # w = centred^T u; loss = sum share log(1 + exp(-y f)) + l2/2 u^T K u, f = K u + b
    u, bias, n = np.zeros(len(rows)), 0.0, len(rows)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(kernel @ u + bias)))
        slope, curve = share * (p - backdoored), np.maximum(share * p * (1 - p), 1e-12)
        # stationary: slope + l2 u = 0 and sum slope = 0
        system = np.zeros((n + 1, n + 1))
        system[:n, :n] = curve[:, None] * kernel + l2 * np.eye(n)
        system[:n, n], system[n, :n], system[n, n] = curve, curve @ kernel, curve.sum()
        step = np.linalg.solve(system, -np.append(slope + l2 * u, slope.sum()))
        u, bias = u + step[:n], bias + float(step[n])
        if np.abs(step).max() < CLOSE:
            break
    return Classifier(mean, std, centred.T @ u, bias)


def folds(backdoored: Bools, seed: int, n_folds: int = FOLDS) -> Ints:
    """Return the fold of each adapter: random, and of each kind as even as can be."""
    rng = stream(seed, "audits/backdoor/folds")
    fold = np.empty(len(backdoored), dtype=np.int64)
    for kind in (False, True):
        members = rng.permutation(np.flatnonzero(backdoored == kind))
        fold[members] = np.arange(len(members)) % n_folds
    return fold


def cross_scores(rows: Floats, backdoored: Bools, seed: int) -> Floats:
    """Return the score of each adapter by a classifier that has not seen it, (n,)."""
    fold = folds(backdoored, seed)
    scores = np.empty(len(rows))
    for part in range(FOLDS):
        left_out = fold == part
        if left_out.any():
            made = fit(rows[~left_out], backdoored[~left_out])
            scores[left_out] = made.scores(rows[left_out])
    return scores


def p_value(score: float, clean: Floats) -> float:
    """Return the share of clean adapters that look at least as backdoored, the new one included."""
    return float((1 + (clean >= score).sum()) / (len(clean) + 1))


def strangeness(rows: Floats, of: Floats) -> tuple[Floats, Floats]:
    """Return the distances of ``of`` to their nearest row, and those among the rows themselves.

    Distances are Euclidean after standardising by the rows, divided by the number of features.
    """
    std = rows.std(axis=0)
    std = np.where(std > 1e-9 * (1 + np.abs(rows.mean(axis=0))), std, 1.0)

    def nearest(points: Floats, *, itself: bool) -> Floats:
        gaps = ((points[:, None] - rows[None]) / std) ** 2
        distance: Floats = np.sqrt(gaps.mean(axis=2))
        if itself:
            np.fill_diagonal(distance, np.inf)
        return np.asarray(distance.min(axis=1))

    return nearest(of, itself=False), nearest(rows, itself=True)
