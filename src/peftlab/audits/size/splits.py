"""Training and test adapters, cut by concept: adapters of one concept share images.

A cut through a concept would let a head recognise the concept instead of the size, so ``check`` is
called on every split that is used, wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from peftlab.core.errors import ConfigError
from peftlab.core.seeds import stream
from peftlab.core.types import Ints

TRAIN = 15  # concepts (arXiv 2406.19395, section 6.1)
LEFT = 5  # concepts that must be left to test on, before fewer than TRAIN are trained on


def by_name(
    names: Sequence[str], train: int | None, repeats: int, seed: int
) -> list[tuple[Ints, Ints]]:
    """Return (train rows, test rows) of each repeat.

    Args:
        names: concept of each adapter.
        train: concepts to train on; None: 15, or three quarters where that leaves fewer than 5.
        repeats: random splits.
        seed: of the draws.

    Raises:
        ConfigError: ``SIZE-SPLIT`` if there are too few concepts.

    Examples:
        >>> [(a.tolist(), b.tolist()) for a, b in by_name(["x", "y", "x"], 1, 1, 0)]
        [([1], [0, 2])]
    """
    concepts, own = sorted(set(names)), np.array(names)
    wanted = default_train(len(concepts)) if train is None else train
    if not 1 <= wanted < len(concepts):
        raise ConfigError(
            "there are too few concepts to train and test on different ones", code="SIZE-SPLIT",
            got=f"{len(concepts)} concepts, {wanted} to train on",
            allowed=f"1 to {len(concepts) - 1} to train on",
            fix="lower the number of training concepts, or use a larger bank",
        )  # fmt: skip
    found = []
    for repeat in range(repeats):
        order = stream(seed, "size/split", repeat).permutation(len(concepts))
        inside = np.isin(own, [concepts[i] for i in order[:wanted]])
        found.append((np.flatnonzero(inside), np.flatnonzero(~inside)))
    return found


def default_train(concepts: int) -> int:
    """Return how many concepts to train on when nobody says.

    Examples:
        >>> default_train(50), default_train(12), default_train(2)
        (15, 9, 1)
    """
    return TRAIN if concepts >= TRAIN + LEFT else max(1, (3 * concepts) // 4)


def check(names: Sequence[str], train: Ints, test: Ints) -> None:
    """Refuse a split that has a concept, or an adapter, on both sides.

    Raises:
        AssertionError: that is a fault of the program, never of the data.
    """
    both = {names[i] for i in train} & {names[i] for i in test}
    if both:
        raise AssertionError(f"concepts on both sides of a split: {sorted(both)[:3]}")
