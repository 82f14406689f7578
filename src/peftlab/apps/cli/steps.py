"""The steps of the main job on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json, say, spinner
from peftlab.apps.cli.texts import read_texts
from peftlab.core.errors import ConfigError
from peftlab.core.options import Options, parse_options
from peftlab.core.types import TaskData
from peftlab.io.files import check_target


def option_values(kind: str, name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return {"rate": 0.2, "trigger": "mn"} of ["rate=0.2", "trigger=mn"].

    Args:
        kind: attack, tuner or defence.
        name: the method whose options these are; a value is read as its option wants it.
        pairs: what the user typed.

    Raises:
        ConfigError: ``CLI-OPTION``, or ``REGISTRY-NAME`` if there is no such method.
    """
    from peftlab.core.registry import get

    return read_pairs(get(kind, name).options, pairs)


def read_pairs(options: type[Options], pairs: Sequence[str]) -> dict[str, Any]:
    """Return {"rate": 0.2} of ["rate=0.2"]; a value is read as its option wants it.

    Raises:
        ConfigError: ``CLI-OPTION``.
    """
    from peftlab.engine.overrides import fit_value

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                "an option is not KEY=VALUE", code="CLI-OPTION", got=pair,
                fix="write for example --option rate=0.2",
            )  # fmt: skip
        values[key.strip()] = fit_value(options, key.strip(), text.strip())
    return values


def _check_out(out: Path, base: str, *, overwrite: bool) -> None:
    """Refuse a bad --out before any work, the base itself above all: the result refers to it."""
    check_target(out, overwrite=overwrite)
    if overwrite and Path(base).exists() and Path(base).resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"{out} is the base or holds it; it is not overwritten",
            code="PATH-WRITE", fix="choose another folder",
        )  # fmt: skip


def _load(reference: str) -> TaskData:
    from peftlab.engine.steps import load_data

    data = load_data(reference)
    for note in data.notes:
        say(f"data: {note}")
    return data


def _result(facts: dict[str, Any], text: str, *, as_json: bool) -> None:
    out_json(facts) if as_json else put(text)


def attack(
    out: Path, name: str, base: str, data: str, option: Sequence[str], epochs: float, seed: int,
    *, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Poison a base."""
    from peftlab.engine.steps import AttackerOptions, make_poison, train_base

    check_target(out, overwrite=overwrite)
    task = _load(data)
    values = option_values("attack", name, option)
    poisoned = make_poison(task, name, values, seed)
    training = parse_options(AttackerOptions, {"epochs": epochs}, "attacker")
    with spinner(f"poisoning {base} by {name}"):
        facts = train_base(
            base, poisoned, task.n_classes, out, attack=name, options=values, training=training,
            seed=seed, overwrite=overwrite,
        )  # fmt: skip
    _result(
        {"folder": str(out), **facts},
        f"{out}: {facts['n_poisoned']} of {len(poisoned.texts)} training texts poisoned "
        f"({facts['labels']} labels), last loss {facts['loss']:.3f}; marked, never deploy it",
        as_json=as_json,
    )


def tune(
    out: Path, base: str, data: str, method: str, option: Sequence[str], defence: str,
    defence_option: Sequence[str], seed: int,
    *, allow_poisoned: bool, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Tune a base, the way of a defence if one is named."""
    from peftlab.engine.steps import tune as tune_step
    from peftlab.engine.steps import tune_defended

    _check_out(out, base, overwrite=overwrite)
    if defence_option and not defence:
        raise ConfigError(
            "options without a defence that they belong to", code="CLI-OPTION",
            got=", ".join(defence_option), fix="add --defence NAME, or leave them out",
        )  # fmt: skip
    task = _load(data)
    if defence:
        with spinner(f"tuning {base} by {method} with {defence}") as tell:
            facts = tune_defended(
                base, task, (method, option_values("tuner", method, option)),
                (defence, option_values("defence", defence, defence_option)), out, seed=seed,
                allow_poisoned=allow_poisoned, overwrite=overwrite, progress=tell,
            )  # fmt: skip
        _result(
            {"folder": str(out), **facts},
            f"{out}: tuned by {method} with {defence}; one model, nothing beside it",
            as_json=as_json,
        )
        return
    with spinner(f"tuning {base} by {method}"):
        facts = tune_step(
            base, task, method, option_values("tuner", method, option), out, seed=seed,
            allow_poisoned=allow_poisoned, overwrite=overwrite,
        )  # fmt: skip
    _result(
        {"folder": str(out), **facts},
        f"{out}: {facts['trainable']:,} weights trained in {facts['steps']} steps, "
        f"last loss {facts['loss']:.3f}",
        as_json=as_json,
    )


def evaluate(
    victim: Path, data: str, attack: str, option: Sequence[str], seed: int,
    *, allow_poisoned: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a victim."""
    from peftlab.engine.evaluate import evaluate_victim

    if option and not attack:
        raise ConfigError(
            "options without an attack that they belong to", code="CLI-OPTION",
            got=", ".join(option), fix="add --attack NAME, or leave --option out",
        )  # fmt: skip
    task = _load(data)
    with spinner(f"reading {len(task.test)} test texts"):
        found = evaluate_victim(
            victim, task, attack or None,
            option_values("attack", attack, option) if attack else {}, seed=seed,
            allow_poisoned=allow_poisoned,
        )  # fmt: skip
    _result(found, _lines(found), as_json=as_json)


def _lines(found: dict[str, Any]) -> str:
    lines = []
    for name, value in found["metrics"].items():
        low_high = found["intervals"].get(name)
        if value is None:
            lines.append(f"{name:22} -       {found['reasons'].get(name, '')}")
        elif low_high:
            lines.append(f"{name:22} {value:.4f}  [{low_high[0]:.4f}, {low_high[1]:.4f}]")
        else:
            lines.append(f"{name:22} {value if isinstance(value, int) else round(value, 4)}")
    return "\n".join(lines)


def guard_fit(
    out: Path, base: str, data: str, defence: str, option: Sequence[str], seed: int,
    *, allow_poisoned: bool, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fit a guard."""
    from peftlab.engine.guard import Guard

    _check_out(out, base, overwrite=overwrite)
    task = _load(data)
    with spinner(f"fitting {defence} on {base}") as tell:
        guard = Guard.fit(
            base, task, defence, option_values("defence", defence, option), seed=seed,
            allow_poisoned=allow_poisoned, progress=tell,
        )  # fmt: skip
        guard.save_pretrained(out, overwrite=overwrite)
    about = guard.about
    _result(
        {"folder": str(out), **about},
        f"{out}: {defence} guard with the published threshold; it promises no false-positive rate"
        if guard.fixed
        else f"{out}: {defence} guard, calibrated on {about['texts']['calibration']} clean texts "
        f"for a false-positive rate of {about['options']['alpha']:g}",
        as_json=as_json,
    )


def guard_score(
    guard: Path, file: Path, *, fast: bool, allow_poisoned: bool, as_json: bool
) -> None:
    """Score texts of a file."""
    from peftlab.engine.guard import Guard

    texts = read_texts(file)
    loaded = Guard.from_pretrained(guard, allow_poisoned=allow_poisoned)
    found = loaded.score(texts, fast=fast)
    for score, p, flagged in zip(found.scores, found.p_values, found.flagged, strict=True):
        row = {"score": float(score), "p_value": float(p), "flagged": bool(flagged)}
        if as_json:
            out_json(row, indent=None)
        else:
            put(f"{'FLAG' if flagged else 'ok':4}  p = {p:.4f}  score = {score:.3f}")
    say(f"{int(np.sum(found.flagged))} of {len(texts)} texts flagged")


def guard_filter(
    out: Path, base: str, data: str, defence: str, option: Sequence[str], epochs: float, seed: int,
    *, overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Filter a suspect training set."""
    from peftlab.engine.steps import AttackerOptions
    from peftlab.engine.suspects import filter_data

    _check_out(out, base, overwrite=overwrite)
    task = _load(data)
    with spinner(f"filtering {data} by {defence}") as tell:
        facts = filter_data(
            base, task, (defence, option_values("defence", defence, option)), out, seed=seed,
            training=parse_options(AttackerOptions, {"epochs": epochs}, "training"),
            overwrite=overwrite, progress=tell,
        )  # fmt: skip
    _result(
        {"folder": str(out), **facts},
        f"{out}: {facts['dropped']} of {facts['rows']} training texts dropped by {defence}",
        as_json=as_json,
    )


def guard_inspect(
    base: str, data: str, defence: str, option: Sequence[str], seed: int,
    *, allow_poisoned: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say whether a base looks backdoored; exit code 1 if it does."""
    from peftlab.engine.suspects import inspect_base

    task = _load(data)
    with spinner(f"looking for a trigger of {base}") as tell:
        found = inspect_base(
            base, task, (defence, option_values("defence", defence, option)), seed=seed,
            allow_poisoned=allow_poisoned, progress=tell,
        )  # fmt: skip
    lines = [f"{'FLAG' if found.flagged else 'ok'}: score {found.score:.4g}"]
    lines += [f"{name:22} {value}" for name, value in found.facts.items()]
    _result(
        {"base": base, "defence": defence, "score": found.score, "flagged": found.flagged,
         "facts": dict(found.facts)},
        "\n".join(lines), as_json=as_json,
    )  # fmt: skip
    if found.flagged:
        sys.exit(1)


def guard_eval(
    guard: Path, victim: Path, data: str, attack: str, option: Sequence[str], seed: int,
    *, allow_poisoned: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure a guard in front of a victim."""
    from peftlab.engine.evaluate import evaluate_guard

    task = _load(data)
    with spinner(f"trying {attack} against the guard"):
        found = evaluate_guard(
            guard, victim, task, attack, option_values("attack", attack, option), seed=seed,
            allow_poisoned=allow_poisoned,
        )  # fmt: skip
    _result(found, _lines(found), as_json=as_json)
