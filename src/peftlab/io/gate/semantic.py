"""Step 8: do the tensors make sense together, with the config, and with the base they are for?

Pairs complete, ranks as the config says, 1 <= r <= 1024, scales finite and at most 1000, shapes as
the base has them; and every tensor that the method does not need is listed, with a severity:

    info    a head of a task that needs one; norms and biases that the config declares
    low     other layers, embeddings and token vectors that the config declares, or that a format
            without a config is known for: whole tables are where a trigger word hides best
    medium  embedding and output table together, undeclared: `peft` writes both by itself when the
            vocabulary was resized, so this cannot be high without alarms on honest adapters;
            high all the same if they are as large as those of the base that is given
    high    everything else that nothing declares

Ours. It would be stricter to call all of them high, but a stock sequence classifier always carries
its head, which would make every such adapter an alarm; hence the list above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from peftlab.core.findings import Check, Finding, Severity, rule
from peftlab.io.adapter_layout import FLOATS, AdapterLayout, Pair, read_layout
from peftlab.io.adapter_names import module_name
from peftlab.io.adapter_scale import PLAIN, declared_rank
from peftlab.io.artefact import Artefact
from peftlab.io.base_tensors import PACKED, BaseTensors
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.step import concluded
from peftlab.io.tensor_roles import role_of

MOST_RANK, MOST_SCALE = 1024, 1000.0
FIX = "ask the publisher for the file that was trained, and for what made it"
PAIR = rule(
    "GATE-PAIR", Severity.HIGH, "tensors of a low-rank update that do not fit together",
    why="part of the adapter would be dropped, or the load would fail half-way", fix=FIX,
)  # fmt: skip
RANK = rule(
    "GATE-RANK", Severity.HIGH, "a rank that the config does not give, or that is out of bounds",
    why="config and weights are not of one training run", fix=FIX,
)  # fmt: skip
SHAPE = rule(
    "GATE-SHAPE", Severity.HIGH, "a tensor that does not fit the base",
    why="the adapter was made for another model, or its config hides what it changes",
    fix="name the base that the adapter was trained on with --against",
)  # fmt: skip
SCALE = rule(
    "GATE-SCALE", Severity.HIGH, "a scale that is no sound number",
    why="the update is multiplied with it: it can drown the base or make every output NaN", fix=FIX,
)  # fmt: skip
EXTRA = rule(
    "GATE-EXTRA", Severity.HIGH, "a whole tensor beside the adapter",
    why="it replaces a tensor of the base, or carries data, without the low rank of an adapter",
    fix="ask what it is for; load the adapter without it if nobody can say",
)  # fmt: skip
HEAD_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
INTEGERS = ("SHIRA", "VBLORA", "FROD", "PEANUT")  # methods that save positions
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT")


def check_semantic(artefact: Artefact, limits: Limits, against: Artefact | None) -> Check:
    """Check tensors against the config, and against the base if there is one.

    Never ends the gate: what does not fit together is left out of the layout's pairs.

    Args:
        artefact: open, config and headers checked.
        limits: of the gate; only the number of findings matters here.
        against: the base that the operator trusts, its headers checked, or None.
    """
    layout = read_layout(artefact)
    if layout.format == "model":
        return concluded(
            "gate-semantic", facts={"format": "model", "tensors": len(artefact.tensors)}
        )
    base = BaseTensors(against.tensors) if against else None
    found = [
        *_broken(artefact, layout),
        *(finding for pair in layout.pairs for finding in _pair(artefact, layout, pair)),
        *(_shapes(artefact, layout, base) if base else ()),
        *_others(artefact, layout),
        *_extras(artefact, layout, base),
    ]
    return concluded(
        "gate-semantic",
        found[: limits.findings],
        facts={
            "format": layout.format, "peft_type": layout.peft_type, "pairs": len(layout.pairs),
            "other": len(layout.other), "extra": len(layout.extra), "findings": len(found),
        },
        not_checked=_left_out(artefact, layout, base, len(found) - limits.findings),
    )  # fmt: skip


def _broken(artefact: Artefact, layout: AdapterLayout) -> Iterator[Finding]:
    """Yield what the layout could not put together, and an adapter with nothing in it."""
    for words in layout.broken:
        yield PAIR.found(words.split(": ", 1)[0], words)
    if not (layout.pairs or layout.other or layout.broken):
        words = f"no tensor of {layout.peft_type} among {len(artefact.tensors)}"
        yield PAIR.found(layout.format, words)


def _pair(artefact: Artefact, layout: AdapterLayout, pair: Pair) -> Iterator[Finding]:
    """Yield what is wrong with one update, the base apart."""
    config = artefact.config if layout.format == "peft" else {}
    declared = declared_rank(config, pair.layer) if config.get("peft_type") else None
    experts = bool(config.get("target_parameters"))
    if not 1 <= pair.rank <= min(MOST_RANK, max(pair.d_in, pair.d_out)):
        bounds = f"at most {MOST_RANK} and at most the larger of {pair.d_in} and {pair.d_out}"
        yield RANK.found(pair.a, f"rank {pair.rank}, {bounds}")
    elif declared not in {None, pair.rank} and not (experts and pair.rank % (declared or 1) == 0):
        yield RANK.found(pair.a, f"rank {pair.rank}, the config says {declared}")
    if not math.isfinite(pair.scale) or abs(pair.scale) > MOST_SCALE:
        yield SCALE.found(pair.a, f"scale {pair.scale:g}, at most {MOST_SCALE:g} in size")


def _shapes(artefact: Artefact, layout: AdapterLayout, base: BaseTensors) -> Iterator[Finding]:
    """Yield updates of layers that the base lacks or has in another shape, extras likewise."""
    for pair in layout.pairs:
        name = base.weight_of(pair.layer)
        if name is None:
            # an output layer that is tied to the embeddings stands in no file
            if _same_names(layout, base) and role_of(f"{pair.layer}.weight") != "output":
                yield SHAPE.found(pair.a, f"the base has no layer {pair.layer}")
            continue
        info = base.tensors[name]
        if info.dtype in PACKED or len(info.shape) < 2:
            continue
        size, first = math.prod(info.shape), info.shape[0]
        # Linear and convolution (d_out, d_in, ...); Conv1D and Embedding the other way round
        fits = size == pair.d_in * pair.d_out and first in {pair.d_in, pair.d_out}
        experts = len(info.shape) == 3 and size % (pair.d_in * pair.d_out) == 0
        if not fits and not experts:
            update = f"({pair.d_out}, {pair.d_in})"
            yield SHAPE.found(pair.a, f"update {update}, {name} is {info.shape}")
    for name in layout.extra:
        found = base.find(module_name(name))
        if found is None or role_of(name) in {"embedding", "output", "head", "tokens"}:
            continue  # those are resized or made anew by honest training
        shape, other = artefact.tensors[name].shape, base.tensors[found].shape
        if shape != other and base.tensors[found].dtype not in PACKED:
            yield SHAPE.found(name, f"{shape}, {found} is {other}")


def _same_names(layout: AdapterLayout, base: BaseTensors) -> bool:
    """Return whether some layer of the adapter is found, so that one which is not means much."""
    return any(base.weight_of(pair.layer) for pair in layout.pairs)


def _others(artefact: Artefact, layout: AdapterLayout) -> Iterator[Finding]:
    """Yield tensors under the method's own mark that cannot be of it."""
    config = artefact.config
    rows = config.get("num_virtual_tokens")
    for name in layout.other:
        info = artefact.tensors[name]
        if info.dtype not in FLOATS and layout.peft_type not in INTEGERS:
            yield EXTRA.found(name, f"{info.dtype} {list(info.shape)}: {layout.peft_type} has none")
        elif (
            layout.peft_type in PROMPTS and name == "prompt_embeddings"
            and isinstance(rows, int) and rows > 0 and info.shape[0] % rows
        ):  # fmt: skip
            yield RANK.found(name, f"{info.shape[0]} rows, the config says {rows} virtual tokens")


def _extras(
    artefact: Artefact, layout: AdapterLayout, base: BaseTensors | None
) -> Iterator[Finding]:
    """Yield every tensor that the method does not need, one finding for each."""
    resized = _looks_resized(artefact, layout) and not _has_their_size(artefact, layout, base)
    for name in layout.extra:
        info = artefact.tensors[name]
        severity, why = _severity(name, artefact, layout, resized=resized)
        yield EXTRA.found(name, f"{info.dtype} {list(info.shape)}, {why}", severity=severity)


def _severity(
    name: str, artefact: Artefact, layout: AdapterLayout, *, resized: bool
) -> tuple[Severity, str]:
    role, info = role_of(name), artefact.tensors[name]
    small = role in {"head", "norm", "bias"}
    declared = _declared(name, artefact, role) if layout.format == "peft" else ""
    if info.dtype not in FLOATS:
        return Severity.HIGH, "no weights"
    if declared:
        return (Severity.INFO if small else Severity.LOW), f"{role}, {declared}"
    usual = role == "tokens" or (role in {"norm", "bias"} and len(info.shape) == 1)
    if layout.format != "peft" and usual:
        return Severity.LOW, f"{role}, usual here"
    excuse = _excuse(artefact, role, resized=resized) if layout.format == "peft" else ""
    return (Severity.MEDIUM if excuse else Severity.HIGH), f"{role}, undeclared{excuse}"


def _excuse(artefact: Artefact, role: str, *, resized: bool) -> str:
    """Return why an honest adapter could have an undeclared tensor; empty if it could not."""
    if resized and role in {"embedding", "output"}:
        return ", as after resizing the vocabulary"
    if role == "head" and not artefact.config.get("peft_type"):
        return ", without a config that could declare it"
    return ""


def _declared(name: str, artefact: Artefact, role: str) -> str:
    """Return which field of the config says that this tensor is saved; empty if none does."""
    config, module = artefact.config, module_name(name)
    for key in ("modules_to_save", "target_modules"):
        if key == "target_modules" and ".base_layer." not in name:
            continue  # peft saves embeddings under an update of them as base_layer
        if any(_is_part(each, module) for each in _listed(config.get(key))):
            return key
    if role == "tokens" and config.get("trainable_token_indices"):
        return "trainable_token_indices"
    if module.endswith(".bias") and config.get("bias") in {"all", "lora_only"}:
        return "bias"
    if role == "head" and config.get("task_type") in HEAD_TASKS:
        return "task_type"
    return ""


def _listed(value: object) -> list[str]:
    if isinstance(value, str):
        return [value] if re.fullmatch(r"[A-Za-z0-9_.\-]+", value) else []
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _is_part(module: str, name: str) -> bool:
    """Return whether a module that a config names, by its end, is on the way to a tensor."""
    return bool(module) and f"{module}." in f"{name}."


def _looks_resized(artefact: Artefact, layout: AdapterLayout) -> bool:
    """Return whether undeclared tables are what peft saves by itself after a resize.

    It saves input and output table alike; models without an output table have the input alone.
    """
    tables = {role_of(name): artefact.tensors[name].shape for name in layout.extra}
    first, last = tables.get("embedding"), tables.get("output")
    if artefact.config.get("task_type") in {*HEAD_TASKS, "FEATURE_EXTRACTION"}:
        return first is not None and last is None
    return first is not None and first == last


def _has_their_size(artefact: Artefact, layout: AdapterLayout, base: BaseTensors | None) -> bool:
    """Return whether a table is as large as that of the base: then none was resized."""
    for name in layout.extra:
        found = base.find(module_name(name)) if base else None
        if base and found and role_of(name) in {"embedding", "output"}:
            return artefact.tensors[name].shape == base.tensors[found].shape
    return False


def _left_out(
    artefact: Artefact, layout: AdapterLayout, base: BaseTensors | None, hidden: int
) -> list[str]:
    words = []
    pattern = artefact.config.get("rank_pattern")
    if isinstance(pattern, dict) and not all(map(PLAIN.fullmatch, pattern)):
        words.append("ranks that rank_pattern gives by expressions: none is run")
    if base is None:
        words.append("shapes against a base: none was given (--against)")
    elif layout.pairs and not _same_names(layout, base):
        words.append("shapes against the base: none of its layers has a name of this adapter")
    if layout.other and layout.format == "peft":
        words.append(f"shapes of {layout.peft_type}'s own tensors against the base")
    if hidden > 0:
        words.append(f"{hidden} more findings of this step are not listed")
    return words
