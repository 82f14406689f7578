r"""Whether a regular expression can run for ever, told from its form; none is run here.

Let through: module names, ``.``, ``.*``, ``\d+``, ``|``, ``^``, ``$`` and groups of those, while
the product of where the repeats can end and of the alternatives is small.

Refused: what takes exponential time on some name (a repeat of what repeats or has alternatives, a
long row of alternatives or options), a polynomial of high degree (many repeats), references back,
and the notation in which white space does not count. What is left is neither safe nor refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

LONGEST = 2048  # characters; the longest that a trainer in wide use writes has about 600
BOUNDED = 256  # characters of what is let through by its form
NAME_LENGTH = 128  # of a long module name
MOST_STEPS = 2_000_000  # of one match on such a name, by form; about 20 ms
MOST_REPEATS = 6
MOST_WAYS = 100_000  # products of alternatives and options

PLAIN = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_ATOM = r"(?:[\w\-]|\\[.\-_]|\\d\+?|\.(?:[*+]\??)?)"
_GROUP = rf"\((?:\?:)?{_ATOM}*+(?:\|{_ATOM}*+)*+\)(?![*+?{{])"
SAFE = re.compile(rf"(?:\^|\$|\||{_ATOM}|{_GROUP})*+", re.ASCII)
_TOKEN = re.compile(
    r"""
    (?P<escape>   \\. )
  | (?P<set>      \[\^?\]?(?:\\.|[^\]\\])*+\] )
  | (?P<back>     \(\?P= | \(\?\( )
  | (?P<flags>    \(\?[a-zA-Z\-]+[:)] )
  | (?P<open>     \((?:\?(?:[:=!>]|<[=!]|P<\w+>))? )
  | (?P<close>    \) )
  | (?P<repeat>   (?:[*+]|\{(?:\d+(?:,\d*)?|,\d*)\})[?+]? )
  | (?P<optional> \?[?+]? )
  | (?P<either>   \| )
  | (?P<other>    . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(slots=True)
class _Reading:
    """What is known of a pattern while it is read from left to right."""

    varied: list[bool] = field(default_factory=lambda: [False])  # of each open group
    alternatives: list[int] = field(default_factory=lambda: [1])
    last_varied: bool = False  # of the unit just read, to which a repeat would apply
    repeats: int = 0
    ways: int = 1


def refusal(text: object, *, inside: bool = False) -> str | None:
    r"""Return why a pattern is refused by its form; empty if it is safe, None if that is open.

    Args:
        text: as it stands in a config.
        inside: it is used after a ``.*`` of the library's own.

    Examples:
        >>> refusal(r".*\.(q_proj|v_proj)")
        ''
        >>> refusal("([a-z.0-9]+)+!")
        'a repeat of what repeats or has alternatives'
        >>> refusal(r"(?!.*visual).*proj") is None
        True
    """
    if not isinstance(text, str):
        return f"a {type(text).__name__}, not text"
    if PLAIN.fullmatch(text):
        return ""
    if len(text) > LONGEST:
        return f"{len(text)} characters, more than {LONGEST}"
    if not text.isprintable():
        return "characters that cannot be printed"
    if len(text) <= BOUNDED and SAFE.fullmatch(text) and _steps(text, inside) <= MOST_STEPS:
        return ""
    return _bad_form(text)


def _steps(text: str, inside: bool) -> int:  # noqa: FBT001
    """Bound the steps of a safe pattern on a long name."""
    repeats = len(re.findall(r"(?<!\\)[*+]", text)) + inside
    ways = math.prod(part.count("|") + 1 for part in re.split(r"[()]", text))
    return math.comb(NAME_LENGTH + repeats, repeats) * ways


def _bad_form(text: str) -> str | None:
    read = _Reading()
    for token in _TOKEN.finditer(text):
        kind, piece = str(token.lastgroup), token.group()
        if kind == "back" or (kind == "escape" and piece[1] in "123456789"):
            return "a reference back"
        if kind == "flags" and "x" in piece:
            return "notation in which white space does not count"
        if kind == "repeat" and read.last_varied:
            return "a repeat of what repeats or has alternatives"
        _take(read, kind, piece)
    read.ways *= math.prod(read.alternatives)
    if read.repeats > MOST_REPEATS:
        return f"{read.repeats} repeats, more than {MOST_REPEATS}"
    return f"more than {MOST_WAYS} ways to match" if read.ways > MOST_WAYS else None


def _take(read: _Reading, kind: str, piece: str) -> None:
    if kind == "open" or (kind == "flags" and piece.endswith(":")):
        read.varied.append(False)
        read.alternatives.append(1)
        read.last_varied = False
    elif kind == "close" and len(read.varied) > 1:
        read.last_varied = read.varied.pop()
        read.varied[-1] |= read.last_varied
        read.ways = min(read.ways * read.alternatives.pop(), 2 * MOST_WAYS)
    elif kind == "repeat":
        read.repeats += 1
        read.varied[-1] = read.last_varied = True
    elif kind == "optional":
        read.ways = min(2 * read.ways, 2 * MOST_WAYS)
        read.varied[-1] = read.last_varied = True
    elif kind == "either":
        read.alternatives[-1] += 1
        read.varied[-1], read.last_varied = True, False
    else:
        read.last_varied = False
