"""Axes: the attributes, and intersections of attributes, along which raters are grouped.

Privacy: a group with fewer raters than ``min_group`` is suppressed: it counts among everybody else,
but no statistic of it is computed for the report. A group of a single rater in an intersection is
refused outright, because a table of intersections is how people are picked out of a pool; groups
that are too small can be merged instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftlab.audits.raters.counts import components
from peftlab.audits.raters.ratings import Ratings
from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.core.types import Ints

CROSS = "*"
ITEMS = "items"  # a stratum that is found, not named: raters who share items
MERGED = "(other)"
AGAIN = "(other groups)"  # where a group has that name already


@dataclass(frozen=True, slots=True)
class Axis:
    """One way to group the raters.

    Attributes:
        name: the attribute, or ``a*b``.
        attributes: what it is made of.
        groups: names of its groups; of an intersection ``x * y``.
        codes: (raters,) group of each, -1 where an attribute is not known.
        shown: group numbers that are large enough to be reported.
        closed: the suppressed groups of this axis, or of an attribute that it crosses, are together
            too few raters to report; then nothing may be shown from which theirs can be worked out.
    """

    name: str
    attributes: tuple[str, ...]
    groups: tuple[str, ...]
    codes: Ints
    shown: tuple[int, ...]
    closed: bool = False

    @property
    def sizes(self) -> Ints:
        """Return the number of raters in each group."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.groups))


def parse_axis(text: str) -> tuple[str, ...]:
    """Return the attributes of an axis written as ``a`` or ``a*b``.

    Examples:
        >>> parse_axis("race * gender")
        ('race', 'gender')
    """
    return tuple(part.strip() for part in text.split(CROSS))


def make_axis(
    ratings: Ratings, names: Sequence[str], *, min_group: int, merge_small: bool = False
) -> Axis:
    """Return the axis of one attribute or of an intersection.

    Args:
        ratings: the ratings.
        names: one attribute or more.
        min_group: fewest raters of a group that is reported.
        merge_small: merge all smaller groups into ``(other)``.

    Raises:
        ConfigError: ``RATERS-AXIS`` if there is no such attribute, or one is named twice.
        InputRejected: ``RATERS-GROUPS`` with fewer than two groups or none large enough,
            ``RATERS-SINGLE`` if an intersection singles out a rater.
    """
    codes, groups = _cross(ratings, names)
    name = CROSS.join(names)
    if merge_small:
        codes, groups = _merge(codes, groups, min_group)
    sizes = np.bincount(codes[codes >= 0], minlength=len(groups))
    if len(groups) < 2:
        raise InputRejected(
            f"the axis {name} has fewer than two groups, so there is nobody to compare with",
            code="RATERS-GROUPS", got=", ".join(groups) or "no rater with a known value",
            fix="choose another attribute",
        )  # fmt: skip
    if len(names) > 1 and (sizes == 1).any():
        raise InputRejected(
            f"the intersection {name} singles out {int((sizes == 1).sum())} raters",
            code="RATERS-SINGLE", allowed="two raters or more in every group",
            fix="leave this intersection out" if merge_small else "merge small groups "
            "(--merge-small), or leave this intersection out",
        )  # fmt: skip
    shown = tuple(int(k) for k in np.flatnonzero(sizes >= min_group))
    if not shown:
        raise InputRejected(
            f"no group of {name} has {min_group} raters", code="RATERS-GROUPS",
            got=f"{len(groups)} groups, the largest of {int(sizes.max())}",
            fix="choose a coarser attribute, or merge small groups (--merge-small)",
        )  # fmt: skip
    parts = [sizes, *(_sizes(ratings.attributes[name].codes) for name in names)]
    closed = any(0 < int(each[each < min_group].sum()) < min_group for each in parts)
    return Axis(name, tuple(names), groups, codes, shown, closed)


def make_axes(
    ratings: Ratings, axes: Sequence[str | Sequence[str]], *, min_group: int, merge_small: bool
) -> list[Axis]:
    """Return each axis once, in the order given; otherwise as ``make_axis``."""
    names = dict.fromkeys((one,) if isinstance(one, str) else tuple(one) for one in axes)
    return [
        make_axis(ratings, each, min_group=min_group, merge_small=merge_small) for each in names
    ]


def _sizes(codes: Ints) -> Ints:
    return np.asarray(np.bincount(codes[codes >= 0]))


def _cross(ratings: Ratings, names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Return codes and names of the non-empty cells of an intersection."""
    if len(set(names)) < len(names):
        raise ConfigError(
            "an axis names an attribute twice", code="RATERS-AXIS", got=CROSS.join(names),
            fix="cross different attributes",
        )  # fmt: skip
    for name in names:
        if name not in ratings.attributes:
            raise ConfigError(
                f"the raters have no attribute {name!r}", code="RATERS-AXIS",
                fix=suggest(name, ratings.attributes),
            )  # fmt: skip
    parts = [ratings.attributes[name] for name in names]
    known = np.all([part.codes >= 0 for part in parts], axis=0)
    rows = np.stack([part.codes for part in parts], axis=1)[known]
    if len(rows) == 0:
        return np.full(len(known), -1), ()
    there, place = np.unique(rows, axis=0, return_inverse=True)
    codes = np.full(len(known), -1)
    codes[known] = place.reshape(-1)
    between = f" {CROSS} "
    groups = tuple(
        between.join(part.values[k] for part, k in zip(parts, row, strict=True)) for row in there
    )
    return codes, groups


def _merge(codes: Ints, groups: tuple[str, ...], least: int) -> tuple[Ints, tuple[str, ...]]:
    sizes = np.bincount(codes[codes >= 0], minlength=len(groups))
    large = np.flatnonzero(sizes >= least)
    if len(large) >= len(groups) - 1:  # one small group alone would only change its name
        return codes, groups
    kept = tuple(groups[k] for k in large)
    place = np.full(len(groups), len(large))
    place[large] = np.arange(len(large))
    return (
        np.where(codes >= 0, place[codes], -1),
        (*kept, AGAIN if MERGED in kept else MERGED),
    )


def strata(ratings: Ratings, within: Sequence[str]) -> Ints:
    """Return (raters,) strata for a stratified permutation.

    Args:
        ratings: the ratings.
        within: attributes, and ``items`` for batches of raters that share no items. Raters whose
            value is not known form a stratum of their own.

    Raises:
        ConfigError: ``RATERS-AXIS``.
    """
    found = np.zeros(len(ratings.raters), dtype=np.int64)
    for name in within:
        if name == ITEMS and name not in ratings.attributes:
            codes = components(ratings)
        else:
            codes = _cross(ratings, [name])[0]
        _, found = np.unique(np.stack([found, codes], axis=1), axis=0, return_inverse=True)
        found = found.reshape(-1)
    return found
