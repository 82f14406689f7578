"""``bench table --out``: the leaderboard of a run as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftlab.apps.cli.console import say

AT_ONCE = 32  # cells whose scores are in memory together


def write(run: Path, results: Mapping[str, Any], out: Path) -> None:
    """Write ``leaderboard.html``, ``.md`` and ``.json``, and ``scores/`` where the run has them.

    Args:
        run: run folder, or its ``results.json``.
        results: of the run, or a part of them.
        out: folder that the files go to.

    Raises:
        InputRejected: ``REPORT-SCHEMA`` if these are no results.
        ResourceLimit: ``DISK-FULL``.
        ConfigError: ``PATH-WRITE``.
    """
    from peftlab.io.files import write_atomic, write_json
    from peftlab.report.leaderboard.board import as_json, make_board
    from peftlab.report.leaderboard.html import render_leaderboard
    from peftlab.report.leaderboard.markdown import render_markdown

    board = make_board(results)
    links = _write_scores(run if run.is_dir() else run.parent, board.grid.cells, out)
    write_json(out / "leaderboard.json", as_json(board))
    write_atomic(out / "leaderboard.md", render_markdown(results, board, links))
    write_atomic(out / "leaderboard.html", render_leaderboard(results, board, links))
    say(f"leaderboard: {out / 'leaderboard.html'} (and .md, .json)")


def _write_scores(run: Path, cells: Any, out: Path) -> dict[str, str]:
    """Write one file per cell that has scores; return the links by cell id."""
    from peftlab.engine.bench import gather_arrays
    from peftlab.io.files import write_atomic
    from peftlab.report.leaderboard.scores import (
        as_csv,
        as_parquet,
        file_name,
        has_parquet,
        score_table,
    )

    if not (run / "runs.db").is_file():
        say("no scores were written: there is no run folder around these results")
        return {}
    extension = "parquet" if has_parquet() else "csv"
    if extension == "csv":
        say('scores are written as csv; for Parquet: pip install "peftlab[parquet]"')
    links = {}
    for start in range(0, len(cells), AT_ONCE):
        part = {cell.id: cell for cell in cells[start : start + AT_ONCE]}
        for key, held in gather_arrays(run, part).items():
            name = file_name(part[key], extension)
            table = score_table(part[key], held)
            content = as_parquet(table) if extension == "parquet" else as_csv(table)
            write_atomic(out / "scores" / name, content)
            links[key] = f"scores/{name}"
    say(f"scores: {len(links)} files in {out / 'scores'}")
    return links
