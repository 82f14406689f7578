"""Who gave which item which label: the one object that all statistics of rater groups start from.

Item texts never enter: ids, labels and rater attributes are all that is kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.core.types import Bools, Ints

MISSING = frozenset({"", "na", "n/a", "nan", "<na>"})  # lower case; ours
LABELS_MOST = 50  # ours: more are free text or a continuous scale
Duplicates = Literal["error", "first"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One property of every rater.

    Attributes:
        name: as in the file.
        values: its groups, sorted.
        codes: (raters,) place in ``values``, -1 where it is not known.
    """

    name: str
    values: tuple[str, ...]
    codes: Ints

    @classmethod
    def of(cls, name: str, values: Sequence[str | None]) -> Attribute:
        """Return the attribute of raters whose ``values`` are listed; None is not known."""
        groups = tuple(sorted({value for value in values if value is not None}))
        place = {value: k for k, value in enumerate(groups)}
        codes = [-1 if value is None else place[value] for value in values]
        return cls(name, groups, np.array(codes, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings of items by raters, each (item, rater) at most once.

    Attributes:
        items, raters: ids, by number.
        labels: the answer domain in its order, K labels.
        item, rater, label: (n,) numbers of each rating.
        attributes: by name, of every rater.
        notes: what was done to the data on the way in, for people.
        ordered: whether the order of the labels means something: it was given, or they are numbers.

    Examples:
        >>> rows = {
        ...     "post": ["a", "a", "b", "b"],
        ...     "who": ["1", "2", "1", "2"],
        ...     "hate": ["no", "yes", "no", "no"],
        ...     "age": ["old", "young", "old", "young"],
        ... }
        >>> found = Ratings.from_long(rows, item="post", rater="who", label="hate", attrs=["age"])
        >>> found.shape, found.attributes["age"].values
        ((2, 2, 2), ('old', 'young'))
    """

    items: tuple[str, ...]
    raters: tuple[str, ...]
    labels: tuple[str, ...]
    item: Ints
    rater: Ints
    label: Ints
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ordered: bool = True

    def __len__(self) -> int:
        return len(self.label)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (items, raters, K)."""
        return len(self.items), len(self.raters), len(self.labels)

    @classmethod
    def from_long(
        cls, table: Any, *, item: str, rater: str, label: str, attrs: Sequence[str] = (),
        labels: Sequence[str] | None = None, drop_labels: Iterable[str] = (),
        duplicates: Duplicates = "error",
    ) -> Ratings:  # fmt: skip
        """Build from a long table: one row a rating.

        Args:
            table: mapping of column names to columns, or a data frame.
            item: column with the ids of items.
            rater: column with the ids of raters.
            label: column with the answers.
            attrs: columns with what is known of the rater, the same in all of a rater's rows.
            labels: the answer domain in its order; none: the labels that occur, by value if all
                are numbers, else by name.
            drop_labels: answers that do not count, such as "don't know".
            duplicates: ``error``, or keep the ``first`` of several ratings of one item by one
                rater and say so in the notes.

        Raises:
            ConfigError: ``RATERS-COLUMN`` (no such column).
            InputRejected: ``RATERS-EMPTY``, ``RATERS-DUPLICATE``, ``RATERS-ATTRIBUTE``,
                ``RATERS-LABELS`` (unknown, too many, or one label only).
        """
        columns = {
            name: _column(table, name) for name in dict.fromkeys((item, rater, label, *attrs))
        }
        _same_length(columns)
        notes: list[str] = []
        dropped = {str(_text(name)) for name in _listed(drop_labels)}
        keep = _usable(columns, (item, rater, label), dropped, label, notes)
        ids = [_coded(columns[name], keep) for name in (item, rater)]
        keep, pairs = _once(keep, ids, duplicates, notes)
        items, raters = (names for names, _ in ids)
        domain = _domain([columns[label][i] for i in keep], labels)
        place = {name: k for k, name in enumerate(domain)}
        codes = np.array([place[str(columns[label][i])] for i in keep], dtype=np.int64)
        found = {name: _attribute(name, columns[name], keep, pairs[1], raters) for name in attrs}
        return cls(
            items, raters, domain, pairs[0], pairs[1], codes, found, tuple(notes),
            ordered=labels is not None or _numbers(domain) is not None,
        )  # fmt: skip

    def pick(self, raters: Bools) -> Ratings:
        """Return the ratings of some raters; items that nobody is left to rate stay listed."""
        place = np.cumsum(raters) - 1
        rows = raters[self.rater]
        return Ratings(
            self.items,
            tuple(name for name, kept in zip(self.raters, raters, strict=True) if kept),
            self.labels, self.item[rows], place[self.rater[rows]], self.label[rows],
            {
                name: Attribute(name, each.values, each.codes[raters])
                for name, each in self.attributes.items()
            },
            self.notes, self.ordered,
        )  # fmt: skip

    def numbers(self) -> tuple[float, ...] | None:
        """Return the labels as numbers, or None if they are words."""
        return _numbers(self.labels)


def _column(table: Any, name: str) -> list[str | None]:
    known = list(getattr(table, "columns", table))
    if name not in known:
        raise ConfigError(
            f"the ratings have no column {name!r}", code="RATERS-COLUMN",
            fix=suggest(name, map(str, known)),
        )  # fmt: skip
    return [_text(value) for value in table[name]]


def _text(value: object) -> str | None:
    """Return what identifies a value: 1.0 and 1 are one label, as are numbers and their texts."""
    if isinstance(value, np.floating):
        value = float(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.lower() in MISSING else text


def _listed(names: Iterable[str]) -> Iterable[str]:
    """Return the names; one name alone is a list of one, not of its letters."""
    return [names] if isinstance(names, str) else names


def _same_length(columns: Mapping[str, list[str | None]]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputRejected(
            "the columns are not of one length", code="RATERS-COLUMN",
            got=", ".join(f"{name}: {n}" for name, n in lengths.items()),
            fix="give one row for each rating",
        )  # fmt: skip


def _usable(
    columns: Mapping[str, list[str | None]], needed: Sequence[str], dropped: set[str], label: str,
    notes: list[str],
) -> list[int]:  # fmt: skip
    n = len(columns[label])
    whole = [i for i in range(n) if all(columns[name][i] is not None for name in needed)]
    keep = [i for i in whole if columns[label][i] not in dropped]
    if len(whole) < n:
        notes.append(f"{n - len(whole)} rows without item, rater or label were left out")
    if len(keep) < len(whole):
        said = ", ".join(sorted(dropped))
        notes.append(f"{len(whole) - len(keep)} ratings with the label {said} were left out")
    if not keep:
        raise InputRejected(
            "there is no rating in this file", code="RATERS-EMPTY", got=f"{n} rows",
            fix="check the columns, and which labels are dropped",
        )  # fmt: skip
    return keep


def _coded(column: Sequence[str | None], keep: Sequence[int]) -> tuple[tuple[str, ...], Ints]:
    """Return the ids in natural order and the number of each kept row."""
    names = tuple(sorted({str(column[i]) for i in keep}, key=_natural))
    place = {name: k for k, name in enumerate(names)}
    return names, np.array([place[str(column[i])] for i in keep], dtype=np.int64)


def _natural(name: str) -> tuple[int, int, str]:
    # the name comes last also among numbers: 1 and 01 are two ids, in one order always
    return (0, int(name), name) if name.isdecimal() and len(name) < 19 else (1, 0, name)


def _once(
    keep: list[int], ids: list[tuple[tuple[str, ...], Ints]], duplicates: Duplicates,
    notes: list[str],
) -> tuple[list[int], tuple[Ints, Ints]]:  # fmt: skip
    (items, item), (raters, rater) = ids
    pair = item * len(raters) + rater
    _, first = np.unique(pair, return_index=True)
    extra = len(pair) - len(first)
    if extra and duplicates == "error":
        again = next(p for p, times in Counter(pair.tolist()).items() if times > 1)
        raise InputRejected(
            "a rater has rated an item more than once", code="RATERS-DUPLICATE",
            got=f"{extra} such rows, the first: rater {raters[again % len(raters)]}, item "
            f"{items[again // len(raters)]}",
            fix="keep one of them, or keep the first on purpose (--keep-first)",
        )  # fmt: skip
    if extra:
        notes.append(f"{extra} repeated ratings of an item by the same rater: the first counts")
    first.sort()
    return [keep[i] for i in first], (item[first], rater[first])


def _domain(given: Sequence[str | None], wanted: Sequence[str] | None) -> tuple[str, ...]:
    seen = {str(value) for value in given}
    if wanted is None:
        found = _by_value(seen)
    else:
        listed = [_text(name) for name in wanted]
        if None in listed:
            raise ConfigError(
                "an empty cell is listed as a label", code="RATERS-LABELS", got=list(wanted),
                fix="leave it out: empty cells and NA are no answers",
            )  # fmt: skip
        found = tuple(str(name) for name in listed)
        if strange := sorted(seen - set(found)):
            raise InputRejected(
                f"{len(strange)} labels are not among those listed", code="RATERS-LABELS",
                got=", ".join(strange[:5]), allowed=", ".join(found),
                fix="list them too, or drop them (--drop-label)",
            )  # fmt: skip
        if len(set(found)) < len(found):
            raise ConfigError(
                "a label is listed twice", code="RATERS-LABELS", got=", ".join(found),
                fix="list each label once",
            )  # fmt: skip
    if len(found) > LABELS_MOST:
        raise InputRejected(
            "there are too many different labels", code="RATERS-LABELS", got=len(found),
            allowed=f"at most {LABELS_MOST}", fix="check the label column, or group the answers",
        )  # fmt: skip
    if len(seen) < 2:
        raise InputRejected(
            "all ratings are the same label, so agreement cannot be told from chance",
            code="RATERS-LABELS", got=", ".join(seen), fix="check the label column",
        )  # fmt: skip
    return found


def _numbers(labels: Iterable[str]) -> tuple[float, ...] | None:
    try:
        found = tuple(float(label) for label in labels)
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


def _by_value(labels: set[str]) -> tuple[str, ...]:
    names = sorted(labels)
    numbers = _numbers(names)
    if numbers is None:
        return tuple(names)
    return tuple(name for _, name in sorted(zip(numbers, names, strict=True)))


def _attribute(
    name: str, column: Sequence[str | None], keep: Sequence[int], rater: Ints,
    raters: Sequence[str],
) -> Attribute:  # fmt: skip
    values: list[str | None] = [None] * len(raters)
    for i, j in zip(keep, rater.tolist(), strict=True):
        value = column[i]
        if value is None:
            continue
        if values[j] not in (None, value):
            raise InputRejected(
                f"{name} changes within a rater", code="RATERS-ATTRIBUTE",
                got=f"rater {raters[j]}: {values[j]} and {value}",
                fix="give every rater one value in all rows, or leave the column out",
            )  # fmt: skip
        values[j] = value
    return Attribute.of(name, values)
