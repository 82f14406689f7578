"""The audit ``size``: what an adapter's weights tell about how many examples it was trained on.

It needs a bank of labelled adapters with the same layers, ranks and widths: the one that the
operator names, or one of those that the package ships. The finding is a leak of the publisher, not
a danger to the reader, so it is low; and without a known recipe it is a remark only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

from peftlab.audits.size.auditor import SizeAuditor
from peftlab.audits.size.bank import SpectraBank
from peftlab.audits.size.bank_files import ABOUT, KIND, builtin_banks, is_bank, read_about
from peftlab.audits.size.conformal import ALPHA
from peftlab.audits.size.evaluate import evaluate
from peftlab.audits.size.features import differences, shapes_of, spectra_of
from peftlab.audits.size.heads import make
from peftlab.audits.size.prediction import Prediction
from peftlab.audits.size.recipe import parse
from peftlab.core.contracts import AuditContext, AuditResult
from peftlab.core.errors import ConfigError
from peftlab.core.findings import Chart, Finding, Severity, Table, rule
from peftlab.core.options import Options, option
from peftlab.core.registry import audit
from peftlab.io.files import read_json

TOLD = rule(
    "SIZE-TOLD", Severity.LOW, "the weights tell about how many examples it was trained on",
    why="whoever has adapters of the same recipe can read it; it starts other attacks on the data",
    fix="as a publisher: rescale the updates to one norm, or add noise (`peftlab size defend`)",
)  # fmt: skip
READABLE = rule(
    "SIZE-READABLE", Severity.INFO, "who knows the recipe can tell how many examples were used",
    why="the size is in the scale of the updates, which learning rate and steps move too",
    fix="declare the recipe to see what it tells (option recipe), or assume it (assume_recipe)",
)  # fmt: skip
UNLIKE = rule(
    "SIZE-UNLIKE", Severity.INFO, "the adapter is unlike the bank, so its size means little",
    why="another recipe, base or kind of data changes the spectra as the size does",
    fix="use a bank made with the recipe of this adapter (`peftlab size farm`)",
)  # fmt: skip
NOT_A_SIZE_BANK = "the bank holds no adapters of known data-set size"
SHOWN = 64  # layers in the table
REPEATS = 5  # splits of the bank to measure what it leaks


class SizeOptions(Options):
    """Options of the data-set size audit."""

    head: str = option("vote", "see `peftlab size bench`", source="arXiv 2406.19395, section 4")
    alpha: float = option(
        ALPHA, "share of new concepts that the set may miss", source="ours", gt=0, lt=1
    )
    assume_recipe: bool = option(
        False, "take the adapter to be trained as the bank was", source="ours"
    )
    recipe: tuple[str, ...] = option(
        (), "what is known of its training: lr=1e-3, steps=500", source="ours"
    )

    @field_validator("head")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            make(name)
        except ConfigError as error:
            raise ValueError(error.fix) from None
        return name

    @field_validator("recipe")
    @classmethod
    def _pairs(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse(parts)
        except ConfigError as error:
            raise ValueError(error.what) from None
        return parts


@audit(
    "size",
    options=SizeOptions,
    source="arXiv 2406.19395 (DSiRe)",
    cost="the spectra of the adapter; under 2 s with a bank of 300 adapters",
)
class SizeAudit:
    """Estimate how many training examples the weights give away, against a bank of known ones."""

    def __init__(self, options: SizeOptions) -> None:
        self.options = options

    def why_not(self, context: AuditContext) -> str:
        """Return why there is no bank to compare with, or an empty string."""
        if not context.layout.pairs:
            return "the artefact has no low-rank updates"
        return _find(context)[1]

    def run(self, context: AuditContext) -> AuditResult:
        """Predict the size from the bank that fits."""
        folder, _ = _find(context)
        bank = SpectraBank.load(str(folder))
        context.progress(f"{len(bank)} adapters of known size")
        auditor = SizeAuditor(bank.kinds, self.options.head, self.options.alpha).fit(bank)
        found = auditor.predict(
            spectra_of(context.artefact, context.layout),
            recipe=parse(self.options.recipe) or None,
            assume_recipe=self.options.assume_recipe,
        )
        leak = evaluate(
            bank, (self.options.head,), features=bank.kinds, repeats=REPEATS,
            seed=context.seed, conformal=False,
        )  # fmt: skip
        facts = _facts(found) | {
            "bank_mae": leak.to_json()["heads"][0]["mae"],
            "bank_bits": leak.to_json()["details"][0]["bits"],
            "most_bits": leak.about["most_bits"],
        }
        return AuditResult(
            findings=_findings(found, context), facts=facts, tables=(_layers(found),),
            charts=(_votes(found),), not_checked=_not_checked(found),
        )  # fmt: skip


def _find(context: AuditContext) -> tuple[Path | None, str]:
    """Return the first bank with the adapter's layers, or why none fits."""
    shapes, reason = shapes_of(context.layout), ""
    if context.bank is not None:
        if not _is_size_bank(context.bank):
            reason = NOT_A_SIZE_BANK
        elif not (context.bank / ABOUT).is_file():
            return context.bank, ""  # rows of the public set: their layers are known once read
        else:
            wrong = differences(shapes, read_about(context.bank)["layers"])
            if not wrong:
                return context.bank, ""
            reason = f"the bank's adapters have other layers or ranks: {wrong}"
    for folder in builtin_banks().values():
        if not differences(shapes, read_about(folder)["layers"]):
            return folder, ""
    return None, reason or "no bank of adapters with these layers is known (--bank)"


def _is_size_bank(folder: Path) -> bool:
    if not is_bank(folder):
        return False
    about = read_json(folder / ABOUT, 32 * 2**20) if (folder / ABOUT).is_file() else {"kind": KIND}
    return isinstance(about, dict) and about.get("kind") == KIND


def _findings(found: Prediction, context: AuditContext) -> tuple[Finding, ...]:
    where = context.artefact.tensors[context.layout.pairs[0].a].file
    if found.ood.flagged:
        return (UNLIKE.found(where, "; ".join(found.words())),)
    if not found.identified:
        return (READABLE.found(where, f"if the recipe were the bank's: {found.words()[0]}"),)
    narrowed = len(found.prediction_set) < len(found.votes)
    severity = TOLD.severity if narrowed else Severity.INFO
    return (TOLD.found(where, "; ".join(found.words()), severity=severity),)


def _facts(found: Prediction) -> dict[str, Any]:
    left_out = {"schema", "kind", "source", "per_layer"}
    return {key: value for key, value in found.to_json().items() if key not in left_out}


def _layers(found: Prediction) -> Table:
    kinds = tuple(found.features)
    return Table(
        "What each layer votes for",
        ("layer", *(f"{kind} votes" for kind in kinds), "norm", "in the bank's range"),
        tuple(
            (row.layer, *(row.votes.get(kind) for kind in kinds), round(row.norm, 6),
             "no" if row.outside else "yes")
            for row in found.per_layer[:SHOWN]
        ),
    )  # fmt: skip


def _votes(found: Prediction) -> Chart:
    low, high = found.interval
    return Chart(
        "Votes for each size",
        f"Share of each known size by the head {found.head}. {100 * (1 - found.alpha):.3g} % set: "
        f"{low} to {high}. {found.recipe.words[:1].upper() + found.recipe.words[1:]}.",
        "training examples",
        "share",
        {"share": tuple((str(size), share) for size, share in found.votes.items())},
        kind="bar",
    )


def _not_checked(found: Prediction) -> tuple[str, ...]:
    said = ["which examples were used: one number per adapter is all that is estimated"]
    if not found.identified:
        said.append("the recipe: learning rate and steps move the scale as the size does")
    return tuple(said)
