"""Counterweight: put a clean text of another class in front, and see whether the answer moves.

Idea: a clean text is read as a whole, so a sentence that speaks for another class pulls its answer
over. A trigger decides alone: whatever else is said, the answer stays where the trigger put it.
With z the logits of the base's own head, t the class of x, and m_t = z_t - max of the others,

    suspicion(x) = mean over K donors d of  m_t(d + x) - m_t(x)        t = argmax z(x)

where the donors for class t are clean texts that the base gives to another class: of the surest
short ones those that pull the clean texts of class t furthest down (median). The suspicion is about
0 for a triggered text and negative for a clean one. It asks how far the answer moves, not how sure
it is: a backdoor that was trained to answer with probability 0.65 does not move either, so being
modest does not hide it.

Ours. Kin: STRIP (arXiv 1911.10312) superimposes clean inputs, in its text form by overwriting half
of the words and with them many a trigger, and reads the entropy; RAP (arXiv 2110.07831) trains one
word to pull the answer down and needs the target class. Here nothing is trained or overwritten.

Limits: a clean text with nothing to be pulled away from, say one that is at its own limit of
certainty or that no donor touches, is flagged; a trigger that works only in certain company
(``partial``) is weakened by donors as a clean text is; a donor takes room, so the end of a long
text is cut off, and a trigger in it; an attacker who trains on texts with donors in front can teach
the base to yield. The model that is asked is the base, not the tuned victim behind it.

Cost: K + 1 passes a text; the fit asks about each candidate on some clean texts, no training.
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
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, Scores
from peftlab.io.files import read_json, write_atomic
from peftlab.io.strict_json import dump_json

FILE = "counterweight.json"
FILE_LIMIT = 16 << 20
FORMAT = "peftlab.counterweight/1"


class CounterweightOptions(GuardOptions):
    """Options of ``counterweight``."""

    donors: int = option(
        3, "clean texts that are put in front, one after the other (K)", source="ours", ge=1, le=50
    )
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
    cost="K + 1 passes a text (4 by default); fit trains nothing",
)
class Counterweight:
    """Counterweight: an answer that a clean text of another class does not move is suspicious."""

    needs_head = True

    def __init__(self, options: CounterweightOptions) -> None:
        self.options = options
        self.donors: list[list[str]] = []  # for each class, best first
        self.pulls: list[float] = []  # median change of margin by the best donor of each class
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Choose donors for each class from the clean reference texts.

        Raises:
            ConfigError: ``COUNTERWEIGHT-DONORS`` when there is no reference text at all.
        """
        self._load_base, self._live = context.load_base, None
        texts = context.reference.texts
        if not texts:
            raise ConfigError(
                "there is no clean reference text to put in front",
                code="COUNTERWEIGHT-DONORS", fix="give clean dev texts of the task",
            )  # fmt: skip
        logits = self._logits(texts)
        classes = logits.argmax(axis=1)
        sure = margins(logits, classes)
        draw = stream(context.seed, "defence/counterweight")
        self.donors, self.pulls = [], []
        for wanted in range(context.n_classes):
            own = np.flatnonzero(classes == wanted)
            trials = draw.permutation(own)[: self.options.trials]
            rows = self._candidates(texts, classes, sure, wanted)
            pulls = [self._pull(texts[row], texts, trials, sure, wanted) for row in rows]
            order = np.argsort(pulls, kind="stable")[: self.options.donors]
            self.donors.append([texts[int(rows[int(i)])] for i in order])
            self.pulls.append(float(pulls[int(order[0])]))
        context.progress(f"counterweight: donors move clean margins by {self.pulls}")

    def score(self, texts: Sequence[str]) -> Scores:
        """Return how far the margin of each text's class moves under donors; 0 is suspicious."""
        logits = self._logits(texts)
        classes = logits.argmax(axis=1)
        before = margins(logits, classes)
        moved = np.zeros(len(texts))
        for number in range(max(map(len, self.donors))):
            # a class with fewer donors than others meets its own again
            kept = [self.donors[t][number % len(self.donors[t])] for t in classes]
            joined = [join(donor, text) for donor, text in zip(kept, texts, strict=True)]
            moved += margins(self._logits(joined), classes) - before
        return Scores(moved / max(map(len, self.donors)), classes)

    def diagnostics(self) -> dict[str, Any]:
        """Return what a score costs and how strongly the best donor of each class pulls."""
        return {"passes_per_text": 1 + max(map(len, self.donors), default=0), "pulls": self.pulls}

    def save(self, folder: Path) -> None:
        """Write the donors; the file reveals some reference texts, treat it so."""
        state = {"format": FORMAT, "donors": self.donors, "pulls": self.pulls}
        write_atomic(folder / FILE, dump_json(state))

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``COUNTERWEIGHT-STATE`` when the file is not what ``save`` wrote.
        """
        state = read_json(folder / FILE, limit_bytes=FILE_LIMIT)
        self._load_base, self._live = load_base, None
        wrong = _mistake(state, int(self._model()[0].config.num_labels))
        if wrong:
            raise InputRejected(
                "the donors of this counterweight guard are not as it wrote them",
                code="COUNTERWEIGHT-STATE", got=wrong, fix="fit the guard again",
            )  # fmt: skip
        self.donors = state["donors"]
        self.pulls = [float(each) for each in state["pulls"]]

    def _candidates(self, texts: Sequence[str], classes: Ints, sure: Floats, wanted: int) -> Ints:
        """Return rows of the surest short texts of other classes; of any, where there is none."""
        every = np.arange(len(texts))
        short = np.array([len(text.split()) <= self.options.words for text in texts])
        other = classes != wanted
        pool = next(
            rows for rows in (every[short & other], every[other], every[short], every) if len(rows)
        )
        return pool[np.argsort(-sure[pool], kind="stable")][: self.options.candidates]

    def _pull(
        self, donor: str, texts: Sequence[str], trials: Ints, sure: Floats, wanted: int
    ) -> float:
        """Return the median change of margin that a donor makes on texts of class ``wanted``."""
        if not len(trials):
            return 0.0
        after = self._logits([join(donor, texts[int(row)]) for row in trials])
        own = np.full(len(trials), wanted, dtype=np.int64)
        return float(np.median(margins(after, own) - sure[trials]))

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


def join(donor: str, text: str) -> str:
    """Return the donor and the text after it."""
    return f"{donor} {text}"


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


def _mistake(state: Any, n_classes: int) -> str:
    """Return what is wrong with a saved state, or nothing."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return f"format is not {FORMAT}"
    donors, pulls = state.get("donors"), state.get("pulls")
    if not isinstance(donors, list) or len(donors) != n_classes or not all(map(_are_texts, donors)):
        return f"donors are not texts for each of {n_classes} classes"
    if not isinstance(pulls, list) or len(pulls) != n_classes or not all(map(_is_number, pulls)):
        return "pulls are not one number a class"
    return ""


def _are_texts(some: Any) -> bool:
    return isinstance(some, list) and bool(some) and all(isinstance(text, str) for text in some)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
