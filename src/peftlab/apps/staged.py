"""The pre-commit hook: audit every folder that a list of files touches.

python -m peftlab.apps.staged [OPTIONS OF peftlab audit] FILE ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import PurePath

from peftlab.apps.cli.main import run

ENDINGS = (".safetensors", "adapter_config.json", "adapter_model.bin")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return options, and the folders of the files at the end.

    Examples:
        >>> split(["--policy", "gate.toml", "a/adapter_config.json", "a/adapter_model.safetensors"])
        (['--policy', 'gate.toml'], ['a'])
    """
    start = len(arguments)
    while start and arguments[start - 1].endswith(ENDINGS):
        start -= 1
    folders = [str(PurePath(name).parent) for name in arguments[start:]]
    return list(arguments[:start]), list(dict.fromkeys(folders))


def main() -> None:
    """Audit folder after folder; end with the highest exit code."""
    options, folders = split(sys.argv[1:])
    worst = 0
    for folder in folders:
        sys.argv = ["peftlab", "audit", *options, "--", folder]
        try:
            run()
        except SystemExit as end:
            worst = max(worst, int(end.code or 0))
    sys.exit(worst)


if __name__ == "__main__":
    main()
