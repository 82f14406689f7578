"""What guessing without looking at the weights costs, for whatever sizes occur."""

from __future__ import annotations

import numpy as np

from peftlab.core.types import Ints


def chance(sizes: Ints) -> dict[str, float]:
    """Return the MAE of a uniform guess over the known sizes and of the best constant.

    Args:
        sizes: of the adapters that are guessed.

    Examples:
        >>> {key: round(value, 3) for key, value in chance(np.arange(1, 7)).items()}
        {'uniform_mae': 1.944, 'best_constant_mae': 1.5}
        >>> chance(np.array([1, 50, 100, 500, 1000]))
        {'uniform_mae': 391.68, 'best_constant_mae': 289.8}
    """
    levels = np.unique(sizes)
    far = np.abs(sizes[:, None] - levels[None, :]).mean()
    return {
        "uniform_mae": float(far),
        "best_constant_mae": float(np.abs(sizes - np.median(sizes)).mean()),
    }
