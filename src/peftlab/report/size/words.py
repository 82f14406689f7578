"""What the numbers say, in sentences made by fixed rules, also when they say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftlab.report.read import clean_text, finite, mapping
from peftlab.report.size.read import (
    Defended,
    Head,
    chance,
    check_schema,
    defended,
    heads,
    pairs,
    sizes,
)

CLOSE = 0.15  # a control within this of its expectation shows no leak of the protocol


def number(value: float) -> str:
    """Return a number for a table.

    Examples:
        >>> number(0.9749), number(12.345), number(435.92)
        ('0.975', '12.35', '435.9')
    """
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in per cent.

    Examples:
        >>> percent(0.4333), percent(0.9, 0)
        ('43.3 %', '90 %')
    """
    return f"{100 * share:.{digits}f} %"


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Return the conclusions of a bench, the answer first.

    Raises:
        InputRejected: ``REPORT-SCHEMA``.
    """
    check_schema(results)
    found, guessing = heads(results), chance(results)
    if not found:
        return ["Nothing was measured."]
    said = [_leak(found[0], guessing, results)]
    if len(found) > 1:
        vote = next((head for head in found if head.name == "vote"), None)
        if vote is not None and vote is not found[0]:
            said.append(
                f"The published vote has a MAE of {number(vote.mae)} and "
                f"{percent(vote.accuracy)} exact hits here."
            )
    said += [*_bits(found[0], results), *_control(results), *_mismatch(results)]
    return said


def _leak(best: Head, guessing: Mapping[str, float], results: Mapping[str, Any]) -> str:
    constant = guessing.get("best constant")
    levels = sizes(results)
    one_in = f", chance {percent(1 / len(levels))}" if levels else ""
    start = (
        f"Best head {best.name}: mean absolute error {number(best.mae)}, "
        f"{percent(best.accuracy)} exact hits{one_in}."
    )
    if constant is None:
        return start
    if best.mae >= constant:
        return f"{start} That is no better than always guessing one size ({number(constant)})."
    gain = 1 - best.mae / constant
    return (
        f"{start} Always guessing one size costs {number(constant)}: looking at the weights takes "
        f"{percent(gain, 0)} of that error away."
    )


def _bits(best: Head, results: Mapping[str, Any]) -> list[str]:
    most = finite(results.get("most_bits"))
    if best.bits is None or most is None:
        return []
    return [f"An adapter tells at least {best.bits:.2f} of the {most:.2f} bits of its size."]


def _control(results: Mapping[str, Any]) -> list[str]:
    value = finite(mapping(results.get("control")).get("mae"))
    uniform = chance(results).get("uniform guess")
    if value is None or uniform is None:
        return []
    far = abs(value - uniform) / max(uniform, 1e-9)
    return [
        f"Control: with sizes shuffled inside each concept the vote has {number(value)}, "
        + (f"as a uniform guess ({number(uniform)})." if far <= CLOSE else
           f"a uniform guess {number(uniform)}: look at the bank before you trust these numbers.")
    ]  # fmt: skip


def _mismatch(results: Mapping[str, Any]) -> list[str]:
    found = pairs(results)
    crossed = [pair for pair in found if pair.bank != pair.target]
    if not crossed:
        own = "All this holds for adapters of the bank's own recipe: learning rate and steps move"
        return [f"{own} the same scale."]
    worst = max(crossed, key=lambda pair: pair.mae)
    said = (
        f"Recipe mismatch: the bank {worst.bank} has a MAE of {number(worst.mae)} on adapters of "
        f"{worst.target}"
    )
    three = worst.calibrated.get("3")
    return [said + (f", {number(three)} with three references of known size." if three else ".")]


def prediction(results: Mapping[str, Any]) -> list[str]:
    """Return the conclusions about one adapter."""
    check_schema(results)
    return [_sentence(text) for text in results.get("words") or [] if isinstance(text, str)]


def _sentence(text: str) -> str:
    clean = clean_text(text)
    return f"{clean[:1].upper()}{clean[1:]}" + ("" if clean.endswith(".") else ".")


def defence(results: Mapping[str, Any]) -> list[str]:
    """Return what the defences take away and cost, for people."""
    check_schema(results)
    found = defended(results)
    plain = next((row for row in found if row.name == "none"), None)
    if plain is None or len(found) < 2:
        return ["No defence was measured."]
    head = clean_text(results.get("bits_head") or "") or next(iter(plain.adaptive))
    error, constant = plain.adaptive.get(head, 0.0), chance(results).get("best constant", 0.0)
    start = f"Undefended, an attacker with a bank of the same recipe has a MAE of {number(error)}"
    said = [f"{start} ({head}); always guessing one size costs {number(constant)}."]
    said += [_defended(row, plain, head) for row in found if row is not plain]
    said.append(
        "Adaptive figures are the honest ones: a defence that only surprises the attacker is none."
    )
    return said


def _defended(row: Defended, plain: Defended, head: str) -> str:
    parts = [f"{row.name}: MAE {number(row.adaptive.get(head, 0.0))} against an adaptive attacker"]
    if head in row.naive:
        parts.append(f"{number(row.naive[head])} against a naive one")
    if row.bits is not None and plain.bits is not None:
        parts.append(f"{row.bits:.2f} of {plain.bits:.2f} bits left")
    if row.kept is not None:
        parts.append(f"{percent(row.kept, 0)} of the gain kept")
    return ", ".join(parts) + "."
