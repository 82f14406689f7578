"""Keeps of a grown corpus what reaches something new, smallest first.

    python tests/fuzz/keep_corpus.py runs/fuzz [TARGET ...]

Reads ``runs/fuzz/TARGET-corpus`` and the kept corpus, and writes ``tests/fuzz/corpus/TARGET``. What
once broke a parser is kept for ever; its name begins with ``find-``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzz_targets import CORPUS, TARGETS

LARGEST, TOTAL = 8 * 2**10, 200 * 2**10  # bytes: of one input, and of one target's
Arc = tuple[str, int, int]


def arcs(test: Callable[[bytes], bool], data: bytes) -> set[Arc]:
    """Return the jumps between lines of ours, and of the reader of TOML, that an input makes."""
    found: set[Arc] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if "peftlab" not in name and "tomllib" not in name:
            return None
        last = frame.f_lineno

        def lines(inner: FrameType, what: str, _: Any) -> Any:
            nonlocal last
            found.add((name, last, inner.f_lineno if what == "line" else -1))
            last = inner.f_lineno
            return lines

        return lines

    sys.settrace(trace)
    try:
        test(data)
    finally:
        sys.settrace(None)
    return found


def keep(target: str, grown: Path) -> None:
    """Choose for one target."""
    kept = CORPUS / target
    inputs = {path.read_bytes() for folder in (grown, kept) for path in folder.glob("*")}
    ordered = sorted((x for x in inputs if len(x) <= LARGEST), key=lambda x: (len(x), x))
    seen: set[Arc] = set()
    chosen: list[bytes] = []
    total = 0
    arcs(TARGETS[target], ordered[0])  # lazy imports are no coverage of an input
    for data in ordered:
        reached = arcs(TARGETS[target], data)
        if not reached <= seen and total + len(data) <= TOTAL:
            seen |= reached
            total += len(data)
            chosen.append(data)
    kept.mkdir(parents=True, exist_ok=True)
    for path in kept.glob("*"):
        if not path.name.startswith("find-"):
            path.unlink()
    for data in chosen:
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{target}: {len(chosen)} of {len(inputs)} inputs, {total} bytes, {len(seen)} arcs")


if __name__ == "__main__":
    for one in sys.argv[2:] or TARGETS:
        keep(one, Path(sys.argv[1]) / f"{one}-corpus")
