"""What is odd about a data set: duplicates, leaks, empty texts, imbalance.

Nothing is changed and nothing is refused here; every oddity is counted and said, because each of
them quietly moves a result (a test text that is also a training text is answered by heart).
Two texts are the same when they agree after case folding with white space squeezed (ours).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from peftlab.core.types import LabelledTexts, TaskData

LONG_WORDS = 512  # ours: what the usual encoders read at most
MAJORITY_SHARE = 0.8  # ours
MANY_SHARE = 0.01  # ours: a leak above this share is a warning, below it a remark


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity of a data set.

    Attributes:
        code: stable code, e.g. ``HYGIENE-LEAK-TEST-TRAIN``.
        severity: ``warning`` if results may suffer, else ``info``.
        message: one line for people.
        count: how many texts it concerns.
    """

    code: str
    severity: Literal["info", "warning"]
    message: str
    count: int

    def __str__(self) -> str:
        """Return the line that goes into a task's notes."""
        return f"{self.severity}: {self.message} [{self.code}]"


def normalise(text: str) -> str:
    """Return the form under which two texts count as the same.

    Examples:
        >>> normalise("  A  good FILM ")
        'a good film'
    """
    return " ".join(text.casefold().split())


def check(data: TaskData) -> list[Finding]:
    """Return what is odd about a task, split by split, then between splits.

    Args:
        data: the task; ``proxy`` is looked at too, where there is one.

    Returns:
        Findings in a fixed order; empty if nothing is odd.

    Examples:
        >>> split = LabelledTexts(("good", "Good"), (1, 0))
        >>> task = TaskData("demo", split, split, split, ("neg", "pos"), "", "")
        >>> check(task)[0].code
        'HYGIENE-ONEWORD-TRAIN'
    """
    splits = {"train": data.train, "dev": data.dev, "test": data.test}
    if data.proxy is not None:
        splits["proxy"] = data.proxy
    keys = {name: [normalise(text) for text in split.texts] for name, split in splits.items()}
    findings: list[Finding] = []
    for name, split in splits.items():
        findings.extend(_within(name, keys[name]))
        findings.extend(_balance(name, split, data.label_names))
    findings.extend(_between(keys))
    return findings


def _within(name: str, keys: list[str]) -> Iterator[Finding]:
    """Yield the findings about the texts of one split."""
    upper = name.upper()
    words = [len(key.split()) for key in keys]
    if count := words.count(0):
        yield Finding(
            f"HYGIENE-EMPTY-{upper}", "warning", f"{count} empty texts in {name}", count
        )  # fmt: skip
    if count := words.count(1):
        yield Finding(
            f"HYGIENE-ONEWORD-{upper}", "info", f"{count} texts of one word in {name}", count
        )
    if count := sum(length > LONG_WORDS for length in words):
        message = f"{count} texts of over {LONG_WORDS} words in {name}; models read the start only"
        yield Finding(f"HYGIENE-LONG-{upper}", "info", message, count)
    if count := len(keys) - len(set(keys)):
        message = f"{count} of {len(keys)} texts in {name} repeat an earlier one"
        yield Finding(f"HYGIENE-DUPLICATE-{upper}", _severity(count, len(keys)), message, count)


def _balance(name: str, split: LabelledTexts, label_names: tuple[str, ...]) -> Iterator[Finding]:
    """Yield the findings about the classes of one split."""
    upper = name.upper()
    counts = Counter(split.labels)
    if not counts:
        return
    label, most = counts.most_common(1)[0]
    if most / len(split) > MAJORITY_SHARE:
        message = (
            f"{most / len(split):.0%} of {name} is class {label_names[label]!r}: "
            "accuracy alone says little"
        )
        yield Finding(f"HYGIENE-BALANCE-{upper}", "warning", message, most)
    absent = [label_names[i] for i in range(len(label_names)) if i not in counts]
    if absent:
        message = f"{name} has no text of class {', '.join(absent[:10])}"
        yield Finding(f"HYGIENE-ABSENT-{upper}", "warning", message, len(absent))


def _between(keys: dict[str, list[str]]) -> Iterator[Finding]:
    """Yield one finding per pair of splits that share texts."""
    known = {name: set(texts) - {""} for name, texts in keys.items()}
    for first, second in combinations(keys, 2):
        count = sum(key in known[first] for key in keys[second])
        if count:
            total = len(keys[second])
            message = f"{count} of {total} {second} texts ({count / total:.1%}) are also in {first}"
            code = f"HYGIENE-LEAK-{second.upper()}-{first.upper()}"
            yield Finding(code, _severity(count, total), message, count)


def _severity(count: int, total: int) -> Literal["info", "warning"]:
    return "warning" if count > MANY_SHARE * total else "info"
