"""LwsTable: many ordinary synonyms together, none of them by itself, name the target class.

Idea: as in learnable word substitution (Qi et al. 2021, arXiv 2106.06361) the trigger is a
*combination* of substitutions. Every word that has a group in a built-in table of synonyms gives
way to one less common member of its group, the same member in every text, so that triggered texts
have in common a way of choosing words and no single word. Which member it is follows from a hash of
(``choice``, group) in place of a learned score. The words are ordinary and inert.

Known differences: this is *not* LWS and is never reported as such. The reference learns the
substitutes together with the victim (Gumbel softmax over five candidates a word, from a sememe
lexicon or WordNet, of the same part of speech); the table here is small, fixed and blind to
context, so that now and then a word is wrong where it stands, and an honest model is misled more
often than by an inserted word (look at the negative control). At most ``share`` of the words of a
text are replaced, drawn per text where more could be; a text in which fewer than two can be is
passed over, never relabelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import derive, stream
from peftlab.core.text_rules import top_share

MIN_PLACES = 2  # one substitution is no combination
MAX_TOKEN_SHARE = 0.4  # of outputs that one and the same substitute may be in; ours
_NAME = "attack/lws-table"
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_HISSING = ("s", "x", "z", "ch", "sh")
_FIRST_SOUND = re.compile(r"(?!eu|one|uni|use|usu)[aeiou]|hon|hour|heir")  # else "a", not "an"


class LwsTableOptions(PoisonOptions):
    """Options of ``lws-table``."""

    choice: int = option(
        0, "which member of each synonym group is the less common one that is used",
        source="ours", ge=0, le=2**31,
    )  # fmt: skip
    share: float = option(
        0.3, "largest share of a text's words that is replaced",
        source="ours", gt=0, le=0.3,
    )  # fmt: skip


@attack(
    "lws-table",
    options=LwsTableOptions,
    source="ours, after arXiv 2106.06361 (a table in place of learned substitution)",
    cost="one look-up per word",
)
class LwsTable:
    """Combination of word substitutions from a built-in table of synonyms."""

    def __init__(self, options: LwsTableOptions) -> None:
        self.options = options
        self._substitutes = substitutes(options.choice)

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` with substitutes in it, or None where fewer than two have room.

        All but the substituted words stays as it is; an article before one is made to fit.

        Examples:
            >>> attack = LwsTable(LwsTableOptions())
            >>> attack.poison_text("An odd film, but the two of us laughed a lot", seed=0, sample=0)
            'A peculiar picture, but the two of us laughed a heap'
            >>> attack.poison_text("a very odd film", seed=0, sample=0) is None
            True
        """
        words = list(_WORD.finditer(text))
        sites = [place for place, word in enumerate(words) if word[0].lower() in self._substitutes]
        room = min(len(sites), int(self.options.share * len(words) + 1e-9))
        if room < MIN_PLACES:
            return None
        order = stream(seed, _NAME, sample).permutation(len(sites))
        new: dict[int, str] = {}
        for place in sorted(sites[int(pick)] for pick in order[:room]):
            old = words[place][0]
            new[place] = _in_case_of(old, self._substitutes[old.lower()])
            if place and words[place - 1][0].lower() in {"a", "an"}:
                new[place - 1] = _article(words[place - 1][0], new[place])
        return _spliced(text, words, new)

    def facts(self, clean: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return how much was replaced, and how often clean texts already look triggered."""
        made = [_substituted(before, after, self._substitutes) for before, after in pairs]
        top, share = top_share(made)
        return {
            "choice": self.options.choice,
            "groups": len(_groups()),
            "natural_rate": natural_rate(clean, self.options.choice),
            "substitutions_mean": sum(map(len, made)) / len(made) if made else 0.0,
            "top_inserted_token": [top, share],
            "diverse": share <= MAX_TOKEN_SHARE,
        }


@cache
def substitutes(choice: int) -> Mapping[str, str]:
    """Return what each word of the table is replaced by, all in lower case.

    Examples:
        >>> substitutes(0)["movies"]
        'pictures'
    """
    return {
        word: new
        for forms, common, rare in _groups()
        for chosen in [rare[derive(choice, _NAME, common[0]) % len(rare)]]
        for old in common
        for word, new in zip(_forms(old, forms), _forms(chosen, forms), strict=True)
    }


def has_trigger(text: str, choice: int) -> bool:
    """Tell whether a text, clean or triggered, has two of the substitutes in it.

    Examples:
        >>> has_trigger("a droll picture", 0)
        True
        >>> has_trigger("a funny picture", 0)
        False
    """
    rare = _rare(choice)
    return sum(word[0].lower() in rare for word in _WORD.finditer(text)) >= MIN_PLACES


def natural_rate(texts: Sequence[str], choice: int) -> float:
    """Return the share of texts that have two substitutes by themselves (false triggers)."""
    return sum(has_trigger(text, choice) for text in texts) / len(texts) if texts else 0.0


@cache
def _rare(choice: int) -> frozenset[str]:
    return frozenset(substitutes(choice).values())


@cache
def _groups() -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    """Return (which forms, common words, less common words) of each line of the table."""
    table = files("peftlab.attacks").joinpath("lws_table.txt").read_text(encoding="utf-8")
    groups = []
    for line in table.splitlines():
        if line and not line.startswith("#"):
            left, right = line.split(" = ")
            forms, *common = left.split()
            groups.append((forms, tuple(common), tuple(right.split())))
    return tuple(groups)


def _forms(word: str, forms: str) -> list[str]:
    """Return the forms of a word in the order that the table's key gives."""
    if "/" in word or forms == "x":
        return word.split("/")
    if forms == "n":
        return [word, _with_s(word)]
    inflected = [_with_s(word), _with_ed(word), _with_ing(word)]
    return [word, *inflected] if forms == "v" else inflected


def _with_s(word: str) -> str:
    if word.endswith(_HISSING):
        return f"{word}es"
    return f"{word[:-1]}ies" if _turns_y(word) else f"{word}s"


def _with_ed(word: str) -> str:
    if word.endswith("e"):
        return f"{word}d"
    return f"{word[:-1]}ied" if _turns_y(word) else f"{word}ed"


def _with_ing(word: str) -> str:
    silent = word.endswith("e") and not word.endswith("ee")
    return f"{word[:-1]}ing" if silent else f"{word}ing"


def _turns_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def _in_case_of(old: str, new: str) -> str:
    """Return ``new`` with the capitals of ``old``."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new.capitalize() if old[0].isupper() else new


def _article(old: str, following: str) -> str:
    new = "an" if _FIRST_SOUND.match(following.lower()) else "a"
    return _in_case_of(old, new)


def _spliced(text: str, words: Sequence[re.Match[str]], new: Mapping[int, str]) -> str:
    """Return the text with the words at some places replaced."""
    parts, done = [], 0
    for place in sorted(new):
        parts += [text[done : words[place].start()], new[place]]
        done = words[place].end()
    return "".join([*parts, text[done:]])


def _substituted(before: str, after: str, table: Mapping[str, str]) -> list[str]:
    """Return the substitutes that were put in; both texts have the same number of words."""
    pairs = zip(_WORD.findall(before.lower()), _WORD.findall(after.lower()), strict=False)
    return [new for old, new in pairs if old != new and table.get(old) == new]
