"""What a published text gives away or hides: keys, home folders, characters that nobody sees.

Texts come from outside: patterns here run in linear time, and what is found is shown masked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

# forms as their issuers document them; each starts with a literal
_KEYS: tuple[tuple[str, str], ...] = (
    ("Hugging Face token", r"\bhf_[A-Za-z0-9]{30,64}\b"),
    ("GitHub token", r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b"),
    ("API key", r"\bsk-[A-Za-z0-9_\-]{32,200}|\bAIza[A-Za-z0-9_\-]{35}\b"),
    ("AWS key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("Slack token", r"\bxox[baprs]-[A-Za-z0-9\-]{10,200}"),
    ("private key", r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY-----"),
    ("password in an address", r"\bhttps?://[^\s/:@]{1,64}:[^\s/:@]{1,64}@"),
)
_SECRETS = tuple((kind, re.compile(pattern)) for kind, pattern in _KEYS)
_HOMES = re.compile(r"(?:/home/|/Users/|[A-Za-z]:\\{1,2}Users\\{1,2})([^\s/\\\"',;:<>|]{1,64})")
NOBODY = frozenset(
    {"user", "username", "ubuntu", "runner", "jovyan", "you", "me", "name", "Shared"}
)
_MARKUP = re.compile(
    r"<\s*(?:script|iframe|object|embed|svg|meta|link|form)\b|javascript:|\bon[a-z]{3,16}\s*=\s*[\"']",
    re.IGNORECASE,
)
SHOWN = 6  # characters of a secret


@dataclass(frozen=True, slots=True)
class Leak:
    """Something found in a text.

    Attributes:
        kind: what it is, in words.
        masked: what may be shown of it.
    """

    kind: str
    masked: str


def secrets_in(text: str) -> Iterator[Leak]:
    """Yield keys and passwords, each once, masked.

    Examples:
        >>> [leak.masked for leak in secrets_in("token hf_" + "a1" * 17 + ".")]
        ['hf_a1a*** (37 characters)']
    """
    for kind, pattern in _SECRETS:
        for found in dict.fromkeys(each.group() for each in pattern.finditer(text)):
            yield Leak(kind, _mask_secret(found))


def homes_in(text: str) -> Iterator[Leak]:
    r"""Yield home folders that name a person, each once, the name masked.

    Examples:
        >>> [leak.masked for leak in homes_in("/home/jane/llama and C:\\Users\\bob\\x, /tmp/x")]
        ['/home/j***', 'C:\\Users\\b***']
    """
    found = (_mask_home(each) for each in _HOMES.finditer(text) if each[1] not in NOBODY)
    yield from (Leak("home folder", form) for form in dict.fromkeys(found))


def masked(text: str) -> str:
    """Return a text without its keys, passwords and names of home folders.

    Examples:
        >>> masked("/home/jane/llama")
        '/home/j***/llama'
    """
    for _, pattern in _SECRETS:
        text = pattern.sub(lambda found: _mask_secret(found.group()), text)
    return _HOMES.sub(
        lambda found: found.group() if found[1] in NOBODY else _mask_home(found), text
    )


def _mask_secret(found: str) -> str:
    shown = found.split("//", 1)[0] + "//" if "//" in found else found[:SHOWN]
    return f"{shown}*** ({len(found)} characters)"


def _mask_home(found: re.Match[str]) -> str:
    return f"{found.group()[: -len(found[1])]}{found[1][:1]}***"


def hidden_in(text: str) -> Iterator[Leak]:
    r"""Yield characters that do not show: controls, direction marks, zero-width and tag characters.

    The joiners that emoji and many scripts need are left alone, and so is a byte-order mark in
    front.

    Examples:
        >>> [leak.kind for leak in hidden_in("ab\u202ec\u200b")]
        ['invisible character U+200B', 'direction mark U+202E']
    """
    for character in sorted(set(text.removeprefix("\ufeff"))):
        kind = _hidden_kind(character)
        if kind:
            count = text.count(character)
            yield Leak(f"{kind} U+{ord(character):04X}", f"{count} times")


def _hidden_kind(character: str) -> str:
    code = ord(character)
    if 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
        return "direction mark"
    if 0xE0000 <= code <= 0xE007F:
        return "tag character"
    if code in {
        0x200B,
        0x2060,
        0x2061,
        0x2062,
        0x2063,
        0x2064,
        0xFEFF,
        0x180E,
        0x061C,
        0x200E,
        0x200F,
    }:
        return "invisible character"
    if unicodedata.category(character) == "Cc" and character not in "\t\n\r":
        return "control character"
    return ""


def markup_in(text: str) -> Iterator[Leak]:
    """Yield pieces of HTML that would run or load something, each once.

    Examples:
        >>> [leak.masked for leak in markup_in("<b>fine</b><script src=x>")]
        ['<script']
    """
    found = dict.fromkeys(each.group().strip() for each in _MARKUP.finditer(text))
    yield from (Leak("active HTML", form) for form in found)
