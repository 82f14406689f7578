"""Text from outside made safe to print: no name or text may steer a terminal.

A model folder, a label or a text can hold escape sequences that recolour, retitle or rewrite what
stands on the screen, and marks that turn the reading direction round.
"""

from __future__ import annotations

import re

# C0 and C1 controls (without tab and newline), bidirectional marks, invisible separators, lone
# surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return ``text`` with every unsafe character written as its escape; harmless text is kept.

    Inside a JSON document the result still means the same text.

    Examples:
        >>> printable("a\x1b[31mb")
        'a\\u001b[31mb'
    """
    return _UNSAFE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
