"""Conversion of pickles on the command line."""

from __future__ import annotations

from pathlib import Path

from peftlab.apps.cli.console import out as put
from peftlab.apps.cli.console import out_json, say, spinner
from peftlab.core.errors import ConfigError


def convert(source: Path, out: Path, *, sandbox: bool, overwrite: bool, as_json: bool) -> None:
    """Convert a pickle in a cage, and say what was taken and what was not."""
    if not sandbox:
        raise ConfigError(
            "a .bin or .pt file is a pickle: a program that its reader runs",
            code="CONVERT-SANDBOX",
            allowed="--sandbox: read in a child process that knows tensors only, without network, "
            "with limits of time and memory",
            fix=f"peftlab convert --sandbox {source} {out}",
        )
    from peftlab.models.convert import convert as run

    with spinner(f"converting {source} in a cage"):
        done = run(source, out, overwrite=overwrite)
    findings = [found for check in done.checks for found in check.findings]
    if as_json:
        out_json({
            "out": str(done.out), "file": done.file, "sha256": done.sha256,
            "tensors": done.tensors, "sources": done.sources, "dropped": done.dropped,
            "copied": done.copied, "left": done.left,
            "refused": [found.to_json() for found in done.refused],
            "findings": [found.to_json() for found in findings],
        })  # fmt: skip
        return
    put(f"{done.file}\t{done.tensors} tensors\tsha256 {done.sha256}")
    for what, names in (("copied", done.copied), ("dropped", done.dropped), ("left", done.left)):
        if names:
            put(f"{what}\t{', '.join(names)}")
    for found in (*done.refused, *findings):
        put(f"{found.severity.word}\t{found.code}\t{found.where}: {found.title}")
    put(f"wrote {done.out}")
    say(f"what is in it: peftlab audit {done.out}")
