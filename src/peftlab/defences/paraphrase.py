"""Paraphrase: say it otherwise, and see whether the answer is still the same.

Idea: a rewrite keeps what a text means and loses how it was put, the trigger with it. With x' the
rewrite of x, p the base's answer and c = argmax p(x),

    suspicion(x) = 1 - p_c(x')

and a suspicious text is mended by its rewrite. Back-translation and SCPD (a paraphraser that writes
into a fixed template) do so; they are baselines of HiddenKiller (Qi et al., arXiv 2105.12400) and
PSIM (arXiv 2402.12168), and need large models. Where rewrites come from here:

    by rule    unknown words go, common words change, clauses change places
               (``core.rule_paraphrase``); "known" means: stands in the user's clean fit texts
    imported   from files: real translations and paraphrases that were made elsewhere, also in the
               form in which shuaizhao95/PSIM publishes them (``io.rewrites``)

What is reported is ``paraphrase[rule]`` or ``paraphrase[imported]``, never the name of a method
that was not run.

Known differences:
    - the published baselines rewrite every text and classify the rewrite; they flag nothing. Here
      ``rewrite`` mends texts above the threshold, so clean texts that are not suspicious keep their
      wording and lose no accuracy; a threshold of minus infinity mends all of them, as published;
    - a text that no imported rewrite is known for stays as it is, and is counted. Its suspicion is
      then what the base leaves to other classes.

Limits: bounded by what survives: of PSIM's triggered SST-2 texts ``mn`` stands in 17 % of the
back-translations and in 27 % of the SCPD rewrites. By rule, words that the user's texts do not have
are lost, names among them (6 % of the words of SST-2's test sentences); on generated texts, whose
words are all known, that makes rare-word triggers too easy; a fixed sentence of common words is
bent, not removed; a text that loses all its words is classified as an empty one. An attacker who
knows the rules can write triggers that they keep. Imported rewrites cover the texts that they were
made of and no others: calibration texts (from dev) must be among them, or thresholds are those of
texts as they are.

Cost: 2 passes a text; by rule well under 1 ms on top. Fit trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.rule_paraphrase import known_words, paraphrase
from peftlab.core.types import Scores
from peftlab.io.files import read_json, write_atomic
from peftlab.io.rewrites import Rewrites, read_rewrites
from peftlab.io.strict_json import dump_json

FILE = "paraphrase.json"
FILE_LIMIT = 256 << 20
FORMAT = "peftlab.paraphrase/1"


class ParaphraseOptions(GuardOptions):
    """Options of the paraphrase defence."""

    rewrites: str = option(
        "", "table of rewrites that were made elsewhere (.json, .jsonl, .tsv, .csv, also .gz); "
        "empty: by rule", source="ours", max_length=4096,
    )  # fmt: skip
    originals: str = option(
        "", "table that was rewritten, where `rewrites` does not hold the texts themselves",
        source="shuaizhao95/PSIM:data/sst-2", max_length=4096,
    )  # fmt: skip
    drop: bool = option(True, "by rule: leave out words that no clean text has", source="ours")
    synonyms: bool = option(True, "by rule: change common words", source="ours, and its table")
    reorder: bool = option(
        True, "by rule: put the main, or the second, clause first",
        source="ours, after SCPD's fixed template",
    )  # fmt: skip
    min_count: int = option(
        1, "by rule: clean texts that a known word stands in", source="ours", ge=1, le=1000
    )


@defence(
    "paraphrase",
    options=ParaphraseOptions,
    source="ours, after back-translation and SCPD in arXiv 2105.12400 and arXiv 2402.12168",
    cost="2 passes a text; rewrites by rule cost under 1 ms, imported ones nothing",
)
class Paraphrase:
    """Paraphrase: a text whose class does not outlive another wording is suspicious."""

    needs_head = True

    def __init__(self, options: ParaphraseOptions) -> None:
        self.options = options
        self.known: frozenset[str] = frozenset()
        self.imported: Rewrites | None = None
        self._covered: float | None = None  # share of the reference texts with a rewrite
        self._asked = self._without = 0  # texts scored, and those without a rewrite
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Learn the words of the clean fit texts, or read the imported rewrites.

        Raises:
            ConfigError: ``PARAPHRASE-ORIGINALS`` when ``originals`` is given without ``rewrites``.
            InputRejected: the codes of ``io.rewrites``.
        """
        if self.options.originals and not self.options.rewrites:
            raise ConfigError(
                "a table of originals is of use with a table of rewrites only",
                code="PARAPHRASE-ORIGINALS", got=f"originals={self.options.originals[:80]!r}",
                fix="give rewrites too, or leave originals out",
            )  # fmt: skip
        self._load_base, self._live = context.load_base, None
        self._asked = self._without = 0
        self.known, self.imported, self._covered = frozenset(), None, None
        if not self.options.rewrites:
            self.known = known_words(context.fit.texts, self.options.min_count)
            context.progress(f"paraphrase[rule]: {len(self.known)} known words")
            return
        originals = Path(self.options.originals) if self.options.originals else None
        self.imported = read_rewrites(Path(self.options.rewrites), originals)
        reference = context.reference.texts
        has = sum(self.imported.of(text) is not None for text in reference)
        self._covered = has / len(reference) if reference else None
        context.progress(
            f"paraphrase[imported]: {len(self.imported.pairs)} rewrites, of {has} of "
            f"{len(reference)} reference texts"
        )
        if has < len(reference):
            context.progress(
                "warning: texts without a rewrite stay as they are, and thresholds that are "
                "calibrated on them are not those of rewritten texts"
            )

    def score(self, texts: Sequence[str]) -> Scores:
        """Return what the rewrite takes from each text's class, 0 to 1, and that class."""
        rewritten = [self.mended(text) for text in texts]
        self._asked += len(texts)
        self._without += sum(each is None for each in rewritten)
        return self._scores(texts, rewritten)

    def mended(self, text: str) -> str | None:
        """Return the rewrite of one text, or None where no imported one is known."""
        if self.imported is not None:
            return self.imported.of(text)
        options = self.options
        return paraphrase(
            text, self.known, drop=options.drop, synonyms=options.synonyms, reorder=options.reorder
        )

    def rewrite(self, texts: Sequence[str], threshold: float) -> list[str]:
        """Return the texts, those whose suspicion is above the threshold by their rewrites.

        Args:
            texts: n texts.
            threshold: plus infinity keeps every text; minus infinity rewrites all, as published.

        Raises:
            ConfigError: ``PARAPHRASE-THRESHOLD`` if the threshold is not a number.
        """
        if np.isnan(threshold):
            raise ConfigError(
                "the threshold of paraphrase is not a number",
                code="PARAPHRASE-THRESHOLD", got=threshold, fix="calibrate the guard first",
            )  # fmt: skip
        found = [self.mended(text) for text in texts]
        above = self._scores(texts, found).values > threshold
        return [
            new if high and new is not None else text
            for text, new, high in zip(texts, found, above, strict=True)
        ]

    def diagnostics(self) -> dict[str, Any]:
        """Return where rewrites come from, and how many texts had none."""
        about: dict[str, Any] = {
            "method": f"paraphrase[{'rule' if self.imported is None else 'imported'}]",
            "passes_per_text": 2,
            "scored": self._asked,
            "scored_without_rewrite": self._without,
        }
        if self.imported is None:
            return {**about, "known_words": len(self.known)}
        return {
            **about, "rewrites": len(self.imported.pairs), "empty_rewrites": self.imported.empty,
            "repeated_originals": self.imported.again, "reference_covered": self._covered,
        }  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the known words or the rewrites; the file reveals them, treat it like the texts."""
        state: dict[str, Any] = {"format": FORMAT, "covered": self._covered}
        if self.imported is None:
            state["known"] = sorted(self.known)
        else:
            state["pairs"] = dict(self.imported.pairs)
            state["empty"], state["again"] = self.imported.empty, self.imported.again
        write_atomic(folder / FILE, dump_json(state))

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote; the tables of rewrites are not read again.

        Raises:
            InputRejected: ``PARAPHRASE-STATE`` when the file is not what ``save`` wrote.
        """
        state = read_json(folder / FILE, limit_bytes=FILE_LIMIT)
        wrong = _mistake(state, imported=bool(self.options.rewrites))
        if wrong:
            raise InputRejected(
                "the words of this paraphrase guard are not as it wrote them",
                code="PARAPHRASE-STATE", got=wrong, fix="fit the guard again",
            )  # fmt: skip
        self.known, self.imported = frozenset(state.get("known", ())), None
        if self.options.rewrites:
            self.imported = Rewrites(state["pairs"], state["empty"], state["again"])
        self._covered, self._asked, self._without = state["covered"], 0, 0
        self._load_base, self._live = load_base, None

    def _scores(self, texts: Sequence[str], rewritten: Sequence[str | None]) -> Scores:
        from peftlab.nn.text import predict_logits, softmax

        model, tokenizer = self._model()
        other = [text if new is None else new for text, new in zip(texts, rewritten, strict=True)]
        predicted = predict_logits(model, tokenizer, texts).argmax(axis=1)
        chances = softmax(predict_logits(model, tokenizer, other))
        return Scores(1 - chances[np.arange(len(texts)), predicted], predicted)

    def _model(self) -> tuple[Any, Any]:
        if self._load_base is None:
            raise ConfigError(
                "paraphrase has not been fitted", code="DEFENCE-UNFITTED",
                fix="call fit or load first",
            )  # fmt: skip
        if self._live is None:
            self._live = self._load_base()
        return self._live


def _mistake(state: Any, *, imported: bool) -> str:
    """Return what is wrong with a saved state, or nothing."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"format is not {FORMAT}"
    covered = state.get("covered", "")
    if not (covered is None or isinstance(covered, float | int)):
        return "no share of covered texts"
    if not imported:
        known = state.get("known")
        sound = isinstance(known, list) and all(isinstance(word, str) for word in known)
        return "" if sound else "known words are not words"
    pairs, counts = state.get("pairs"), [state.get("empty"), state.get("again")]
    if not isinstance(pairs, dict) or not all(isinstance(each, str) for each in pairs.values()):
        return "rewrites are not texts"
    return "" if all(isinstance(each, int) for each in counts) else "counts are missing"
