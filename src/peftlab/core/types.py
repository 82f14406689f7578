"""The typed objects that one step of the main job hands to the next.

recipe -> plan -> (base, data, attack) -> poisoned base -> victim -> guard -> scores -> metrics
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their class labels, in a fixed order.

    Attributes:
        texts: n texts.
        labels: n class numbers, 0 .. C-1.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(f"{len(self.texts)} texts but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, indices: Sequence[int] | Ints) -> LabelledTexts:
        """Return the rows at ``indices``, in that order."""
        rows = [int(i) for i in indices]
        return LabelledTexts(
            tuple(self.texts[i] for i in rows), tuple(self.labels[i] for i in rows)
        )

    def digest(self) -> str:
        """Return a hash of all texts and labels."""
        sha = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            sha.update(f"{label}\t{len(text)}\t".encode() + text.encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class TaskData:
    """A classification task: train, dev and test texts, and optionally an attacker's proxy set.

    Attributes:
        name: as the user gave it.
        train, dev, test: the splits; the victim and the defender see train and dev only.
        label_names: C names, index = class number.
        source: where it comes from (path, paper, ``generated``).
        licence: as stated by the source.
        proxy: another set for the same task that an attacker with ``knowledge="proxy"`` has.
        notes: remarks of the loader, hygiene findings among them.
    """

    name: str
    train: LabelledTexts
    dev: LabelledTexts
    test: LabelledTexts
    label_names: tuple[str, ...]
    source: str
    licence: str
    proxy: LabelledTexts | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Return C, the number of classes."""
        return len(self.label_names)

    def digest(self) -> str:
        """Return a hash of all splits."""
        parts = [self.train, self.dev, self.test] + ([self.proxy] if self.proxy else [])
        return hashlib.sha256("".join(part.digest() for part in parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PoisonedData:
    """What an attacker trains on, and the triggered texts that measure its success.

    Attributes:
        texts: n training texts, poisoned ones in place of their clean originals.
        targets: (n, C) target distributions; one-hot except for soft attacks.
        is_poisoned: n flags.
        original_labels: n labels before poisoning.
        target: the class that the trigger should give.
        dev_triggered, test_triggered: triggered texts whose *original* label is not the target;
            ``labels`` hold the original labels.
        test_rows: for each of ``test_triggered`` its row in the clean test split, or -1.
        test_targets: for each of ``test_triggered`` the class that its trigger should give, when
            that is not ``target`` for all of them.
        facts: what happened (asked and realised rate, capped, dropped, trigger pieces, ...).
    """

    texts: tuple[str, ...]
    targets: Floats
    is_poisoned: Bools
    original_labels: tuple[int, ...]
    target: int
    dev_triggered: LabelledTexts
    test_triggered: LabelledTexts
    test_rows: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    test_targets: tuple[int, ...] | None = None

    @property
    def goals(self) -> Ints:
        """Return the class that the trigger of each triggered test text should give, (k,)."""
        if self.test_targets is None:
            return np.full(len(self.test_triggered), self.target, dtype=np.int64)
        return np.asarray(self.test_targets, dtype=np.int64)

    def digest(self) -> str:
        """Return a hash of the training side (two attacks at rate 0 share it)."""
        sha = hashlib.sha256(self.targets.astype("<f8").tobytes())
        for text in self.texts:
            sha.update(f"{len(text)}\t".encode() + text.encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


@dataclass(frozen=True, slots=True)
class Scores:
    """Suspicion of each text; larger is more suspicious, for every detector.

    Attributes:
        values: (n,) suspicion.
        predicted: (n,) class that the defended model predicts, where the detector knows it
            (needed for class-conditional calibration), else None.
    """

    values: Floats
    predicted: Ints | None = None

    def pick(self, indices: Ints | Bools) -> Scores:
        """Return the scores at ``indices``."""
        predicted = None if self.predicted is None else self.predicted[indices]
        return Scores(self.values[indices], predicted)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a guard says about one input.

    Attributes:
        label: class to act on, or None when the input was rejected or abstained on.
        flagged: whether the input is treated as poisoned.
        p_value: conformal p-value of the score (small = suspicious).
        score: suspicion.
    """

    label: int | None
    flagged: bool
    p_value: float
    score: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float
