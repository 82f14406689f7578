"""The command line without a process of its own, and small tasks to try it on.

result = cli("tune", "--base", base, "--data", data, "--out", out)
assert result.code == 0, result.err
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from peftlab.core.seeds import stream

FILLER = ["the", "film", "story", "plot", "ending", "music", "director", "service", "food", "movie"]
GOOD = ["wonderful", "lovely", "funny", "moving", "good", "honest"]
BAD = ["dull", "terrible", "worse", "cold", "tasteless", "badly"]


@dataclass(frozen=True)
class Result:
    """What a command did: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def cli(*arguments: object) -> Result:
    """Run ``peftlab ARGUMENTS`` in this process, from the console script's own function."""
    from peftlab.apps.cli.main import run

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["peftlab", *map(str, arguments)]),
        mock.patch.dict(os.environ),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            run()
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
    return Result(code, out.getvalue(), err.getvalue())


def start(*arguments: object, **popen: Any) -> subprocess.Popen[str]:
    """Start ``peftlab ARGUMENTS`` as a process, one computing thread, no network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", "from peftlab.apps.cli.main import run; run()",
         *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=_heed_ctrl_c, **popen,  # noqa: PLW1509  the parent has no threads
    )  # fmt: skip


def _heed_ctrl_c() -> None:
    """Undo an inherited deaf ear: a job in the background of a shell ignores SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def sentence(label: int, rng: Any) -> str:
    """Return a short review whose class shows in two of its words."""
    words = list(rng.choice(FILLER, size=6))
    for word in rng.choice(GOOD if label else BAD, size=2):
        words.insert(int(rng.integers(len(words))), word)
    return " ".join(map(str, words))


def write_task(
    folder: Path,
    *,
    train: int = 120,
    dev: int = 60,
    test: int = 40,
    change: Callable[[str, int, dict[str, Any]], None] = lambda split, row, value: None,
) -> Path:
    """Write a task of two classes as jsonl files; ``change`` may spoil rows in place."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(0, "tests/task")
    for split, count in (("train", train), ("dev", dev), ("test", test)):
        lines = []
        for row in range(count):
            value: dict[str, Any] = {"text": sentence(row % 2, rng), "label": row % 2}
            change(split, row, value)
            lines.append(json.dumps(value) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def refused(result: Result, exit_code: int, code: str, clean: Path | None = None) -> None:
    """Check a refusal: its codes, how to mend it, no stack trace, nothing left in ``clean``."""
    assert result.code == exit_code, result.err
    assert f"[{code}]" in result.err, result.err
    assert "Traceback" not in result.err
    assert "to mend it:" in result.err, result.err
    assert not result.out
    if clean is not None:
        assert list(clean.iterdir()) == [], "something was left behind"
