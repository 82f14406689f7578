"""Claim: `peftlab audit` reads an adapter of 50 MB in 5 CPU seconds and 400 MB, imports included.

Claim     Gate and every audit that applies, on a 50 MB LoRA of a 7B model, in a fresh process as
          users start it: at most 5 s of CPU time and at most 400 MB of resident memory, in every
          round and for every adapter here.
Baseline  ``import_torch``: a process that imports torch and does nothing, printed beside it; ours
          cannot be below. ``small``: the audit of an adapter of 50 kB.
Bar       Largest CPU time <= 5 s, largest resident set <= 400 MB.
Cost      r^2 (d_in + d_out) multiply-adds a layer for spectra, one pass over the bytes for each of
          hashes, values and copies. The kurtosis is measured where it is cheap (r <= 8).
Ends      Memory grows with the largest group of layers that is stacked, not with the file. A base
          (--against) costs a pass over the base, and a caged load in a process of its own.

Run: ``python benchmarks/claim_audit.py [--rounds 3] [--out benchmarks/results/audit.json]``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.seeds import stream

BARS = {"cpu_seconds": 5.0, "megabytes": 400.0}
ATTENTION = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (4096, 4096))
MLP = {"gate_proj": (11008, 4096), "up_proj": (11008, 4096), "down_proj": (4096, 11008)}
ADAPTERS: dict[str, tuple[dict[str, tuple[int, int]], int, str]] = {
    "attention, r = 24, float16": (ATTENTION, 24, "<f2"),
    "attention, r = 12, float32": (ATTENTION, 12, "<f4"),
    "all linear layers, r = 10, float16": ({**ATTENTION, **MLP}, 10, "<f2"),
    "queries and values, r = 48, float16": (
        {name: ATTENTION[name] for name in ("q_proj", "v_proj")}, 48, "<f2",
    ),
}  # fmt: skip
SMALL = ({"q_proj": (64, 64)}, 4, "<f4")
LAYERS = 32
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_alpha": 16, "bias": "none",
    "base_model_name_or_path": "org/a-7b", "peft_version": "0.21.2",
}  # fmt: skip


def write(folder: Path, shapes: dict[str, tuple[int, int]], rank: int, dtype: str) -> int:
    """Write an adapter as stock peft names it; return the bytes of its weights."""
    from safetensors.numpy import save_file

    tensors = {}
    for layer in range(LAYERS):
        for name, (d_out, d_in) in shapes.items():
            rng = stream(0, "benchmark/audit", layer, name, rank)
            part = "self_attn" if name in ATTENTION else "mlp"
            stem = f"base_model.model.model.layers.{layer}.{part}.{name}"
            a, b = rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank))
            tensors[f"{stem}.lora_A.weight"] = (a / d_in**0.5).astype(dtype)
            tensors[f"{stem}.lora_B.weight"] = (b / 300).astype(dtype)
    folder.mkdir(parents=True)
    path = folder / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    config = {**CONFIG, "r": rank, "target_modules": list(shapes)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/a-7b\n---\n# Adapter\n")
    return path.stat().st_size


def run(arguments: list[str]) -> dict[str, Any]:
    """Return CPU seconds and peak memory of one process and what it started."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "PYTHONPATH") if key in os.environ}
    child = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=kept
    )
    said = child.stderr.read().decode(errors="replace") if child.stderr else ""
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode not in {0, 1}:  # 1: findings
        raise SystemExit(f"{' '.join(arguments)} gave {child.returncode}:\n{said}")
    return {"cpu_seconds": used.ru_utime + used.ru_stime, "megabytes": used.ru_maxrss / 1024}


def measure(arguments: list[str], rounds: int) -> dict[str, Any]:
    """Return the median and the largest of each figure over the rounds, the first apart."""
    run(arguments)  # bytecode and file cache are no part of the claim
    found = [run(arguments) for _ in range(rounds)]
    return {
        name: {"median": statistics.median(each[name] for each in found),
               "max": max(each[name] for each in found)}
        for name in BARS
    }  # fmt: skip


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the result there")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    audit = ["-m", "peftlab", "audit"]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        sizes = {
            name: write(root / str(number), *shape)
            for number, (name, shape) in enumerate(ADAPTERS.items())
        }
        write(root / "small", *SMALL)
        found = {
            name: {"bytes": sizes[name], **measure([*audit, str(root / str(n))], given.rounds)}
            for n, name in enumerate(ADAPTERS)
        }
        beside = {
            "import_torch": measure(["-c", "import torch"], given.rounds),
            "small": measure([*audit, str(root / "small")], given.rounds),
        }
    worst = {name: max(each[name]["max"] for each in found.values()) for name in BARS}
    holds = all(worst[name] <= bar for name, bar in BARS.items())
    text = json.dumps({
        "schema": "bench/1", "claim": "audit", "holds": holds, "bars": BARS, "largest": worst,
        "adapters": found, "beside": beside, "rounds": given.rounds, "load_average": load,
        "machine": {"processor": processor(), "python": platform.python_version(),
                    "numpy": np.__version__},
    }, indent=2)  # fmt: skip
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
