"""The hostile artefacts of ``tests/attacks``, given to stock ``peft`` and to the gate.

Question  What does ``PeftModel.from_pretrained`` do with each of them, on a base that fits?
Set-up    One child per artefact: 10 s of processor, a minute of wall time, 4 GiB of address space.
          The hub's address is a trap on this machine: a reach for the network is seen. Adapters
          with import fields are loaded to be tuned further, which follows more fields.
Ends      ``peft`` reads folders. What it is asked for a zip, a file or a URL says little, and it
          declares files from strangers the user's own risk; this measures what users are exposed
          to without a gate, it does not call it a bug.

Run: ``python benchmarks/stock_peft.py [--json OUT] [--markdown] [CASE ...]``
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "attacks"))

from hostile_artefacts import Case, Traps, make_base
from hostile_cases import CASES, GROUPS

CPU, WALL, MEMORY = 10, 60, 4 * 2**30
OUTCOMES = (
    "loaded", "loaded, NaN out", "loaded, base overwritten", "refused", "hung", "out of memory",
    "crashed",
)  # fmt: skip


def load(base: Any, reference: str, *, train: bool) -> str:
    """Give an artefact to stock ``peft``; return whether tensors of the base were overwritten.

    Also whether the model's answers are finite. With ``train``, for tuning it further: some fields
    of the config are followed only then.
    """
    import torch
    from peft import PeftModel

    own = [(each, each.detach().clone()) for each in base.parameters()]
    with torch.no_grad():
        model = PeftModel.from_pretrained(base, reference, is_trainable=train).eval()
        answer = model(input_ids=torch.tensor([[1, 5, 7]])).logits
    if not bool(torch.isfinite(answer).all()):
        return "loaded, NaN out"
    same = all(torch.equal(now, before) for now, before in own)
    return "loaded" if same else "loaded, base overwritten"


def load_with_base(reference: str) -> str:
    """Let ``peft`` choose the base itself, as ``AutoPeftModel`` does: by the adapter's config."""
    from peft import AutoPeftModelForCausalLM

    AutoPeftModelForCausalLM.from_pretrained(reference)
    return "loaded"


def _peft_type(reference: str) -> str:
    return str(json.loads((Path(reference) / "adapter_config.json").read_bytes())["peft_type"])


def _child(pipe: int, case: Case, base: Any, reference: str) -> None:
    """Load in this process and write what happened into the pipe."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**26, 2**26))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    own = case.group.startswith("base named")
    train = case.group == "config: import fields" and _peft_type(reference) == "LORA"
    try:
        why, outcome = "", load_with_base(reference) if own else load(base, reference, train=train)
    except MemoryError as error:
        outcome, why = "out of memory", str(error)
    except RuntimeError as error:
        full = "can't allocate memory" in str(error) or "not enough memory" in str(error)
        outcome, why = ("out of memory" if full else "refused"), f"RuntimeError: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever a library raises is its answer
        outcome, why = "refused", f"{type(error).__name__}: {error}"
    os.write(pipe, json.dumps({"outcome": outcome, "why": why[:2000]}).encode())


def run(case: Case, base: Any, reference: str) -> dict[str, str]:
    """Return what stock ``peft`` did with one artefact."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _child(writable, case, base, reference)
        finally:
            os._exit(0)
    os.close(writable)
    end = time.monotonic() + WALL
    done, status = os.waitpid(child, os.WNOHANG)
    while not done and time.monotonic() < end:
        time.sleep(0.02)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    with os.fdopen(readable, "rb") as pipe:
        said = pipe.read()
    if said:
        return dict(json.loads(said))
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    hung = not done or killed in {signal.SIGXCPU, signal.SIGKILL}
    word = "hung" if hung else "crashed"
    return {"outcome": word, "why": signal.Signals(killed).name if killed else "no answer"}


def measure(cases: list[Case], root: Path) -> list[dict[str, Any]]:
    """Return one row per artefact."""
    base_folder = make_base(root / "base")
    sys.path.append(str(root / "modules"))
    rows = []
    with Traps(root) as traps:
        os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{traps.port}"
        os.environ["HF_HOME"] = str(root / "hub")
        os.environ.pop("HF_HUB_OFFLINE", None)
        import torch
        from transformers import AutoModelForCausalLM, logging

        logging.set_verbosity_error()
        torch.set_num_threads(1)
        base = AutoModelForCausalLM.from_pretrained(base_folder)
        for case in cases:
            place = root / case.name
            place.mkdir()
            reference = str(case.make(place, traps, True))
            traps.reset()
            answer = run(case, base, reference)
            why = answer["why"].replace(str(root), "").replace(str(traps.port), "PORT")
            answer["why"] = why[:300]
            rows.append(
                {"name": case.name, "group": case.group, **answer, "touched": traps.sprung()}
            )
            print(f"{case.name:32} {answer['outcome']:16} {','.join(traps.sprung()):12} "
                  f"{answer['why'][:90]!r}", file=sys.stderr, flush=True)  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows by group, as a Markdown table."""
    lines = [
        "| what | cases | stock peft | traps touched there | peftlab gate |",
        "|---|---|---|---|---|",
    ]
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        counts = Counter(row["outcome"] for row in mine)
        words = ", ".join(f"{counts[word]} {word}" for word in OUTCOMES if counts[word])
        touched = Counter(trap for row in mine for trap in row["touched"])
        traps = ", ".join(f"{count} {trap}" for trap, count in touched.items()) or "none"
        stopped = sum(case.stops for case in CASES if case.group == group)
        flagged = len(mine) - stopped
        ours = ", ".join(
            f"{n} {word}" for n, word in ((stopped, "stopped"), (flagged, "flagged")) if n
        )
        lines.append(f"| {group} | {len(mine)} | {words} | {traps} | {ours} |")
    return "\n".join(lines)


def main() -> int:
    """Run all cases, or those that are named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    cases = [
        case
        for case in sorted(CASES, key=lambda case: GROUPS.index(case.group))
        if not case.meanwhile and (not given.names or case.name in given.names)
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(cases, Path(folder))
    result = {
        "schema": "bench/1",
        "benchmark": "stock-peft",
        "versions": {
            name: version(name) for name in ("peft", "transformers", "torch", "safetensors")
        },
        "limits": {"cpu_s": CPU, "wall_s": WALL, "memory_bytes": MEMORY},
        "outcomes": Counter(row["outcome"] for row in rows),
        "touched": Counter(trap for row in rows for trap in row["touched"]),
        "rows": rows,
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows) if given.markdown else json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
