"""Tries patterns on names, in a cage; standard library only.

stdin: ``{"names": [...], "patterns": [[pattern, as it is used by peft], ...]}``. stdout: one line
per pattern, when it begins and when it is done, so that the one that never ends is known.
"""

from __future__ import annotations

import json
import re
import sys


def main() -> None:
    """Match every pattern against every name, as peft would."""
    asked = json.load(sys.stdin)
    for number, (pattern, used) in enumerate(asked["patterns"]):
        sys.stdout.write(f"{number} begins\n")
        sys.stdout.flush()
        try:
            re.compile(pattern)  # by itself: it must not close a group that it did not open
            matcher = re.compile(used)
        except (re.error, OverflowError, RecursionError) as error:
            sys.stdout.write(f"{number} broken {error}\n")
            continue
        for name in asked["names"]:
            matcher.fullmatch(name)
            matcher.match(name)
        sys.stdout.write(f"{number} done\n")


if __name__ == "__main__":
    main()
