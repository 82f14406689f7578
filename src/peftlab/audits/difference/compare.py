"""The measuring: tensors of an artefact beside those of a base, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from peftlab.core.contracts import AuditContext
from peftlab.io.adapter_layout import FLOATS
from peftlab.io.artefact import Artefact
from peftlab.io.base_tensors import PACKED, BaseTensors
from peftlab.io.tensor_roles import role_of

if TYPE_CHECKING:
    from peftlab.nn.weight_change import Change

EVERY = 50  # tensors between two lines of progress
Ranks = Mapping[str, tuple[int | None, int]]  # rank of a change, and the most it could be


class Compared(NamedTuple):
    """One tensor of the artefact, its counterpart in the base, and what changed."""

    name: str
    base: str
    change: Change


class Update(NamedTuple):
    """A low-rank update beside the weight it is added to.

    Attributes:
        layer: as the layout names it.
        weight: tensor of the base, if there is one of that name.
        norm: Frobenius norm of the update, scale included.
        share: norm over that of the weight, where the base has values.
    """

    layer: str
    weight: str | None
    norm: float
    share: float | None


@dataclass(slots=True)
class Comparison:
    """What was compared.

    Attributes:
        tensors: those of one shape on both sides, with values.
        reshaped: those of two shapes: names here and there.
        unread: how many have no values, or packed ones.
    """

    tensors: list[Compared] = field(default_factory=list)
    reshaped: list[tuple[str, str]] = field(default_factory=list)
    unread: int = 0

    @property
    def changed(self) -> list[Compared]:
        """Those that differ in any bit."""
        return [each for each in self.tensors if each.change.changed.any()]


def compare(context: AuditContext, base: Artefact, matched: Mapping[str, str]) -> Comparison:
    """Compare tensors of the artefact with tensors of the base.

    Args:
        context: of the audit.
        base: what the operator trusts.
        matched: names in the artefact to names in the base.
    """
    from peftlab.nn.factors import tensor_of
    from peftlab.nn.weight_change import weight_change

    artefact, done = context.artefact, Comparison()
    for number, (name, other) in enumerate(matched.items(), start=1):
        if artefact.tensors[name].shape != base.tensors[other].shape:
            done.reshaped.append((name, other))
        elif not (_readable(artefact, name) and _readable(base, other)):
            done.unread += 1
        else:
            change = weight_change(tensor_of(artefact, name), tensor_of(base, other))
            done.tensors.append(Compared(name, other, change))
            artefact.forget(name)
            base.forget(other)
        if number % EVERY == 0:
            context.progress(f"difference: {number} of {len(matched)} tensors")
    return done


def updates(context: AuditContext, base: Artefact, names: BaseTensors) -> list[Update]:
    """Return the size of every low-rank update that has values, beside its weight."""
    from peftlab.nn.factors import factors_of, tensor_of
    from peftlab.nn.update_norms import update_norm
    from peftlab.nn.weight_change import norm_of

    artefact, found = context.artefact, []
    for pair in context.layout.pairs:
        if not _readable(artefact, pair.a):
            continue
        norm = update_norm(*factors_of(artefact, pair), pair.scale)
        weight, share = names.weight_of(pair.layer), None
        if weight and _readable(base, weight):
            old = norm_of(tensor_of(base, weight))
            base.forget(weight)
            share = norm / old if old else None
        if math.isfinite(norm):  # gate-values speaks about the others
            found.append(Update(pair.layer, weight, norm, share))
    return found


def ranks_of(
    context: AuditContext, base: Artefact, changed: Sequence[Compared], most: int
) -> Ranks:
    """Return the rank of each of the largest changes of matrices."""
    from peftlab.nn.factors import tensor_of
    from peftlab.nn.weight_change import rank_of_change

    tensors = context.artefact.tensors
    matrices = [
        each for each in changed
        if len(tensors[each.name].shape) >= 2 and role_of(each.name) == "layer"
    ]  # fmt: skip
    matrices.sort(key=lambda each: (-each.change.relative, each.name))
    found = {}
    for each in matrices[:most]:
        new, old = tensor_of(context.artefact, each.name), tensor_of(base, each.base)
        rank = rank_of_change(new, old, seed=context.seed)
        found[each.name] = (rank, min(len(new), new[0].numel()))
        context.artefact.forget(each.name)
        base.forget(each.base)
    return found


def overall(tensors: Sequence[Compared]) -> float | None:
    """Return the size of all changes over that of all weights."""
    old = math.sqrt(sum(each.change.old**2 for each in tensors))
    change = math.sqrt(sum(each.change.change**2 for each in tensors))
    return change / old if old and math.isfinite(change) else None


def _readable(artefact: Artefact, name: str) -> bool:
    """Return whether a tensor has values that are numbers of the model, not packed ones."""
    info = artefact.tensors[name]
    return info.file in artefact.files and info.dtype in FLOATS and info.dtype not in PACKED
