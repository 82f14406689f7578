"""What the name of a layer says about its place: which block it is in, and which layers are alike.

``model.layers.3.self_attn.q_proj`` is target ``q_proj`` of block 3; layers that differ in numbers
only are of one kind.
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
_BLOCK = re.compile(r"(?:^|[._])(?:layers?|h|blocks?|block|transformer_blocks)[._](\d+)(?=[._]|$)")


def kind_of(layer: str) -> str:
    """Return the name with every number of a place in it replaced by ``#``.

    Examples:
        >>> kind_of("model.layers.12.self_attn.q_proj"), kind_of("unet:7")
        ('model.layers.#.self_attn.q_proj', 'unet:#')
        >>> kind_of("unet_up_blocks_1_attentions_0_proj_in"), kind_of("conv2")
        ('unet_up_blocks_#_attentions_#_proj_in', 'conv2')
    """
    return _NUMBER.sub("#", layer.replace("_", "\0")).replace("\0", "_")


def target_of(layer: str) -> str:
    """Return what people call the layer: the part of its name after its place.

    Examples:
        >>> target_of("model.layers.12.self_attn.q_proj"), target_of("unet.mid.attn1.to_out.0")
        ('q_proj', 'to_out.0')
        >>> target_of("unet_up_blocks_1_attentions_0_attn1_to_q"), target_of("unet:7")
        ('attn1_to_q', 'unet')
    """
    if ":" in layer:
        return layer.split(":", 1)[0]
    words = layer.split(".")
    if len(words) > 1:
        last = words.pop()
        while last.split(".", 1)[0].isdigit() and words:
            last = f"{words.pop()}.{last}"
        return last
    return re.split(r"_\d+_", layer)[-1]


def block_of(layer: str) -> int | None:
    """Return the number of the block that a layer is in; None where the name has none.

    Examples:
        >>> block_of("bert.encoder.layer.3.attention.self.query"), block_of("classifier")
        (3, None)
    """
    found = _BLOCK.search(layer)
    return int(found[1][:9]) if found else None


def ranges(numbers: set[int]) -> str:
    """Return a set of numbers in words.

    Examples:
        >>> ranges({0, 1, 2, 5})
        '0-2, 5'
    """
    parts: list[list[int]] = []
    for each in sorted(numbers):
        if parts and each == parts[-1][1] + 1:
            parts[-1][1] = each
        else:
            parts.append([each, each])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
