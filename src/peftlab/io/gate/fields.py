"""The fields of ``adapter_config.json``: which there are, of which types, within which bounds.

The facts stand in ``peft_fields.json``, read off stock ``peft`` by ``benchmarks/peft_fields.py``.
Types are strict: true is no number, "8" is none either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from peftlab.core.findings import Finding, Severity, rule
from peftlab.io.gate.hooks import Path as Place
from peftlab.io.gate.hooks import texts_in, without, written

TYPE = rule(
    "GATE-TYPE",
    Severity.HIGH,
    "a field of the config with a value that stock peft would not write there",
    why="what happens with it depends on the version of the library; checks would look past it",
    fix="correct the field, or ask the publisher how the adapter was made",
)
VALUE = rule(
    "GATE-VALUE",
    Severity.HIGH,
    "a number in the config that no adapter needs",
    why="building the adapter would take all memory, or the base would be multiplied away",
    fix="correct the field, or ask the publisher how the adapter was made",
)
UNKNOWN = rule(
    "GATE-UNKNOWN",
    Severity.MEDIUM,
    "a field of the config that stock peft does not have",
    why="another library, or a later version, may do something with it that was not checked",
    fix="remove the field; if a later peft wrote it, audit with that version",
)

FACTS = Path(__file__).with_name("peft_fields.json")
CHECKS: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "object": lambda value: isinstance(value, dict),
    "any": lambda value: True,  # noqa: ARG005
}
# written by earlier versions of peft, and by a trainer that is in wide use; numbers and types only
HARMLESS = ("enable_lora", "merge_weights", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr")
FRACTIONS = "*alpha"  # declared as whole numbers, and often given as fractions
MOST_ALPHA = 1e6
WIDE = {  # r of these is no rank of a factor: blocks, a shared basis, or "as wide as the layer"
    "OFT": (0, 2**16), "LOKR": (1, 2**20), "VERA": (1, 2**16), "PVERA": (1, 2**16),
    "RANDLORA": (1, 2**16), "SHIRA": (1, 2**16), "ADAMSS": (1, 2**16), "MISS": (1, 2**16),
}  # fmt: skip
BOUNDS: tuple[tuple[tuple[str, ...], float, float], ...] = (  # the first that fits counts
    (("r", "init_r", "target_r", "subspace_rank"), 1, 1024),
    (("*dropout", "*dropout_p"), 0, 1),
    (("*alpha", "*scaling*", "*_scale", "delora_lambda"), -MOST_ALPHA, MOST_ALPHA),
    (("*niter", "*_terms", "depth", "*_depth", "encoder_num_layers"), 0, 64),
    (("num_virtual_tokens", "adapter_len", "num_frozen_tokens"), 0, 2**16),
    (("*num_*layers", "*num_attention_heads", "adapter_layers", "num_*", "n_tasks", "n_skills",
      "n_splits"), 0, 2**13),
    (("token_dim", "*hidden_size", "*intermediate_size", "xlora_size"), 0, 2**18),
    (("n_frequency", "vector_length", "theta_d_length", "*block_size"), 0, 2**26),
)  # fmt: skip
MOST_RANK, MOST_LAYERS, MOST_PASSES = 1024, 4096, 64
PASSES = re.compile(r"pissa_niter_(\d+)")


@cache
def facts() -> dict[str, Any]:
    """Return what ``peft_fields.json`` says: ``peft``, ``common``, ``types`` and ``parts``."""
    found: dict[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found


def is_known_type(peft_type: object) -> bool:
    """Return whether stock peft has this type."""
    return isinstance(peft_type, str) and peft_type in facts()["types"]


def judge_fields(config: Mapping[str, Any], file: str) -> Iterator[tuple[Place, Finding]]:
    """Yield every field that is unknown, of another type or out of bounds, with a finding.

    Args:
        config: a parsed ``adapter_config.json``, without hooks.
        file: its name, for the findings.

    Examples:
        >>> config = {"peft_type": "LORA", "r": "8; import os", "lora_alpha": 16, "rr": 1}
        >>> [(place, found.code) for place, found in judge_fields(config, "adapter_config.json")]
        [(('r',), 'GATE-TYPE'), (('rr',), 'GATE-UNKNOWN')]
    """
    kind = config.get("peft_type")
    if not is_known_type(kind):
        yield ("peft_type",), TYPE.found(f"{file}#peft_type", f"{kind!r} is no type of peft")
        return
    names = {**facts()["common"], **facts()["types"][kind]}
    odd = list(_judge(config, names, ()))
    for place, which, evidence in odd:
        yield place, which.found(f"{file}#{written(place)}", evidence, severity=_milder(evidence))
    sound = without(dict(config), {place for place, _, _ in odd})
    for place, evidence in _out_of_bounds(sound, str(kind)):
        yield place, VALUE.found(f"{file}#{written(place)}", evidence)


def _milder(evidence: str) -> Severity | None:
    """Let a missing value pass as less: some tools write null for what they do not know."""
    return Severity.MEDIUM if evidence.startswith("null, ") else None


def _judge(
    config: Mapping[str, Any], names: Mapping[str, str], here: Place
) -> Iterator[tuple[Place, Any, str]]:
    for key, value in config.items():
        place = (*here, key)
        if key not in names:
            if here or key not in HARMLESS:
                yield place, UNKNOWN, f"{json.dumps(value)[:80]}"
            continue
        wanted = names[key].split("|")
        if fnmatchcase(key, FRACTIONS):
            wanted.append("number")
        parts = [facts()["parts"][each] for each in wanted if each in facts()["parts"]]
        if isinstance(value, dict) and parts:
            yield from _judge(value, parts[0], place)
        elif not any(_fits(value, each) for each in wanted):
            yield place, TYPE, f"{json.dumps(value)[:80]}, not {' or '.join(wanted)}"


def _fits(value: Any, wanted: str) -> bool:
    if wanted.endswith("[]"):
        return isinstance(value, list) and all(_fits(each, wanted[:-2]) for each in value)
    return wanted in CHECKS and CHECKS[wanted](value)


def _out_of_bounds(config: Mapping[str, Any], kind: str) -> Iterator[tuple[Place, str]]:
    for key, value in config.items():
        if CHECKS["number"](value):
            low, high = WIDE.get(kind, (1, MOST_RANK)) if key == "r" else _bounds(key)
            if not low <= value <= high:
                yield (key,), f"{value}, not {low:g} to {high:g}"
    for key, most in (("rank_pattern", MOST_RANK), ("alpha_pattern", MOST_ALPHA)):
        pattern = config.get(key)
        for name, value in pattern.items() if isinstance(pattern, dict) else ():
            if not _is_sound_entry(key, value, most):
                yield (key, name), f"{json.dumps(value)[:80]}, not at most {most:g}"
    found = PASSES.fullmatch(str(config.get("init_lora_weights")))
    if found and (len(found[1]) > 4 or int(found[1]) > MOST_PASSES):
        yield ("init_lora_weights",), f"{found[0][:80]}, more than {MOST_PASSES} passes"
    copies = config.get("layer_replication")
    if isinstance(copies, list) and not _is_sound_replication(copies):
        yield ("layer_replication",), f"{json.dumps(copies)[:80]}, not up to {MOST_LAYERS} layers"


def _bounds(key: str) -> tuple[float, float]:
    for names, low, high in BOUNDS:
        if any(fnmatchcase(key, name) for name in names):
            return low, high
    return float("-inf"), float("inf")


def _is_sound_entry(key: str, value: Any, most: float) -> bool:
    if key == "rank_pattern" and isinstance(value, list):  # AdaLoRA: which ranks are left
        return len(value) <= most and all(isinstance(each, bool | int) for each in value)
    low = 0 if key == "rank_pattern" else -most
    return CHECKS["number"](value) and low <= value <= most


def _is_sound_replication(copies: list[Any]) -> bool:
    pairs = [pair for pair in copies if _fits(pair, "integer[]") and len(pair) == 2]
    sound = len(pairs) == len(copies) and all(0 <= first < last for first, last in pairs)
    return sound and sum(last - first for first, last in pairs) <= MOST_LAYERS


def unknown_texts(config: Mapping[str, Any]) -> Iterator[Place]:
    """Yield fields inside the settings of a method that peft does not have and that hold text.

    Settings such as ``arrow_config`` go to code that may open what it is told to.

    Examples:
        >>> config = {"peft_type": "LORA", "arrow_config": {"top_k": 2, "repo": "someone/model"}}
        >>> list(unknown_texts(config))
        [('arrow_config', 'repo')]
    """
    kind = config.get("peft_type")
    if not is_known_type(kind):
        return
    for place, which, _ in _judge(config, {**facts()["common"], **facts()["types"][kind]}, ()):
        value: Any = config
        for key in place:
            value = value[key]
        if which is UNKNOWN and len(place) > 1 and any(texts_in(value)):
            yield place
