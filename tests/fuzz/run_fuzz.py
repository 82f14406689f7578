"""Coverage-guided fuzzing of one target, or of all; ``make fuzz``. Needs ``pip install .[fuzz]``.

    python tests/fuzz/run_fuzz.py [--cpu-seconds 450] [--out runs/fuzz] [TARGET ...]

Stops at the first find (its input stands in OUT) or after the processor time. An input that takes
more than 1 s of processor time, or 512 MB of memory, is a find as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

HANG_S, RSS_MB, LONGEST = 1.0, 512, 16_384
# by the wall clock, for an input that never ends; a busy machine must not look like a hang
WALL_S = 30
WORDS = {
    "header": ("F32", "F16", "BF16", "dtype", "shape", "data_offsets", "__metadata__"),
    "config": ("peft_type", "target_modules", "rank_pattern", ".*", "\\\\d+", "auto_map", "LORA"),
    "archive": ("PK\\x03\\x04", "PK\\x01\\x02", "PK\\x05\\x06", "PK\\x06\\x06", "PK\\x06\\x07",
                "PK\\x07\\x08", "../", "adapter_config.json", "\\xff\\xff\\xff\\xff"),
    "policy": ("fail_on", "severity", "limits", "audit", "level", "ignore", "reason", "= ", "[["),
}  # fmt: skip


def fuzz(target: str, cpu_seconds: float, out: Path) -> None:
    """Fuzz one target in this process; libFuzzer ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["peftlab.io", "peftlab.core", "tomllib"]):
        import fuzz_targets
    import fuzz_mutate

    test = fuzz_targets.TARGETS[target]
    end = sum(os.times()[:4]) + cpu_seconds
    done = 0

    def once(data: bytes) -> None:
        nonlocal done
        start = time.process_time()
        test(data)
        now = time.process_time()
        if now - start > HANG_S:
            raise fuzz_targets.Wrong(f"{now - start:.2f} s for {len(data)} bytes")
        done += 1
        if sum(os.times()[:4]) > end:  # with the time of children
            os.kill(os.getpid(), signal.SIGUSR1)  # libFuzzer ends in good order
            time.sleep(0.01)

    more = {}
    if target in fuzz_mutate.MUTATORS:
        mutate = fuzz_mutate.MUTATORS[target]
        more["custom_mutator"] = lambda data, most, seed: mutate(data, most, seed, atheris.Mutate)
    words = out / f"{target}.dict"
    words.write_text("".join(f'"{word}"\n' for word in WORDS[target]), encoding="utf-8")
    grown = out / f"{target}-corpus"
    given = [f"-rss_limit_mb={RSS_MB}", f"-timeout={WALL_S}", f"-max_len={LONGEST}",
             f"-dict={words}", f"-artifact_prefix={out}/{target}-find-", "-print_final_stats=1",
             "-seed=1", str(grown), str(fuzz_targets.CORPUS / target)]  # fmt: skip
    atheris.Setup([sys.argv[0], *given], once, **more)
    atheris.Fuzz()


def start(target: str, cpu_seconds: float, out: Path) -> dict[str, object]:
    """Fuzz one target in a process of its own and return its figures."""
    from fuzz_seeds import seeds

    grown = out / f"{target}-corpus"
    grown.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (grown / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, __file__, "--inside", target, "--out", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, "--cpu-seconds", str(cpu_seconds)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, text=True, errors="replace",
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (out / f"{target}.log").write_text(done.stderr, encoding="utf-8")
    shown = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    finds = sorted(path.name for path in out.glob(f"{target}-find-*"))
    return {
        "target": target,
        "executions": int(stats.get("number_of_executed_units", 0)),
        "coverage": int(shown[-1][0]) if shown else 0,
        "features": int(shown[-1][1]) if shown else 0,
        "corpus": int(shown[-1][2]) if shown else 0,
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_rss_mb": int(stats.get("peak_rss_mb", 0)),
        "slowest_s": int(stats.get("slowest_unit_time_sec", 0)),
        "exit": done.returncode,
        "finds": finds,
    }


def main() -> int:
    """Fuzz the targets that are named, or all of them one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", default=list(WORDS))
    parser.add_argument("--cpu-seconds", type=float, default=450)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--inside", metavar="TARGET")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.inside:
        fuzz(given.inside, given.cpu_seconds, given.out.resolve())
        return 0
    rows = []
    for target in given.targets:
        rows.append(start(target, given.cpu_seconds, given.out.resolve()))
        print(json.dumps(rows[-1]), flush=True)
    (given.out / "fuzz.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["finds"] or row["exit"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
