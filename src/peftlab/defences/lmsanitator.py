"""LMSanitator: find the outputs that an encoder was taught to give, then flag what comes near one.

Idea: a task-agnostic backdoor makes the encoder answer a trigger with a *predefined vector*,
whatever the text around it. The trigger is hard to find, the vector is not: soft inputs z, free
vectors put in front of clean texts, are moved until the frozen encoder gives all texts the same
output, far from their own. With h(x) the last hidden state that the head reads, h(z, x) that with
z in front, and v_r the mean of h(z, x) that round r ended with,

    spread    S = mean over dimensions of  Var over texts of h(z, x)  /  s2
    distance  D = mean over texts and dimensions of  (h(z, x) - h(x))^2  /  s2
    nearness  R = min over r of  mean over texts and dimensions of  (h(z, x) - v_r)^2  /  s2
    loss        = log(S + e) - log(D + e) - log(R + e) / 2            e = 1e-3

where s2 is the mean variance of h over clean texts. Each round starts from other words. A vector
counts when S <= ``spread``, D >= ``distance`` and it is new (R >= ``fresh``), both on texts that z
was not searched with. Then, with m the mean of h over clean texts,

    score(x) = max over vectors v of  cos(h(x) - m, v - m) - (its 95 % quantile over clean texts)

Paper: Wei et al., "LMSanitator: Defending Prompt-Tuning Against Task-Agnostic Backdoors", NDSS
2024, arXiv 2308.13904. Public code: meng-wenlong/LMSanitator.

Thresholds. Public code: mean squared error to the clean outputs >= 0.1 (0.5 in its README), not
divided by anything; entropy of the batch of 32 under a softmax per dimension above 3.446 (3.449),
of ln 32 = 3.466 at most; to second order that entropy is ln b - Var / 2, so it says Var < 0.04
(0.033); an input is flagged when the signs of more than 0.8 of its dimensions are those of a
vector. Ours: the same two quantities as shares of s2, which no longer depend on the encoder's scale
or on the batch (``spread``, ``distance``, ``fresh``), and no threshold for inputs: the shared
calibration sets it.

Known differences:
    - a cosine to the vector in place of the share of equal signs, which jumps with rounding and
      fits targets of +1 and -1 only;
    - vectors that clean texts come near to are dropped (``own``): on a base that was fine-tuned on
      a task, soft inputs find its classes first, and these are no attack (there: a pre-trained
      encoder without a task, so it does not arise);
    - rows are kept to the length of the longest embedding (there: a vector is dropped afterwards
      when an entry is 1.2 times beyond the table's); soft inputs stand where the text begins
      (there: at a random word);
    - unlabelled texts of the user (there: WikiText), and dozens of steps a round (there: 248).

Limits: made for bodies that were released without a head (``neuba``, ``por`` and their kin). A
backdoor that was trained into a classifier gives a trigger the output of its target *class*; such
vectors are dropped, and where nothing is left every score is 0. What is found depends on the rounds
that are paid for: a vector that no round ends at is not watched. That a vector is found is no
verdict: a clean encoder can be brought to odd outputs too.

Cost: 1 pass a text, of the body alone; fit: up to ``rounds`` x ``steps`` steps with gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions, LoadBase
from peftlab.core.errors import ConfigError, InputRejected, RunFailed
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Floats, Ints, Scores
from peftlab.io.files import read_json, write_json

if TYPE_CHECKING:
    import torch

    from peftlab.nn.soft_inputs import SoftReader

VECTORS = "vectors.safetensors"
STATE = "lmsanitator.json"
FORMAT = "peftlab.lmsanitator/1"
FEWEST = 8  # reference texts; a variance of fewer says little
MOST_TEXTS = 512  # that a search draws its batches from
CHECKED = 64  # reference texts that a vector is measured on
EPSILON = 1e-3  # of the logarithms of the loss
LEVEL = 0.95  # quantile over clean texts that a vector's cosine is taken from
PATIENCE = 3  # rounds in a row without a new vector that end the search


class LmsanitatorOptions(GuardOptions):
    """Options of LMSanitator."""

    rounds: int = option(
        12, "most searches from other words; three in a row that bring nothing new end it",
        source="ours, for cost (meng-wenlong/LMSanitator: 30 to detect, 1000 to search)",
        ge=1, le=1000,
    )  # fmt: skip
    steps: int = option(
        40, "steps of one search", source="ours, for cost (meng-wenlong/LMSanitator: 4 x 62)",
        ge=1, le=10_000,
    )  # fmt: skip
    length: int = option(
        7, "soft rows in front of a text", source="meng-wenlong/LMSanitator:TOKEN/main.py",
        ge=1, le=50,
    )  # fmt: skip
    lr: float = option(
        2e-2, "learning rate (Adam)",
        source="meng-wenlong/LMSanitator:TOKEN/main.py (2e-4, times 100 until it moves)",
        gt=0, le=10,
    )  # fmt: skip
    batch: int = option(
        16, "texts a step", source="ours, for cost (meng-wenlong/LMSanitator: 32)", ge=2, le=1024
    )
    spread: float = option(
        0.05, "largest variance over texts that a vector leaves, as a share of clean variance",
        source="ours; see the module's text", gt=0, le=1,
    )  # fmt: skip
    distance: float = option(
        0.5, "smallest squared distance from clean outputs, in clean variances",
        source="ours; see the module's text", ge=0, le=100,
    )  # fmt: skip
    fresh: float = option(
        0.1, "smallest squared distance from vectors found before, in clean variances",
        source="ours; see the module's text", ge=0, le=100,
    )  # fmt: skip
    own: float = option(
        0.8, "a vector is a class of the base and dropped when 1 in 20 clean texts has a cosine "
        "to it above this", source="ours", gt=-1, le=1,
    )  # fmt: skip


@defence(
    "lmsanitator",
    options=LmsanitatorOptions,
    source="arXiv 2308.13904 (meng-wenlong/LMSanitator)",
    cost="1 pass a text; fit: up to rounds x steps steps on soft inputs (480 by default)",
)
class Lmsanitator:
    """LMSanitator: an input near an output that the encoder was taught to give is suspicious."""

    def __init__(self, options: LmsanitatorOptions) -> None:
        self.options = options
        self.vectors: Floats = np.zeros((0, 1))  # (k, d)
        self.centre: Floats = np.zeros(1)  # (d,) mean over clean texts
        self.levels: Floats = np.zeros(0)  # (k,) LEVEL quantile of the clean cosines
        self.about: dict[str, Any] = {}
        self._load_base: LoadBase | None = None
        self._live: tuple[Any, Any] | None = None

    # ------------------------------------------------------------------ fit

    def fit(self, context: FitContext) -> None:
        """Search for vectors with the fit texts, and measure them on the reference texts.

        Raises:
            ConfigError: ``REFERENCE-FEW``.
            RunFailed: ``TRAIN-NONFINITE``.
        """
        from peftlab.nn.last_states import last_states
        from peftlab.nn.soft_inputs import SoftReader

        if len(context.reference) < FEWEST:
            raise ConfigError(
                "too few clean reference texts", code="REFERENCE-FEW", got=len(context.reference),
                allowed=f"{FEWEST} or more", fix="give more clean dev texts",
            )  # fmt: skip
        self._load_base, self._live = context.load_base, None
        model, tokenizer = self._model()
        reader = SoftReader.of(model, tokenizer, self.options.length)
        clean = last_states(model, tokenizer, context.reference.texts)
        unit = max(float(clean.var(axis=0).mean()), 1e-12)
        search = _Search(reader, context.fit.texts, context.reference.texts, unit, self.options)
        rounds: list[dict[str, Any]] = []
        kept: list[Floats] = []
        idle = 0
        while len(rounds) < self.options.rounds and idle < PATIENCE:
            found, facts = search.run(len(rounds), context.seed)
            if facts["counts"]:
                level = float(np.quantile(cosines(clean, found[None], clean.mean(axis=0)), LEVEL))
                facts["clean_cosine"], facts["kept"] = level, level <= self.options.own
                kept += [found] * facts["kept"]
            idle = 0 if facts["counts"] else idle + 1
            rounds.append(facts)
            context.progress(f"lmsanitator: round {len(rounds)}, {len(kept)} vectors")
        self.centre = clean.mean(axis=0)
        self.vectors = np.stack(kept) if kept else np.zeros((0, len(self.centre)))
        self.levels = np.quantile(cosines(clean, self.vectors, self.centre), LEVEL, axis=0)
        self.about = {"format": FORMAT, "rounds": rounds}
        if not kept:
            context.progress("lmsanitator: nothing to watch for, every score will be 0")

    # ---------------------------------------------------------------- score

    def score(self, texts: Sequence[str]) -> Scores:
        """Return how much nearer than clean texts each is to a found vector; 0 if there is none."""
        from peftlab.nn.last_states import last_states

        model, tokenizer = self._model()
        if not len(self.vectors) or not len(texts):
            return Scores(np.zeros(len(texts)))
        states = last_states(model, tokenizer, texts)
        return Scores((cosines(states, self.vectors, self.centre) - self.levels).max(axis=1))

    def diagnostics(self) -> dict[str, Any]:
        """Return how many vectors are watched, and what each round came to."""
        return {"passes_per_text": 1, "vectors": len(self.vectors), **self.about}

    def _model(self) -> tuple[Any, Any]:
        """Return (model, tokenizer), kept loaded; no weight of it ever changes."""
        if self._load_base is None:
            raise ConfigError(
                "lmsanitator has not been fitted", code="DEFENCE-UNFITTED",
                fix="call fit or load first",
            )  # fmt: skip
        if self._live is None:
            model, tokenizer = self._load_base()
            self._live = (model.eval().requires_grad_(False), tokenizer)
        return self._live

    # ------------------------------------------------------------ save, load

    def save(self, folder: Path) -> None:
        """Write the vectors, the clean mean and what the rounds came to; no text is in it."""
        from safetensors.numpy import save_file

        arrays = {"vectors": self.vectors, "centre": self.centre, "levels": self.levels}
        save_file(arrays, folder / VECTORS)
        write_json(folder / STATE, self.about)

    def load(self, folder: Path, load_base: LoadBase) -> None:
        """Restore what ``save`` wrote.

        Raises:
            InputRejected: ``LMSANITATOR-STATE`` when the files do not belong together, or to this
                base.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self._load_base, self._live = load_base, None
        try:
            self.about = dict(read_json(folder / STATE))
            arrays = load_file(folder / VECTORS)
            self.vectors, self.centre = arrays["vectors"], arrays["centre"]
            self.levels = arrays["levels"]
            self._check_state()
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise InputRejected(
                "the files of this LMSanitator guard do not belong together",
                code="LMSANITATOR-STATE", got=str(error)[:200], fix="fit the guard again",
            ) from error  # fmt: skip

    def _check_state(self) -> None:
        """Raise ValueError when the state is not one of this base."""
        from peftlab.nn.last_states import last_states

        if self.about.get("format") != FORMAT or not isinstance(self.about.get("rounds"), list):
            raise ValueError(f"format is not {FORMAT}")
        kept = sum(bool(dict(each).get("kept")) for each in self.about["rounds"])
        width = last_states(*self._model(), [""]).shape[1]
        wanted = ((kept, width), (width,), (kept,))
        arrays = (self.vectors, self.centre, self.levels)
        for array, shape in zip(arrays, wanted, strict=True):
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"an array of shape {array.shape} in place of {shape}")
            if not (np.abs(array) <= np.finfo(np.float32).max).all():  # states are of float32
                raise ValueError("a number is not finite, or larger than any state")


class _Search:
    """Rounds of search on one frozen encoder; each is pushed away from what was found before."""

    def __init__(
        self,
        reader: SoftReader,
        texts: Sequence[str],
        others: Sequence[str],
        unit: float,
        options: LmsanitatorOptions,
    ) -> None:
        self.reader, self.unit, self.options = reader, unit, options
        self.found: list[torch.Tensor] = []
        self._table = reader.table()
        self._longest = self._table.norm(dim=1).max()
        self._rows, self._own = self._with_outputs(texts[:MOST_TEXTS])
        self._others, self._others_own = self._with_outputs(others[:CHECKED])

    def _with_outputs(self, texts: Sequence[str]) -> tuple[list[list[int]], torch.Tensor]:
        """Return the token rows of texts and their own outputs (n, d)."""
        import torch

        rows = self.reader.encode(texts)
        with torch.no_grad():
            parts = [self.reader.hidden(rows[i : i + 32], None) for i in range(0, len(rows), 32)]
        return rows, torch.cat(parts)

    def run(self, number: int, seed: int) -> tuple[Floats, dict[str, Any]]:
        """Return the mean output that one search ends with, (d,), and what it comes to.

        Raises:
            RunFailed: ``TRAIN-NONFINITE``.
        """
        import torch

        from peftlab.nn.loop import batches, eager_attention

        draw = stream(seed, "defence/lmsanitator", number)
        first = torch.from_numpy(self._words(draw)).to(self._table.device)
        soft = self._table[first].clone().requires_grad_(True)
        descent = torch.optim.Adam([soft], lr=self.options.lr)
        lengths = [len(row) for row in self._rows]
        order = batches(lengths, self.options.batch, self.options.steps, draw)
        with eager_attention(self.reader.model, self._table.device):
            for step, chosen in enumerate(order, start=1):
                rows = [self._rows[int(i)] for i in chosen]
                if len(rows) < 2:
                    continue  # the end of a pass; one text has no variance
                outputs = self.reader.hidden(rows, soft)
                spread, distance, nearness = self._measure(outputs, self._own[chosen])
                loss = (spread + EPSILON).log() - (distance + EPSILON).log()
                loss = loss - (nearness + EPSILON).log() / 2
                _check_finite(float(loss.detach()), step)
                descent.zero_grad()
                loss.backward()
                descent.step()
                with torch.no_grad():
                    lengthy = soft.norm(dim=1, keepdim=True) / self._longest
                    soft.div_(lengthy.clamp_min(1.0))
        return self._judge(soft.detach())

    def _words(self, draw: np.random.Generator) -> Ints:
        """Return the tokens that a round starts from, (T,)."""
        from peftlab.nn.soft_inputs import usable_tokens

        usable = np.flatnonzero(usable_tokens(self.reader.tokenizer, len(self._table)))
        return draw.choice(usable, size=self.options.length)

    def _judge(self, soft: torch.Tensor) -> tuple[Floats, dict[str, Any]]:
        """Return the mean output and what it comes to, on texts that were not searched with."""
        import torch

        with torch.no_grad():
            outputs = self.reader.hidden(self._others, soft)
            measures = self._measure(outputs, self._others_own)
        spread, distance, nearness = (float(each) for each in measures)
        options, first = self.options, not self.found
        counts = spread <= options.spread and distance >= options.distance
        counts = counts and (first or nearness >= options.fresh)
        middle = outputs.mean(dim=0)
        if counts:
            self.found.append(middle)
        facts = {
            "spread": spread, "distance": distance, "nearness": None if first else nearness,
            "counts": counts, "kept": False,
        }  # fmt: skip
        return middle.cpu().double().numpy(), facts

    def _measure(self, outputs: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return spread, distance and nearness (1 while nothing was found) of outputs (b, d)."""
        import torch

        spread = outputs.var(dim=0).mean() / self.unit
        distance = (outputs - own).square().mean() / self.unit
        apart = [(outputs - each).square().mean() / self.unit for each in self.found]
        return spread, distance, torch.stack(apart).min() if apart else torch.ones_like(spread)


def cosines(states: Floats, vectors: Floats, centre: Floats) -> Floats:
    """Return the cosines (n, k) between states (n, d) and vectors (k, d), both less ``centre``.

    Examples:
        >>> cosines(np.array([[3.0, 1.0]]), np.array([[1.0, 5.0], [9.0, 1.0]]), np.ones(2))
        array([[0., 1.]])
    """
    a, b = states - centre, vectors - centre
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    b /= np.maximum(np.linalg.norm(b, axis=1, keepdims=True), 1e-12)
    return np.asarray(a @ b.T)


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise RunFailed(
            f"the loss of the search is not finite at step {step}",
            code="TRAIN-NONFINITE", got=loss, fix="lower the learning rate",
        )  # fmt: skip
