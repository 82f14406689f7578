"""Steps 11 and 12: stock ``peft`` loads what passed the gate, in a cage, from the audited bytes.

The config is the one without the fields that the gate refused; the tensors are the very copy that
was hashed, handed over as an open file; the base is built from the config that the operator trusts.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.io.artefact import Artefact
from peftlab.io.cage import OUT_OF_MEMORY, Caged, has_cage, run_caged
from peftlab.io.gate.fields import is_known_type
from peftlab.io.gate.folders import ADAPTER_WEIGHTS
from peftlab.io.gate.json_files import ADAPTER_CONFIG, MODEL_CONFIG
from peftlab.io.gate.step import concluded, skipped

LOAD = rule(
    "GATE-LOAD",
    Severity.HIGH,
    "an adapter that stock peft does not load onto the base",
    why="it is not what its config says, or it was made for another base",
    fix="name the base that it was tuned on; else ask the publisher how it was made",
)
KEYS = rule(
    "GATE-LOAD-KEYS",
    Severity.HIGH,
    "tensors that stock peft misses, or leaves aside",
    why="what is missing stays as it was drawn; what is left aside is there for another reader",
    fix="name the base that it was tuned on; else ask the publisher how it was made",
)
COST = rule(
    "GATE-LOAD-COST",
    Severity.HIGH,
    "an adapter that takes more to load than its size explains",
    why="it would take the memory or the time of the machine that loads it",
    fix="do not load it outside a cage",
)

CPU_SECONDS, WALL_SECONDS = 120, 300.0
MEMORY, FILES = 3 * 2**30, 2**20  # bytes: the libraries alone take a third of that
COPIES = 3  # of the tensors, while they are loaded
READERS = ("XLORA", "MULTITASK_PROMPT_TUNING")  # types that read files of other adapters
TRAINING = {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None}  # reads no tokenizer


def check_load(artefact: Artefact, against_folder: Path | None) -> Check:
    """Let stock ``peft`` load an adapter that passed the gate onto a base that is trusted.

    Args:
        artefact: after ``inspect``.
        against_folder: of the base; only its ``config.json`` is read.

    Returns:
        ``gate-load``: keys that are missing or left aside, or why peft does not load it. How the
        cage held stands in its facts; ``check_cage`` makes a check of them.
    """
    reason = _why_not(artefact, against_folder)
    if reason or against_folder is None:
        done = skipped("gate-load", reason)
        return (
            replace(done, status="not applicable") if ADAPTER_CONFIG not in artefact.files else done
        )
    base = (against_folder / MODEL_CONFIG).read_bytes()
    weights = artefact.files[ADAPTER_WEIGHTS]
    with tempfile.TemporaryDirectory(prefix="peftlab-") as name:
        folder = Path(name)
        (folder / "base").mkdir()
        (folder / "base" / MODEL_CONFIG).write_bytes(base)
        (folder / ADAPTER_CONFIG).write_text(json.dumps(_config(artefact)), encoding="utf-8")
        (folder / ADAPTER_WEIGHTS).symlink_to(f"/dev/fd/{weights.descriptor}")
        memory = MEMORY + COPIES * weights.size
        caged = run_caged(
            ["-m", "peftlab.models.load_child"],
            cpu_seconds=CPU_SECONDS,
            wall_seconds=WALL_SECONDS,
            memory_bytes=memory,
            file_bytes=FILES,
            pass_fds=(weights.descriptor,),
            folder=folder,
        )
    return _conclude(caged, memory)


def check_cage(load: Check) -> Check:
    """Return the check of the cage around a load.

    Examples:
        >>> check_cage(skipped("gate-load", "no trusted base was named")).status
        'not checked'
    """
    cage: dict[str, Any] = load.facts.get("cage", {})
    if not cage:
        return skipped("gate-cage", "it belongs to the load, which did not run")
    weak = "network and other processes were out of reach by a guard in Python, not by the system"
    return concluded("gate-cage", facts=cage, not_checked=() if cage["isolated"] else (weak,))


def _why_not(artefact: Artefact, against_folder: Path | None) -> str:
    """Return why the adapter cannot be loaded, or nothing."""
    kind = artefact.config.get("peft_type")
    files = artefact.files
    reasons = {
        "it is no peft adapter": ADAPTER_CONFIG not in files or ADAPTER_WEIGHTS not in files,
        "no trusted base was named (--against)": against_folder is None,
        "this system has no cage": not has_cage(),
        "its config names no type of peft": not is_known_type(kind),
        f"{kind} reads other adapters": kind in READERS,
        "the base has no config.json of transformers": not _is_base(against_folder),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _is_base(folder: Path | None) -> bool:
    config = None if folder is None else folder / MODEL_CONFIG
    return config is not None and config.is_file() and b'"model_type"' in config.read_bytes()


def _config(artefact: Artefact) -> dict[str, Any]:
    """Return the config for the load: nothing of training, and no base to follow."""
    kept = {key: TRAINING.get(key, value) for key, value in artefact.config.items()}
    named = ("base_model_name_or_path", "revision", "auto_mapping", "tokenizer_name_or_path")
    return {
        **{key: value for key, value in kept.items() if key not in named},
        "inference_mode": True,
    }


def _conclude(caged: Caged, memory: int) -> Check:
    cage = {
        "isolated": caged.isolated,
        "killed": caged.killed,
        "cpu_seconds": round(caged.cpu_seconds, 2),
        "peak_bytes": caged.peak_bytes,
        "limits": {
            "cpu_seconds": CPU_SECONDS,
            "wall_seconds": WALL_SECONDS,
            "memory_bytes": memory,
        },
    }
    if caged.killed:
        return concluded(
            "gate-load", [COST.found(ADAPTER_WEIGHTS, caged.killed)], facts={"cage": cage}
        )
    answer = _answer(caged.stdout)
    if caged.returncode or not answer:
        words = caged.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        finding = LOAD.found(ADAPTER_WEIGHTS, words)
        return concluded("gate-load", [finding], facts={"cage": cage})
    facts = {key: answer.get(key) for key in ("class", "tried", "parameters", "device", "versions")}
    facts = {**facts, "cage": cage}
    if answer.get("weights"):
        reason = "this method computes with the weights of the base, which is too large to fill"
        return replace(skipped("gate-load", reason), facts=facts)
    return concluded("gate-load", _findings(answer), facts=facts)


def _answer(stdout: bytes) -> dict[str, Any]:
    try:
        found = json.loads(stdout)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _findings(answer: dict[str, Any]) -> list[Finding]:
    error = str(answer.get("error", ""))
    if error:
        where = f"{ADAPTER_CONFIG} on {answer.get('class')}"
        cause = COST if any(words.decode() in error for words in OUT_OF_MEMORY) else LOAD
        return [cause.found(where, " ".join(error.split()))]
    missing, unexpected = answer.get("counts", [0, 0])
    findings = []
    if missing:
        text = f"{missing} missing, such as {answer['missing'][0]}"
        findings.append(KEYS.found(ADAPTER_WEIGHTS, text))
    if unexpected:
        text = f"{unexpected} left aside, such as {answer['unexpected'][0]}"
        findings.append(KEYS.found(ADAPTER_WEIGHTS, text, severity=Severity.MEDIUM))
    return findings
