"""How commands talk: results on stdout, talk on stderr, errors in plain words with a code."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peftlab.core.errors import PeftlabError
from peftlab.core.printable import printable

INTERRUPTED = 130


def out(text: str) -> None:
    """Print a result; control characters in it are written as escapes."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def out_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a result as JSON; NaN never gets out."""
    out(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value).__name__}")


def say(text: str) -> None:
    """Print talk: progress, remarks, where things are; control characters as escapes."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


@contextmanager
def spinner(title: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done; yields a function that changes the line."""
    if not sys.stderr.isatty():
        say(title)
        yield say
        return
    from rich.console import Console

    with Console(stderr=True).status(title) as status:
        yield lambda text: status.update(f"{title}: {text}")


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar; yields a function of (done, total, what)."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[what]}"), console=Console(stderr=True),
    ) as progress:  # fmt: skip
        task = progress.add_task(title, total=None, what="")
        yield lambda done, total, what: progress.update(
            task, completed=done, total=total, what=what[:60]
        )


def _lines(title: str) -> Callable[[int, int, str], None]:
    """Print one line per twentieth of the work, for logs."""
    last = [-1]

    def tell(done: int, total: int, what: str) -> None:
        step = 20 * done // max(total, 1)
        if step != last[0]:
            last[0] = step
            say(f"{title}: {done} of {total} done{'; now ' + what if what else ''}")

    return tell


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' warnings off stderr, here and in worker processes (their environment).

    They speak to programmers about code that a user of the command line cannot change.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def errors_in_words(*, debug: bool) -> Iterator[None]:
    """Turn errors into a message on stderr and the exit code of their kind."""
    try:
        yield
    except PeftlabError as error:
        if debug:
            raise
        say(f"error: {error.render()}")
        sys.exit(error.exit_code)
    except SystemExit as end:  # typer has turned Ctrl-C into this
        if end.code == INTERRUPTED:
            say("interrupted; grids and pre-training go on from here when given the same command")
        raise
    except Exception as error:  # the last resort, so that nobody sees a bare stack trace
        if debug:
            raise
        text = str(error).split("\n")[0][:300]
        say(f"error: peftlab itself failed: {type(error).__name__}: {text} [INTERNAL]")
        say("  to mend it: run again with --debug and report what it prints")
        sys.exit(5)
