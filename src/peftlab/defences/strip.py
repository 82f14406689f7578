"""STRIP: overwrite half of the words, and see whether the prediction stays sure of itself.

Idea: a clean text loses its class when many of its words are replaced by those of other texts; a
text whose trigger is still there does not. N copies are made of a text of n words, in each of which
max(1, floor(r n)) words are overwritten by the words of highest TF-IDF of a random clean text. With
p_k the prediction for copy k,

    H(x) = mean over k of  - sum over c of  p_kc log2 p_kc          suspicion(x) = - H(x)

so a text whose copies are predicted with confidence is suspicious.

Paper: Gao et al., "Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep Neural
Networks", arXiv 1911.10312 (STRIP-ViTA). Public code: thunlp/OpenBackdoor, lancopku/RAP.

Known differences:
    - entropies are averaged over the copies of one text. OpenBackdoor lines the copies up text by
      text, reads them as copy by copy, and so averages over different texts; figures that were
      made with that file are no guide;
    - 0 log 0 is 0 (there: not a number);
    - positions are drawn without repetition and at least one word is replaced, as in lancopku/RAP;
    - a donor that has too few words starts again from its best one (there: words it does not have);
    - no class is protected: every text is judged, and no target is known;
    - the model is the base that the guard defends, not the tuned victim behind it.

The copies of a text come from a random stream that is named after the text itself, and make up a
batch of their own. A score is therefore the same to the last bit whatever else is scored, and the
same text always scores the same.

Limits: a trigger that is itself overwritten is lost, so with r = 0.5 half of the copies of a
one-word trigger say nothing; a base that is sure of everything leaves no entropy to compare;
texts that are clean but full of strong words look suspicious.

Cost: N passes a text, one more when the predicted class is asked for (``donors = "opposite"`` or
``conditional``); nothing is trained.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, Scores
from peftlab.io.files import read_json, write_atomic
from peftlab.io.strict_json import dump_json

FILE = "strip.json"
FILE_LIMIT = 256 << 20
FORMAT = "peftlab.strip/1"
MOST_WORDS = 100  # kept of a donor; a longer text meets them again
WORD = re.compile(r"\w\w+")  # two letters or more, as the vectoriser that OpenBackdoor uses


class StripOptions(GuardOptions):
    """Options of STRIP."""

    copies: int = option(
        20, "perturbed copies of each text (N)",
        source="lancopku/RAP:strip_vita.py (thunlp/OpenBackdoor: 5)", ge=1, le=1000,
    )  # fmt: skip
    ratio: float = option(
        0.5, "share of the words of a copy that is overwritten (r)",
        source="thunlp/OpenBackdoor:strip_defender.py (lancopku/RAP: 0.7; sentence triggers 0.05)",
        gt=0, le=1,
    )  # fmt: skip
    donors: Literal["any", "opposite"] = option(
        "any", "words come from any clean text, or from those that are predicted otherwise",
        source="thunlp/OpenBackdoor:strip_defender.py (lancopku/RAP: opposite)",
    )  # fmt: skip


@defence(
    "strip",
    options=StripOptions,
    source="arXiv 1911.10312",
    cost="N passes a text (20 by default), one more for the predicted class; fit trains nothing",
)
class Strip:
    """STRIP: a text whose class outlives the loss of half of its words is suspicious."""

    needs_head = True

    def __init__(self, options: StripOptions) -> None:
        self.options = options
        self.donors: list[list[str]] = []  # words of each clean text, best first
        self.classes: Ints = np.zeros(0, dtype=np.int64)  # predicted for each donor, or nothing
        self._seed = 0
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Rank the words of the clean reference texts; nothing is trained.

        Raises:
            ConfigError: ``STRIP-DONORS`` when no reference text has a word to give.
        """
        self._load_base, self._live, self._seed = context.load_base, None, context.seed
        ranked = rank_words(context.reference.texts)
        rows = [i for i, words in enumerate(ranked) if words]
        if not rows:
            raise ConfigError(
                "no clean reference text has a word to give",
                code="STRIP-DONORS", got=f"{len(ranked)} texts",
                allowed="texts with words of two letters or more",
                fix="give clean dev texts of the task",
            )  # fmt: skip
        self.donors = [ranked[i] for i in rows]
        self.classes = np.zeros(0, dtype=np.int64)
        if self.options.donors == "opposite":
            given = [context.reference.texts[i] for i in rows]
            self.classes = _logits(*self._model(), given).argmax(axis=1)
        context.progress(f"strip: {len(self.donors)} clean texts to take words from")

    def score(self, texts: Sequence[str]) -> Scores:
        """Return minus the mean entropy of the copies of each text, in bits."""
        model, tokenizer = self._model()
        known = None
        if self.options.donors == "opposite" or self.options.conditional:
            known = self._predict(texts)
        values = np.zeros(len(texts))
        for i, text in enumerate(texts):
            copies = self.perturb(text, None if known is None else int(known[i]))
            values[i] = -mean_entropy(_logits(model, tokenizer, copies), len(copies))[0]
        return Scores(values, known)

    def perturb(self, text: str, predicted: int | None = None) -> list[str]:
        """Return the N copies of one text; always the same ones.

        Args:
            text: any text; one without words is its own copy.
            predicted: class of the text, needed for ``donors = "opposite"`` only.
        """
        words = _visible(text).split()
        if not words:
            return [text] * self.options.copies
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        draw = stream(self._seed, "defence/strip", name)
        pool = self._pool(predicted)
        count = max(int(len(words) * self.options.ratio), 1)
        copies = []
        for _ in range(self.options.copies):
            donor = self.donors[int(pool[draw.integers(len(pool))])]
            places = draw.choice(len(words), size=count, replace=False)
            copies.append(_overwrite(words, places, donor))
        return copies

    def diagnostics(self) -> dict[str, Any]:
        """Return what a score costs and where the words come from."""
        known = self.options.donors == "opposite" or self.options.conditional
        return {
            "passes_per_text": self.options.copies + known,
            "donors": len(self.donors),
            "donors_of_class": np.bincount(self.classes).tolist() if len(self.classes) else None,
        }

    def save(self, folder: Path) -> None:
        """Write the words of the donors; the file reveals the reference texts, treat it so."""
        state = {
            "format": FORMAT,
            "seed": self._seed,
            "donors": self.donors,
            "classes": self.classes.tolist(),
        }
        write_atomic(folder / FILE, dump_json(state))

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``STRIP-STATE`` when the file is not what ``save`` wrote.
        """
        state = read_json(folder / FILE, limit_bytes=FILE_LIMIT)
        self._load_base, self._live = load_base, None
        opposite = self.options.donors == "opposite"
        n_classes = int(self._model()[0].config.num_labels) if opposite else 0
        wrong = _mistake(state, n_classes)
        if wrong:
            raise InputRejected(
                "the words of this STRIP guard are not as it wrote them",
                code="STRIP-STATE", got=wrong, fix="fit the guard again",
            )  # fmt: skip
        self.donors, self._seed = state["donors"], state["seed"]
        self.classes = np.array(state["classes"], dtype=np.int64)

    def _pool(self, predicted: int | None) -> Ints:
        """Return the numbers of the donors that may give words to a text of this class."""
        every = np.arange(len(self.donors))
        if self.options.donors == "any":
            return every
        others = every[self.classes != predicted]
        return others if len(others) else every

    def _predict(self, texts: Sequence[str]) -> Ints:
        model, tokenizer = self._model()
        # one text a batch, or a close call could hang on the others
        answers = [_logits(model, tokenizer, [text])[0].argmax() for text in texts]
        return np.array(answers, dtype=np.int64)

    def _model(self) -> tuple[Any, Any]:
        if self._load_base is None:
            raise ConfigError(
                "strip has not been fitted", code="DEFENCE-UNFITTED", fix="call fit or load first"
            )
        if self._live is None:
            self._live = self._load_base()
        return self._live


def rank_words(texts: Sequence[str]) -> list[list[str]]:
    """Return the words of each text, highest TF-IDF first, ties in alphabetical order.

    TF is the count in the text, IDF is ``ln((1 + n) / (1 + df)) + 1``, as OpenBackdoor has it; that
    also drops a list of English stop words, which IDF ranks low by itself.

    Examples:
        >>> rank_words(["a fine film, a fine cast", "the film"])
        [['fine', 'cast', 'film'], ['the', 'film']]
    """
    counts = [Counter(WORD.findall(text.lower())) for text in texts]
    documents = Counter(word for count in counts for word in count)
    rarity = {word: math.log((1 + len(texts)) / (1 + n)) + 1 for word, n in documents.items()}
    ranked = [sorted(count, key=lambda w: (-count[w] * rarity[w], w)) for count in counts]
    return [words[:MOST_WORDS] for words in ranked]


def mean_entropy(logits: Floats, copies: int) -> Floats:
    """Return the mean entropy in bits over the copies of each text, (n,).

    Args:
        logits: (n * copies, C), all copies of the first text before those of the second.
        copies: N.

    Examples:
        >>> mean_entropy(np.array([[0.0, 0.0], [9e3, 0.0], [0.0, 9e3], [9e3, 0.0]]), 2).tolist()
        [0.5, 0.0]
    """
    from peftlab.nn.confidence import confidence

    nobody = np.zeros(0, dtype=np.int64)  # the entropy asks for no class
    bits = -confidence("neg_entropy", logits, nobody) / math.log(2)
    return np.abs(bits.reshape(-1, copies).mean(axis=1))  # abs: no minus zero


def _overwrite(words: Sequence[str], places: Ints, donor: Sequence[str]) -> str:
    changed = list(words)
    for place, word in zip(places, islice(cycle(donor), len(places)), strict=True):
        changed[int(place)] = word
    return " ".join(changed)


def _visible(text: str) -> str:
    """Return the part of a text that can reach the model; the rest is not worth N copies."""
    from peftlab.nn.text import CHARACTERS_PER_TOKEN, MAX_TOKENS

    return text[: MAX_TOKENS * CHARACTERS_PER_TOKEN]


def _logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> Floats:
    from peftlab.nn.text import predict_logits

    return predict_logits(model, tokenizer, texts)


def _mistake(state: Any, n_classes: int) -> str:
    """Return what is wrong with a saved state, or nothing; without classes donors have none."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"format is not {FORMAT}"
    donors, classes = state.get("donors"), state.get("classes")
    if not isinstance(state.get("seed"), int):
        return "no seed"
    if not isinstance(donors, list) or not donors or not all(map(_is_words, donors)):
        return "donors are not lists of words"
    if not isinstance(classes, list) or not all(each in range(n_classes) for each in classes):
        return f"classes are not of 0 to {n_classes - 1}"
    if len(classes) != (len(donors) if n_classes else 0):
        return f"{len(classes)} classes for {len(donors)} donors"
    return ""


def _is_words(donor: Any) -> bool:
    return isinstance(donor, list) and bool(donor) and all(isinstance(word, str) for word in donor)
