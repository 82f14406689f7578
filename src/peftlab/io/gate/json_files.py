"""Step 4: JSON that every library reads alike, small and flat enough to be read at all.

Three classes, by name. Configs are small. A vocabulary is large, is read as data by every library,
and is parsed here only while it is small; what is larger has its encoding and its nesting checked.
An index of shards stands between them. Whole numbers in a config stay in 32 bits, as sizes do;
elsewhere they are data (``model_max_length`` of a tokenizer is often 10**30). In the config of a
model they may reach 2**53, which every JSON reader holds exactly: ``rope_theta`` can be over 2**31.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

from peftlab.core.errors import InputRejected
from peftlab.core.findings import Check, Severity, rule
from peftlab.io.artefact import Artefact
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded
from peftlab.io.strict_json import nesting, parse_json

JSON = rule(
    "GATE-JSON",
    Severity.HIGH,
    "JSON that libraries read in different ways, or that costs too much to read",
    why="what was checked would not be what is loaded",
    fix="get the file again from its publisher; stock libraries write none of this",
)

ADAPTER_CONFIG, MODEL_CONFIG = "adapter_config.json", "config.json"
WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")
TOKENIZER_CONFIG = "tokenizer_config.json"
WORDS_LIMIT = 64 * 2**20  # the largest public tokenizer.json of today has 34 MB
PARSED_LIMIT = 4 * 2**20  # parsed JSON takes up to 24 times its size
INDEX_LIMIT = 16 * 2**20  # 90 thousand tensors take 9 MB
LARGEST = {ADAPTER_CONFIG: 2**31, MODEL_CONFIG: 2**53}  # whole numbers
BLOCK = 2**20
SURROGATE = re.compile("[\ud800-\udfff]")


def check_json(artefact: Artefact, limits: Limits) -> Check:
    """Check every JSON file; the gate ends at the first that is not sound."""
    names = [name for name in artefact.files if name.lower().endswith(".json")]
    unparsed = []
    for name in names:
        content = artefact.files[name].view
        why = fault(content, name, limits)
        if why:
            return concluded("gate-json", [JSON.found(name, why)], stop=True)
        if not _is_parsed(name, len(content)):
            unparsed.append(f"{name}: beyond encoding and nesting, for it is large")
    return concluded("gate-json", facts={"files": len(names)}, not_checked=unparsed)


def largest_file(name: str, limits: Limits) -> int:
    """Return how many bytes a JSON file of this name may have."""
    base = name.rpartition("/")[2]
    usual = limits.json_bytes
    if base in WORDS:
        usual = WORDS_LIMIT
    elif base.endswith(".safetensors.index.json"):
        usual = INDEX_LIMIT
    elif base == TOKENIZER_CONFIG:
        usual = PARSED_LIMIT
    return max(usual, limits.json_bytes)


def _is_parsed(name: str, size: int) -> bool:
    return size <= PARSED_LIMIT or name.rpartition("/")[2] not in WORDS


def fault(content: bytes | memoryview, name: str, limits: Limits) -> str:
    """Return what is wrong with a JSON file, or nothing.

    Examples:
        >>> fault(b'{"r": 8, "r": 4}', "adapter_config.json", Limits())
        "the key 'r' occurs twice"
        >>> fault(b'{"r": 8}', "adapter_config.json", Limits())
        ''
    """
    most = largest_file(name, limits)
    if len(content) > most:
        return f"{len(content)} bytes, more than {most}"
    deep = nesting(content)
    if deep > limits.json_depth:
        return f"nested {deep} deep, more than {limits.json_depth}"
    if not _is_parsed(name, len(content)):
        return _encoding_fault(content)
    try:
        value = parse_json(bytes(content), name)
    except InputRejected as error:
        return str(error.got)
    if not isinstance(value, dict):
        return f"a {type(value).__name__} where an object is expected"
    largest = LARGEST.get(name.rpartition("/")[2])
    return "" if largest is None else next(_odd_values(value, largest), "")


def _encoding_fault(content: bytes | memoryview) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), BLOCK):
            decoder.decode(content[start : start + BLOCK], final=start + BLOCK >= len(content))
    except UnicodeDecodeError as error:
        return str(error)
    return "" if bytes(content[:64]).lstrip()[:1] == b"{" else "not an object"


def _odd_values(value: Any, largest: int) -> Iterator[str]:
    """Yield what a config may not hold: whole numbers without bound, halves of characters."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _odd_values(key, largest)
            yield from _odd_values(inner, largest)
    elif isinstance(value, list):
        for inner in value:
            yield from _odd_values(inner, largest)
    elif isinstance(value, int) and abs(value) > largest:
        yield f"a whole number over {largest}"
    elif isinstance(value, str) and SURROGATE.search(value):
        yield "half of a character: a lone surrogate"


def sound_json(artefact: Artefact, name: str, limits: Limits) -> dict[str, Any]:
    """Return the value of a JSON file that passed this step; empty if it is too large to parse."""
    content = artefact.files[name].view
    if not _is_parsed(name, len(content)) or fault(content, name, limits):
        return {}
    value: dict[str, Any] = parse_json(bytes(content), name)
    return value
