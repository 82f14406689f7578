"""Named random streams: the same (seed, path) gives the same numbers, whatever ran before.

Library code never touches the global generators of ``random``, ``numpy`` or ``torch``.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, *path: str | int) -> int:
    """Return a 63-bit seed for one named place, e.g. ``derive(0, "attack/badnets", 17)``."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *path: str | int) -> np.random.Generator:
    """Return the generator of one named place.

    Examples:
        >>> int(stream(0, "demo").integers(100)) == int(stream(0, "demo").integers(100))
        True
    """
    return np.random.Generator(np.random.Philox(derive(seed, *path)))
