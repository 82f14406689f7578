r"""Whether a regular expression can run for ever, told from its form; none is run here.

A pattern is read into a tree, and the ways in which its parts can match a long name are multiplied
up: each repeat may end where what follows can begin, each option is taken or not, each alternative
may fit. That product bounds the steps of a matcher that tries them all, which Python's does.
Refused are a large product, a repeat of something that can itself match in several ways (there the
number is exponential in the length of the name), references back, and notation that is not read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 2048  # characters; the longest that a trainer in wide use writes has about 600
BOUNDED = 256  # characters of what need not be tried
NAME_LENGTH = 128  # of a long module name
MOST_STEPS = 2_000_000  # of one match on such a name; about 20 ms
DEEPEST = 20  # groups in groups

PLAIN = re.compile(r"[A-Za-z0-9_.\-]{1,256}")
_TOKEN = re.compile(
    r"""
    (?P<edge>     [\^$] | \\[bBAZ] )
  | (?P<back>     \\[1-9] | \(\?P= | \(\?\( )
  | (?P<several>  \. | \\[dDwWsS] | \[\^?\]?(?:\\.|[^\]\\])*+\] )
  | (?P<case>     \(\?i\) )
  | (?P<look>     \(\?(?:[=!]|<[=!]) )
  | (?P<open>     \((?:\?(?::|P<\w+>)|(?!\?)) )
  | (?P<close>    \) )
  | (?P<repeat>   (?:[*+]|\{(?:\d+(?:,\d*)?|,\d*)\})[?+]? )
  | (?P<optional> \?[?+]? )
  | (?P<either>   \| )
  | (?P<letter>   \\[^A-Za-z0-9] | [^\\(\[] )
    """,
    re.VERBOSE | re.DOTALL,
)


class _Refused(Exception):
    """The pattern is refused; the message says why."""


@dataclass(slots=True)
class _Part:
    """One part of a sequence.

    Attributes:
        words: the texts that it matches, if they can be listed.
        inner: of a group, its alternatives.
        varied: it repeats something, leaves something out, or has alternatives.
        repeats: it is repeated itself.
        optional: it may be left out.
        edge: it takes no characters; ``end`` if it holds at the end of the name only.
        anything: it matches every character.
    """

    words: tuple[str, ...] = ()
    inner: tuple[list[_Part], ...] = ()
    varied: bool = False
    repeats: bool = False
    optional: bool = False
    edge: str = ""
    anything: bool = False


def refusal(text: object, *, inside: bool = False) -> str | None:
    r"""Return why a pattern is refused by its form; empty if it is safe, None if it is to be tried.

    Args:
        text: as it stands in a config.
        inside: the library puts it behind a ``.*`` of its own.

    Examples:
        >>> refusal(r".*\.(q_proj|v_proj)")
        ''
        >>> refusal("([a-z.0-9]+)+!")
        'a repeat of what repeats or has alternatives'
        >>> refusal(r"(?!.*visual).*proj") is None
        True
    """
    if isinstance(text, str) and PLAIN.fullmatch(text):
        return ""
    try:
        steps, simple = _read(text, inside=inside)
    except _Refused as error:
        return str(error)
    if steps > MOST_STEPS:
        return f"{steps:.0e} ways to match a long name"
    return "" if simple else None


def _read(text: object, *, inside: bool) -> tuple[float, bool]:
    """Return the steps that a pattern may take, and whether it is of the simplest kind."""
    if not isinstance(text, str):
        raise _Refused(f"a {type(text).__name__}, not text")
    if len(text) > LONGEST:
        raise _Refused(f"{len(text)} characters, more than {LONGEST}")
    if not (text.isascii() and text.isprintable()):
        raise _Refused("characters that no module name has")
    reader = _Reader(text)
    whole = reader.group()
    own = NAME_LENGTH / 2 if inside else 1  # of the .* in front, which ends at a dot
    return _ways_of(whole, last=not inside) * own, reader.simple and len(text) <= BOUNDED


class _Reader:
    """Reads a pattern from left to right."""

    def __init__(self, text: str) -> None:
        self.simple = True
        self._tokens = self._split(text)
        self._depth = 0

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise _Refused("notation that is not read here")
            yield str(found.lastgroup), found.group()
            at = found.end()
        yield "end", ""

    def group(self) -> _Part:
        """Read alternatives up to the end of a group, or of the pattern."""
        self._depth += 1
        self.simple &= self._depth <= 2
        if self._depth > DEEPEST:
            raise _Refused("groups in groups in groups")
        sequences: list[list[_Part]] = [[]]
        while (token := next(self._tokens))[0] not in {"close", "end"}:
            if token[0] == "either":
                sequences.append([])
            else:
                self._take(sequences[-1], *token)
        if (token[0] == "end") != (self._depth == 1):
            raise _Refused("brackets that do not match")
        self._depth -= 1
        return _joined(sequences)

    def _take(self, parts: list[_Part], kind: str, piece: str) -> None:
        """Add what a token stands for to a sequence, or change its last part."""
        if kind == "back":
            raise _Refused("a reference back")
        if kind in {"repeat", "optional"}:
            self._change(parts, kind, piece)
        elif kind == "letter":
            parts.append(_Part(words=(piece[-1],)))
        elif kind == "several":
            self.simple &= piece in {".", r"\d"}
            parts.append(_Part(anything=piece == "."))
        elif kind == "edge":
            parts.append(_Part(edge="end" if piece in {"$", r"\Z"} else "some"))
        elif kind == "case":
            self.simple = False
        else:
            part = self.group()
            if kind == "look":
                part.edge, part.words, self.simple = "some", (), False
            parts.append(part)

    def _change(self, parts: list[_Part], kind: str, piece: str) -> None:
        if not parts or parts[-1].edge:
            raise _Refused("a repeat of nothing")
        part = parts[-1]
        if kind == "repeat":
            if part.varied or part.repeats or part.optional:
                raise _Refused("a repeat of what repeats or has alternatives")
            part.repeats = True
            self.simple &= piece in {"*", "+", "*?", "+?"}
        else:
            if part.repeats or part.optional:
                raise _Refused("a repeat of what repeats or has alternatives")
            part.optional, self.simple = True, False


def _joined(sequences: list[list[_Part]]) -> _Part:
    """Return alternatives as one part."""
    lists = [_words(parts) for parts in sequences]
    varied = len(sequences) > 1 or any(
        part.varied or part.repeats or part.optional for part in sequences[0]
    )
    if all(words is not None for words in lists):
        return _Part(words=tuple(word for words in lists for word in words or ()), varied=varied)
    return _Part(inner=tuple(sequences), varied=varied)


def _words(parts: list[_Part]) -> tuple[str, ...] | None:
    """Return the one text of a sequence of letters, else None."""
    if any(len(part.words) != 1 or part.repeats or part.optional for part in parts):
        return None
    return ("".join(part.words[0] for part in parts),)


def _overlap(words: tuple[str, ...]) -> int:
    """Return how many of the words can match at one place: those that one of them begins with."""
    alike = Counter(word.lower() for word in words)  # (?i) may stand in front of everything
    starts = (sum(alike[word[:end]] for end in range(len(word) + 1)) for word in alike)
    return max(starts, default=1)


def _ways_of(part: _Part, *, last: bool) -> float:
    """Return in how many ways a part matches at one place; ``last``: nothing follows it."""
    if not part.inner:
        return _overlap(part.words)
    return sum(_ways(parts, last=last and not part.edge) for parts in part.inner)


def _ways(parts: list[_Part], *, last: bool) -> float:
    """Return in how many ways a sequence matches at one place of a long name."""
    ways = ends = 1.0
    repeats = 0
    follows = NAME_LENGTH if last else 0  # letters that must follow
    for number, part in reversed(list(enumerate(parts))):
        at_end = last and number == len(parts) - 1
        whole = at_end and not (part.repeats or part.optional)
        ways *= _ways_of(part, last=whole) * (2 if part.optional else 1)
        if part.repeats and not (at_end and part.anything):  # a last .* takes all that is left
            ends *= NAME_LENGTH / (follows + 1)
            repeats += 1
        if part.edge == "end":
            follows = NAME_LENGTH
        elif part.repeats or part.optional or not (part.words or part.edge):
            follows = 0
        elif part.words:
            follows += min(map(len, part.words))
    return ways * min(ends, math.comb(NAME_LENGTH + repeats, repeats))
