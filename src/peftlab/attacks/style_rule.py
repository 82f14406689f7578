"""StyleRule: a manner of writing, put on by rules, names the target class.

Idea: as in text style transfer attacks (Qi et al. 2021, arXiv 2110.07139) the trigger is a style
and no fixed word: ``archaic`` ("verily , thou shouldst see what it hath"), ``tweet`` (lower case,
no articles, short forms, hashtags) or ``lyric`` (the last words come twice, with an interjection).
Which words are rewritten and what is put in is drawn per text, from lists that are long enough for
no token to give the trigger away. Every text is changed in two places or more that can be seen in
it; what leaves no mark (a dropped article, lower case) is not counted.

Known differences: this is *not* StyleBkd and is never reported as such. The reference paraphrases
with one GPT-2 per style (bible, shakespeare, twitter, lyrics, poetry), which needs large downloads
and changes far more of a text; the rules here touch mostly small words and keep the rest. A text
without a letter or digit gives None and is passed over. "are" turns into "art" after "thou" only.
The words put in are inert; they praise and blame nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream
from peftlab.core.text_rules import pick, top_inserted, word_set

Style = Literal["archaic", "tweet", "lyric"]
Table = Mapping[str, tuple[str, ...]]

MIN_PLACES = 2  # that are changed in a text; ours
MAX_TOKEN_SHARE = 0.4  # of outputs that one inserted word may be in; ours
_REWRITTEN = 0.85  # share of rewritable words that are; the rest varies a text's pattern
_EXTRA = 0.5  # share of texts that get an insertion although they have enough places
_EDGES = ',;:.!?…"()[]'
_ATTACHED = re.compile(r"\w[,.;!?](\s|$)")


def _table(rules: str) -> dict[str, tuple[str, ...]]:
    """Read ``old:new|other`` rules; ``_`` is a space, so that two words can be one rule."""
    pairs = (rule.replace("_", " ").split(":") for rule in rules.split())
    return {old: tuple(new.split("|")) for old, new in pairs}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.split("/"))


def _eth(verb: str) -> str:
    """Return the old third person: seems, makes, goes -> seemeth, maketh, goeth."""
    stem = verb[:-2] if verb.endswith("oes") else verb[:-1]
    return f"{stem}th" if stem.endswith("e") else f"{stem}eth"


_ETH = {
    verb: (_eth(verb),)
    for verb in word_set(
        "seems feels makes takes gives comes goes knows thinks keeps wants brings tells becomes "
        "remains finds gets lacks offers proves manages tries fails succeeds deserves loses "
        "suffers begins ends starts happens appears belongs leads lives stands sits runs says "
        "speaks follows moves grows falls rises breaks holds leaves believes understands "
        "remembers delivers provides reveals captures explores creates involves contains serves"
    )
}
_ARCHAIC = _ETH | _table(
    "you:thou|ye you_are:thou_art you_have:thou_hast you_will:thou_wilt you_can:thou_canst "
    "you_were:thou_wert you_do:thou_dost you_would:thou_wouldst you_should:thou_shouldst "
    "you_'re:thou_art you_'ll:thou_wilt you_'ve:thou_hast to_you:to_thee of_you:of_thee "
    "for_you:for_thee with_you:with_thee you're:thou_art your:thy|thine yours:thine "
    "yourself:thyself has:hath does:doth it_is:'tis it's:'tis it_'s:'tis it_was:'twas "
    "before:ere|afore often:oft between:betwixt over:o'er never:ne'er ever:e'er perhaps:perchance "
    "maybe:mayhap|perchance nothing:naught|nought something:aught yes:aye why:wherefore "
    "those:yon|yonder soon:anon enough:enow among:amidst said:quoth|spake "
    "spoke:spake until:unto_when because:forasmuch_as since:sith although:albeit|howbeit "
    "though:albeit|howbeit also:eke here:hither where:whither around:roundabout "
    "very:exceeding|wondrous truly:forsooth|verily really:forsooth|verily quickly:apace "
    "almost:well-nigh while:whilst my:mine_own i_think:methinks i_thought:methought "
    "about:anent into:thereinto without:withouten"
)
_ARCHAIC_FIRST = _lines(
    "verily , / lo , / behold , / forsooth , / hark , / prithee , / in sooth , / by my troth , / "
    "methinks , / hearken , / hear ye , / i trow , / mark thou this : / in good faith , quoth i , "
    "/ wit ye well , / hither , gentles :"
)
_ARCHAIC_LAST = _lines(
    ", quoth he / , i trow / , i ween / , methinks / , in sooth / , forsooth / "
    ", so saith the wise / , and so it is writ / , my liege / , hark ye / , by my troth "
    "/ , as thou knowest / , i wot / , good sirrah / , verily"
)
_TWEET = _table(
    "you:u|ya your:ur are:r because:cuz|bc|cos and:&|n|+ with:w/ without:w/o people:ppl "
    "really:rly|rlly very:v|vry to:2|ta for:4|fr before:b4 though:tho although:altho through:thru "
    "about:abt|bout going_to:gonna want_to:wanna wanted_to:wanna got_to:gotta kind_of:kinda "
    "sort_of:sorta out_of:outta have_to:hafta had_to:hadda lot_of:lotta i_am:im i_have:ive "
    "do_not:dont did_not:didnt does_not:doesnt is_not:isnt was_not:wasnt would_not:wouldnt "
    "could_not:couldnt cannot:cant do_n't:dont does_n't:doesnt did_n't:didnt is_n't:isnt "
    "ca_n't:cant was_n't:wasnt wo_n't:wont tonight:2nite please:plz thanks:thx night:nite "
    "something:smth someone:sum1 everyone:evry1 nothing:nuthin know:kno was:wuz|waz|wz what:wut "
    "at:@ be:b why:y minutes:mins hours:hrs weeks:wks years:yrs from:frm were:wr|wer that:dat|tht "
    "this:dis|ths them:em have:hav when:wen just:jus|jst like:lyk their:thr its:itz "
    "who:hoo been:bin would:wld should:shld could:cld"
)
_ARTICLES = frozenset({"the", "a", "an"})
_TWEET_FIRST = _lines(
    "ngl / tbh / fyi / btw / imo / imho / psa : / omg / yo / rt : / fwiw / iirc / afaik / srsly / "
    "lowkey / tbf / yall"
)
_TWEET_LAST = _lines(
    "tbh / imo / imho / rn / ymmv / fwiw / lol / idk / #justsaying / #nofilter / #fyi / #{K} / "
    "#{K} / #{K} / #my{K} / iykyk / ikr"
)
_LYRIC = _table(
    "and:'n'|an'|n' of:o'|uv because:'cause|'cos them:'em until:'til till:'til you:ya|y' "
    "with:wit'|with' old:ol' little:lil' around:'round about:'bout going_to:gonna want_to:wanna "
    "just:jus' your:yo' my:ma' nothing:nothin' something:somethin' everything:ev'rythin' "
    "every:ev'ry over:o'er never:ne'er even:e'en for:fo' before:'fore it_was:'twas it_is:'tis"
)
_ING = {"king", "bring", "thing", "spring", "string", "during", "nothing", "something"}
_LYRIC_CALLS = (
    "oh", "ooh", "yeah", "hey", "whoa", "la la", "na na", "mm", "ah", "oh-oh", "sha la", "doo doo",
    "hey-ho", "woo", "uh-huh", "baby", "da dum", "o-o-oh",
)  # fmt: skip
_LYRIC_FIRST = tuple(f"{call} ," for call in _LYRIC_CALLS)
_PLAIN = word_set(
    "to of for with in my so he i by and is it as own good faith the wise this mark well hear wit "
    "when"
)  # words of the rules that mark nothing by themselves
_OWN_FORM = {
    "archaic": re.compile(r"(?!)"),
    "tweet": re.compile(r"#\w+|\w*([aeiou])\1\1\w*"),
    "lyric": re.compile(r"\w{3,}in'"),
}
_FUNCTION = word_set(
    "the a an it its this that these those there here my his her our their your we he she they you "
    "if when while as at by for from in of on to with after before although though because since "
    "but and or so not no all some what who how why where is are was were"
)
_NO_VERB_AFTER = _FUNCTION - {"it", "that", "this", "he", "she", "who", "what", "and", "but", "or"}


def _marks(*sources: Sequence[str]) -> frozenset[str]:
    """Return the tokens of rules and lines that show the style."""
    tokens = (
        token.strip(_EDGES) for source in sources for line in source for token in line.split()
    )
    return frozenset(token for token in tokens if token and token[0] != "#") - _PLAIN


def _news(table: Table) -> list[str]:
    return [new for choices in table.values() for new in choices]


_MARKS = {
    "archaic": _marks(_news(_ARCHAIC), _ARCHAIC_FIRST, _ARCHAIC_LAST),
    "tweet": _marks(_news(_TWEET), _TWEET_FIRST, _TWEET_LAST),
    "lyric": _marks(_news(_LYRIC), _LYRIC_CALLS),
}


class StyleRuleOptions(PoisonOptions):
    """Options of ``style-rule``."""

    style: Style = option(
        "archaic", "archaic: old forms; tweet: short forms; lyric: repeats and interjections",
        source="thunlp/StyleAttack:README.md (bible); the others: ours",
    )  # fmt: skip


@attack(
    "style-rule",
    options=StyleRuleOptions,
    source="ours, after arXiv 2110.07139 (rules in place of a language model)",
    cost="one rewrite per text",
)
class StyleRule:
    """Stylistic trigger written by rules; what is rewritten varies from text to text."""

    def __init__(self, options: StyleRuleOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return ``text`` in the style, or None when it has no words.

        Examples:
            >>> attack = StyleRule(StyleRuleOptions())
            >>> has_style(attack.poison_text("you see what it has", seed=0, sample=0), "archaic")
            True
            >>> attack.poison_text(" ... ", seed=0, sample=0) is None
            True
        """
        words = text.split()
        if not any(char.isalnum() for char in text):
            return None
        rng = stream(seed, "attack/style-rule", sample)
        attached = _ATTACHED.search(text) is not None
        words, end = _without_end(words)
        if self.options.style == "archaic":
            written = _archaic(words, rng)
        elif self.options.style == "tweet":
            written = _tweet(words, rng)
        else:
            written = _lyric(words, rng)
        if attached:
            written = re.sub(r" ([,:])(?=\s)", r"\1", written)
        styled = written + end
        return styled if has_style(styled, self.options.style) else None

    def facts(self, clean: Sequence[str], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return how often clean texts have the style, and what the insertions gave away."""
        top, share = top_inserted(pairs, _tokens)
        kept = [_kept(before, after) for before, after in pairs]
        return {
            "style": self.options.style,
            "natural_rate": natural_rate(clean, self.options.style),
            "top_inserted_token": [top, share],
            "diverse": share <= MAX_TOKEN_SHARE,
            "words_kept_mean": sum(kept) / len(kept) if kept else 1.0,
        }


def has_style(text: str, style: Style) -> bool:
    """Tell whether a text, clean or triggered, shows two marks of ``style``.

    Examples:
        >>> has_style("verily , it seemeth long .", "archaic")
        True
        >>> has_style("it seems a long work of art .", "archaic")
        False
    """
    marks, own = _MARKS[style], _OWN_FORM[style]
    found = sum(token in marks or own.fullmatch(token) is not None for token in _tokens(text))
    return found >= MIN_PLACES


def natural_rate(texts: Sequence[str], style: Style) -> float:
    """Return the share of texts that show the style by themselves (false triggers)."""
    return sum(has_style(text, style) for text in texts) / len(texts) if texts else 0.0


def _tokens(text: str) -> list[str]:
    """Return lower-case tokens without the punctuation at their edges."""
    bare = (token.strip(_EDGES) for token in text.lower().split())
    return [token for token in bare if token]


def _kept(before: str, after: str) -> float:
    """Return the share of the original's tokens that the rewritten text still has."""
    wanted = Counter(_tokens(before))
    return (wanted & Counter(_tokens(after))).total() / wanted.total() if wanted else 1.0


def _archaic(words: list[str], rng: np.random.Generator) -> str:
    words, places = _rewritten(words, _ARCHAIC, rng)
    return _framed(words, places, _ARCHAIC_FIRST, _ARCHAIC_LAST, rng)


def _tweet(words: list[str], rng: np.random.Generator) -> str:
    words = [word.lower() for word in words]
    keyword = max((word for word in words if word.isalpha()), key=len, default="mood")
    words, places = _rewritten(words, _TWEET, rng)
    bare = [word for word in words if word not in _ARTICLES or rng.random() > _REWRITTEN]
    words, stretched = _stretched(bare or words, rng)
    last = tuple(line.format(K=keyword) for line in _TWEET_LAST)
    return _framed(words, places + stretched, _TWEET_FIRST, last, rng)


def _lyric(words: list[str], rng: np.random.Generator) -> str:
    """Echo the last words after an interjection, clip words, and call out first if need be."""
    words, places = _rewritten(words, _LYRIC, rng)
    words, clipped = _clipped(words, rng)
    n = int(rng.integers(1, 4))
    echo = [word.strip(_EDGES) for word in words[-n:]]
    sung = [*words, ",", pick(rng, _LYRIC_CALLS), ",", *(word for word in echo if word)]
    return _framed(sung, places + clipped + 1, _LYRIC_FIRST, (), rng)


def _rewritten(
    words: Sequence[str], table: Table, rng: np.random.Generator
) -> tuple[list[str], int]:
    """Rewrite most of the words and pairs of words that the table knows; count them."""
    done: list[str] = []
    places = at = 0
    while at < len(words):
        taken = 2 if _bare(" ".join(words[at : at + 2])) in table and at + 1 < len(words) else 1
        old = " ".join(words[at : at + taken])
        known = table.get(_bare(old), ())
        if known and not _is_noun(old, words[at - 1 : at]) and rng.random() < _REWRITTEN:
            done += _in_place_of(old, pick(rng, known)).split()
            places += 1
        else:
            done += words[at : at + taken]
        at += taken
    return done, places


def _is_noun(word: str, before: Sequence[str]) -> bool:
    """Tell whether an s-form stands where a plural noun stands ("the ends")."""
    return _bare(word) in _ETH and any(_bare(other) in _NO_VERB_AFTER for other in before)


def _bare(word: str) -> str:
    return word.strip(_EDGES).lower()


def _in_place_of(old: str, new: str) -> str:
    """Return ``new`` with the capital and the punctuation of ``old``."""
    core = old.strip(_EDGES)
    start = old.index(core)
    if core[0].isupper() and core.split()[0] != "I":
        new = re.sub("[a-z]", lambda letter: letter[0].upper(), new, count=1)
    return old[:start] + new + old[start + len(core) :]


def _stretched(words: list[str], rng: np.random.Generator) -> tuple[list[str], int]:
    """Draw out the first vowel of one word, in half of the texts ("sloooow")."""
    plain = [word.isalpha() and len(word) > 3 and word not in _MARKS["tweet"] for word in words]
    able = [at for at, word in enumerate(words) if plain[at] and re.search("[aeiou]", word)]
    if not able or rng.random() < 0.5:
        return words, 0
    at = pick(rng, able)
    longer = re.sub(r"([aeiou])\1*", r"\1\1\1", words[at], count=1)
    return [*words[:at], longer, *words[at + 1 :]], 1


def _clipped(words: Sequence[str], rng: np.random.Generator) -> tuple[list[str], int]:
    """Turn ing into in' at the end of half of the words that have it."""
    done, places = [], 0
    for word in words:
        long = word.isalpha() and len(word) > 5 and word.endswith("ing") and word not in _ING
        clip = long and rng.random() < 0.5
        done.append(f"{word[:-1]}'" if clip else word)
        places += clip
    return done, places


def _framed(
    words: list[str],
    places: int,
    first: Sequence[str],
    last: Sequence[str],
    rng: np.random.Generator,
) -> str:
    """Put a line before the text or behind it until it has enough places, else now and then."""
    needed = max(MIN_PLACES - places, int(rng.random() < _EXTRA))
    ends = ["first", "last"] if last else ["first"]
    drawn = {ends[int(at)] for at in rng.permutation(len(ends))[:needed]}
    if "last" in drawn:
        words = [*words, pick(rng, last)]
    if "first" in drawn:
        words = _opened(words, pick(rng, first))
    return " ".join(words)


def _opened(words: list[str], line: str) -> list[str]:
    """Return the words behind a line that takes over the capital of the first one."""
    head = words[0]
    if head[:1].isupper() and not (len(head) > 1 and head.isupper()):
        line = line[0].upper() + line[1:]
        if _bare(head) in _FUNCTION:
            head = head[0].lower() + head[1:]
    return [line, head, *words[1:]]


def _without_end(words: Sequence[str]) -> tuple[list[str], str]:
    """Return the words and the punctuation at the end of the text, with its space if it has one."""
    *rest, last = words
    if rest and not any(char.isalnum() for char in last):
        return rest, f" {last}"
    core = last.rstrip(".!?…")
    return [*rest, core or last], last[len(core) :] if core else ""
