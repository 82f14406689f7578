"""Data-set size on the command line: size fit, predict, bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftlab.apps.cli.console import bar, out_json, spinner
from peftlab.apps.cli.console import out as put
from peftlab.core.errors import ConfigError

if TYPE_CHECKING:
    from peftlab.audits.size import Prediction, SizeAuditor
    from peftlab.audits.size.features import Kind

FORMATS = ("text", "json", "html")
BAR = 24  # characters of the longest bar


def _features(text: str) -> tuple[Kind, ...]:
    from peftlab.audits.size.features import KINDS

    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts or set(parts) - set(KINDS):
        raise ConfigError(
            "features are not kinds of matrix", code="SIZE-FEATURES", got=text,
            allowed=", ".join(KINDS), fix="write --features A,B,BA",
        )  # fmt: skip
    return parts  # type: ignore[return-value]


def fit(
    bank: str, head: str, out: Path, features: str, alpha: float, *, overwrite: bool, as_json: bool
) -> None:
    """Learn from a bank and write the auditor."""
    from peftlab.audits.size import SizeAuditor, SpectraBank
    from peftlab.io.files import check_target

    check_target(out, overwrite=overwrite)
    made = SizeAuditor(_features(features), head, alpha)
    with spinner(f"learning from {bank}"):
        made.fit(SpectraBank.load(bank))
        made.save(out, overwrite=overwrite)
    facts = {
        "auditor": str(out), "head": head, "features": list(made.features),
        "adapters": len(made.bank), "concepts": len(made.bank.concepts),
        "sizes": made.levels.tolist(), "layers": len(made.bank.layers),
        "recipe": dict(made.bank.recipe), "sets": made.conformal.can_rule_out,
    }  # fmt: skip
    if as_json:
        out_json(facts)
        return
    sizes = ", ".join(map(str, made.levels.tolist()))
    put(
        f"{facts['adapters']} adapters of {facts['concepts']} concepts, sizes {sizes}, "
        f"{facts['layers']} layers; head {head}"
    )
    if not made.conformal.can_rule_out:
        put("too few concepts for prediction sets that rule a size out")
    put(f"auditor: {out}")


def predict(
    auditor: Path, adapter: str, recipe: Sequence[str], references: Sequence[str], out: Path,
    form: str, *, assume_recipe: bool, as_json: bool,
) -> None:  # fmt: skip
    """Tell the size of one adapter; without a known recipe there is no size to tell."""
    from peftlab.audits.size import SizeAuditor
    from peftlab.audits.size.recipe import parse

    if form not in FORMATS:
        raise ConfigError(
            f"there is no format {form!r}", code="CLI-OPTION", allowed=", ".join(FORMATS),
            fix="write --format html",
        )  # fmt: skip
    declared, known = parse(recipe), _references(references)
    with spinner(f"reading {adapter}"):
        fitted = SizeAuditor.load(auditor)
        found = fitted.predict(
            adapter, recipe=declared or None, assume_recipe=assume_recipe, references=known
        )
    if not found.identified:
        raise ConfigError(
            found.recipe.words, code="SIZE-RECIPE",
            allowed=", ".join(f"{k}={v}" for k, v in fitted.bank.recipe.items())
            or "the bank tells no recipe",
            fix="say how it was trained (--recipe lr=...,steps=...), give adapters of known size "
            "and the same recipe (--reference FILE=SIZE), or take the bank's (--assume-recipe)",
        )  # fmt: skip
    if form == "html":
        _write_page(found, fitted, out)
    if as_json or form == "json":
        out_json(found.to_json())
        return
    put("\n".join([*found.words(), "", *_votes(found)]))
    if form == "html":
        put(f"report:  {out}")


def _references(given: Sequence[str]) -> list[tuple[str, int]]:
    """Return FILE=SIZE options as pairs."""
    found = []
    for text in given:
        file, equals, size = text.rpartition("=")
        if not equals or not file or not size.strip().isdecimal():
            raise ConfigError(
                "a reference is not FILE=SIZE", code="CLI-OPTION", got=text,
                fix="write --reference mine.safetensors=20",
            )  # fmt: skip
        found.append((file, int(size)))
    return found


def _votes(found: Prediction) -> list[str]:
    most = max(found.votes.values()) or 1.0
    width = max(len(str(size)) for size in found.votes)
    return [
        f"{size:>{width}}  {'█' * round(BAR * share / most):{BAR}}  {share:5.1%}"
        f"{'' if size in found.prediction_set else '  ruled out'}"
        for size, share in found.votes.items()
    ]


def _write_page(found: Prediction, fitted: SizeAuditor, out: Path) -> None:
    from peftlab.audits.size.study import shapes
    from peftlab.io.files import write_atomic
    from peftlab.report.size.html import render_size

    bank = shapes(fitted.bank, ())
    write_atomic(out, render_size(found.to_json() | {"norms": bank["norms"]}))


def bench(
    bank: str, heads: str, features: str, train: int | None, repeats: int, seed: int,
    others: Sequence[str], out: Path | None, *, as_json: bool,
) -> None:  # fmt: skip
    """Measure heads on a bank by concept, beside chance and a control."""
    from peftlab.audits.size import SpectraBank
    from peftlab.audits.size.bench import bench as run

    names = [part.strip() for part in heads.split(",") if part.strip()]
    if not names:
        raise ConfigError(
            "no head was named", code="SIZE-HEAD", fix="write --heads vote,frobenius,ridge,lda"
        )
    kinds = _features(features)
    loaded = SpectraBank.load(bank)
    more = {name: SpectraBank.load(path) for name, path in _others(others).items()}
    with bar("size bench") as tell:
        found = run(
            loaded, names, features=kinds, train=train, repeats=repeats, seed=seed, others=more,
            progress=tell,
        )  # fmt: skip
    if out is not None:
        write_report(found, out)
    if as_json:
        out_json(found)
        return
    put(bench_table(found))
    if out is not None:
        put(f"numbers: {out / 'size.json'}")
        put(f"report:  {out / 'report.html'}")


def _others(given: Sequence[str]) -> dict[str, str]:
    """Return NAME=BANK options."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name.strip() or name in found:
            raise ConfigError(
                "another bank is not NAME=BANK with a name of its own", code="CLI-OPTION",
                got=text, fix="write --other half-the-steps=BANK",
            )  # fmt: skip
        found[name] = path
    return found


def write_report(found: Mapping[str, Any], out: Path) -> None:
    """Write numbers and page of a bench or of defences into a folder."""
    from peftlab.io.files import write_atomic, write_json
    from peftlab.report.size.html import render_size

    write_json(out / "size.json", found)
    write_atomic(out / "report.html", render_size(found))


def bench_table(found: Mapping[str, Any]) -> str:
    """Return the bench as text: heads first, then what guessing costs."""
    from peftlab.report.size.words import sentences

    more = {row["head"]: row for row in found["details"]}
    rows = [["head", "MAE", "MAPE", "exact", "bits", "90% sets hold", "of sizes"]]
    for row in found["heads"]:
        own = more[row["head"]]
        rows.append([
            row["head"], f"{row['mae']:.3f} ± {own['mae_std']:.3f}",
            "-" if row["mape"] is None else f"{row['mape']:.1%}", f"{row['accuracy']:.1%}",
            f"{own['bits']:.2f}",
            "-" if own["coverage"] is None else f"{own['coverage']:.1%}",
            "-" if own["set_size"] is None else f"{own['set_size']:.1f}",
        ])  # fmt: skip
    chance = found["chance"]
    rows += [
        ["uniform guess", f"{chance['uniform_mae']:.3f}", *[""] * 5],
        ["best constant", f"{chance['best_constant_mae']:.3f}", *[""] * 5],
        ["sizes shuffled", f"{found['control']['mae']:.3f}", *[""] * 5],
    ]
    rows[0][5] = f"{1 - found['alpha']:.0%} sets hold"
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *sentences(found)])
