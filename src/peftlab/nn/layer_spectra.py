"""Spectra, statistics, heaviest rows and columns of all low-rank updates of an adapter.

Updates of one shape go through ``nn.lora_spectra`` together, so many at a time that their factors
take some 10 MB. The kurtosis costs most and is measured for all layers or for none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from peftlab.core.errors import PeftlabError
from peftlab.core.types import Floats
from peftlab.nn.factors import factors_of
from peftlab.nn.lora_spectra import spectral_statistics, stacked_singular_values
from peftlab.nn.threads import one_thread

if TYPE_CHECKING:
    from peftlab.io.adapter_layout import Pair
    from peftlab.io.artefact import Artefact

STATISTICS = ("largest", "frobenius", "stable_rank", "entropy", "kurtosis")
STACK = 2**21  # numbers of the factors that are stacked at once
TINY = 1e-30


@dataclass(slots=True)
class Layers:
    """Measurements of L updates, in the order of the layout.

    Attributes:
        pairs: the updates.
        values: singular values of each, descending.
        statistics: (L, 5), NaN where a statistic was not measured.
        rows: (L, 2): number of the row with most energy, and its share of it.
        columns: the same for columns.
        skipped: why a layer has no values, by layer.
    """

    pairs: Sequence[Pair]
    values: list[Floats]
    statistics: Floats
    rows: Floats
    columns: Floats
    skipped: dict[str, PeftlabError]


def measure(artefact: Artefact, pairs: Sequence[Pair], kurtosis_cost: int = 0) -> Layers:
    """Return spectra, statistics and the heaviest row and column of each update.

    Args:
        artefact: open, headers checked.
        pairs: of its layout.
        kurtosis_cost: most multiply-adds for the kurtosis of all layers together.
    """
    found = Layers(
        pairs, [np.empty(0)] * len(pairs), np.full((len(pairs), 5), np.nan),
        np.zeros((len(pairs), 2)), np.zeros((len(pairs), 2)), {},
    )  # fmt: skip
    with_kurtosis = sum(_kurtosis_cost(pair) for pair in pairs) <= kurtosis_cost
    with one_thread():
        for part in _stacks(artefact, pairs):
            _fill(found, part, artefact, with_kurtosis=with_kurtosis)
    return found


def _fill(found: Layers, part: list[int], artefact: Artefact, *, with_kurtosis: bool) -> None:
    """Measure updates of one shape."""
    pairs = [found.pairs[i] for i in part]
    factors = [factors_of(artefact, pair) for pair in pairs]
    for i, (a, b), values in zip(part, factors, _values(factors, pairs), strict=True):
        if isinstance(values, PeftlabError):
            found.skipped[found.pairs[i].layer] = values
            continue
        found.values[i] = values
        found.statistics[i] = _statistics(values)
        found.rows[i], found.columns[i] = _heaviest(a, b)
        if with_kurtosis:
            found.statistics[i, 4] = _kurtosis(a, b, values)


def _stacks(artefact: Artefact, pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Yield numbers of pairs of one shape and type, so many that their factors fit into memory."""
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        types = (artefact.tensors[pair.a].dtype, artefact.tensors[pair.b].dtype)
        groups[pair.rank, pair.d_in, pair.d_out, types, pair.diagonal is None].append(i)
    for members in groups.values():
        pair = pairs[members[0]]
        step = max(1, STACK // (pair.rank * (pair.d_in + pair.d_out)))
        yield from (members[at : at + step] for at in range(0, len(members), step))


def _values(
    factors: Sequence[tuple[torch.Tensor, torch.Tensor]], pairs: Sequence[Pair]
) -> list[Floats | PeftlabError]:
    """Return the singular values of updates of one shape; where there are none, why."""
    try:
        a, b = (torch.stack(each) for each in zip(*factors, strict=True))
        scales = np.array([pair.scale for pair in pairs])
        return list(stacked_singular_values(a, b, scales))
    except PeftlabError as error:
        if len(factors) == 1:
            return [error]
        return [_values([each], [pair])[0] for each, pair in zip(factors, pairs, strict=True)]


def _statistics(values: Floats) -> Floats:
    """Return largest, Frobenius norm, stable rank and entropy; see ``nn.lora_spectra``."""
    largest = values[0]
    if largest == 0:
        return np.zeros(5)
    energy = (values / largest) ** 2
    share = energy[energy > 0] / energy.sum()
    entropy = max(0.0, -float(share @ np.log(share)))
    return np.array([largest, largest * math.sqrt(energy.sum()), energy.sum(), entropy, math.nan])


def _kurtosis(a: torch.Tensor, b: torch.Tensor, values: Floats) -> float:
    return 0.0 if values[0] == 0 else spectral_statistics(a, b).kurtosis


def _kurtosis_cost(pair: Pair) -> float:
    """Return multiply-adds, as ``nn.lora_spectra.spectral_statistics`` counts them."""
    k = pair.rank + 1
    return min((k * (k + 1) / 2) ** 2 * (pair.d_in + pair.d_out) / 2,
               pair.d_in * pair.d_out * (k + 8))  # fmt: skip


def _heaviest(a: torch.Tensor, b: torch.Tensor) -> tuple[Floats, Floats]:
    """Return number and share of energy of the heaviest row, and of the heaviest column.

    |row i|^2 = b_i (A A^T) b_i^T, |column j|^2 = a_j^T (B^T B) a_j, the product never formed; in
    float32, since a share needs no more digits.
    """
    a, b = _unit(a), _unit(b)
    rows = ((b @ (a @ a.T)) * b).sum(dim=1)
    columns = (((b.T @ b) @ a) * a).sum(dim=0)
    return _top(rows), _top(columns)


def _unit(factor: torch.Tensor) -> torch.Tensor:
    """Return a factor in float32, its largest number 1, so that no square overflows."""
    wide = factor.detach() if factor.dtype == torch.float64 else factor.detach().float()
    return (wide / wide.abs().max().clamp_min(TINY)).float()


def _top(squares: torch.Tensor) -> Floats:
    top = int(squares.argmax())
    total = float(squares.double().sum())
    return np.array([top, float(squares[top]) / total if total > 0 else 0.0])
