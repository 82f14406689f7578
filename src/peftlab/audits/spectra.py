"""Spectra of all low-rank updates, and which layers, rows and columns stand out.

A layer stands out from the layers of its kind (same name but for numbers, same shape) by a robust
z-score of the logarithm of a statistic: distance from the median over 1.4826 MAD. The limit is that
of a normal sample in which one adapter in 100 has any layer beyond it, over all layers, kinds and
statistics; small kinds have a higher one, because the MAD of few numbers is unsteady, and kinds of
less than 8 layers are not judged. Real layers are not normal, so a layer must also differ by a
factor from the median of its kind.

A row or column stands out when it alone holds most of an update's energy. Lengths come from the
factors; no product is formed.

What that means: nothing by itself. We know of no labelled adapters for which these limits were
tested as a detector, so a finding here is low and says where to look. A verdict on backdoors from
the same statistics needs a bank of known adapters (audit ``backdoor``).

Cost: r^2 (d_in + d_out) multiply-adds a layer; the kurtosis only where it is cheap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.findings import Chart, Finding, Severity, Table, rule
from peftlab.core.options import Options, option
from peftlab.core.registry import audit
from peftlab.io.layer_names import kind_of
from peftlab.io.tensor_roles import role_of

if TYPE_CHECKING:
    from peftlab.nn.layer_spectra import Layers

LOOK = "look at this layer first if you test the adapter by hand; alone it proves nothing"
LAYER = rule(
    "SPECTRA-LAYER", Severity.LOW, "a layer's update is unlike those of the layers of its kind",
    why="an edit or a merge of one layer shows here; so does honest training, now and then",
    fix=LOOK,
)  # fmt: skip
ROW = rule(
    "SPECTRA-ROW", Severity.LOW, "one row or column holds most of an update",
    why="training spreads an update over its rows; writing to one neuron does not", fix=LOOK,
)  # fmt: skip
FLAT = rule(
    "SPECTRA-NONFINITE", Severity.MEDIUM, "an update has no spectrum: its numbers are not finite",
    why="the adapter gives NaN or infinity wherever this layer is used",
    fix="do not use the adapter: its weights are damaged",
)  # fmt: skip
STATISTICS = ("largest", "frobenius", "stable_rank", "entropy", "kurtosis")
JUDGED = (1, 2, 4)  # of these: size, shape of the spectrum, tails of the entries
SMALL = 1e-30


class SpectraOptions(Options):
    """Options of the look at spectra."""

    alarms: float = option(
        0.01, "share of normal adapters in which any layer stands out", source="ours", gt=0, lt=0.5
    )
    fewest: int = option(
        8, "layers of one kind below which none is judged", source="ours: MAD of fewer is unsteady",
        ge=5, le=1000,
    )  # fmt: skip
    fold: float = option(
        6.0,
        "factor from the median of its kind that a layer must differ by",
        source="ours: 4.7 in one of 192 layers of a published adapter",
        gt=1,
    )
    share: float = option(
        0.5, "share of an update's energy in one row or column above which it stands out",
        source="ours: 0.18 at most in 384 layers of two published adapters", gt=0, le=1,
    )  # fmt: skip
    narrowest: int = option(
        32, "rows or columns below which their shares are not judged", source="ours", ge=2
    )
    kurtosis_cost: int = option(
        2**29, "most multiply-adds for the kurtosis of all layers; 0 leaves it out",
        source="ours: about 0.5 s", ge=0,
    )  # fmt: skip


@audit(
    "spectra",
    options=SpectraOptions,
    source="arXiv 2602.15195 (list of statistics); limits ours",
    cost="r^2 (d_in + d_out) multiply-adds a layer",
)
class SpectraAudit:
    """Measure the spectrum of each update, and say which layers stand out."""

    def __init__(self, options: SpectraOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return why there are no spectra to look at."""
        layout = context.layout
        if not layout.pairs:
            kind = layout.peft_type or layout.format
            return f"{kind} has no low-rank updates B A in this artefact"
        if any(context.artefact.tensors[p.a].file not in context.artefact.files
               for p in layout.pairs):  # fmt: skip
            return "the tensors have shapes but no values"
        return ""

    def run(self, context: AuditContext) -> AuditResult:
        """Return statistics of every layer, and what stands out."""
        from peftlab.nn.layer_spectra import measure

        measured = measure(context.artefact, context.layout.pairs, self.options.kurtosis_cost)
        shown = [i for i, values in enumerate(measured.values) if len(values)]
        findings = [
            FLAT.found(layer, error.what)
            for layer, error in measured.skipped.items()
            if error.code == "LORA-NONFINITE"
        ]
        findings += _odd_layers(measured, self.options)
        findings += _odd_lines(measured, self.options)
        return AuditResult(
            tuple(findings),
            _facts(measured, shown),
            (_table(measured, shown),),
            _charts(measured, shown),
            tuple(_left_out(context, measured, self.options)),
        )


def limit(layers: int, alarms: float) -> float:
    """Return the robust z-score that the largest of a normal sample passes with a small chance.

    Args:
        layers: size of the sample; from 8 on.
        alarms: the chance, 0.0001 to 0.05; kept from above, within a factor of 3 or so.

    Examples:
        >>> round(limit(12, 0.01), 1), round(limit(96, 0.01), 1)
        (7.2, 4.3)
    """
    normal = NormalDist().inv_cdf(1 - alarms / (2 * layers))
    # fitted to 200,000 normal samples of 8 to 96 layers, chances 0.01 and 0.001
    return normal * (1 + math.log10(1 / alarms) * (5.6 + 200 / layers**2) / layers)


def _kinds(measured: Layers, fewest: int) -> dict[str, list[int]]:
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(measured.pairs):
        if measured.statistics[i, 0] > 0:
            groups[f"{kind_of(pair.layer)} ({pair.d_out} x {pair.d_in})"].append(i)
    return {kind: members for kind, members in groups.items() if len(members) >= fewest}


def _odd_layers(measured: Layers, options: SpectraOptions) -> Iterator[Finding]:
    """Yield layers unlike the layers of their kind, the worst statistic of each."""
    kinds = _kinds(measured, options.fewest)
    for kind, members in kinds.items():
        logs = np.log(np.maximum(measured.statistics[np.ix_(members, JUDGED)], SMALL))
        away = logs - np.median(logs, axis=0)
        spread = 1.4826 * np.median(np.abs(away), axis=0)
        scores = np.abs(away) / np.maximum(spread, SMALL)
        most = limit(len(members), options.alarms / (len(kinds) * len(JUDGED)))
        odd = (scores > most) & (np.abs(away) > math.log(options.fold))
        for at in np.flatnonzero(odd.any(axis=1)):
            worst = int(np.where(odd[at], scores[at], 0).argmax())
            name = STATISTICS[JUDGED[worst]]
            words = (
                f"{name} {math.exp(away[at, worst]):.3g} times the median of {len(members)} layers"
                f" {kind}, robust z {min(scores[at, worst], 999):.1f}, limit {most:.1f}"
            )
            yield LAYER.found(measured.pairs[members[at]].layer, words)


def _odd_lines(measured: Layers, options: SpectraOptions) -> Iterator[Finding]:
    """Yield rows and columns that hold most of an update."""
    for i, pair in enumerate(measured.pairs):
        if role_of(f"{pair.layer}.weight") in {"embedding", "output"}:
            continue  # one row a word: training touches the words of its texts only
        for what, width, (at, share) in (
            ("row", pair.d_out, measured.rows[i]),
            ("column", pair.d_in, measured.columns[i]),
        ):
            if width >= options.narrowest and share > options.share:
                yield ROW.found(pair.layer, f"{what} {int(at)} of {width} holds {share:.0%}")


def _facts(measured: Layers, shown: list[int]) -> dict[str, object]:
    table = measured.statistics[shown]
    facts: dict[str, object] = {"layers": len(measured.pairs), "measured": len(shown)}
    for at, name in enumerate(STATISTICS):
        known = table[:, at][np.isfinite(table[:, at])] if len(table) else np.empty(0)
        if len(known):
            facts[name] = {
                "min": float(known.min()), "median": float(np.median(known)),
                "max": float(known.max()),
            }  # fmt: skip
    if shown:
        facts["row_share"] = float(measured.rows[shown, 1].max())
        facts["column_share"] = float(measured.columns[shown, 1].max())
    return facts


def _table(measured: Layers, shown: list[int]) -> Table:
    rows = tuple(
        (
            measured.pairs[i].layer,
            *(float(f"{x:.5g}") if math.isfinite(x) else None for x in measured.statistics[i]),
            float(f"{measured.rows[i, 1]:.3g}"), float(f"{measured.columns[i, 1]:.3g}"),
        )
        for i in shown
    )  # fmt: skip
    header = ("layer", *STATISTICS, "heaviest row", "heaviest column")
    return Table("Spectra of the updates, by layer", header, rows)


def _charts(measured: Layers, shown: list[int]) -> tuple[Chart, ...]:
    """Return the median spectrum of each kind, and the size of the updates along the model."""
    kinds: defaultdict[str, list[int]] = defaultdict(list)
    for i in shown:
        kinds[kind_of(measured.pairs[i].layer)].append(i)
    largest = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))[:8]
    spectra, sizes = {}, {}
    for kind in largest:
        rank = min(len(measured.values[i]) for i in kinds[kind])
        median = np.median([measured.values[i][:rank] for i in kinds[kind]], axis=0)
        spectra[kind] = tuple((n + 1, float(x)) for n, x in enumerate(median))
        sizes[kind] = tuple(
            (n, float(measured.statistics[i, 1])) for n, i in enumerate(kinds[kind])
        )
    if not largest:
        return ()
    return (
        Chart("Spectrum of the updates", "Singular values of s B A, median of the layers of a kind",
              "number", "singular value", spectra),
        Chart("Size of the updates", "Frobenius norm of s B A along the model, by kind of layer",
              "layer of its kind", "norm", sizes),
    )  # fmt: skip


def _left_out(context: AuditContext, measured: Layers, options: SpectraOptions) -> Iterator[str]:
    kinds = _kinds(measured, options.fewest)
    judged = sum(map(len, kinds.values()))
    if judged < len(measured.pairs):
        few = len(measured.pairs) - judged
        yield f"{few} of {len(measured.pairs)} layers: less than {options.fewest} are of their kind"
    for layer, error in measured.skipped.items():
        yield f"{layer}: {error.what} [{error.code}]"
    if not np.isfinite(measured.statistics[:, 4]).any():
        yield "kurtosis: it would cost more than kurtosis_cost allows"
    if any(pair.magnitude for pair in measured.pairs):
        yield "DoRA's magnitudes: what they do needs the base"
    if context.layout.other:
        yield f"{len(context.layout.other)} tensors that are no updates B A"
