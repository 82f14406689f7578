"""The number in front of a low-rank update: where each format keeps alpha, and what it means.

peft     ``lora_alpha`` of the config, ``alpha_pattern`` for some layers; divided by r, or by
         sqrt(r) for rsLoRA
diffusers  the same fields as JSON in the metadata, each with the component in front of it
kohya    one number beside each pair, divided by r
others   the file does not say: 1
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from peftlab.core.errors import InputRejected
from peftlab.io.artefact import Artefact
from peftlab.io.strict_json import parse_json

DIFFUSERS_KEY = "lora_adapter_metadata"
LONGEST = 64 * 2**10  # bytes of JSON in the metadata that are read
DEFAULT_ALPHA, DEFAULT_RANK = 8.0, 8  # of peft's LoraConfig
PLAIN = re.compile(r"\^?[A-Za-z0-9_.\-]+\$?")
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


class Scales:
    """The scales of all layers of one adapter."""

    def __init__(self, artefact: Artefact, kind: str) -> None:
        self._artefact = artefact
        self._config: Mapping[str, Any] = artefact.config if kind == "peft" else {}
        self._notes = {} if kind == "peft" else _diffusers_notes(artefact)

    def of(self, layer: str, rank: int, alpha: str | None) -> float:
        """Return the scale of one layer; not finite where alpha is not.

        Args:
            layer: its name.
            rank: r, as the tensors have it.
            alpha: name of the tensor that holds this layer's alpha, if there is one.
        """
        if alpha is not None:
            return read_number(self._artefact, alpha) / rank
        config = self._config or self._notes_of(layer)
        if not config:
            return 1.0
        found = pattern_value(config.get("alpha_pattern"), layer)
        given = number(found if found is not None else config.get("lora_alpha"), DEFAULT_ALPHA)
        divisor = declared_rank(config, layer) if config.get("target_parameters") else rank
        if not divisor or rank % divisor:
            divisor = rank  # the experts of a layer stand below each other: rank is a multiple
        return given / (math.sqrt(divisor) if config.get("use_rslora") is True else divisor)

    def _notes_of(self, layer: str) -> Mapping[str, Any]:
        """Return diffusers' fields of the component that a layer is in."""
        component = layer.split(".", 1)[0]
        inside = {
            key.removeprefix(f"{component}."): value
            for key, value in self._notes.items()
            if key.startswith(f"{component}.")
        }
        return inside or {key: value for key, value in self._notes.items() if "." not in key}


def number(value: object, default: float) -> float:
    """Return a number of a config as a float, infinite where it is too large.

    Examples:
        >>> number(10**400, 1.0), number("16", 8.0), number(16, 8.0)
        (inf, 8.0, 16.0)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    try:
        return float(value)
    except OverflowError:
        return math.inf


def declared_rank(config: Mapping[str, Any], layer: str) -> int | None:
    """Return the rank that a config gives to a layer; None if it cannot be told.

    Examples:
        >>> declared_rank({"r": 8, "rank_pattern": {"q_proj": 16}}, "layers.0.q_proj")
        16
    """
    if config.get("peft_type") == "ADALORA":
        kept = pattern_value(config.get("rank_pattern"), layer)
        rank = sum(map(bool, kept)) if isinstance(kept, list) else config.get("init_r")
    else:
        pattern = config.get("rank_pattern")
        found = pattern_value(pattern, layer)
        if found is None and isinstance(pattern, dict) and not all(map(PLAIN.fullmatch, pattern)):
            return None
        rank = config.get("r", DEFAULT_RANK) if found is None else found
    return rank if isinstance(rank, int) and not isinstance(rank, bool) else None


def pattern_value(pattern: object, layer: str) -> Any:
    """Return the value of the first plain key that names a layer or ends its name, else None.

    Keys are regular expressions to peft. Only those that name modules are read here: none is run.

    Examples:
        >>> pattern_value({"proj": 1, "q_proj": 2}, "layers.0.q_proj")
        2
    """
    if not isinstance(pattern, dict):
        return None
    for key, value in pattern.items():
        if not isinstance(key, str) or not PLAIN.fullmatch(key):
            continue
        end = key.removesuffix("$").removeprefix("^")
        if layer == end or (layer.endswith(f".{end}") and not key.startswith("^")):
            return value
        if end.removesuffix(".lora_E").removeprefix("base_model.model.") == layer:  # AdaLoRA's way
            return value
    return None


def read_number(artefact: Artefact, name: str) -> float:
    """Return the one number that a tensor holds; NaN if it holds none or more."""
    info = artefact.tensors[name]
    if math.prod(info.shape) != 1 or info.file not in artefact.files:
        return math.nan
    content = bytes(artefact.tensor_bytes(name))
    if info.dtype == "BF16":  # the upper half of a float32
        return float(np.frombuffer(b"\0\0" + content, "<f4")[0])
    if info.dtype not in NUMBERS:
        return math.nan
    return float(np.frombuffer(content, NUMBERS[info.dtype])[0])


def _diffusers_notes(artefact: Artefact) -> dict[str, Any]:
    """Return what diffusers wrote of the config into the metadata; empty if it is not sound."""
    found: dict[str, Any] = {}
    for notes in artefact.metadata.values():
        text = notes.get(DIFFUSERS_KEY, "")
        if not text or len(text) > LONGEST:
            continue
        try:
            parsed = parse_json(text.encode("utf-8"), DIFFUSERS_KEY)
        except (InputRejected, UnicodeEncodeError, json.JSONDecodeError):
            continue
        found |= parsed if isinstance(parsed, dict) else {}
    return found
