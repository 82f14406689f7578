"""One self-contained page: a bench of a bank, one prediction, or a bench of defences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftlab.report.page import MOST_LISTED, all_plain, common, environment
from peftlab.report.read import DASH, clean_text, finite, mapping
from peftlab.report.size import figures, recipes
from peftlab.report.size.read import (
    Defended,
    boxes,
    by_steps,
    chance,
    check_schema,
    defended,
    heads,
    pairs,
    rows,
    sizes,
)
from peftlab.report.size.words import defence, number, prediction, sentences

BENCH = "How much do these adapters tell about the size of their training sets?"
ONE = "How many examples was this adapter trained on?"
DEFEND = "What does a publisher gain by defending an adapter, and what does it cost?"
MOST_HEADS = 6  # with a figure of their own


def render_size(results: Mapping[str, Any]) -> str:
    """Return the whole page.

    Args:
        results: JSON of ``peftlab size bench``, ``predict`` or ``defend``; with ``norms`` beside it
            the page of a prediction shows where the adapter stands.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if it is something else.
    """
    check_schema(results)
    values = _nothing()
    values |= {"prediction": _one, "defend": _defences}.get(results["kind"], _bench)(results)
    return environment().get_template("size.html.j2").render(**values)


def _nothing() -> dict[str, Any]:
    """Return every part of the page as left out."""
    lists = ("table", "guessing", "heads", "curves", "scale", "layers", "recipes", "steps")
    return {
        **{name: [] for name in lists}, "control": None, "defences": None, "per_layer": None,
        "coverage": "",
    }  # fmt: skip


def _bench(results: Mapping[str, Any]) -> dict[str, Any]:
    found, guessing, known = heads(results), chance(results), sizes(results)
    about = mapping(results.get("about"))
    base = {
        "question": BENCH, "name": about.get("title") or "data-set size", "created": "",
        "recipe": results.get("recipe"), "versions": results.get("versions"),
    }  # fmt: skip
    control = finite(mapping(results.get("control")).get("mae"))
    drawn = [
        figures.head_errors("h", found, guessing),
        *(figures.confusion(f"c{i}", head, known) for i, head in enumerate(found[:1])),
        *(figures.confusion("cv", head, known) for head in found[1:] if head.name == "vote"),
    ]
    seed = finite(results.get("seed"))
    return {
        **_shared(base, about, [] if seed is None else [int(seed)], "size.json"),
        "count": f"{_count(results, 'adapters')} adapters",
        "verdict": sentences(results),
        "table": [_head_row(head) for head in found],
        "guessing": [(name, number(value)) for name, value in guessing.items()],
        "control": None if control is None else number(control),
        "coverage": _percent(1 - (finite(results.get("alpha")) or 0.1)),
        "heads": all_plain(drawn),
        "curves": all_plain([
            figures.learning_curve(f"l{what}", results, known, guessing, what=what)
            for what in ("accuracy", "mae")
        ]),
        "scale": all_plain([
            figures.norms("n", boxes(results)), *figures.spectra("s", results),
        ]),
        "layers": all_plain([
            figures.kinds("k", results, guessing), figures.layer_map("m", results, len(known)),
        ]),
        "recipes": all_plain([recipes.mismatch("r", pairs(results), guessing)]),
        "steps": all_plain([recipes.steps("st", by_steps(results), guessing)]),
        "facts": _bench_facts(results, about),
    }  # fmt: skip


def _one(results: Mapping[str, Any]) -> dict[str, Any]:
    bank = mapping(results.get("bank"))
    base = {
        "question": ONE, "name": results.get("source") or "adapter", "created": "",
        "recipe": bank.get("recipe"), "versions": results.get("versions"),
    }  # fmt: skip
    norms = [n for row in rows(results.get("per_layer")) if (n := finite(row.get("norm")))]
    mean = sum(norms) / len(norms) if norms else None
    return {
        **_shared(base, {}, [], "its prediction"),
        "count": f"bank of {_count(bank, 'adapters')} adapters",
        "verdict": prediction(results),
        "coverage": _percent(finite(mapping(results.get("set")).get("coverage")) or 0.9),
        "heads": all_plain([figures.votes("v", results)]),
        "scale": all_plain([figures.norms("n", boxes(results), mean)]),
        "facts": _facts_of_one(results, bank),
        "per_layer": _per_layer(results),
    }


def _defences(results: Mapping[str, Any]) -> dict[str, Any]:
    found, guessing = defended(results), chance(results)
    base = {
        "question": DEFEND, "name": "defences", "created": "", "recipe": results.get("recipe"),
        "versions": results.get("versions"),
    }  # fmt: skip
    seed = finite(results.get("seed"))
    seeds, made_up = [] if seed is None else [int(seed)], "the farm of adapters"
    listed, head = results.get("heads") or [], clean_text(results.get("bits_head"))
    drawn = [
        recipes.tradeoff("t", found, finite(results.get("most_bits"))),
        *(recipes.attackers(f"a{i}", found, clean_text(name), guessing)
          for i, name in enumerate(listed[:MOST_HEADS])),
    ]  # fmt: skip
    facts = [(key, _count(results, key)) for key in ("adapters", "concepts", "train", "repeats")]
    base_loss = finite(results.get("base_loss"))
    facts += [] if base_loss is None else [("loss of the bare base", f"{base_loss:.4g}")]
    return {
        **_shared(base, {"synthetic": True, "title": made_up}, seeds, "size.json"),
        "count": f"{_count(results, 'adapters')} adapters",
        "verdict": defence(results),
        "defences": {
            "header": ["defence", f"naive MAE, {head}", "adaptive MAE", "bits", "loss", "gain kept",
                       "setting"],
            "rows": [_defence_row(row, head) for row in found],
            "figures": all_plain(drawn),
        },
        "facts": facts,
    }  # fmt: skip


def _defence_row(row: Defended, head: str) -> list[str]:
    return [
        row.name,
        *(number(own[head]) if head in own else DASH for own in (row.naive, row.adaptive)),
        DASH if row.bits is None else f"{row.bits:.2f}",
        DASH if row.loss is None else f"{row.loss:.4g}",
        _percent(row.kept), row.setting or DASH,
    ]  # fmt: skip


def _shared(
    base: Mapping[str, Any], about: Mapping[str, Any], seeds: list[int], source: str
) -> dict[str, Any]:
    values = common(base, seeds, source)
    if about.get("synthetic") is True:
        values["synthetic"] = [clean_text(about.get("title") or "the bank")]
    return values


def _head_row(head: Any) -> list[str]:
    return [
        head.name, f"{number(head.mae)} ± {number(head.mae_std)}", _percent(head.mape),
        _percent(head.accuracy), DASH if head.bits is None else f"{head.bits:.2f}",
        _percent(head.coverage), DASH if head.set_size is None else f"{head.set_size:.1f}",
    ]  # fmt: skip


def _percent(value: float | None) -> str:
    return DASH if value is None else f"{100 * value:.1f} %".replace(".0 %", " %")


def _bench_facts(results: Mapping[str, Any], about: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        (words, clean_text(results[key]))
        for key, words in (
            ("adapters", "adapters"), ("concepts", "concepts"), ("layers", "layers"),
            ("matrices", "matrices"), ("train", "training concepts a split"),
            ("repeats", "splits"), ("bank_sha256", "bank, SHA-256"),
        )
        if results.get(key) is not None
    ]  # fmt: skip
    facts.append(("sizes", ", ".join(map(str, sizes(results)))))
    facts += [
        (key, clean_text(about[key]))
        for key in ("source", "licence", "generator", "commit") if about.get(key)
    ]  # fmt: skip
    return facts


def _facts_of_one(results: Mapping[str, Any], bank: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the number rests on: bank, recipe, distance from the bank."""
    ood, recipe = mapping(results.get("ood")), mapping(results.get("recipe"))
    p, form, outside = (finite(ood.get(key)) for key in ("p_value", "form", "layers_outside"))
    scale = finite(results.get("scale"))
    facts = [
        ("bank", clean_text(bank.get("title", ""))),
        ("adapters, concepts", f"{_count(bank, 'adapters')}, {_count(bank, 'concepts')}"),
        ("recipe", clean_text(recipe.get("words", ""))),
        ("head, features", f"{clean_text(results.get('head', ''))}; "
                           + ", ".join(map(clean_text, results.get("features") or []))),
    ]  # fmt: skip
    if p is not None and form is not None and outside is not None:
        flag = "looks unlike the bank" if ood.get("flagged") else "looks like the bank"
        where = f"{100 * outside:.0f} % of layers outside its norms"
        words = f"{flag}: distance p = {p:.2g}, form p = {form:.2g}, {where}"
        facts.append(("out of distribution", words))
    if scale is not None and scale != 1:
        facts.append(("calibration", f"updates multiplied by {scale:.3g} (median over matrices)"))
    guessing = chance(results)
    facts += [(f"MAE of a {name}" if name[0] == "u" else f"MAE of the {name}", number(value))
              for name, value in guessing.items()]  # fmt: skip
    return facts


def _count(about: Mapping[str, Any], key: str) -> str:
    number = finite(about.get(key))
    return DASH if number is None else f"{number:.0f}"


def _per_layer(results: Mapping[str, Any]) -> dict[str, Any] | None:
    found = rows(results.get("per_layer"))[:MOST_LISTED]
    if not found:
        return None
    kinds = list(dict.fromkeys(clean_text(k) for row in found for k in mapping(row.get("votes"))))
    table = []
    for row in found:
        votes = {clean_text(k): v for k, v in mapping(row.get("votes")).items()}
        norm = finite(row.get("norm"))
        table.append([
            clean_text(row.get("layer", "")),
            *(clean_text(votes.get(kind, DASH)) for kind in kinds),
            DASH if norm is None else number(norm), "outside" if row.get("outside") else "inside",
        ])  # fmt: skip
    header = ["layer", *(f"{kind} votes" for kind in kinds), "norm", "the bank's range"]
    return {"header": header, "rows": table}
