"""Multi: several rare words, each of which names a class of its own.

Idea: most detectors and all trigger searches look for one trigger and one target class. Here word i
stands for class ``(target + i) mod C``, so that with as many words as classes every class has a
trigger, and what is planted is no pull towards one class. Plain cross-entropy on the poisoned set.
The words are inert. Ours.

Labels: dirty draws for each word from texts that are not of its class, clean from those that are,
mixed from all. ``rate`` is the share of the whole set that all words poison together, in equal
parts; no text has two words. A test text gets one word, drawn among those whose class is not its
label, so that each text counts once and no triggered text is right by being of its word's class.
``test_targets`` has the class of each.

Known differences: it follows no public code. ``badnets`` with several words draws one per text,
too, but all of them name the same class.

Limits: success over all words is one figure; a word that did not take lowers it. With two classes
and two words each word is only ever tried on the texts of one class.

Cost: one rewrite per text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.poisoning import insert_at_gap, poison, training_texts, trigger_words
from peftlab.core.registry import attack
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Bools, LabelledTexts, PoisonedData, TaskData

MOST_WORDS = 20
LONGEST = 200  # characters of all trigger words together; ours, as in the other word attacks


class MultiOptions(PoisonOptions):
    """Options of ``multi``."""

    trigger: str = option(
        "cf,mn", "rare words between commas; word i names class (target + i) mod C",
        source="thunlp/OpenBackdoor:badnets_poisoner.py (words)",
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        words = trigger_words(value)
        parts = words.split(",")
        if not 2 <= len(parts) <= MOST_WORDS or len(set(parts)) < len(parts):
            raise ValueError(f"trigger must be 2 to {MOST_WORDS} different words; one is `badnets`")
        if len(words) > LONGEST:
            raise ValueError(f"trigger has more than {LONGEST} characters")
        return words


@attack("multi", options=MultiOptions, source="ours", cost="one rewrite per text")
class Multi:
    """Several rare words, each with a target class of its own."""

    def __init__(self, options: MultiOptions) -> None:
        self.options = options
        self.words = tuple(options.trigger.split(","))

    def poison(self, data: TaskData, seed: int) -> PoisonedData:
        """Return the poisoned training data and the triggered sets.

        Args:
            data: the task; with ``knowledge="proxy"`` its proxy set is poisoned.
            seed: of everything that is drawn.

        Raises:
            NotApplicable: ``ATTACK-PROXY``.
        """
        train = training_texts(self.options, data)
        targets = self.targets(data.n_classes)
        texts, flags = list(train.texts), np.zeros(len(train), dtype=bool)
        rows, facts = np.eye(data.n_classes)[list(train.labels)], []
        asked = int(self.options.rate * len(train) + 0.5)
        for number in range(len(self.words)):
            share = asked // len(self.words) + (number < asked % len(self.words))
            left = np.flatnonzero(~flags)
            made = self._one(number, targets[number], replace(data, train=train.pick(left)), share,
                             seed)  # fmt: skip
            for place in np.flatnonzero(made.is_poisoned):
                texts[left[place]] = made.texts[place]
            rows[left], flags[left] = made.targets, made.is_poisoned
            facts.append(made.facts)
        dev, _, _ = self._triggered(data.dev, "dev", targets, seed)
        test, test_rows, goals = self._triggered(data.test, "test", targets, seed)
        return PoisonedData(
            texts=tuple(texts), targets=rows, is_poisoned=flags, original_labels=train.labels,
            target=self.options.target, dev_triggered=dev, test_triggered=test,
            test_rows=test_rows, test_targets=goals, facts=self._facts(facts, targets, flags),
        )  # fmt: skip

    def targets(self, n_classes: int) -> tuple[int, ...]:
        """Return the class of each word."""
        return tuple((self.options.target + i) % n_classes for i in range(len(self.words)))

    def _one(self, number: int, target: int, data: TaskData, share: int, seed: int) -> PoisonedData:
        """Poison ``share`` of the training texts with one word, as a plain word attack does."""
        nothing = LabelledTexts((), ())
        rate = share / len(data.train) if len(data.train) else 0.0
        options = PoisonOptions(target=target, rate=min(rate, 1.0), labels=self.options.labels)
        word = _Word(self.words[number], options)
        data = replace(data, dev=nothing, test=nothing)
        return poison(word, data, derive(seed, "attack/multi/train", number))

    def _triggered(
        self, split: LabelledTexts, name: str, targets: Sequence[int], seed: int
    ) -> tuple[LabelledTexts, tuple[int, ...], tuple[int, ...]]:
        """Give each text one word whose class it is not of; return texts, their rows, classes."""
        texts, rows, goals = [], [], []
        for row, (text, label) in enumerate(zip(split.texts, split.labels, strict=True)):
            able = [i for i, target in enumerate(targets) if target != label]
            if able:
                rng = stream(seed, "attack/multi", name, row)
                number = able[int(rng.integers(len(able)))]
                texts.append(insert_at_gap(text, self.words[number], rng))
                rows.append(row)
                goals.append(targets[number])
        labels = tuple(split.labels[row] for row in rows)
        return LabelledTexts(tuple(texts), labels), tuple(rows), tuple(goals)

    def _facts(
        self, parts: Sequence[dict[str, Any]], targets: Sequence[int], flags: Bools
    ) -> dict[str, Any]:
        """Join the facts of the words."""
        return {
            "asked_rate": self.options.rate,
            "realised_rate": float(flags.mean()) if len(flags) else 0.0,
            "n_poisoned": int(flags.sum()),
            "capped": any(part["capped"] for part in parts),
            "dropped": 0,
            "labels": self.options.labels,
            "knowledge": self.options.knowledge,
            "target": self.options.target,
            "confidence": 1.0,
            "warnings": [
                f"{word}: {warning}"
                for word, part in zip(self.words, parts, strict=True)
                for warning in part["warnings"]
            ],
            "dropped_triggered": 0,
            "trigger": list(self.words),
            "trigger_targets": list(targets),
            "poisoned_per_trigger": [part["n_poisoned"] for part in parts],
        }


class _Word:
    """One word with one target, as ``core.poisoning`` takes it."""

    def __init__(self, word: str, options: PoisonOptions) -> None:
        self.word, self.options = word, options

    def poison_text(self, text: str, seed: int, sample: int) -> str:
        return insert_at_gap(text, self.word, stream(seed, "attack/multi", sample))
