"""Mutations that keep a file well-formed enough for the parser to look further into it."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, int], bytes]
ODD: tuple[Any, ...] = (
    0, 1, -1, 2**31, 2**32, 2**53 + 1, 2**62, 2**64, 10**30, 0.5, 1e308, -0.0, True, None, "", "x",
    ".*", "(a+)+$", "(.*a){9}", "all-linear", "LORA", "IA3", "../x", "\u202e", "<b>", [], {}, [[]],
    {"a": []}, ["q_proj"], {"q_proj": 4}, "F16", "BF16", "F8_E4M3", "I64", "BOOL", [0, 0], [2, 2],
    "os", "attacker/repo", "q_proj|v_proj", "^.*\\.(q|v)_proj$", "\\d+", "[a-z]+",
)  # fmt: skip
KEYS = (
    "r", "lora_alpha", "peft_type", "target_modules", "auto_mapping", "rank_pattern",
    "__metadata__", "alpha_pattern", "layers_pattern", "layers_to_transform", "modules_to_save",
    "use_rslora", "init_lora_weights", "megatron_core", "dtype", "shape", "data_offsets",
    "a.lora_A.weight", "a.lora_B.weight", "num_virtual_tokens", "task_type", "bias",
    "auto_map", "eva_config",
)  # fmt: skip


def change(value: Any, draw: random.Random) -> Any:
    """Return JSON with one thing changed somewhere."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        what = draw.random()
        if what < 0.15:
            return {name: inner for name, inner in value.items() if name != key}
        if what < 0.3:
            return {**value, draw.choice(KEYS): draw.choice(ODD)}
        if what < 0.4:
            return {(draw.choice(KEYS) if name == key else name): x for name, x in value.items()}
        return {**value, key: change(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        return [*value[:at], change(value[at], draw), *value[at + 1 :]]
    if type(value) is int and draw.random() < 0.6:
        return value + draw.choice((-8, -1, 1, 4, 8, 64, 1000))
    return draw.choice(ODD)


def json_text(data: bytes, most: int, seed: int, mutate: Mutate) -> bytes:
    """Mutate JSON: mostly its values, sometimes its bytes."""
    draw = random.Random(seed)
    if draw.random() < 0.5:
        try:
            value = json.loads(data)
            for _ in range(draw.randint(1, 3)):
                value = change(value, draw)
            return json.dumps(value).encode("utf-8", "surrogatepass")[:most]
        except (ValueError, RecursionError):
            pass
    return mutate(data, most)


def tensors(data: bytes, most: int, seed: int, mutate: Mutate) -> bytes:
    """Mutate a safetensors file: mostly its header, with a length that fits again."""
    draw = random.Random(seed)
    if len(data) < 10 or draw.random() < 0.1:
        return mutate(data, most)
    length = min(struct.unpack("<Q", data[:8])[0], len(data) - 8)
    text, rest = data[8 : 8 + length], data[8 + length :]
    text = json_text(text, max(most - 8 - len(rest), 2), seed, mutate)
    if draw.random() < 0.4:  # let the data be as long as the header says, if it says anything
        rest = _filled(text, rest, draw)
    return (struct.pack("<Q", len(text)) + text + rest)[:most]


def _filled(text: bytes, rest: bytes, draw: random.Random) -> bytes:
    try:
        ends = [entry["data_offsets"][1] for entry in json.loads(text).values()]
        end = max(ends)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return rest
    if type(end) is not int or not 0 <= end <= 2**14:
        return rest
    return (rest + draw.randbytes(64) + bytes(end))[:end]


MUTATORS: dict[str, Callable[[bytes, int, int, Mutate], bytes]] = {
    "header": tensors,
    "config": json_text,
}
