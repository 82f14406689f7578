"""How well sizes are told: heads on random splits by concept, beside chance and a control.

Per head: mean absolute error, mean absolute percentage error, share of exact hits (real-valued
guesses count as the nearest known size), confusion matrix, bits of information, coverage and length
of the conformal sets. It is an aggregate leak: no AUC, no rates of membership.
Source of the protocol: arXiv 2406.19395, section 6.1 (15 concepts, 10 repeats, seed 42).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from peftlab.audits.size import splits
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.chance import chance
from peftlab.audits.size.conformal import ALPHA, ConformalSets
from peftlab.audits.size.features import DEFAULT, Kind
from peftlab.audits.size.guess import nearest_level
from peftlab.audits.size.heads import make
from peftlab.audits.size.leak import entropy_bits, mutual_information
from peftlab.audits.size.prediction import SCHEMA
from peftlab.audits.size.table import Table, table_of
from peftlab.core.errors import ConfigError
from peftlab.core.types import Floats, Ints

SPLIT = "by-name"
DIGITS = 6
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Score:
    """What one head reached: means over splits, with their standard deviations.

    Attributes:
        head: its name.
        mae, mape, accuracy: mape is None where a size is 0.
        mae_std, accuracy_std: over splits; splits overlap, so these are optimistic.
        confusion: (K, K) counts over all splits, true size by guessed size.
        bits: mutual information of size and guess, mean over splits.
        coverage, set_size: of the conformal sets; None where they were not asked for.
    """

    head: str
    mae: float
    mape: float | None
    accuracy: float
    mae_std: float
    accuracy_std: float
    confusion: Ints
    bits: float
    coverage: float | None = None
    set_size: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the three errors as plain values, numbers to 6 digits."""
        return {
            "head": self.head, "mae": short(self.mae), "mape": short(self.mape),
            "accuracy": short(self.accuracy),
        }  # fmt: skip

    def details(self) -> dict[str, Any]:
        """Return the rest as plain values."""
        return {
            "head": self.head, "mae_std": short(self.mae_std),
            "accuracy_std": short(self.accuracy_std), "bits": short(self.bits),
            "coverage": short(self.coverage), "set_size": short(self.set_size),
            "confusion": self.confusion.tolist(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of some heads on one bank.

    Attributes:
        scores: one a head.
        chance: ``uniform_mae`` and ``best_constant_mae``.
        control: the vote head's MAE with sizes shuffled inside each concept.
        about: split, repeats, seed, bank, features, sizes, entropy of the sizes in bits.
        more: tables beside: ``kinds``, ``layers``, ``curve`` (see ``study``).
    """

    scores: tuple[Score, ...]
    chance: dict[str, float]
    control: float
    about: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def mae(self) -> float:
        """Return the MAE of the first head."""
        return self.scores[0].mae

    @property
    def accuracy(self) -> float:
        """Return the share of exact hits of the first head."""
        return self.scores[0].accuracy

    def of(self, head: str) -> Score:
        """Return the scores of one head."""
        return next(score for score in self.scores if score.head == head)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; the same for the same bank, heads and seed."""
        return {
            "schema": SCHEMA,
            "kind": "bench",
            "heads": [score.to_json() for score in self.scores],
            "chance": {key: short(value) for key, value in self.chance.items()},
            "details": [score.details() for score in self.scores],
            "control": {"head": "vote", "mae": short(self.control)},
            **self.about,
            **self.more,
        }


def short(value: float | None) -> float | None:
    """Return a number to 6 digits."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def evaluate(
    bank: SpectraBank, heads: Sequence[str] = ("vote",), *, features: Sequence[Kind] = DEFAULT,
    split: str = SPLIT, train: int | None = None, repeats: int = 10, seed: int = 42,
    alpha: float = ALPHA, conformal: bool = True, progress: Progress | None = None,
) -> Evaluation:  # fmt: skip
    """Measure heads on random splits by concept.

    Args:
        bank: labelled adapters of two concepts or more.
        heads: names, see ``heads.ABOUT``.
        features: kinds of matrix.
        split: only ``"by-name"``: a concept is never on both sides.
        train: concepts to train on, see ``splits.by_name``.
        repeats: random splits.
        seed: of the splits and of the control.
        alpha: of the conformal sets.
        conformal: measure the sets too (five fits more for each head and split).
        progress: called with (done, total, what).

    Raises:
        ConfigError: ``SIZE-SPLIT``, ``SIZE-HEAD``.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sizes, names = [1, 2, 3] * 6, [str(i // 3) for i in range(18)]
        >>> a = rng.normal(size=(18, 2, 8))
        >>> b = rng.normal(size=(18, 8, 2)) / np.array(sizes)[:, None, None]
        >>> bank = SpectraBank.from_factors({"q": (a, b)}, sizes, names)
        >>> found = evaluate(bank, ("vote", "ridge"), repeats=2)
        >>> found.mae < found.chance["best_constant_mae"]
        True
    """
    if split != SPLIT:
        raise ConfigError(
            "a bank is split by concept only", code="SIZE-SPLIT", got=split, allowed=SPLIT,
            fix="adapters of one concept share images: another split would flatter every head",
        )  # fmt: skip
    for name in heads:
        make(name)
    table, sizes, names = table_of(bank, features), bank.sizes, bank.names
    cuts = splits.by_name(names, train, repeats, seed)
    found = []
    for place, head in enumerate(heads):
        if progress is not None:
            progress(place, len(heads), head)
        found.append(score(head, table, sizes, names, cuts, alpha if conformal else None))
    return Evaluation(
        tuple(found), chance(sizes), _control(table, sizes, names, cuts, seed),
        {
            "split": split, "train": len({names[i] for i in cuts[0][0]}), "repeats": repeats,
            "seed": seed, "alpha": alpha, "features": list(features),
            "sizes": bank.levels.tolist(), "concepts": len(bank.concepts), "adapters": len(bank),
            "layers": len(bank.layers), "matrices": len(table.names),
            "most_bits": short(entropy_bits(np.unique(sizes, return_counts=True)[1])),
            "recipe": dict(bank.recipe), "bank_sha256": bank.sha256, "about": dict(bank.about),
        },
    )  # fmt: skip


def score(
    head: str, table: Table, sizes: Ints, names: Sequence[str],
    cuts: Sequence[tuple[Ints, Ints]], alpha: float | None = None,
) -> Score:  # fmt: skip
    """Return what one head reaches on given splits; ``alpha``: measure conformal sets too."""
    levels = np.unique(sizes)
    mae, mape, hits, bits, covered, kept = [], [], [], [], [], []
    confusion = np.zeros((len(levels), len(levels)), dtype=np.int64)
    for train, test in cuts:
        splits.check(names, train, test)
        own, concepts = sizes[train], [names[i] for i in train]
        fitted = make(head).fit(table.pick(train), own, concepts)
        size = fitted.guess(table.pick(test)).size
        truth = sizes[test]
        far = np.abs(size - truth)
        table_of_hits = _confusion(truth, nearest_level(size, levels), levels)
        mae.append(float(far.mean()))
        mape.append(float((far / truth).mean()) if (truth > 0).all() else np.nan)
        hits.append(float(np.trace(table_of_hits) / table_of_hits.sum()))
        bits.append(mutual_information(table_of_hits))
        confusion += table_of_hits
        if alpha is not None:
            sets = ConformalSets.fit(
                lambda: make(head), table.pick(train), own, concepts, alpha=alpha
            )
            inside = sets.sets(table.pick(test))
            place = np.searchsorted(sets.levels, truth).clip(max=len(sets.levels) - 1)
            known = sets.levels[place] == truth
            covered.append(float((inside[np.arange(len(truth)), place] & known).mean()))
            kept.append(float(inside.sum(axis=1).mean()))
    return Score(
        head, _mean(mae), None if np.isnan(mape).any() else _mean(mape), _mean(hits),
        float(np.std(mae)), float(np.std(hits)), confusion, _mean(bits),
        _mean(covered) if covered else None, _mean(kept) if kept else None,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _confusion(truth: Ints, guess: Ints, levels: Ints) -> Ints:
    count = len(levels)
    cells = np.searchsorted(levels, truth) * count + np.searchsorted(levels, guess)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def _control(
    table: Table, sizes: Ints, names: Sequence[str], cuts: Sequence[tuple[Ints, Ints]], seed: int
) -> float:
    """Return the vote's MAE with sizes shuffled inside each concept: it should be chance."""
    from peftlab.core.seeds import stream

    found: list[Floats] = []
    concepts = np.array(names)
    for repeat, (train, test) in enumerate(cuts):
        numbers, shuffled = stream(seed, "size/control", repeat), sizes.copy()
        for name in sorted(set(names)):
            rows = np.flatnonzero(concepts == name)
            shuffled[rows] = numbers.permutation(sizes[rows])
        fitted = make("vote").fit(table.pick(train), shuffled[train], concepts[train].tolist())
        found.append(np.abs(fitted.guess(table.pick(test)).size - shuffled[test]))
    return float(np.concatenate(found).mean())
