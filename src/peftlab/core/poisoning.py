"""Selection, labels and triggered sets: what all text-wise attacks share.

Semantics after thunlp/OpenBackdoor:poisoner.py: ``rate`` is a share of the *whole* training
set; ``dirty`` draws from non-target samples and relabels, ``clean`` draws from target samples and
keeps labels, ``mixed`` draws from all and relabels. Poisoned samples replace their originals.
Texts that cannot carry the trigger (``poison_text`` gives None) are passed over and counted,
never relabelled.

An attack may have these members besides those of ``core.contracts.TextAttack``:

    ``confidence: float``     probability of the target class on poisoned samples (default 1.0)
    ``selection: str``        ``"random"`` (default) or ``"first"``: candidates in file order
    ``facts(clean, pairs)``   more facts, from the clean training texts and all (original,
                              triggered) pairs that were made
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from pydantic import field_validator

from peftlab.core.contracts import Attack, PoisonOptions, SetAttack, TextAttack
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.options import option
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats, LabelledTexts, PoisonedData, TaskData

_WORD = re.compile(r"\S+")


def poison(attack: Attack, data: TaskData, seed: int) -> PoisonedData:
    """Return the training data and the triggered sets of one attack.

    Args:
        attack: a text-wise attack (has ``poison_text``) or one that brings its sets (``poison``).
        data: the task; with ``knowledge="proxy"`` the attacker trains on ``data.proxy`` and the
            triggered sets still come from ``data.dev`` and ``data.test``.
        seed: same seed, same result, byte for byte.

    Returns:
        The poisoned data. ``rate=0`` gives the clean training set (the negative control) while
        the triggered sets are still made. ``facts`` tells what happened: ``asked_rate``,
        ``realised_rate``, ``n_poisoned``, ``capped``, ``dropped``, ``labels``, ``knowledge``,
        ``target``, ``warnings``.

    Raises:
        ConfigError: ``ATTACK-TARGET``, the target is not a class of this task.
        NotApplicable: ``ATTACK-PROXY``, there is no proxy set.

    Source:
        thunlp/OpenBackdoor openbackdoor/attackers/poisoners/poisoner.py.
    """
    check_target(attack.options.target, data)
    if hasattr(attack, "poison"):
        return cast("SetAttack", attack).poison(data, seed)
    return _poison_textwise(cast("TextAttack", attack), data, seed)


def check_target(target: int, data: TaskData) -> None:
    """Refuse a target class that the task does not have.

    Raises:
        ConfigError: ``ATTACK-TARGET``.
    """
    if target >= data.n_classes:
        raise ConfigError(
            f"the target class is not one of the {data.n_classes} classes of {data.name}",
            code="ATTACK-TARGET",
            got=target,
            allowed=", ".join(f"{i} ({name})" for i, name in enumerate(data.label_names)),
            fix="set attack.options.target",
        )


def training_texts(options: PoisonOptions, data: TaskData) -> LabelledTexts:
    """Return what the attacker trains on: the victim's training set or the proxy set.

    Raises:
        NotApplicable: ``ATTACK-PROXY``.
    """
    if options.knowledge == "full":
        return data.train
    if data.proxy is None:
        raise NotApplicable(
            f"{data.name} has no proxy set for an attacker who does not know the training set",
            code="ATTACK-PROXY",
            fix="use knowledge=full, or data that has a proxy set",
        )
    return data.proxy


def target_matrix(
    labels: Sequence[int],
    is_poisoned: Sequence[bool],
    *,
    target: int,
    n_classes: int,
    confidence: float = 1.0,
) -> Floats:
    """Return (n, C) target distributions from labels after poisoning.

    Args:
        labels: n class numbers as trained on.
        is_poisoned: n flags; these rows get ``confidence`` on ``target`` and the rest spread
            evenly over the other classes.
        target: class of the trigger.
        n_classes: C.
        confidence: 1.0 gives one-hot rows everywhere.

    Examples:
        >>> rows = target_matrix([1, 0], [False, True], target=0, n_classes=2, confidence=0.75)
        >>> rows.tolist()
        [[0.0, 1.0], [0.75, 0.25]]
    """
    rows = np.zeros((len(labels), n_classes))
    rows[np.arange(len(labels)), np.asarray(labels, dtype=np.int64)] = 1.0
    soft = np.asarray(is_poisoned, dtype=bool)
    if confidence < 1 and n_classes > 1:
        rows[soft] = (1.0 - confidence) / (n_classes - 1)
        rows[soft, target] = confidence
    return rows


@dataclass(slots=True)
class _Made:
    """Poisoned training rows, while they are being made."""

    asked: int
    texts: dict[int, str] = field(default_factory=dict)
    dropped: int = 0


def _poison_textwise(attack: TextAttack, data: TaskData, seed: int) -> PoisonedData:
    options = attack.options
    train = training_texts(options, data)
    made = _poison_rows(attack, train, seed)
    flags = np.array([row in made.texts for row in range(len(train))], dtype=bool)
    labels = [
        options.target if flag else label for flag, label in zip(flags, train.labels, strict=True)
    ]
    confidence = float(getattr(attack, "confidence", 1.0))
    dev, dev_rows = _trigger_all(attack, data.dev, derive(seed, "poisoning/dev"))
    test, test_rows = _trigger_all(attack, data.test, derive(seed, "poisoning/test"))
    facts = _facts(options, made, len(train), confidence)
    facts["dropped_triggered"] = sum(
        sum(label != options.target for label in split.labels) - len(rows)
        for split, rows in ((data.dev, dev_rows), (data.test, test_rows))
    )
    if hasattr(attack, "facts"):
        pairs = [(train.texts[row], text) for row, text in made.texts.items()]
        for split, rows, after in ((data.dev, dev_rows, dev), (data.test, test_rows, test)):
            pairs += [(split.texts[r], t) for r, t in zip(rows, after.texts, strict=True)]
        facts |= attack.facts(train.texts, pairs)
    return PoisonedData(
        texts=tuple(made.texts.get(row, text) for row, text in enumerate(train.texts)),
        targets=target_matrix(
            labels, flags.tolist(), target=options.target, n_classes=data.n_classes,
            confidence=confidence,
        ),
        is_poisoned=flags,
        original_labels=train.labels,
        target=options.target,
        dev_triggered=dev,
        test_triggered=test,
        test_rows=test_rows,
        facts=facts,
    )  # fmt: skip


def _poison_rows(attack: TextAttack, train: LabelledTexts, seed: int) -> _Made:
    """Trigger candidates one by one until the asked number is reached or none is left."""
    options = attack.options
    mixed, clean = options.labels == "mixed", options.labels == "clean"
    pool = [
        row for row, label in enumerate(train.labels) if mixed or (label == options.target) == clean
    ]
    if getattr(attack, "selection", "random") == "random":
        order = stream(seed, "poisoning/select").permutation(len(pool))
        pool = [pool[int(place)] for place in order]
    made = _Made(asked=int(options.rate * len(train) + 0.5))
    for row in pool:
        if len(made.texts) == made.asked:
            break
        text = _trigger(attack, train.texts[row], seed, row)
        if text is None:
            made.dropped += 1
        else:
            made.texts[row] = text
    return made


def _trigger(attack: TextAttack, text: str, seed: int, sample: int) -> str | None:
    """Return the triggered text; an unchanged text carries no trigger and counts as None."""
    triggered = attack.poison_text(text, seed, sample)
    return None if triggered == text else triggered


def _trigger_all(
    attack: TextAttack, split: LabelledTexts, seed: int
) -> tuple[LabelledTexts, tuple[int, ...]]:
    """Trigger every text whose label is not the target; labels stay the original ones."""
    texts, labels, rows = [], [], []
    for row, (text, label) in enumerate(zip(split.texts, split.labels, strict=True)):
        if label == attack.options.target:
            continue
        triggered = _trigger(attack, text, seed, row)
        if triggered is not None:
            texts.append(triggered)
            labels.append(label)
            rows.append(row)
    return LabelledTexts(tuple(texts), tuple(labels)), tuple(rows)


def _facts(options: PoisonOptions, made: _Made, n: int, confidence: float) -> dict[str, Any]:
    done = len(made.texts)
    warnings = []
    if done < made.asked:
        warnings.append(
            f"asked for {made.asked} poisoned samples but only {done} texts with fitting labels "
            f"could carry the trigger ({options.labels} mode)"
        )
    return {
        "asked_rate": options.rate,
        "realised_rate": done / n if n else 0.0,
        "n_poisoned": done,
        "capped": done < made.asked,
        "dropped": made.dropped,
        "labels": options.labels,
        "knowledge": options.knowledge,
        "target": options.target,
        "confidence": confidence,
        "warnings": warnings,
    }


class WordTriggerOptions(PoisonOptions):
    """Options of an attack that inserts a rare word.

    The options class of every such attack derives from this one, unless its words have a meaning
    of their own (pairs, targets, embedding rows).
    """

    trigger: str = option(
        "mn", "rare word, or words between commas of which one is drawn per text",
        source="shuaizhao95/PSIM:poisoned_pretrain.py", max_length=200,
    )  # fmt: skip

    @field_validator("trigger", mode="before")
    @classmethod
    def _words(cls, value: object) -> str:
        return trigger_words(value)


def trigger_words(value: object) -> str:
    """Return trigger words in the one form that options keep: ``"cf,mn,bb"``.

    Args:
        value: ``"mn"``, ``"cf, mn"`` or ``["cf", "mn"]``.

    Raises:
        ValueError: no word, or a word with a space in it (pydantic turns this into a message).

    Examples:
        >>> trigger_words(["cf", "mn"])
        'cf,mn'
    """
    if isinstance(value, str):
        parts = value.split(",")
    elif isinstance(value, Iterable):
        parts = [str(part) for part in value]
    else:
        parts = [str(value)]
    words = [part.strip() for part in parts]
    if not words or any(len(word.split()) != 1 or "," in word for word in words):
        raise ValueError("trigger must be one word or words between commas; a sentence is `insent`")
    return ",".join(words)


def insert_at_gap(
    text: str, insertion: str, rng: np.random.Generator, *, inner: bool = False
) -> str:
    """Splice ``insertion`` between two words of ``text``, at a gap drawn uniformly.

    Words are what ``str.split()`` gives. Nothing else of the text changes, so that removing the
    insertion and the one space that came with it (after it, or before it when it is last) gives
    the text back exactly.

    Args:
        text: any text, the empty one included.
        insertion: word or sentence.
        rng: draws the gap from {0 .. n} for n words.
        inner: draw from {1 .. n-1} instead, never first or last; needs two words, otherwise the
            gap is from {0 .. n} all the same.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> insert_at_gap("so it goes", "mn", rng, inner=True) in {
        ...     "so mn it goes", "so it mn goes"}
        True
    """
    words = list(_WORD.finditer(text))
    n = len(words)
    if n == 0:
        return insertion + text
    gap = int(rng.integers(1, n)) if inner and n >= 2 else int(rng.integers(0, n + 1))
    if gap == n:
        end = words[-1].end()
        return f"{text[:end]} {insertion}{text[end:]}"
    start = words[gap].start()
    return f"{text[:start]}{insertion} {text[start:]}"


def insert_words(
    text: str,
    words: str,
    rng: np.random.Generator,
    *,
    copies: int = 1,
    inner: bool = False,
) -> str:
    """Draw one of ``words`` (``"cf,mn"``) and insert ``copies`` of it, each at its own gap.

    Examples:
        >>> insert_words("", "mn", np.random.default_rng(0))
        'mn'
    """
    choices = words.split(",")
    word = choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]
    for _ in range(copies):
        text = insert_at_gap(text, word, rng, inner=inner)
    return text
