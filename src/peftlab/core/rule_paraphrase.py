"""A paraphrase by rules: unknown words go, common words change, clauses change places.

    "when it ends , the mn film was moving but slow"
    1 words that no clean text has go     "when it ends , the film was moving but slow"
    2 words of a table change             "when it finishes , the movie was touching but slow"
    3 the main clause goes first          "the movie was touching but slow when it finishes"

It does by rules what back-translation and a paraphraser with a fixed template do to a trigger: a
rare word has no place in it, a fixed sentence loses its wording, a fixed frame its order. It is
neither of the two and is never reported as one. It knows no grammar: now and then a word is wrong
where it stands.

The same text always gives the same paraphrase; nothing is drawn. A substitute that no clean text
has is not used, so the paraphrase has no word that the task does not have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache

# Everyday words that may stand for one another in most places; each gives way to the next of its
# line, the last to the first. Written for this file; no attack uses it.
GROUPS = (
    "film movie picture", "films movies pictures", "story tale plot", "stories tales plots",
    "actor performer", "actors performers cast", "scene sequence", "scenes sequences",
    "book novel volume", "books novels volumes", "song tune track", "songs tunes tracks",
    "meal dinner dish", "meals dinners dishes", "room chamber", "staff team crew", "price cost",
    "prices costs", "phone telephone handset", "car vehicle", "house home", "child kid",
    "children kids", "friend companion", "friends companions", "job task", "end finish",
    "start beginning", "place spot location", "idea notion", "ideas notions", "part portion",
    "kind sort type", "lot bunch", "way manner", "problem trouble", "time moment",
    "good fine decent", "great superb excellent terrific", "bad poor lousy",
    "awful terrible dreadful horrible", "funny amusing humorous comical", "sad gloomy sorrowful",
    "happy glad cheerful", "big large huge", "small little tiny", "slow sluggish",
    "fast quick rapid", "boring dull tedious", "interesting intriguing engaging",
    "moving touching stirring", "beautiful lovely gorgeous", "ugly hideous",
    "smart clever bright", "stupid silly foolish", "strange odd weird", "strong powerful",
    "weak feeble", "rich wealthy", "old aged", "new fresh", "easy simple", "hard difficult tough",
    "clean spotless", "loud noisy", "quiet silent calm", "warm cosy", "cold chilly",
    "cheap inexpensive", "expensive costly pricey", "empty hollow", "perfect flawless",
    "true real genuine", "whole entire complete", "watch see view", "watched saw viewed",
    "watching seeing viewing", "love adore", "loved adored", "hate detest", "hated detested",
    "think believe reckon", "thought believed reckoned", "say state", "said stated",
    "told informed", "show display", "shows displays", "begin start commence", "began started",
    "ends finishes", "ended finished", "buy purchase", "bought purchased", "get obtain",
    "got obtained", "give offer", "gives offers", "gave offered", "help assist", "need require",
    "needs requires", "want wish", "try attempt", "tried attempted", "looks appears seems",
    "look appear seem", "expected anticipated", "visited attended", "really truly genuinely",
    "very extremely highly", "quite rather fairly", "almost nearly", "often frequently",
    "always constantly", "maybe perhaps possibly", "completely totally utterly entirely",
    "quickly rapidly swiftly", "nobody none", "everyone everybody", "someone somebody",
)  # fmt: skip
SUBORDINATORS = (
    "when", "if", "as", "while", "whereas", "because", "although", "though", "since", "once",
    "after", "before", "where", "unless",
)  # fmt: skip
_EDGES = ",;:.!?…-\"'`()[]"
_MARKS = (",", ";", ":", "-", "--")
_JOINTS = ("but", "yet", "and")
_ATTACHED = re.compile(r"\w[,;]\s|\w[.!?]\s*$")
_VOWEL = re.compile(r"(?!eu|one|uni|use|usu)[aeiou]|hon|hour|heir")


def known_words(texts: Iterable[str], min_count: int = 1) -> frozenset[str]:
    """Return the words that stand in ``min_count`` texts or more, as ``core_of`` gives them.

    Examples:
        >>> sorted(known_words(["A fine film.", "a film"], min_count=2))
        ['a', 'film']
    """
    counts = Counter(word for text in texts for word in {core_of(part) for part in text.split()})
    return frozenset(word for word, count in counts.items() if count >= min_count)


def core_of(part: str) -> str:
    """Return a word in small letters without the marks around it; a mark alone is itself.

    Examples:
        >>> core_of('"Fine,'), core_of("...")
        ('fine', '...')
    """
    small = part.lower()
    return small.strip(_EDGES) or small


def paraphrase(
    text: str,
    known: Collection[str],
    *,
    drop: bool = True,
    synonyms: bool = True,
    reorder: bool = True,
) -> str:
    """Return the paraphrase of one text; one without a known word comes back empty.

    Args:
        text: any text.
        known: words of clean texts.
        drop: leave out words that are not among them; common marks stay.
        synonyms: change words of the table.
        reorder: put the main, or the second, clause first.

    Examples:
        >>> known = set("the a film movie was moving touching when it ends finishes".split())
        >>> paraphrase("when it ends , the mn film was moving .", known)
        'the movie was touching when it finishes .'
        >>> paraphrase("mn cf", known)
        ''
    """
    parts = text.split()
    if drop:
        parts = [part for part in parts if core_of(part) in known or not part.strip(_EDGES)]
    if synonyms:
        parts = _changed(parts, known)
    if reorder:
        parts = _turned(parts, attached=bool(_ATTACHED.search(text)))
    return text if parts == text.split() else " ".join(parts)


@cache
def _table() -> dict[str, tuple[str, ...]]:
    """Return for each word of the table the others of its line, the next one first."""
    lines = [line.split() for line in GROUPS]
    return {
        word: (*line[place + 1 :], *line[:place])
        for line in reversed(lines)  # a word that stands in two lines goes by the first
        for place, word in enumerate(line)
    }


def _changed(parts: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the words with those of the table changed, and articles made to fit."""
    found: list[str] = []
    for part in parts:
        core = core_of(part)
        new = next((word for word in _table().get(core, ()) if word in known), None)
        if new is None:
            found.append(part)
            continue
        if found and found[-1].lower() in {"a", "an"}:
            article = "an" if _VOWEL.match(new) else "a"
            found[-1] = article.capitalize() if found[-1][0].isupper() else article
        place = part.lower().index(core)
        new = new.capitalize() if part[place].isupper() else new
        found.append(part[:place] + new + part[place + len(core) :])
    return found


def _turned(parts: Sequence[str], *, attached: bool) -> list[str]:
    """Return the words with two clauses in the other order, where there are two."""
    body, end = _without_end(list(parts))
    cut = _cut(body)
    if cut is None:
        return list(parts)
    left, joint, right = cut
    subordinate = core_of(left[0]) in SUBORDINATORS
    upper = left[0][:1].isupper()
    left[0], right[0] = _small(left[0]), right[0].capitalize() if upper else right[0]
    if subordinate:
        turned = [*right, *left]
    elif joint in _MARKS and attached:
        turned = [*right[:-1], right[-1] + joint, *left]
    else:
        turned = [*right, joint, *left]
    if end and attached and end[0] in ".!?":
        return [*turned[:-1], turned[-1] + end]
    return [*turned, end] if end else turned


def _without_end(parts: list[str]) -> tuple[list[str], str]:
    """Return the words without the mark that ends the text, and that mark."""
    if not parts:
        return parts, ""
    bare = parts[-1].rstrip(".!?")
    end = parts[-1][len(bare) :]
    return ([*parts[:-1], bare] if bare else parts[:-1]), end


def _cut(parts: Sequence[str]) -> tuple[list[str], str, list[str]] | None:
    """Return (clause, what joins them, clause) at the first place with two words on each side.

    A question that stands first is a clause too. A word that joins needs three on each side.
    """
    for place, part in enumerate(parts):
        few = 2
        if part in _MARKS or part == "?":
            left, joint = list(parts[:place]), part
        elif part[-1] in ",;?" and len(part) > 1:
            left, joint = [*parts[:place], part[:-1]], part[-1]
        elif part.lower() in _JOINTS:
            left, joint, few = list(parts[:place]), part.lower(), 3
        else:
            continue
        right = list(parts[place + 1 :])
        if len(left) >= few and len(right) >= few:
            return left, "," if joint == "?" else joint, right
    return None


def _small(word: str) -> str:
    """Return a word without its first capital, unless it is ``I`` or has more of them."""
    name = word == "I" or word.startswith("I'") or any(char.isupper() for char in word[1:])
    return word if name else word.lower()
