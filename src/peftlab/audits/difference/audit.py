"""What an artefact changes of the base that the operator trusts.

A checkpoint is compared tensor by tensor. An adapter's updates are measured against the weights
they are added to, from their factors, without forming a product; its whole tensors are compared as
those of a checkpoint. With a base of which only the shapes are known, sizes of updates are given
without the share of the weight.

The finding to look for is a table of words in which a few rows alone differ: an honest fine-tune
moves no row or all rows of the words it saw, a trigger word planted in the embeddings (Yang et al.,
NAACL 2021: EP; ACL 2021: SOS) one or a few. New words that were trained alone look the same, so the
finding is medium and names the rows.

Cost: one pass over base and artefact; the rank of a change two more, for the five largest changes.
"""

from __future__ import annotations

import numpy as np

from peftlab.audits.difference import oddities, tables
from peftlab.audits.difference.compare import Comparison, compare, overall, ranks_of, updates
from peftlab.audits.difference.rules import BASE, DifferenceOptions
from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.registry import audit
from peftlab.io.adapter_layout import natural_order
from peftlab.io.adapter_names import module_name
from peftlab.io.artefact import Artefact
from peftlab.io.base_tensors import BaseTensors


@audit(
    "difference",
    options=DifferenceOptions,
    source="ours; Yang et al. 2021 (NAACL, ACL) for what edited rows mean",
    cost="a pass over base and artefact",
)
class DifferenceAudit:
    """Say what was changed of a trusted base, and by how much."""

    def __init__(self, options: DifferenceOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return why nothing can be compared."""
        layout = context.layout
        if context.against is None:
            return "no trusted base was given (--against)"
        if not context.against.tensors:
            return "the base has no tensors"
        if layout.format != "model" and not (layout.pairs or layout.extra):
            return f"{layout.peft_type} neither adds to a weight of the base nor replaces one"
        return "" if context.artefact.tensors else "the artefact has no tensors"

    def run(self, context: AuditContext) -> AuditResult:
        """Return changes by tensor, and what is odd about them."""
        if context.against is None:
            return AuditResult(not_checked=(self.why_not(context),))
        if context.layout.format == "model":
            return _checkpoint(context, context.against, self.options)
        return _adapter(context, context.against, self.options)


def _checkpoint(context: AuditContext, base: Artefact, options: DifferenceOptions) -> AuditResult:
    artefact, names = context.artefact, BaseTensors(base.tensors)
    matched = {name: it for name in artefact.tensors if (it := names.find(name))}
    if not matched:
        return AuditResult((BASE.found(artefact.source, "no tensor has a name of it"),))
    added = [name for name in artefact.tensors if name not in matched]
    missing = sorted(set(base.tensors) - set(matched.values()), key=natural_order)
    found = compare(context, base, matched)
    ranks = ranks_of(context, base, found.changed, options.ranked)
    findings = [
        *oddities.shapes(context, base, found.reshaped),
        *oddities.added(artefact, added),
        *oddities.missing(missing),
        *oddities.of_tensors(artefact, found, options),
        *oddities.few(found),
        *oddities.low_ranks(ranks),
    ]
    facts = {
        "compared": len(found.tensors), "changed": len(found.changed), "added": len(added),
        "missing": len(missing), "relative": overall(found.tensors),
        "ranks": {name: rank for name, (rank, _) in ranks.items()},
    }  # fmt: skip
    shares = [(each.name, each.change.relative) for each in found.changed]
    return AuditResult(
        tuple(findings),
        facts,
        (tables.changes(found.changed, ranks, options.listed),),
        tables.along_the_model(shares),
        tuple(_unread(found)),
    )


def _adapter(context: AuditContext, base: Artefact, options: DifferenceOptions) -> AuditResult:
    artefact, layout = context.artefact, context.layout
    names = BaseTensors(base.tensors)
    sizes = updates(context, base, names)
    matched = {name: it for name in layout.extra if (it := names.find(module_name(name)))}
    if not matched and not any(each.weight for each in sizes):
        return AuditResult((BASE.found(artefact.source, "no layer has a name of it"),))
    found = compare(context, base, matched)
    findings = [
        *oddities.shapes(context, base, found.reshaped),
        *oddities.added(artefact, [name for name in layout.extra if name not in matched]),
        *oddities.of_tensors(artefact, found, options),
        *oddities.large_updates(sizes, options.large),
    ]
    shares = [(each.layer, each.share) for each in sizes if each.share is not None]
    facts = {
        "updates": len(sizes), "found_in_base": sum(each.weight is not None for each in sizes),
        "compared": len(found.tensors), "changed": len(found.changed),
        "largest_share": max((share for _, share in shares), default=None),
        "median_share": float(np.median([x for _, x in shares])) if shares else None,
    }  # fmt: skip
    shown = [tables.of_updates(sizes, options.listed)]
    if found.changed:
        shown.append(tables.changes(found.changed, {}, options.listed))
    left_out = _unread(found)
    if len(shares) < len(sizes):
        few = len(sizes) - len(shares)
        left_out.append(f"{few} of {len(sizes)} updates against their weights: no values of those")
    if any(pair.magnitude for pair in layout.pairs):
        left_out.append("DoRA's magnitudes: the update alone is measured")
    if layout.other:
        left_out.append(f"{len(layout.other)} tensors that are no updates B A")
    charts = tables.along_the_model(shares)
    return AuditResult(tuple(findings), facts, tuple(shown), charts, tuple(left_out))


def _unread(found: Comparison) -> list[str]:
    return [f"values of {found.unread} tensors: none there, or packed"] if found.unread else []
