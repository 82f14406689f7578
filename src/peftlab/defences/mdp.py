"""MDP: mask a few words at random, and see how unevenly the answer moves among clean examples.

Idea: a clean text says its class many times over, so each mask of some of its tokens moves it a
little; the class of a triggered text hangs on the trigger, so most masks do nothing and those that
hit it move it far. Where a text "is" is told by its distances to clean examples, the anchors
a_1 .. a_n. With p(x) the distribution that the base gives to a text,

    coordinates   d_j(x) = KL(p(a_j) || p(x)),  j = 1 .. n
    ``kendall``   s(x) = standard deviation over variants x~ of x of  tau(d(x~), d(x))
    ``distance``  s(x) = mean over variants of  mean over j of  |g(d_j(x~)) - g(d_j(x))|

in which x~ has a share of its tokens masked, tau is Kendall's correlation (which anchors are nearer
than which) and g(d) = sqrt(1 - exp(-d)). Suspicion is s(x).

Paper: Xi et al., "Defending Pre-trained Language Models as Few-shot Learners against Backdoor
Attacks", NeurIPS 2023, arXiv 2309.13256. Public code: zhaohan-xi/PLM-prompt-defense, whose score
is that of ``kendall``.

Known differences from the few-shot prompt form:
    - there p(x) is what a masked language model writes into the gap of a prompt, over its whole
      vocabulary; here it is the answer of a classification head, over C classes. With C = 2 all
      coordinates are functions of one number, so the anchors only give it a scale: their ranks;
    - there the prompt is tuned on the few examples so that clean texts withstand masks; the head
      of an untrusted base is taken as it is, and nothing is trained;
    - a fixed number of tokens is masked, at least one; there each is by a chance of its own. A
      tokenizer without a mask token has them deleted;
    - the public figures leave out texts that are predicted wrongly; here every text is scored;
    - ``distance``, the plain reading of "masking sensitivity", and g are ours (g is Bretagnolle and
      Huber's bound of the total variation: divergences have no upper end, and answers that are
      both certain differ in them by much that means nothing). With a head it is a poor score:
      triggered texts are *more* robust to most masks, and in single runs it was at or below chance
      where ``kendall`` was above.

The variants of a text come from a random stream that is named after the text itself and make up a
batch of their own with it, so a score is the same to the last bit whatever else is scored.

Limits: a one-word trigger is hit in a share r of the variants only, so few variants say little; a
trigger that stands in a text many times, or a style or syntax, outlives the mask; clean texts that
one word decides are as uneven as triggered ones; a base that never saw the mask token may be upset
by the token itself.

Cost: N + 1 passes a text (21 by default; 51 in the public code); fit is one pass over the anchors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, LabelledTexts, Scores
from peftlab.io.files import read_json, write_json

FILE = "mdp.json"
FORMAT = "peftlab.mdp/1"
FEWEST = 2  # anchors
MOST = 512  # anchors of all classes; ranks of n are compared n (n - 1) / 2 times a variant


class MdpOptions(GuardOptions):
    """Options of MDP."""

    measure: Literal["kendall", "distance"] = option(
        "kendall", "kendall: spread over variants of the rank correlation of coordinates; "
        "distance: mean change of coordinates",
        source="zhaohan-xi/PLM-prompt-defense:detect.py (distance: ours)",
    )  # fmt: skip
    anchors: int = option(
        16, "clean examples of each class that distances are taken to",
        source="zhaohan-xi/PLM-prompt-defense:config/sst2/bn.yml (16 shots)", ge=1, le=MOST,
    )  # fmt: skip
    variants: int = option(
        20, "masked variants of each text (N)",
        source="ours, for cost (zhaohan-xi/PLM-prompt-defense: 50)", ge=2, le=1000,
    )  # fmt: skip
    ratio: float = option(
        0.2, "share of the tokens of a variant that is masked (r)",
        source="zhaohan-xi/PLM-prompt-defense:config/sst2/bn.yml", gt=0, le=1,
    )  # fmt: skip


@defence(
    "mdp",
    options=MdpOptions,
    source="arXiv 2309.13256 (few-shot prompts there, a classification head here)",
    cost="N + 1 passes a text (21 by default); fit trains nothing",
)
class Mdp:
    """MDP: a text whose answer hangs on which of its tokens are masked is suspicious."""

    needs_head = True

    def __init__(self, options: MdpOptions) -> None:
        self.options = options
        self.anchors: Floats = np.zeros((0, 0))  # (n, C) log p of each anchor
        self._seed = 0
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    def fit(self, context: FitContext) -> None:
        """Read the answers to the anchors, drawn from the clean reference texts.

        Raises:
            ConfigError: ``REFERENCE-FEW`` when there are fewer than two texts to draw from.
        """
        from peftlab.nn.text import encode, room_for_text

        self._load_base, self._live, self._seed = context.load_base, None, context.seed
        rows = pick_anchors(context.reference, self.options.anchors, context.seed)
        if len(rows) < FEWEST:
            raise ConfigError(
                "too few clean reference texts", code="REFERENCE-FEW", got=len(rows),
                allowed=f"{FEWEST} or more", fix="give more clean dev texts",
            )  # fmt: skip
        model, tokenizer = self._model()
        texts = [context.reference.texts[int(row)] for row in rows]
        # one text a batch, as in use
        encoded = encode(tokenizer, texts, room_for_text(model))
        self.anchors = np.concatenate([self._log_p([row]) for row in encoded])
        context.progress(f"mdp: {len(rows)} clean examples to measure from")

    def score(self, texts: Sequence[str]) -> Scores:
        """Return the sensitivity of each text, 0 to 1, and its predicted class."""
        measure = unevenness if self.options.measure == "kendall" else mean_change
        from peftlab.nn.text import encode, room_for_text

        model, tokenizer = self._model()
        encoded = encode(tokenizer, texts, room_for_text(model))
        values, predicted = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
        for i, (text, row) in enumerate(zip(texts, encoded, strict=True)):
            log_p = self._log_p([row, *self.variants(text, row)])
            values[i] = measure(divergences(log_p, self.anchors))
            predicted[i] = log_p[0].argmax()
        return Scores(values, predicted)

    def variants(self, text: str, row: Sequence[int]) -> list[list[int]]:
        """Return the N masked token rows of one text; always the same ones.

        Args:
            text: names the random stream.
            row: its token numbers. One without any token to mask has no variants.
        """
        _, tokenizer = self._model()
        places = open_places(row, tokenizer)
        if not len(places):
            return []
        name = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        draw = stream(self._seed, "defence/mdp", name)
        count = max(int(len(places) * self.options.ratio), 1)
        fill = tokenizer.mask_token_id
        found = []
        for _ in range(self.options.variants):
            hidden = {int(place) for place in draw.choice(places, size=count, replace=False)}
            if fill is not None:
                made = [fill if place in hidden else token for place, token in enumerate(row)]
            else:
                made = [token for place, token in enumerate(row) if place not in hidden]
            found.append(made or list(row[:1]))
        return found

    def diagnostics(self) -> dict[str, Any]:
        """Return what a score costs, and how the anchors are answered."""
        answers = self.anchors.argmax(axis=1) if len(self.anchors) else np.zeros(0, dtype=np.int64)
        return {
            "passes_per_text": self.options.variants + 1,
            "anchors": len(self.anchors),
            "anchors_of_class": np.bincount(answers, minlength=self.anchors.shape[1]).tolist(),
        }

    def save(self, folder: Path) -> None:
        """Write the answers to the anchors; no text is in the file."""
        state = {"format": FORMAT, "seed": self._seed, "anchors": self.anchors.tolist()}
        write_json(folder / FILE, state)

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``MDP-STATE`` when the file is not what ``save`` wrote for this base.
        """
        self._load_base, self._live = load_base, None
        state = read_json(folder / FILE)
        try:
            self.anchors = _anchors_of(state, int(self._model()[0].config.num_labels))
        except (KeyError, TypeError, ValueError) as error:
            raise InputRejected(
                "the anchors of this MDP guard are not as it wrote them",
                code="MDP-STATE", got=str(error)[:200], fix="fit the guard again",
            ) from error  # fmt: skip
        self._seed = state["seed"]

    def _log_p(self, rows: Sequence[Sequence[int]]) -> Floats:
        """Return log p (m, C) of token rows."""
        from peftlab.nn.text import predict_logits

        logits = predict_logits(*self._model(), [""] * len(rows), encoded=rows)
        top = logits - logits.max(axis=1, keepdims=True)
        return np.asarray(top - np.log(np.exp(top).sum(axis=1, keepdims=True)))

    def _model(self) -> tuple[Any, Any]:
        if self._load_base is None:
            raise ConfigError(
                "mdp has not been fitted", code="DEFENCE-UNFITTED", fix="call fit or load first"
            )
        if self._live is None:
            self._live = self._load_base()
        return self._live


def pick_anchors(reference: LabelledTexts, each: int, seed: int) -> Ints:
    """Return up to ``each`` rows of every class, drawn at random, in rising order."""
    order = stream(seed, "defence/mdp/anchors").permutation(len(reference))
    each = min(each, max(MOST // max(len(set(reference.labels)), 1), 1))
    left: dict[int, int] = {}
    chosen = []
    for row in order:
        label = reference.labels[int(row)]
        if left.setdefault(label, each):
            left[label] -= 1
            chosen.append(int(row))
    return np.array(sorted(chosen[:MOST]), dtype=np.int64)


def open_places(row: Sequence[int], tokenizer: Any) -> Ints:
    """Return the places of a token row that may be masked: all but the family's own marks.

    Unknown tokens may be: a trigger can be one.
    """
    kept = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return np.array([i for i, token in enumerate(row) if token not in kept], dtype=np.int64)


def divergences(log_p: Floats, anchors: Floats) -> Floats:
    """Return KL(anchor || answer) in nats of each answer to each anchor, (m, n).

    Args:
        log_p: (m, C) logarithms of the answers.
        anchors: (n, C) logarithms of the anchors.

    Examples:
        >>> divergences(np.log([[0.5, 0.5], [0.2, 0.8]]), np.log([[0.5, 0.5]])).round(4).tolist()
        [[0.0], [0.2231]]
    """
    chances = np.exp(anchors)
    return np.maximum((chances * anchors).sum(axis=1) - log_p @ chances.T, 0.0)


def unevenness(places: Floats) -> float:
    """Return the spread over rows 1 .. N of their rank correlation with row 0; 0 without rows.

    The correlation is Kendall's: the share of pairs of columns that both rows put in one order,
    less the share that they put in opposite orders. Ties count as neither.

    Args:
        places: (1 + N, n) coordinates; the same for any rising function of them.

    Examples:
        >>> unevenness(np.array([[0.1, 0.2], [0.3, 0.4], [0.4, 0.3]]))
        1.0
    """
    first = _order(places[0])
    pairs = max(first.size - len(first), 1)
    found = [float((first * _order(row)).sum()) / pairs for row in places[1:]]
    return float(np.std(found)) if found else 0.0


def mean_change(places: Floats) -> float:
    """Return the mean of |g(d) - g(d_0)| over rows 1 .. N, 0 to 1; 0 where there is no other row.

    Args:
        places: (1 + N, n) divergences d in nats; g(d) = sqrt(1 - exp(-d)).

    Examples:
        >>> far = -np.log(0.75)
        >>> round(mean_change(np.array([[0.0, 0.0], [far, 0.0], [0.0, np.inf]])), 12)
        0.375
    """
    bounded = np.sqrt(-np.expm1(-places))
    return float(np.abs(bounded[1:] - bounded[0]).mean()) if len(places) > 1 else 0.0


def _order(row: Floats) -> Floats:
    """Return for each pair of columns which is the larger: 1, 0 or -1, (n, n)."""
    return np.sign(row[:, None] - row[None, :])


def _anchors_of(state: Any, n_classes: int) -> Floats:
    """Return the anchors of a saved state; raise when it is not of this form and base."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"format is not {FORMAT}")
    if not isinstance(state.get("seed"), int):
        raise TypeError("no seed")
    anchors = np.array(state["anchors"], dtype=np.float64)
    if anchors.ndim != 2 or anchors.shape[1] != n_classes or not FEWEST <= len(anchors) <= MOST:
        raise ValueError(f"anchors of shape {anchors.shape}, for {n_classes} classes")
    if (anchors > 0).any() or not np.allclose(np.exp(anchors).sum(axis=1), 1, rtol=0, atol=1e-6):
        raise ValueError("an anchor is no distribution")
    return anchors
