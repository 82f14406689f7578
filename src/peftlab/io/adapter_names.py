"""What the name of a tensor says about its part in an adapter, for all ways of writing it.

A name is read as (whose way of writing, layer, role): ``unet.mid.to_q.lora.down.weight`` is factor
A of layer ``unet.mid.to_q``, written by diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Role = Literal["A", "B", "E", "magnitude", "alpha", "other", "extra"]
PEFT_PREFIX = "base_model.model."

# Marks of the tensors of each method in peft 0.21.2, where they are not its name and a "_"
MARKS: dict[str, tuple[str, ...]] = {
    "ADALORA": ("lora_",),
    "LORA": ("lora_",),
    "LOHA": ("hada_",),
    "PROMPT_TUNING": ("prompt_embeddings",),
    "P_TUNING": ("prompt_embeddings",),
    "PREFIX_TUNING": ("prompt_embeddings",),
    "MULTITASK_PROMPT_TUNING": ("prompt_embeddings", "prefix_task_"),
    "CPT": ("prompt_embeddings", "cpt_"),
    "CARTRIDGE": ("prompt_embeddings",),
    "ADAPTION_PROMPT": ("adaption_",),
    "SHADOW": ("shadow_",),
}
# for adapters without a config, most telling first
NAMED = (
    "ADAMSS", "BEFT", "BOFT", "BONE", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA",
    "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOKR", "MISS", "OFT", "OSF", "PEANUT",
    "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA",
    "VBLORA", "VERA", "WAVEFT",
)  # fmt: skip
GUESSES: tuple[tuple[str, str], ...] = (
    *((f"{method.lower()}_", method) for method in NAMED), ("hada_", "LOHA"), ("lora_E", "ADALORA"),
    ("lora_", "LORA"), ("prompt_embeddings", "PROMPT_TUNING"),
)  # fmt: skip
# LyCORIS and kohya's own: Kronecker and Hadamard factors, whole differences, CP cores
KOHYA_OTHER = re.compile(
    r"(?P<layer>.+)\.(?:hada_\w+|lokr_\w+|oft_\w+|lora_mid\.weight|diff|diff_b|w_norm|b_norm"
    r"|on_input|scalar)"
)


class Part(NamedTuple):
    """What a tensor is in an adapter.

    Attributes:
        format: whose way of writing, empty where the name does not tell.
        layer: name of the layer, without the prefix that the format adds.
        role: its part in the update of that layer.
    """

    format: str
    layer: str
    role: Role


_PATTERNS: tuple[tuple[str, Role, str], ...] = (
    ("lora_A", "A", r"(.+)\.lora_A(?:\.(\w+))?\.weight"),
    ("lora_A", "B", r"(.+)\.lora_B(?:\.(\w+))?\.weight"),
    ("peft", "A", r"(.+)\.lora_(?:embedding_)?A"),
    ("peft", "B", r"(.+)\.lora_(?:embedding_)?B"),
    ("peft", "E", r"(.+)\.lora_E"),
    ("peft", "magnitude", r"(.+)\.lora_magnitude_vector(?:\.weight)?"),
    ("diffusers", "A", r"(.+)[._]lora(?:_linear_layer)?\.down\.weight"),
    ("diffusers", "B", r"(.+)[._]lora(?:_linear_layer)?\.up\.weight"),
    ("kohya", "A", r"(.+)\.lora_down\.weight"),
    ("kohya", "B", r"(.+)\.lora_up\.weight"),
    ("kohya", "alpha", r"(.+?)(?:\.lora(?:_linear_layer)?)?\.alpha"),
    ("kohya", "magnitude", r"(.+)\.dora_scale"),
    ("cloneofsimo", "A", r"(\w+:\d+):down"),
    ("cloneofsimo", "B", r"(\w+:\d+):up"),
)
_WAYS = tuple((kind, role, re.compile(pattern)) for kind, role, pattern in _PATTERNS)


def read_name(name: str, peft_type: str = "") -> Part:
    """Return what a tensor is, by its name.

    Args:
        name: as it stands in the file.
        peft_type: of the config, empty if there is none.

    Examples:
        >>> read_name("base_model.model.fc1.lora_B.weight", "LORA")
        Part(format='peft', layer='fc1', role='B')
        >>> read_name("lora_unet_mid_block.lora_down.weight")
        Part(format='kohya', layer='unet_mid_block', role='A')
        >>> read_name("base_model.model.classifier.weight", "LORA").role
        'extra'
    """
    if peft_type in {"", "LORA", "ADALORA"}:
        for kind, role, pattern in _WAYS:
            found = pattern.fullmatch(name)
            if found and (not peft_type or kind in {"lora_A", "peft"}):
                return _low_rank(name, kind, role, *found.groups())
    peft = bool(peft_type) or name.startswith("base_model.") or name == "prompt_embeddings"
    layer = name.removeprefix(PEFT_PREFIX)
    if peft:
        return Part("peft", layer, "other" if _has_mark(name, peft_type) else "extra")
    kohya = KOHYA_OTHER.fullmatch(name)
    if kohya and re.match(r"lora_|lycoris_", name):
        return Part("kohya", _without_prefix(kohya["layer"], "kohya"), "other")
    return Part("", layer, "extra")


def module_name(name: str) -> str:
    """Return the name in the model of a whole tensor that an adapter carries.

    Examples:
        >>> module_name("base_model.model.score.modules_to_save.weight")
        'score.weight'
    """
    bare = name.removeprefix(PEFT_PREFIX).removeprefix("base_model.")
    return bare.replace(".modules_to_save.", ".").replace(".base_layer.", ".")


def method_of(names: Iterable[str]) -> str:
    """Return the method of an adapter without a config; LORA where its names do not tell.

    Examples:
        >>> method_of(["lora_unet_x.hada_w1_a", "lora_unet_x.alpha"])
        'LOHA'
    """
    starts = tuple(word for name in names for word in name.split(".")[-3:])
    for mark, method in GUESSES:
        if any(word.startswith(mark) for word in starts):
            return method
    return "LORA"


def _low_rank(name: str, kind: str, role: Role, layer: str, adapter: str = "") -> Part:
    if kind == "lora_A":  # both libraries write this; only peft puts its prefix in front
        kind = "peft" if name.startswith("base_model.") else "diffusers"
    layer = _without_prefix(layer, kind)
    return Part(kind, f"{layer}@{adapter}" if adapter and adapter != "default" else layer, role)


def _without_prefix(layer: str, kind: str) -> str:
    if kind == "kohya":
        return layer.removeprefix("lora_")
    return layer.replace(".processor.", ".").removeprefix(PEFT_PREFIX).removeprefix("base_model.")


def _has_mark(name: str, peft_type: str) -> bool:
    """Return whether the last three words of a name carry the mark of the method."""
    words = name.split(".")[-3:]
    if not peft_type:
        marks = tuple(mark for mark, _ in GUESSES)
    else:
        marks = MARKS.get(peft_type, (f"{peft_type.lower()}_",))
    return any(word.startswith(mark) for word in words for mark in marks)
