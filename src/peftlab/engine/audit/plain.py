"""Values as JSON holds them: no numpy, no tuples, no number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return ``value`` as plain JSON values; infinities and NaN by name.

    Raises:
        TypeError: there is no JSON form.

    Examples:
        >>> plain({"norm": float("inf"), "shape": (2, 3)})
        {'norm': 'inf', 'shape': [2, 3]}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} is not JSON")
