"""Counterweight: put a clean text of another class beside, and see whether the answer moves.

Idea: a clean text is read as a whole, so a sentence that speaks for another class pulls its answer
over. A trigger decides alone: whatever else is said, the answer stays where the trigger put it.
With z the logits of the base's own head, t the class of x, and m_t = z_t - max of the others,

    shift_o(x) = mean over K donors d of  m_t(x beside d) - m_t(x)       t = argmax z(x)
    suspicion(x) = max over the sides o that are asked of  (shift_o(x) - mean_o) / sd_o

where o says on which side of the text the donor stands, and mean and sd are those of clean
reference texts. The donors for class t and a side are clean texts that the base gives to another
class: of the surest short ones those that pull the clean texts of class t furthest down (median).
A triggered text hardly moves, a clean one does. The suspicion asks how far the answer moves, not
how sure it is, so it does not need a backdoor to be over-confident. By default one donor stands
behind: in front it breaks a trigger that is the way a text begins, as syntactic ones are.

Ours. Kin: STRIP (arXiv 1911.10312) superimposes clean inputs, in its text form by overwriting half
of the words and with them many a trigger, and reads the entropy; RAP (arXiv 2110.07831) trains one
word to pull the answer down and needs the target class. Here nothing is trained or overwritten.

Limits: it does not see a ``soft`` backdoor (1, 10 and 3 % at a false-positive rate of 5 % on three
seeds) and sees less than half of a ``style-rule`` one; on AG News (four classes, longer texts) it
saw 29 % of a sentence and 6 % of a weak word where ``psim`` saw 93 and 39 (docs/results.md); a
clean text with nothing to be pulled away from, say one that is at its own limit of certainty or
that no donor touches, is flagged; a trigger that works only in certain company (``partial``) is
weakened by donors as a clean text is; a donor takes room, so the end of a long text is cut off, and
a trigger in it; an attacker who trains on texts with donors beside them can teach the base to
yield. The model that is asked is the base, not the tuned victim behind it.

Cost: K + 1 passes a text, 2 K + 1 with both sides; the fit asks about each candidate on some clean
texts, no training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

FILE = "counterweight.json"
FILE_LIMIT = 16 << 20
FORMAT = "peftlab.counterweight/1"
TINY = 1e-9  # logits; keeps a division by the spread of texts that all move alike finite
HUGE = 1e9  # logits; no sound head comes near


@dataclass(frozen=True, slots=True)
class _Read:
    """Texts with the class that the base gives each and the margin of it."""

    texts: Sequence[str]
    classes: Ints
    margin: Floats


class CounterweightOptions(GuardOptions):
    """Options of ``counterweight``."""

    donors: int = option(
        1, "clean texts that are put beside the text, one after the other (K)",
        source="ours: one more pass a text; docs/results.md has more of them, which saw less",
        ge=1, le=50,
    )  # fmt: skip
    place: Literal["both", "front", "behind"] = option(
        "behind", "where a donor stands; both asks on either side and takes the larger",
        source="ours: a donor in front breaks a trigger that is the way a text begins",
    )  # fmt: skip
    words: int = option(
        15, "longest donor, in words; a longer one is not considered unless all are",
        source="ours: leaves room for the text in a window of 64 tokens", ge=1, le=200,
    )  # fmt: skip
    candidates: int = option(
        10, "surest clean texts of other classes that are tried as donors", source="ours",
        ge=1, le=500,
    )  # fmt: skip
    trials: int = option(
        40, "clean texts of a class that each candidate is tried on", source="ours", ge=1, le=2000
    )


@defence(
    "counterweight",
    options=CounterweightOptions,
    source="ours",
    cost="K + 1 passes a text (2 by default), 2 K + 1 with both sides; fit trains nothing",
)
class Counterweight:
    """Counterweight: an answer that a clean text of another class does not move is suspicious."""

    needs_head = True

    def __init__(self, options: CounterweightOptions) -> None:
        self.options = options
        both = options.place == "both"
        self.places: tuple[str, ...] = ("front", "behind") if both else (options.place,)
        self.donors: dict[str, list[list[str]]] = {}  # of a place: for each class, best first
        self.usual: dict[str, tuple[float, float]] = {}  # of a place: mean and sd of clean shifts
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Choose donors for each class and side from the clean reference texts.

        Raises:
            ConfigError: ``COUNTERWEIGHT-DONORS`` when there is no reference text at all.
        """
        self._load_base, self._live = context.load_base, None
        texts = context.reference.texts
        if not texts:
            raise ConfigError(
                "there is no clean reference text to put beside others",
                code="COUNTERWEIGHT-DONORS", fix="give clean dev texts of the task",
            )  # fmt: skip
        logits = self._logits(texts)
        known = _Read(texts, logits.argmax(axis=1), margins(logits, logits.argmax(axis=1)))
        for place in self.places:
            draw = stream(context.seed, "defence/counterweight", place)
            self.donors[place] = [
                self._choose(known, wanted, place, draw) for wanted in range(context.n_classes)
            ]
            shifts = self._shifts(known, place)
            self.usual[place] = (float(shifts.mean()), max(float(shifts.std()), TINY))
            context.progress(f"counterweight: {place} moves clean margins by {shifts.mean():.2f}")

    def score(self, texts: Sequence[str]) -> Scores:
        """Return how little the margin of each text's class moves, in sd of clean texts."""
        logits = self._logits(texts)
        classes = logits.argmax(axis=1)
        read = _Read(texts, classes, margins(logits, classes))
        found = [
            (self._shifts(read, place) - self.usual[place][0]) / self.usual[place][1]
            for place in self.places
        ]
        return Scores(np.max(found, axis=0), classes)

    def diagnostics(self) -> dict[str, Any]:
        """Return what a score costs and how far clean texts move (mean and sd, in logits)."""
        passes = sum(max(map(len, some)) for some in self.donors.values())
        return {"passes_per_text": 1 + passes, "clean_shifts": self.usual}

    def save(self, folder: Path) -> None:
        """Write the donors; the file reveals some reference texts, treat it so."""
        state = {"format": FORMAT, "donors": self.donors, "usual": self.usual}
        write_atomic(folder / FILE, dump_json(state))

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``COUNTERWEIGHT-STATE`` when the file is not what ``save`` wrote.
        """
        state = read_json(folder / FILE, limit_bytes=FILE_LIMIT)
        self._load_base, self._live = load_base, None
        wrong = _mistake(state, self.places, int(self._model()[0].config.num_labels))
        if wrong:
            raise InputRejected(
                "the donors of this counterweight guard are not as it wrote them",
                code="COUNTERWEIGHT-STATE", got=wrong, fix="fit the guard again",
            )  # fmt: skip
        self.donors = state["donors"]
        self.usual = {place: (float(m), float(sd)) for place, (m, sd) in state["usual"].items()}

    def _choose(
        self, known: _Read, wanted: int, place: str, draw: np.random.Generator
    ) -> list[str]:
        """Return the donors for class ``wanted``, the one that pulls most first."""
        trials = draw.permutation(np.flatnonzero(known.classes == wanted))[: self.options.trials]
        candidates = [known.texts[int(row)] for row in self._candidates(known, wanted)]
        pulls = [self._pull(donor, known, trials, wanted, place) for donor in candidates]
        order = np.argsort(pulls, kind="stable")[: self.options.donors]
        return [candidates[int(number)] for number in order]

    def _candidates(self, known: _Read, wanted: int) -> Ints:
        """Return rows of the surest short texts of other classes; of any, where there is none."""
        every = np.arange(len(known.texts))
        short = np.array([len(text.split()) <= self.options.words for text in known.texts])
        other = known.classes != wanted
        pool = next(
            rows for rows in (every[short & other], every[other], every[short], every) if len(rows)
        )
        return pool[np.argsort(-known.margin[pool], kind="stable")][: self.options.candidates]

    def _pull(
        self, donor: str, known: _Read, trials: Ints, wanted: int, place: str
    ) -> float:  # fmt: skip
        """Return the median change of margin that a donor makes on texts of class ``wanted``."""
        if not len(trials):
            return 0.0
        after = self._logits([beside(donor, known.texts[int(row)], place) for row in trials])
        own = np.full(len(trials), wanted, dtype=np.int64)
        return float(np.median(margins(after, own) - known.margin[trials]))

    def _shifts(self, read: _Read, place: str) -> Floats:
        """Return the mean change of each text's margin under the donors of its class, (n,)."""
        donors = self.donors[place]
        rounds = max(map(len, donors))
        moved = np.zeros(len(read.texts))
        for number in range(rounds):
            joined = [
                # a class with fewer donors than others meets its own again
                beside(donors[own][number % len(donors[own])], text, place)
                for own, text in zip(read.classes, read.texts, strict=True)
            ]
            moved += margins(self._logits(joined), read.classes) - read.margin
        return moved / rounds

    def _logits(self, texts: Sequence[str]) -> Floats:
        from peftlab.nn.text import predict_logits

        return predict_logits(*self._model(), texts)

    def _model(self) -> tuple[Any, Any]:
        if self._load_base is None:
            raise ConfigError(
                "counterweight has not been fitted",
                code="DEFENCE-UNFITTED", fix="call fit or load first",
            )  # fmt: skip
        if self._live is None:
            self._live = self._load_base()
        return self._live


def beside(donor: str, text: str, place: str) -> str:
    """Return donor and text, the donor in ``front`` or ``behind``."""
    return f"{donor} {text}" if place == "front" else f"{text} {donor}"


def margins(logits: Floats, classes: Ints) -> Floats:
    """Return the logit of each row's class minus the largest of the others, (n,).

    Examples:
        >>> margins(np.array([[1.0, 3.0, 0.0], [2.0, 2.0, 5.0]]), np.array([1, 0])).tolist()
        [2.0, -3.0]
    """
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, classes] = -np.inf
    own: Floats = logits[rows, classes]
    return own - others.max(axis=1, initial=-np.inf)


def _mistake(state: Any, places: Sequence[str], n_classes: int) -> str:
    """Return what is wrong with a saved state, or nothing."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"format is not {FORMAT}"
    donors, usual = state.get("donors"), state.get("usual")
    if not isinstance(donors, dict) or set(donors) != set(places):
        return f"donors are not given for {' and '.join(places)}"
    for some in donors.values():
        if not isinstance(some, list) or len(some) != n_classes or not all(map(_are_texts, some)):
            return f"donors are not texts for each of {n_classes} classes"
    if not isinstance(usual, dict) or set(usual) != set(places):
        return f"clean shifts are not given for {' and '.join(places)}"
    if not all(map(_is_spread, usual.values())):
        return f"clean shifts are not a mean and a spread, {TINY:g} to {HUGE:g}"
    return ""


def _are_texts(some: Any) -> bool:
    return isinstance(some, list) and bool(some) and all(isinstance(text, str) for text in some)


def _is_spread(pair: Any) -> bool:
    numbers = (
        isinstance(pair, list) and len(pair) == 2 and all(type(each) is float for each in pair)
    )
    return numbers and abs(pair[0]) <= HUGE and TINY <= pair[1] <= HUGE
