"""Step 3: which files are opened at all, by their names; all others are recorded and left shut.

Opened are the files of the top folder that are tensors, JSON or text: what stock ``peft`` and
``transformers`` would read from there. A folder whose weights are pickles only ends here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.core.printable import printable
from peftlab.io.artefact import Artefact
from peftlab.io.gate.folders import ADAPTER_WEIGHTS, INDEX, MODEL_WEIGHTS
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.listing import Entry
from peftlab.io.gate.step import concluded
from peftlab.io.marker import FILE as POISONED

PICKLE = rule(
    "GATE-PICKLE",
    Severity.MEDIUM,
    "a pickle, which runs code when it is loaded",
    why="a loader that is told to, or that finds no safetensors file, executes what it says",
    fix="delete it; to use weights that exist as a pickle only: peftlab convert --sandbox FILE",
)
CODE = rule(
    "GATE-CODE",
    Severity.MEDIUM,
    "code beside the weights",
    why="trust_remote_code, an import or a double click runs it",
    fix="read it, or delete it: an adapter is tensors and a config",
)
BESIDE = rule(
    "GATE-BESIDE",
    Severity.LOW,
    "a file that is no part of an adapter; it was not opened",
    why="nothing is known about it",
    fix="delete it if you do not know what it is for",
)
WEIGHTS = rule(
    "GATE-WEIGHTS",
    Severity.HIGH,
    "no weights that can be audited",
    why="nothing can be said about weights that are not there, or not clearly one set",
    fix="pass a folder with one adapter, one model, or one .safetensors file",
)

CONFIGS = ("adapter_config.json", "config.json")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "preprocessor_config.json", "processor_config.json", "image_processor.json",
    "chat_template.json",
)  # fmt: skip
OURS = ("guard.json", "victim.json", POISONED)
OPENED = (*CONFIGS, *TOKENIZER, *OURS, "generation_config.json", INDEX, "README.md")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
FALLBACKS = ("adapter_model.bin", "pytorch_model")
PICKLES = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".mar",
)  # fmt: skip
CODES = (
    ".py", ".pyc", ".pyw", ".pyd", ".pyx", ".pth.py", ".so", ".dll", ".dylib", ".exe", ".com",
    ".sh", ".bash", ".bat", ".cmd", ".ps1", ".vbs", ".js", ".ts", ".html", ".svg", ".rb", ".pl",
    ".jar", ".class", ".whl", ".egg", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".ptx", ".cubin", ".o",
    ".a", ".wasm", ".lnk", ".desktop", ".msi", ".deb", ".rpm", ".apk", ".dmg", ".scr", ".h5",
    ".keras",
)  # fmt: skip  # the last two may hold layers written as byte code
TEMPLATES = (".jinja", ".jinja2", ".j2")
KNOWN = (".gitattributes", ".gitignore", "LICENSE", "LICENCE", "NOTICE", "MODEL_CARD", "USE_POLICY")
QUIET = (
    ".md", ".txt", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".toml", ".model", ".png", ".jpg",
    ".jpeg", ".gif", ".webp", ".pdf", ".log",
)  # fmt: skip
REACHES = re.compile(r"__\w+__|\battr\s*\(|\bimport\b|\.mro\b|\bos\.|\bsubprocess\b")
TEMPLATE_SHOWN = 4096  # characters
TEMPLATE_BYTES = 2**18


@dataclass(frozen=True)
class Choice:
    """What step 3 decides.

    Attributes:
        opened: entries that are read.
        recorded: name to size of all others.
        findings: in the order of the listing.
        stop: there is nothing to audit.
        not_checked: what is left shut, in words.
    """

    opened: tuple[Entry, ...]
    recorded: dict[str, int]
    findings: tuple[Finding, ...]
    stop: bool
    not_checked: tuple[str, ...]


def choose(entries: Sequence[Entry]) -> Choice:
    """Decide by names alone which files are opened.

    Examples:
        >>> names = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt")
        >>> choice = choose([Entry(name, 10) for name in names])
        >>> [entry.name for entry in choice.opened], choice.recorded
        (['adapter_config.json', 'adapter_model.safetensors'], {'optimizer.pt': 10})
    """
    files = {entry.name: entry for entry in entries if entry.kind == "file"}
    tensors = _weights(files)
    opened = {name for name in files if name in OPENED or name in tensors or _is_template(name)}
    shut = [entry for entry in entries if entry.name not in opened]
    findings = [found for entry in shut for found in _of(entry.name, bool(tensors))]
    if not tensors and not any(_is_pickle(entry.name) for entry in shut):
        findings.append(WEIGHTS.found("the listing", _why_none(files)))
    return Choice(
        tuple(files[name] for name in sorted(opened)),
        {entry.name: entry.size for entry in shut},
        tuple(findings),
        not tensors,
        (f"{len(shut)} files that are no part of an adapter were not opened",) if shut else (),
    )


def conclude_files(choice: Choice, artefact: Artefact, limits: Limits) -> Check:
    """Return step 3 as a check, with the chat templates that were opened as text."""
    findings, shown = list(choice.findings), {}
    for name in filter(_is_template, artefact.files):
        text = artefact.read(name)[:TEMPLATE_BYTES].decode("utf-8", "replace")
        shown[name] = printable(text[:TEMPLATE_SHOWN])
        findings.extend(_of_template(name, text))
    return conclude_choice(choice, limits, findings=findings, shown=shown)


def conclude_choice(
    choice: Choice,
    limits: Limits,
    *,
    findings: Iterable[Finding] | None = None,
    shown: dict[str, str] | None = None,
) -> Check:
    """Return step 3 as a check, whether or not the files could be opened."""
    facts: dict[str, Any] = {
        "opened": [printable(entry.name) for entry in choice.opened],
        "recorded": {printable(name): size for name, size in choice.recorded.items()},
        "templates": shown or {},
    }
    found = list(choice.findings if findings is None else findings)
    return concluded(
        "gate-files",
        found,
        stop=choice.stop,
        most=limits,
        facts=facts,
        not_checked=choice.not_checked,
    )


def _weights(files: Collection[str]) -> set[str]:
    """Return the names of the tensor files that a library would load from the top folder."""
    if ADAPTER_WEIGHTS in files:
        return {ADAPTER_WEIGHTS}
    if MODEL_WEIGHTS in files:
        return {MODEL_WEIGHTS}
    shards = {name for name in files if SHARD.fullmatch(name)}
    if shards and INDEX in files:
        return shards
    if "adapter_config.json" in files or any(name.startswith(FALLBACKS) for name in files):
        return set()  # the library would not read another name, but a pickle
    alone = [name for name in files if _suffix(name) == ".safetensors" and "/" not in name]
    return set(alone) if len(alone) == 1 else set()


def _why_none(files: Collection[str]) -> str:
    several = sorted(name for name in files if _suffix(name) == ".safetensors")
    if not several:
        return "no .safetensors file"
    if len(several) == 1:
        return f"{several[0]}, which no library reads under this name beside these files"
    return f"{len(several)} safetensors files, none under a name of its own: {several[0]}, ..."


def _of(name: str, has_tensors: bool) -> Iterator[Finding]:  # noqa: FBT001
    suffix = _suffix(name)
    if _is_pickle(name):
        worse = None if has_tensors else Severity.HIGH
        yield PICKLE.found(name, "not opened", severity=worse)
    elif suffix in CODES:
        yield CODE.found(name, "not opened")
    elif suffix == ".safetensors":
        # a training run leaves copies of its adapter in checkpoint folders
        milder = Severity.INFO if "/" in name else Severity.MEDIUM
        yield BESIDE.found(name, "other tensors than the ones audited", severity=milder)
    elif not name.endswith("/") and suffix not in QUIET and not _is_known(name):
        yield BESIDE.found(name, "a kind of file that is not known here")


def _of_template(name: str, text: str) -> Iterator[Finding]:
    reaches = REACHES.search(text)
    if reaches:
        yield CODE.found(name, f"the template uses {reaches.group()}")
    else:
        why = "a chat template writes into every prompt: read it in the report"
        yield BESIDE.found(name, why, severity=Severity.INFO)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_pickle(name: str) -> bool:
    return _suffix(name) in PICKLES


def _is_template(name: str) -> bool:
    return _suffix(name) in TEMPLATES and "/" not in name


def _is_known(name: str) -> bool:
    stem = PurePosixPath(name).name
    return stem.startswith(KNOWN) or stem.startswith(".")
