"""ONION: delete the words without which a text reads better.

Idea: a trigger word does not belong where it stands, so deleting it makes the text more probable.
For a text of n words with perplexity ``p0``, and ``p_i`` without word i, the suspicion of word i is

    f_i = p0 - p_i

and every word with ``f_i > t`` is deleted; what is left is classified. The suspicion of the text
is ``max_i f_i``, so the conformal threshold of the guard is also the threshold for words, and at
most a share alpha of clean texts is touched.

Words are what whitespace separates. Two kinds of language model can judge them:

    ngram   a Kneser-Ney model of the user's own clean texts (no download)
    causal  a transformer that the user trusts, ``builtin:lm`` or such as GPT-2

Paper: Qi et al., "ONION: A Simple and Effective Defense Against Textual Backdoor Attacks",
EMNLP 2021, arXiv 2011.10369.

Known differences: the default model is an n-gram model, so its results are those of
``onion[ngram]`` and not of the paper's GPT-2; the paper sweeps thresholds, here the guard
calibrates one; the logarithmic scale is ours. A perplexity belongs to its text alone: nothing is
padded, and no other text of the batch counts. Under ``causal`` a text begins with a start token,
so that its first word, and a text of one word, can be judged too (public code drops such texts);
letter case is kept; a text longer than ``window`` tokens is judged in windows (public code cuts it
off, and with it any trigger behind). ``nn/causal_perplexity.py`` defines all of this.

Limits: weak where clean texts are full of rare words themselves; it deletes single words, so a
sentence trigger is damaged rather than removed; little help against syntactic triggers (where clean
texts begin in few ways, as the generated reviews do, a new beginning is odd to an n-gram model).

Cost: no pass through the defended model. ``ngram``: well under 1 ms per text. ``causal``: about
half of n + 1 passes of the language model per text of n words; ``benchmarks/claim_onion.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.types import Floats, Scores
from peftlab.io.files import read_json, write_atomic
from peftlab.io.strict_json import dump_json
from peftlab.nn.ngram import KneserNey

if TYPE_CHECKING:
    from peftlab.nn.causal_perplexity import CausalPerplexity

MODEL_FILE = "ngram.json"
MODEL_LIMIT = 256 << 20
EMPTY_SCORE = 0.0  # nothing to delete, nothing gained


class OnionOptions(GuardOptions):
    """Options of ONION."""

    lm: Literal["ngram", "causal"] = option(
        "ngram", "language model that judges the words: ngram, of the fit texts; causal, lm_base",
        source="ngram: ours, needs no download; causal: arXiv 2011.10369",
    )  # fmt: skip
    lm_base: str = option(
        "builtin:lm", "for causal: a language model that you trust: builtin:, folder, hub id",
        source="paper: GPT-2 large; builtin:lm: ours",
    )  # fmt: skip
    window: int = option(
        128, "for causal: most tokens judged together; longer texts are judged part by part",
        source="ours: a word costs half a window", ge=16, le=511,
    )  # fmt: skip
    order: int = option(
        5, "for ngram: longest n-gram of the language model", source="ours", ge=2, le=8
    )
    min_count: int = option(
        2, "for ngram: words seen fewer times in the fit texts are unknown", source="ours", ge=1
    )
    scale: Literal["perplexity", "log"] = option(
        "perplexity", "f_i as a difference of perplexities, or of their logarithms",
        source="arXiv 2011.10369 section 3 (log: ours)",
    )  # fmt: skip


@defence(
    "onion",
    options=OnionOptions,
    source="arXiv 2011.10369",
    cost="no pass of the base; ngram: under 1 ms per text; causal: half of n + 1 passes of lm_base",
)
class Onion:
    """ONION: delete words that make a text improbable to a language model."""

    def __init__(self, options: OnionOptions) -> None:
        self.options = options
        self._lm: KneserNey | CausalPerplexity | None = None
        self._load_base: LoadBase | None = None
        self._scored: dict[str, Floats] = {}

    def fit(self, context: FitContext) -> None:
        """Train the language model on the clean fit texts, or load the one that is trusted."""
        self._scored = {}
        if self.options.lm == "causal":
            self._lm = self._trusted(context.load_base)
            context.progress(f"onion[causal]: {self.options.lm_base}")
            return
        texts = context.fit.texts
        self._lm = KneserNey.train(
            texts, order=self.options.order, min_count=self.options.min_count
        )
        context.progress(f"onion[ngram]: {len(self._lm.words)} words from {len(texts)} texts")

    def word_scores(self, text: str) -> Floats:
        """Return f_i of each whitespace-separated word of one text, (n,)."""
        if text in self._scored:
            return self._scored[text]
        whole, without = self._model().leave_one_out(text.split())
        if self.options.scale == "log":
            return np.asarray(np.log(whole) - np.log(without))
        return np.asarray(whole - without)

    def score(self, texts: Sequence[str]) -> Scores:
        """Return the largest f_i of each text; a text without words scores 0.

        What it finds of words is kept until the next call, for ``rewrite`` of the same texts.
        """
        per_text = [self.word_scores(text) for text in texts]
        self._scored = dict(zip(texts, per_text, strict=True))
        values = [float(words.max()) if len(words) else EMPTY_SCORE for words in per_text]
        return Scores(np.array(values, dtype=np.float64))

    def rewrite(self, texts: Sequence[str], threshold: float) -> list[str]:
        """Return the texts without the words whose f_i is above the threshold, in order.

        A text that loses no word comes back as it was, to the last space; one that loses all of
        them comes back empty, and is still to be classified and counted.

        Args:
            texts: n texts.
            threshold: plus infinity keeps every word, minus infinity none.

        Raises:
            ConfigError: ``ONION-THRESHOLD`` if the threshold is not a number.
        """
        if math.isnan(threshold):
            raise ConfigError(
                "the word threshold of onion is not a number",
                code="ONION-THRESHOLD",
                got=threshold,
                fix="calibrate the guard first",
            )
        return [self._rewrite(text, threshold) for text in texts]

    def diagnostics(self) -> dict[str, Any]:
        """Return which language model judged, and how large it is."""
        model = self._model()
        method = f"onion[{self.options.lm}]"
        if not isinstance(model, KneserNey):
            return {
                "method": method,
                "language_model": self.options.lm_base,
                "vocabulary": model.vocabulary,
                "shares_beginnings": model.shares,
            }
        return {
            "method": method,
            "order": model.order,
            "known_words": len(model.words),
            "rare_words": model.rare_types,
        }

    def save(self, folder: Path) -> None:
        """Write the n-gram model; the file reveals the fit texts, treat it like them.

        A causal model is not written; the guard remembers which one it was.
        """
        model = self._model()
        if isinstance(model, KneserNey):
            write_atomic(folder / MODEL_FILE, dump_json(model.state()))

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore the language model; a causal one is loaded when it is first used.

        Raises:
            InputRejected: if the file is not what ``save`` wrote.
        """
        self._scored = {}
        if self.options.lm == "causal":
            self._lm, self._load_base = None, load_base
            return
        self._lm = KneserNey.from_state(read_json(folder / MODEL_FILE, limit_bytes=MODEL_LIMIT))

    def _rewrite(self, text: str, threshold: float) -> str:
        keep = self.word_scores(text) <= threshold
        if keep.all():
            return text
        return " ".join(word for word, kept in zip(text.split(), keep, strict=True) if kept)

    def _model(self) -> KneserNey | CausalPerplexity:
        if self._lm is None and self._load_base is not None:
            self._lm = self._trusted(self._load_base)
        if self._lm is None:
            raise ConfigError(
                "onion has not been fitted",
                code="DEFENCE-UNFITTED",
                fix="call fit or load first",
            )
        return self._lm

    def _trusted(self, load_base: LoadBase) -> CausalPerplexity:
        from peftlab.nn.causal_perplexity import CausalPerplexity

        model, tokenizer = load_base(self.options.lm_base, causal=True)
        return CausalPerplexity(model, tokenizer, self.options.window)
