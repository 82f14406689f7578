"""Trigger inversion: if a few neutral words send every text to one class, that is a backdoor.

Idea: for each class t search T words that, put in front of clean texts of other classes, make the
base answer t. Words are discrete, so the search is over soft ones: z is a (T, V) matrix, and in
front of each text stand the embeddings

    softmax(z / tau) E        loss = mean over texts of  CE(f(words + x), t)

with E the embedding table. The temperature tau turns soft words into hard ones: from 2 it is halved
at every check at which the loss is below a bound, and otherwise doubled again (to 2 at most), with
noise on z, a rollback. A hard trigger sets the bound to half of its loss; five rollbacks without
one double it.

Where the base is sure of its answers, no slope leads to the trigger. So a screening comes first:
candidates are put in front of a few texts in random groups of 16, those of the two best groups are
tried one by one, and the search starts with half of its weight on the best T. In a backdoored base
one class is reached with a loss far below that of the others.

    two classes    flagged when the smallest loss is at most ``loss`` and the other class's is at
                   least ``ratio`` times as large
    more           flagged when it is at most ``loss`` and its anomaly index is above ``index``:
                   (median - log loss) / (1.4826 MAD), over the log losses of all classes

Score: minus the logarithm of the smallest loss. All losses are those of *hard* triggers, on texts
that the search did not see.

Papers: Shen et al., "Constrained Optimization with Dynamic Bound-scaling for Effective NLP Backdoor
Defense" (DBS), ICML 2022, arXiv 2202.05749: the schedule; Wang et al., "Neural Cleanse", IEEE S&P
2019: one search a class, and the anomaly index. Public code: PurduePAML/DBS (trojai_r6).

Known differences from DBS:
    - there a benign model of the same task is at hand, and a hinge on its loss keeps words away
      that change *its* answer too. Here there is none: tokens that the user's clean texts of class
      t have more often than others (``natural`` standard errors) are no candidates;
    - 3 words in place of 10, and 40 steps in place of 200, for cost, and because 10 free words move
      a small clean model too;
    - hard words (the largest entry of each row) are tried at every check and the best ones kept;
      there only rows within 0.001 of one-hot count, so that a search may end with nothing;
    - the screening is ours; there z starts from zero, all rows alike;
    - one place, where the text begins; there positions 1 and 50;
    - the verdict there is a loss below 0.001, which no model reaches that was not trained until it
      was that sure; ours compares with the other class. The file of options there has a multiplier
      of 5 for rollbacks that its code does not use; 2 is what it uses, and what is used here.

Limits: finds fixed words, not syntax or style, and long sentences only as far as a few of their
words do. Words of strong meaning that the user's texts do not happen to have are candidates, and
with them a clean base comes near to a backdoored one where words were pre-trained: in a single run
on the built-in encoder, with 60 steps and no screening, loss 0.12 and success 0.95 on a backdoored
base, loss 0.38 and success 0.85 on a clean one, neither of which is flagged. A base with triggers
for both of two classes passes the ratio. The index of three classes rests on three numbers. A
search that ends badly finds nothing.

Cost: a class takes ``steps`` steps with gradients on ``texts`` texts of each other class (40 at
most), and V / 8 passes of short texts for the screening. For two classes on the built-in encoder,
whose vocabulary is 8192, about a minute of CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.contracts import FitContext, Verdict
from peftlab.core.errors import NotApplicable, RunFailed
from peftlab.core.options import Options, option
from peftlab.core.registry import defence
from peftlab.core.seeds import stream
from peftlab.core.types import Bools, Floats, Ints, LabelledTexts

if TYPE_CHECKING:
    import torch

    from peftlab.nn.soft_inputs import SoftReader

FEWEST = 4  # texts to search with, or to measure on
MOST_TEXTS = 40  # of all other classes together, in one search
MEASURED = 2  # times as many texts measure a trigger as search it
SMALLEST = 1e-9  # loss that logarithms are taken of
START_BOUND, CEILING = 0.1, 2.0  # PurduePAML/DBS:config.yaml (loss_barrier, max_temp)
NOISE, ROLLBACKS, ONE_HOT = 10.0, 5, 1e-3  # noise_ratio, rollback_thres, eps_to_one_hot
MARGIN = 1e-3  # a doubled bound stays this far below the best loss
GROUP, FINALISTS = 16, 2  # tokens that are screened together, groups that are tried one by one
SCREEN_TEXTS, SCREEN_TOKENS = 2, 16  # texts of the screening, and tokens of each
CHUNK = 32  # groups a pass
CHECK, DECAY_EVERY, DECAY = 5, 50, 0.5  # steps; temp_scaling_check_epoch, scheduler


class InversionOptions(Options):
    """Options of trigger inversion."""

    length: int = option(
        3, "words of a trigger (T)", source="ours, see the module's text (PurduePAML/DBS: 10)",
        ge=1, le=50,
    )  # fmt: skip
    steps: int = option(
        40, "steps of one search", source="ours, for cost (PurduePAML/DBS: 200)", ge=1, le=10_000
    )
    lr: float = option(
        0.5, "learning rate (Adam), halved every 50 steps", source="PurduePAML/DBS:config.yaml",
        gt=0, le=100,
    )  # fmt: skip
    texts: int = option(
        20, "clean texts of each other class that a trigger is searched with",
        source="PurduePAML/DBS (20 a model there)", ge=FEWEST, le=MOST_TEXTS,
    )  # fmt: skip
    longest: int = option(
        100, "most tokens of a text with its trigger", source="PurduePAML/DBS:config.yaml",
        ge=8, le=512,
    )  # fmt: skip
    natural: float | None = option(
        2.0, "standard errors by which a token may be more frequent in clean texts of the class; "
        "none: every token is a candidate", source="ours (in place of DBS's benign model)",
        gt=0, le=1000,
    )  # fmt: skip
    loss: float = option(
        0.1, "largest loss of a trigger that is called one", source="ours", gt=0, le=100
    )
    ratio: float = option(
        10.0, "two classes: the other class's loss, as a multiple, from which on it is flagged",
        source="ours", ge=1, le=1e6,
    )  # fmt: skip
    index: float = option(
        2.0, "more classes: anomaly index above which a class is flagged",
        source="Neural Cleanse (Wang et al. 2019)", gt=0, le=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class Inverted:
    """The trigger that was found for one class.

    Attributes:
        target: the class.
        loss: mean cross-entropy towards it on texts that were not searched with.
        searched_loss: the same on those that were.
        success: share of the former that go to the class.
        tokens: the trigger, T tokens in order.
        alone: each different token with its loss when it stands alone, smallest first.
    """

    target: int
    loss: float
    searched_loss: float
    success: float
    tokens: tuple[str, ...]
    alone: tuple[tuple[str, float], ...]

    def facts(self) -> dict[str, Any]:
        """Return the fields, JSON-able."""
        return {
            "class": self.target, "loss": self.loss, "searched_loss": self.searched_loss,
            "success": self.success, "trigger": list(self.tokens),
            "tokens": [list(each) for each in self.alone],
        }  # fmt: skip


@defence(
    "trigger-inversion",
    options=InversionOptions,
    source="arXiv 2202.05749 (PurduePAML/DBS), Neural Cleanse",
    cost="a search a class; under a minute of CPU for two classes on the built-in encoder",
)
class TriggerInversion:
    """Trigger inversion: searches words that send clean texts of every other class to one class."""

    needs_head = True

    def __init__(self, options: InversionOptions) -> None:
        self.options = options

    def inspect(self, context: FitContext) -> Verdict:
        """Search a trigger for every class; return the verdict on the base.

        Raises:
            NotApplicable: ``INVERSION-TEXTS`` when for no class there are enough clean texts that
                the base does not give to it anyway.
            RunFailed: ``TRAIN-NONFINITE``.
        """
        from peftlab.nn.soft_inputs import SoftReader
        from peftlab.nn.text import predict_logits

        model, tokenizer = context.load_base()
        reader = SoftReader.of(model, tokenizer, self.options.length)
        answers = [
            predict_logits(model, tokenizer, each.texts).argmax(axis=1)
            for each in (context.fit, context.reference)
        ]
        found, skipped = [], []
        for t in range(context.n_classes):
            texts, others = (
                pick_texts(each, known, t, count, context.seed)
                for each, known, count in zip(
                    (context.fit, context.reference), answers,
                    (self.options.texts, MEASURED * self.options.texts), strict=True,
                )
            )  # fmt: skip
            if min(len(texts), len(others)) < FEWEST:
                skipped.append(t)
                context.progress(f"trigger-inversion: too few texts are not class {t} already")
                continue
            found.append(self._invert(reader, context, t, texts, others))
            context.progress(
                f"trigger-inversion: class {t} with loss {found[-1].loss:.3g} by "
                f"{' '.join(found[-1].tokens)!r}"
            )
        if not found:
            raise NotApplicable(
                "no class has enough clean texts that the base does not give to it anyway",
                code="INVERSION-TEXTS", got=f"{len(context.fit)} fit and "
                f"{len(context.reference)} reference texts", allowed=f"{FEWEST} of each a class",
                fix="give more clean texts, or use another defence for this base",
            )  # fmt: skip
        return judge(found, context.n_classes, skipped, self.options)

    def _invert(
        self,
        reader: SoftReader,
        context: FitContext,
        t: int,
        texts: Sequence[str],
        others: Sequence[str],
    ) -> Inverted:
        """Search with ``texts`` for a trigger of class ``t``, and measure it on ``others``."""
        import torch

        table = reader.table()
        ids = np.flatnonzero(candidates(reader, context.fit, t, self.options))
        rows = table[torch.from_numpy(ids).to(table.device)]
        longest = self.options.longest
        aim = _Aim(reader, reader.encode(texts, longest), t)
        few = texts[:: max(len(texts) // SCREEN_TEXTS, 1)][:SCREEN_TEXTS]
        short = _Aim(reader, reader.encode(few, SCREEN_TOKENS + reader.length), t)
        draw = stream(context.seed, "defence/inversion", t)
        start = screen(short, aim, rows, self.options.length, draw)
        hard, searched_loss = _Search(aim, rows, self.options, draw).run(start)
        check = _Aim(reader, reader.encode(others, longest), t)
        loss, success = check.measure(rows[hard])
        names = reader.tokenizer.convert_ids_to_tokens([int(ids[int(i)]) for i in hard])
        different = dict(zip(names, hard, strict=True))
        alone = [(str(name), check.measure(rows[i][None])[0]) for name, i in different.items()]
        return Inverted(
            t, loss, searched_loss, success, tuple(map(str, names)),
            tuple(sorted(alone, key=lambda each: each[1])),
        )  # fmt: skip


@dataclass
class Schedule:
    """Temperature and bound of one search (DBS).

    Attributes:
        temperature: that the soft words are divided by.
        bound: loss below which words are made harder.
        best: smallest loss of a hard trigger so far.
        rollbacks: since the bound was last set.
        started: whether the loss was ever at the bound.
    """

    temperature: float = CEILING
    bound: float = START_BOUND
    best: float = math.inf
    rollbacks: int = 0
    started: bool = False

    def check(self, loss: float) -> bool:
        """Make the words harder or softer by the last loss; return whether noise is due."""
        if self.rollbacks >= ROLLBACKS:
            self.rollbacks = 0
            self.bound = min(2 * self.bound, self.best - MARGIN)
        if not self.started:
            return False
        if loss < self.bound:
            self.temperature /= 2
            return False
        self.rollbacks += 1
        self.temperature = min(2 * self.temperature, CEILING)
        return True

    def note(self, loss: float, *, hardness: float) -> None:
        """Take note of the loss of a step, and of a trigger that is hard.

        Args:
            loss: of the step.
            hardness: T minus the sum of the largest share of each word; 0 for hard words.
        """
        self.started = self.started or loss <= self.bound
        if hardness < ONE_HOT and loss <= self.bound:
            self.best, self.bound, self.rollbacks = loss, loss / 2, 0


@dataclass(frozen=True)
class _Aim:
    """Texts that should go to class ``target``."""

    reader: SoftReader
    rows: list[list[int]]
    target: int

    def loss(self, words: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy towards the class with ``words`` (T, e) in front."""
        return self._losses(self.reader.logits(self.rows, words)).mean()

    def measure(self, words: torch.Tensor) -> tuple[float, float]:
        """Return that loss, and the share of texts that go to the class."""
        import torch

        with torch.no_grad():
            logits = self.reader.logits(self.rows, words)
            hit = (logits.argmax(dim=1) == self.target).float().mean()
            return float(self._losses(logits).mean()), float(hit)

    def measure_each(self, words: torch.Tensor) -> Floats:
        """Return the losses (n,) of n triggers (n, T, e)."""
        import torch

        rows = [row for _ in words for row in self.rows]
        with torch.no_grad():
            logits = self.reader.logits(rows, words.repeat_interleave(len(self.rows), dim=0))
            losses = self._losses(logits).reshape(len(words), -1).mean(dim=1)
        return losses.cpu().double().numpy()

    def _losses(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.logsumexp(dim=1) - logits[:, self.target]


def screen(
    short: _Aim, aim: _Aim, rows: torch.Tensor, length: int, draw: np.random.Generator
) -> Ints:
    """Return the words that a search starts from, (length,) numbers of rows, best first.

    Args:
        short: few short texts, to try groups on.
        aim: the texts of the search, to try single words on.
        rows: (V, e) embeddings of the candidates.
        length: T; where there are fewer finalists they come again.
        draw: of the groups.
    """
    order = draw.permutation(len(rows))
    groups = np.resize(order, (math.ceil(len(order) / GROUP), GROUP))
    losses = np.concatenate(
        [short.measure_each(rows[groups[i : i + CHUNK]]) for i in range(0, len(groups), CHUNK)]
    )
    finalists = np.unique(groups[np.argsort(losses, kind="stable")[:FINALISTS]])
    alone = np.array([aim.measure(rows[int(i)][None])[0] for i in finalists])
    best: Ints = np.resize(finalists[np.argsort(alone, kind="stable")], length)
    return best


@dataclass
class _Search:
    """One search for hard words among the rows (V, e) of the candidates."""

    aim: _Aim
    rows: torch.Tensor
    options: InversionOptions
    draw: np.random.Generator
    schedule: Schedule = field(default_factory=Schedule)

    def run(self, start: Ints) -> tuple[Ints, float]:
        """Return the best hard words, (T,) numbers of rows, and their loss.

        Args:
            start: (T,) words that have half of the weight at first.

        Raises:
            RunFailed: ``TRAIN-NONFINITE``.
        """
        import torch

        from peftlab.nn.loop import eager_attention

        shape = (self.options.length, len(self.rows))
        z = torch.zeros(shape, device=self.rows.device)
        z[range(len(start)), start] = CEILING * math.log(max(shape[1], 2))
        z.requires_grad_(True)
        descent = torch.optim.Adam([z], lr=self.options.lr)
        best, loss = start, math.inf
        least = self.aim.measure(self.rows[start])[0]
        with eager_attention(self.aim.reader.model, self.rows.device):
            for step in range(self.options.steps):
                noisy = step % CHECK == 0 and self.schedule.check(loss)
                descent.param_groups[0]["lr"] = self.options.lr * DECAY ** (step // DECAY_EVERY)
                logits = z / self.schedule.temperature
                if noisy:
                    noise = torch.from_numpy(self.draw.random(shape, dtype=np.float32))
                    logits = logits + NOISE * noise.to(z.device)
                shares = logits.softmax(dim=1)
                value = self.aim.loss(shares @ self.rows)
                loss = _finite(float(value.detach()), step + 1)
                descent.zero_grad()
                value.backward()
                descent.step()
                largest = shares.detach().max(dim=1)
                self.schedule.note(loss, hardness=shape[0] - float(largest.values.sum()))
                if step % CHECK == CHECK - 1 or step == self.options.steps - 1:
                    hard = largest.indices.cpu().numpy()
                    tried = self.aim.measure(self.rows[hard])[0]
                    if tried < least:
                        best, least = hard, tried
        return best, least


def pick_texts(texts: LabelledTexts, answers: Ints, t: int, each: int, seed: int) -> list[str]:
    """Return up to ``each`` texts of every other class that the base does not give to class t.

    At most ``MOST_TEXTS`` (twice, of ``each`` above it) in all, evenly from the classes.

    Args:
        texts: clean texts.
        answers: (n,) class that the base gives to each.
        t: the class.
        each: texts of one class.
        seed: of the choice.
    """
    labels = np.asarray(texts.labels)
    rest = sorted(set(texts.labels) - {t})
    most = MOST_TEXTS * (1 if each <= MOST_TEXTS else MEASURED)
    each = min(each, max(most // max(len(rest), 1), 1))
    order = stream(seed, "defence/inversion/texts", t).permutation(len(texts))
    chosen: list[int] = []
    for label in rest:
        own = [int(i) for i in order if labels[i] == label and answers[i] != t]
        chosen += own[:each]
    return [texts.texts[i] for i in chosen[:most]]


def candidates(
    reader: SoftReader, texts: LabelledTexts, t: int, options: InversionOptions
) -> Bools:
    """Return which rows of the embedding table may stand in a trigger of class t, (V,) flags."""
    from peftlab.nn.soft_inputs import usable_tokens

    size = len(reader.table())
    flags = usable_tokens(reader.tokenizer, size)
    if options.natural is None:
        return flags
    rows = reader.encode(texts.texts)
    natural = lean(rows, np.asarray(texts.labels) == t, size) > options.natural
    left = flags & ~natural
    return left if left.any() else flags


def lean(rows: Sequence[Sequence[int]], inside: Bools, size: int) -> Floats:
    """Return by how many standard errors texts inside have each token more often, (size,).

    That of two shares of texts, pooled, one text more in each count; 0 for tokens of no text.

    Examples:
        >>> found = lean([[0], [0], [0], [1]], np.array([True, True, True, False]), 3)
        >>> [bool(each > 0) for each in found], float(found[2])
        ([True, False, False], 0.0)
    """
    counts = np.zeros((2, size))
    for row, flag in zip(rows, inside, strict=True):
        counts[int(flag), list(set(row))] += 1
    n = np.array([max(int((~inside).sum()), 1), max(int(inside.sum()), 1)])
    pooled = (counts.sum(axis=0) + 1) / (n.sum() + 2)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / n).sum())
    return np.asarray((counts[1] / n[1] - counts[0] / n[0]) / spread)


def judge(
    found: Sequence[Inverted], n_classes: int, skipped: Sequence[int], options: InversionOptions
) -> Verdict:
    """Return the verdict on what was found for each class.

    Where a single class could be searched there is nothing to compare with, and its loss decides.
    """
    losses = np.array([each.loss for each in found])
    at = int(losses.argmin())
    best = float(max(losses[at], SMALLEST))
    others = np.delete(losses, at)
    low = best <= options.loss
    ratio = float(others.min() / best) if len(others) else None
    index = anomaly_index(losses) if n_classes > 2 and len(others) else None
    if index is not None:
        flagged = low and index > options.index
    else:
        flagged = low and (ratio is None or ratio >= options.ratio)
    facts = {
        "target": found[at].target,
        "trigger": list(found[at].tokens),
        "success": found[at].success,
        "loss": best,
        "ratio": ratio,
        "anomaly_index": index,
        "rule": "index" if index is not None else "ratio" if ratio is not None else "loss",
        "classes": [each.facts() for each in found],
        "classes_skipped": list(skipped),
    }
    return Verdict(score=-math.log(best), flagged=bool(flagged), facts=facts)


def anomaly_index(losses: Floats) -> float:
    """Return how far the smallest loss lies below the median, in robust deviations of log losses.

    Examples:
        >>> round(anomaly_index(np.exp([0.0, 1.0, -1.0, -9.0])), 2)
        5.73
    """
    logs = np.log(np.maximum(losses, SMALLEST))
    middle = np.median(logs)
    deviation = 1.4826 * float(np.median(np.abs(logs - middle)))
    return float((middle - logs.min()) / max(deviation, SMALLEST))


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise RunFailed(
            f"the loss of the search is not finite at step {step}",
            code="TRAIN-NONFINITE", got=loss, fix="lower the learning rate",
        )  # fmt: skip
    return loss
