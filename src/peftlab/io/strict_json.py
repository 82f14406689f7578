"""JSON without surprises: finite numbers only, no key twice, always valid UTF-8."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from peftlab.core.errors import InputRejected

# a string, its escapes included, closed or not (else a lone quote would be tried to the end again)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BLOCK = 2**18
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _plain(value: object) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")


def dump_json(obj: object, *, indent: int | None = None) -> str:
    """Return strict JSON text that always encodes as UTF-8; numpy values become plain ones.

    Raises:
        ValueError: a number in ``obj`` is not finite (write None and a reason instead).
        TypeError: a value in ``obj`` has no JSON form.
    """
    text = json.dumps(obj, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate in a hostile text: escape it
        return json.dumps(obj, indent=indent, allow_nan=False, default=_plain)
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def nesting(content: bytes | memoryview) -> int:
    """Return how deeply lists and objects are nested, without parsing; in linear time.

    Of what is not JSON it is an upper bound of what a parser meets before it says so.

    Examples:
        >>> nesting(b'{"a": [1, "[["]}')
        2
    """
    brackets = bytes(_STRING.sub(b"", content)).translate(None, _NOT_BRACKETS)
    here = deepest = 0
    for start in range(0, len(brackets), _BLOCK):
        codes = np.frombuffer(brackets[start : start + _BLOCK], np.uint8)
        opens = (codes == ord("[")) | (codes == ord("{"))
        depths = here + np.cumsum(np.where(opens, 1, -1))
        here, deepest = int(depths[-1]), max(deepest, int(depths.max()))
    return deepest


def most_values(content: bytes | memoryview) -> int:
    """Return an upper bound of how many values a JSON text holds, without parsing; linear.

    Examples:
        >>> most_values(b'{"a": [1, "x,y"]}')
        4
    """
    outside = bytes(_STRING.sub(b"", content))
    return 1 + sum(map(outside.count, (b",", b"[", b"{")))


def parse_json(content: bytes, source: str) -> Any:
    """Parse strict JSON: UTF-8, no key twice, no NaN or Infinity.

    What comes from outside is nested at most as deep as Python's parser goes (``nesting``).

    Args:
        content: the bytes.
        source: where they come from, for the message.

    Raises:
        InputRejected: ``JSON-BAD``.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputRejected(
            f"{source} is not valid JSON",
            code="JSON-BAD",
            got=reason,
            allowed="UTF-8, no key twice, no NaN or Infinity",
            fix="mend the file, or get it again from where it came",
        ) from None
