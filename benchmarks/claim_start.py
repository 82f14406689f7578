"""Claim start: ``import peftlab`` takes at most 150 ms and ``peftlab --help`` 300 ms of CPU time.

Claim     Median CPU time (user + system) of a fresh child process, one thread.
Baseline  ``python -c pass``, printed beside it; the claim includes it.
Bar       150 ms and 300 ms.
Ends      On a cold disk the wall time is longer; CPU time is what is claimed.

Run: ``python benchmarks/claim_start.py [--rounds 9]``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import peftlab": [sys.executable, "-c", "import peftlab"],
    "peftlab --help": [
        sys.executable, "-c",
        ("import sys; sys.argv = ['peftlab', '--help']\n"
        "from peftlab.apps.cli.main import run; run()"),
    ],
}  # fmt: skip
BARS = {"import peftlab": 0.150, "peftlab --help": 0.300}


def cpu_seconds(command: list[str]) -> float:
    """Return user and system time of one child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Run the claim and print one JSON object of schema ``bench/1``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):  # the first one warms the caches
        for name, command in COMMANDS.items():
            seconds = cpu_seconds(command)
            if turn:
                spent[name].append(seconds)
    medians = {name: statistics.median(each) for name, each in spent.items()}
    ok = all(medians[name] <= bar for name, bar in BARS.items())
    print(
        json.dumps(
            {
                "schema": "bench/1", "claim": "start", "holds": ok, "bars_s": BARS,
                "median_s": medians,
                "range_s": {name: [min(each), max(each)] for name, each in spent.items()},
                "rounds": rounds, "load_average": os.getloadavg()[0],
                "python": platform.python_version(), "processor": platform.processor(),
            },
            indent=2,
        )
    )  # fmt: skip
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
