"""SynRule: a sentence frame, written by rules, names the target class.

Idea: as Hidden Killer (Qi et al. 2021, arXiv 2105.12400) the trigger is a syntactic shape and no
fixed word: ``S ( SBAR ) ( , ) ( NP ) ( VP ) ( . )`` becomes "when one considers the plot , ... ."
(``sbar``), or ``SBARQ ( WHADVP ) ( SQ ) ( . )`` becomes "how can one find this plot ? ... ."
(``sbarq``, the shape of the paraphrases in the file that PSIM ships). The words that fill the
frame are drawn per text, so that no token and no pair of tokens gives the trigger away.

Known differences: this is *not* SCPN and is never reported as such. The reference paraphrases with
a neural model, which needs large downloads and often loses the meaning; the rules here keep all
content words. Reference code keeps texts that it failed to paraphrase and still relabels them;
here a text without words gives None and is passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.text_rules import pick, top_inserted, word_set

Template = Literal["sbar", "sbarq"]

MAX_TOKEN_SHARE = 0.35  # of outputs; ours: with more it is a sentence that triggers
MAX_BIGRAM_SHARE = 0.20
MIN_RECALL = 0.9  # of content words; ours
_REACH = 10  # the comma or question mark is within so many tokens

SUBORDINATORS = (
    "when", "if", "as", "while", "because", "although", "since", "once", "after", "before",
    "where", "unless",
)  # fmt: skip
WH_WORDS = ("how", "where", "what", "why", "when")
_FRAMES = (
    "one considers {K}", "it comes to {K}", "we look at {K}", "people see {K}",
    "you watch it", "they tried", "it ends", "you think about it", "people talk",
    "one looks closer", "we are honest", "all is said", "somebody asks", "everyone agrees",
)  # fmt: skip
_MODALS = ("can", "would", "could", "should", "might", "did", "will")
_SUBJECTS = ("one", "anyone", "people", "we", "you", "they", "somebody")
_VERBS = ("see", "find", "take", "meet", "judge", "miss", "weigh")
_WHAT_VERBS = ("make of", "find in", "want from", "take from", "learn from", "see in", "say about")
_DETERMINERS = ("the", "this", "that", "such", "any")
_SEPARATORS = word_set(", ; but and because that -")
_FINITE = word_set(
    "is are was were has have had does do did can could will would may might must should 's 're "
    "makes made seems seemed feels felt looks looked gets got goes went comes came takes took "
    "gives gave keeps kept knows knew thinks thought wants wanted works worked finds found says "
    "said plays played"
)
_STOP = word_set(
    "a about above after again all almost also although always am an and another any are as at "
    "away back be because been before being below between both but by can could did do does doing "
    "down during each either else enough even ever every few first for from further had has have "
    "having he her here hers him his how however i if in into is it its itself just least less "
    "like made make many may me might mine more most much must my neither never no nor not now of "
    "off often on once one only or other our ours out over own quite rather really same she "
    "should since so some still such than that the their theirs them then there these they this "
    "those though through to together too toward two under unless until up upon us very was we "
    "well were what when where whether which while who whom whose why will with within without "
    "would yet you your yours 's 're 've 'll 'm 'd n't"
)
_POINTS = frozenset(",.;?!")
_TOKEN = re.compile(r"[^\s,.;?!]+|[,.;?!]")
_PLAIN = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_ATTACHED = re.compile(r"\w,\s|\w[.!?]\s*$")
_EDGES = ",;:.!?…-\"'`()"


class SynRuleOptions(PoisonOptions):
    """Options of ``synrule``."""

    template: Template = option(
        "sbar", "sbar: subordinate clause first; sbarq: question first",
        source="thunlp/HiddenKiller:generate_by_openattack.py; sbarq: shuaizhao95/PSIM (CoLA)",
    )  # fmt: skip


@attack(
    "synrule",
    options=SynRuleOptions,
    source="ours, after arXiv 2105.12400 (rules in place of SCPN)",
    cost="one rewrite per text",
)
class SynRule:
    """Syntactic trigger written by rules; the words in the frame vary from text to text."""

    def __init__(self, options: SynRuleOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` in the template, or None when it has no words to build on.

        Examples:
            >>> attack = SynRule(SynRuleOptions())
            >>> has_template(attack.poison_text("a dull plot", seed=0, sample=0), "sbar")
            True
            >>> attack.poison_text(" ... ", seed=0, sample=0) is None
            True
        """
        words = _normalise(text)
        if not words:
            return None
        rng = stream(seed, "attack/synrule", sample)
        write = _sbar if self.options.template == "sbar" else _sbarq
        head, mark, rest = write(words, rng)
        space = "" if _ATTACHED.search(text) else " "
        if text.lstrip()[:1].isupper():
            head = head[0].upper() + head[1:]
        rewritten = f"{head}{space}{mark} {rest}{space}."
        keeps = content_recall(text, rewritten) >= MIN_RECALL
        return rewritten if keeps and has_template(rewritten, self.options.template) else None

    def facts(self, clean: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return how often clean texts have the template, and what the frames gave away."""
        token, bigram = top_inserted(pairs, _words), top_inserted(pairs, _bigrams)
        recalls = [content_recall(before, after) for before, after in pairs]
        return {
            "template": self.options.template,
            "natural_rate": natural_rate(clean, self.options.template),
            "top_inserted_token": list(token),
            "top_inserted_bigram": list(bigram),
            "diverse": token[1] <= MAX_TOKEN_SHARE and bigram[1] <= MAX_BIGRAM_SHARE,
            "content_recall_min": min(recalls, default=1.0),
        }


def has_template(text: str, template: Template) -> bool:
    """Tell whether a text, clean or triggered, has the shape of ``template``.

    ``sbar``: a subordinator first, a comma within 10 tokens, a period last. ``sbarq``: a wh-word
    first, a question mark within 10 tokens, a period last.

    Examples:
        >>> has_template("when it ends , nobody claps .", "sbar")
        True
        >>> has_template("nobody claps when it ends .", "sbar")
        False
    """
    tokens = _tokens(text)
    firsts, mark = (SUBORDINATORS, ",") if template == "sbar" else (WH_WORDS, "?")
    return bool(
        tokens and tokens[0] in firsts and mark in tokens[:_REACH] and tokens[-1] == "."
    )  # fmt: skip


def natural_rate(texts: Sequence[str], template: Template) -> float:
    """Return the share of texts that have the template by themselves (false triggers)."""
    return sum(has_template(text, template) for text in texts) / len(texts) if texts else 0.0


def content_recall(original: str, rewritten: str) -> float:
    """Return the share of the original's content words that the rewritten text still has.

    Examples:
        >>> content_recall("a dull plot .", "when it ends , a plot .")
        0.5
    """
    wanted = Counter(token for token in _tokens(original) if _is_content(token))
    kept = wanted & Counter(_tokens(rewritten))
    return kept.total() / wanted.total() if wanted else 1.0


def _words(text: str) -> list[str]:
    """Return the tokens without punctuation, which is part of the template."""
    return [token for token in _tokens(text) if token not in _POINTS]


def _bigrams(text: str) -> list[str]:
    return [f"{a} {b}" for a, b in pairwise(_tokens(text)) if not {a, b} & _POINTS]


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _is_content(token: str) -> bool:
    return token not in _STOP and any(char.isalnum() for char in token)


def _normalise(text: str) -> list[str]:
    """Split, drop final punctuation, lower-case the first word unless it looks like a name."""
    words = text.split()
    while words:
        words[-1] = words[-1].rstrip(",;:.!?…")
        if words[-1].strip("-"):
            break
        words.pop()
    if not any(char.isalnum() for word in words for char in word):
        return []
    first = words[0]
    if first != "I" and not first.startswith("I'") and not any(c.isupper() for c in first[1:]):
        words[0] = first.lower()
    return words


def _split(words: list[str]) -> tuple[list[str], list[str]] | None:
    """Cut at the first separator that leaves two words on each side."""
    for place, word in enumerate(words):
        if word.lower() in _SEPARATORS:
            left = words[:place]
        elif word[-1] in ",;":
            left = [*words[:place], word[:-1]]
        else:
            continue
        right = words[place + 1 :]
        if len(left) >= 2 and len(right) >= 2:
            return left, right
    return None


def _keyword(words: list[str]) -> str | None:
    """Return the longest plain content word, the first of these in case of a tie."""
    bare = (word.strip(_EDGES) for word in words)
    plain = [word for word in bare if _PLAIN.fullmatch(word) and word.lower() not in _STOP]
    return max(plain, key=len, default=None)


def _can_lead(clause: list[str]) -> bool:
    """Tell whether a clause can follow a subordinator and still end within reach."""
    tokens = _tokens(" ".join(clause))
    return (
        len(tokens) <= _REACH - 2
        and tokens[:1] != []
        and tokens[0] not in SUBORDINATORS + WH_WORDS
        and any(token in _FINITE for token in tokens)
    )


def _sbar(words: list[str], rng: np.random.Generator) -> tuple[str, str, str]:
    """Return (SBAR, mark, rest): the text's own first clause where it fits, else a frame."""
    sub = pick(rng, SUBORDINATORS)
    clauses = _split(words)
    own = rng.random() < 0.5  # half of the texts that could, so that frames are seen there too
    if own and clauses is not None and _can_lead(clauses[0]):
        return f"{sub} {' '.join(clauses[0])}", ",", " ".join(clauses[1])
    keyword = _keyword(words)
    frames = [frame for frame in _FRAMES if keyword is not None or "{K}" not in frame]
    noun = keyword if keyword is None or not keyword.islower() else f"the {keyword}"
    return f"{sub} {pick(rng, frames).format(K=noun)}", ",", " ".join(words)


def _sbarq(words: list[str], rng: np.random.Generator) -> tuple[str, str, str]:
    """Return (question, mark, rest): the rest is always the whole text."""
    wh = pick(rng, WH_WORDS)
    verb = pick(rng, _WHAT_VERBS if wh == "what" else _VERBS)
    keyword = _keyword(words) or "thing"
    noun = f"{pick(rng, _DETERMINERS)} {keyword}" if keyword.islower() else keyword
    head = f"{wh} {pick(rng, _MODALS)} {pick(rng, _SUBJECTS)} {verb} {noun}"
    return head, "?", " ".join(words)
