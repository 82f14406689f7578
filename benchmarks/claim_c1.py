"""Claim C1: scoring texts with a PSIM guard and its victim is at least 4x cheaper than one by one.

Claim     At equal flags, sorted token-budget batches in bf16 (float32 again near the threshold),
          with the victim run on accepted texts only, take at most 1/4 of the CPU time of the
          published loop on the built-in encoder.
Baseline  The loop of shuaizhao95/PSIM:confidence.py, re-expressed: for each text, tokenise, one
          forward pass of the identifier and one of the victim, batch 1, float32. Differences from
          the original: one CPU thread, no gradient graph (the original has none either), eval mode.
Bar       Smallest ratio of the rounds >= 4.0 on CPU (``cascade``); flags and answers identical.
          ``both_models`` is the same without sparing the victim, printed beside it.
Cost      n texts of t tokens: 2 passes of 2 x 3.2 M x t FLOP each in both; what differs is padding,
          calls and precision.
Ends      Without bf16 hardware about 2.5x is left; on a GPU the ratio is another one.

Run: ``python benchmarks/claim_c1.py [--texts 256] [--rounds 7]``; the data folder is taken from
``PEFTLAB_DATA`` (SST-2), else generated reviews are used and named.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from peftlab.engine.guard import Guard
from peftlab.engine.steps import AttackerOptions, load_data, make_poison, train_base, tune
from peftlab.models.load import load_victim
from peftlab.nn.text import has_fast_bf16, predict_classes


def official_loop(identifier: Any, victim: Any, tokenizer: Any, texts: list[str]) -> list[Any]:
    """Score one text after the other as published: (flag, answer) pairs, answer None if flagged."""
    found = []
    with torch.inference_mode():
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=120)
            chances = torch.softmax(identifier(**inputs).logits, dim=-1)
            score = round(float(chances.max()), 3)
            answer = int(victim(**inputs).logits.argmax())
            found.append((score >= 0.7, None if score >= 0.7 else answer, score))
    return found


def timed(work: Any) -> tuple[float, Any]:
    """Return CPU seconds and the result, garbage collection off."""
    gc.collect()
    gc.disable()
    start = time.process_time()
    result = work()
    spent = time.process_time() - start
    gc.enable()
    return spent, result


def make_models(data: Any, folder: Path, seed: int) -> tuple[Guard, Any, Any]:
    """Return a published-style guard, the victim and its tokenizer."""
    poisoned = make_poison(data, "badnets", {}, seed)
    train_base(
        "builtin:encoder", poisoned, data.n_classes, folder / "base", attack="badnets",
        training=AttackerOptions(epochs=1), seed=seed,
    )  # fmt: skip
    base = str(folder / "base")
    tune(base, data, "lora", {"epochs": 1}, folder / "victim", seed=seed, allow_poisoned=True)
    guard = Guard.fit(base, data, "psim", {"compat": "official"}, seed=seed, allow_poisoned=True)
    victim, tokenizer = load_victim(folder / "victim", allow_poisoned=True)
    return guard, victim, tokenizer


def measure(
    texts: list[str], guard: Guard, victim: Any, tokenizer: Any, rounds: int
) -> dict[str, Any]:
    """Check equality, then time both in ABBA order."""
    identifier = guard.defence._models()[1][0]  # noqa: SLF001  the baseline needs the bare model
    guard.score(texts[:4])  # puts the trained snapshot into the identifier

    def baseline() -> list[Any]:
        return official_loop(identifier, victim, tokenizer, texts)

    def ours() -> list[Any]:
        return guard.decide(texts, lambda some: predict_classes(victim, tokenizer, some), fast=True)

    def no_cascade() -> Any:
        return guard.score(texts, fast=True), predict_classes(victim, tokenizer, texts)

    slow, fast = baseline(), ours()
    band = guard.defence.quick_band
    differ = [
        i for i, (a, b) in enumerate(zip(slow, fast, strict=True))
        if (a[0], a[1]) != (b.flagged, b.label)
    ]  # fmt: skip
    outside = [i for i in differ if abs(slow[i][2] - 0.7) >= band]
    pairs: dict[str, list[float]] = {"cascade": [], "both_models": []}
    for name, work in (("cascade", ours), ("both_models", no_cascade)):
        work()
        for turn in range(rounds):
            order = (baseline, work) if turn % 2 == 0 else (work, baseline)
            spent = {each: timed(each)[0] for each in order}
            pairs[name].append(spent[baseline] / spent[work])
    seconds = timed(baseline)[0]
    return {
        "texts": len(texts),
        "flagged_share": float(np.mean([b.flagged for b in fast])),
        "different": len(differ),
        "different_outside_band": len(outside),
        "band": band,
        "baseline_ms_per_text": 1000 * seconds / len(texts),
        "ratios": {
            name: {
                "median": statistics.median(r), "min": min(r), "max": max(r), "rounds": len(r),
            }
            for name, r in pairs.items()
        },
    }  # fmt: skip


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ.get("PEFTLAB_DATA", "../shared/data")) / "sst2"
    data = load_data(str(folder) if folder.is_dir() else "reviews")
    with tempfile.TemporaryDirectory() as place:
        guard, victim, tokenizer = make_models(data, Path(place), given.seed)
        found = measure(
            list(data.test.texts[: given.texts]), guard, victim, tokenizer, given.rounds
        )
    ok = found["different_outside_band"] == 0 and found["ratios"]["cascade"]["min"] >= 4.0
    print(
        json.dumps(
            {
                "schema": "bench/1", "claim": "C1", "holds": ok, "data": Path(data.name).name,
                "fast_bf16": has_fast_bf16(), "threads": 1, "seed": given.seed,
                "load_average": os.getloadavg()[0], "processor": processor(),
                "python": platform.python_version(), "torch": torch.__version__, **found,
            },
            indent=2,
        )
    )  # fmt: skip
    return 0 if ok else 1


def processor() -> str:
    """Return the processor's name and what it has for bf16."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return (
        f"{name} ({', '.join(f for f in ('avx512_bf16', 'amx_bf16') if f in flags) or 'no bf16'})"
    )


if __name__ == "__main__":
    sys.exit(main())
