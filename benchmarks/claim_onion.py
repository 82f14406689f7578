"""Claim C3: ONION with a causal language model at a quarter of the CPU time of the plain loop.

Claim     All perplexities that ONION needs of a text (the whole, and without each word), under the
          same language model, ``builtin:lm`` in float32: at most 1/4 of the CPU time of the loop of
          public code. Words and texts above a threshold are the same ones; no perplexity is off by
          more than 1e-5 (relative); scores do not depend on the other texts of a batch.
Baseline  The loop of shuaizhao95/PSIM:gptlm.py, re-expressed: for each of the n + 1 texts,
          tokenise, one forward pass at batch 1 with ``labels``, autograd graph on, exp of the loss.
          Differences: eval mode; one thread; letter case kept; ``builtin:lm``, whose tokenizer puts
          a start token first, instead of GPT-2, which has none (its first token is not judged).
Bar       Smallest ratio of the rounds >= 4.0; equality as above, checked before anything is timed.
Cost      Of n words and T tokens: the loop T (n + 1) tokens through the model, ours about
          T (n + 2) / 2, in one or two calls instead of n + 1.
Ends      Half of the work is all that is saved: the rest is calls, the graph, and scores of the
          vocabulary that stay in the cache. So the ratio falls towards 2 with longer texts and
          larger models, where calls cost nothing; see ``by_length``.

Run: ``python benchmarks/claim_onion.py [--texts 24] [--rounds 7] [--out FILE]``; the data folder is
taken from ``PEFTLAB_DATA`` (SST-2 test texts), else generated reviews are used and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from peftlab.core.types import Floats
from peftlab.engine.steps import load_data
from peftlab.models.load import load_causal
from peftlab.nn.causal_perplexity import CausalPerplexity

BAR, MOST_APART = 4.0, 1e-5
SHARES = (0.5, 0.9, 0.95, 0.99)  # of all words; thresholds at which flags are compared
Judged = tuple[Floats, Floats]


def plain_loop(model: Any, tokenizer: Any, text: str) -> Judged:
    """Return perplexities of the text and without each word, one forward pass for each."""

    def perplexity(words: Sequence[str]) -> float:
        if not words:
            return float(model.config.vocab_size)  # public code leaves such texts out
        inputs = tokenizer(" ".join(words), return_tensors="pt", truncation=True, max_length=512)
        return math.exp(model(**inputs, labels=inputs["input_ids"]).loss.item())

    words = text.split()
    whole = perplexity(words)
    without = [perplexity([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
    return np.full(len(words), whole), np.array(without)


def seconds(work: Callable[[], Any]) -> float:
    """Return CPU seconds, garbage collection off."""
    gc.collect()
    gc.disable()
    start = time.process_time()
    work()
    spent = time.process_time() - start
    gc.enable()
    return spent


def apart(first: Sequence[Judged], second: Sequence[Judged]) -> float:
    """Return the largest relative difference of any perplexity."""
    pairs = [
        (np.concatenate(one), np.concatenate(other))
        for one, other in zip(first, second, strict=True)
    ]
    return max(float((np.abs(a - b) / a).max()) for a, b in pairs)


def different_flags(first: Sequence[Judged], second: Sequence[Judged]) -> int:
    """Return how many words and texts are above a threshold in one and not in the other.

    A threshold lies half-way between two neighbours among the suspicions of all words.
    """
    mine, theirs = ([whole - without for whole, without in each] for each in (first, second))
    ordered = np.sort(np.concatenate(mine))
    differ = 0
    for share in SHARES:
        place = int(share * (len(ordered) - 1))
        level = ordered[place : place + 2].mean()
        for a, b in zip(mine, theirs, strict=True):
            differ += int(((a > level) != (b > level)).sum())
            differ += int((a.max() > level) != (b.max() > level))
    return differ


def measure(texts: list[str], rounds: int) -> dict[str, Any]:
    """Check equality, then time both in ABBA order."""
    model, tokenizer = load_causal("builtin:lm")
    judge = CausalPerplexity(model, tokenizer, 128)

    def theirs() -> list[Judged]:
        return [plain_loop(model, tokenizer, text) for text in texts]

    def ours() -> list[Judged]:
        return [judge.leave_one_out(text.split()) for text in texts]

    slow, fast = theirs(), ours()
    alone = [judge.leave_one_out(text.split()) for text in texts[::-1]][::-1]
    pairs = []
    for turn in range(rounds):
        order = (theirs, ours) if turn % 2 == 0 else (ours, theirs)
        spent = {each: seconds(each) for each in order}
        pairs.append((spent[theirs], spent[ours]))
    ratios = [a / b for a, b in pairs]
    return {
        "texts": len(texts),
        "words_mean": statistics.mean(len(text.split()) for text in texts),
        "shares_beginnings": judge.shares,
        "largest_relative_difference": apart(slow, fast),
        "dependence_on_other_texts": apart(fast, alone),
        "different_flags": different_flags(slow, fast),
        "ratio": {
            "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios),
            "rounds": rounds,
        },
        "ours_ms_per_text": 1000 * statistics.median(b for _, b in pairs) / len(texts),
        "theirs_ms_per_text": 1000 * statistics.median(a for a, _ in pairs) / len(texts),
        "by_length": by_length(texts, model, tokenizer, judge),
    }  # fmt: skip


def by_length(
    texts: Sequence[str], model: Any, tokenizer: Any, judge: CausalPerplexity
) -> list[dict[str, float]]:
    """Return the ratio for a short, a middling and a long text, once each."""
    ordered = sorted(texts, key=lambda text: len(text.split()))
    rows = []
    for text in (ordered[len(ordered) // 8], ordered[len(ordered) // 2], ordered[-1]):
        slow = seconds(lambda text=text: plain_loop(model, tokenizer, text))
        fast = seconds(lambda text=text: judge.leave_one_out(text.split()))
        rows.append({"words": len(text.split()), "ratio": slow / fast})
    return rows


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the result there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ.get("PEFTLAB_DATA", "../shared/data")) / "sst2"
    data = load_data(str(folder) if folder.is_dir() else "reviews")
    load = os.getloadavg()[0]
    texts = [text for text in data.test.texts if len(text.split()) > 1]
    texts = texts[:: max(len(texts) // given.texts, 1)][: given.texts]  # from all over the set
    found = measure(texts, given.rounds)
    equal = (
        found["largest_relative_difference"] <= MOST_APART
        and found["dependence_on_other_texts"] <= MOST_APART
        and found["different_flags"] == 0
    )
    holds = equal and found["ratio"]["min"] >= BAR
    told = json.dumps(
        {
            "schema": "bench/1", "claim": "C3", "holds": holds, "equal": equal, "bar": BAR,
            "data": Path(data.name).name, "model": "builtin:lm", **found, "threads": 1,
            "load_average": load, "load_average_after": os.getloadavg()[0],
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(), "torch": torch.__version__,
        },
        indent=2,
    )  # fmt: skip
    print(told)
    if given.out:
        given.out.write_text(told + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
