"""Which tensors of an adapter belong together, from names, shapes and config alone.

Readers: ``peft`` (``*.lora_A.weight``), diffusers (``*.lora.down.weight``), kohya
(``lora_unet_*.lora_down.weight`` with ``alpha``), cloneofsimo (``unet:N:down``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One low-rank update ``scale * B A`` of one layer.

    Attributes:
        layer: name of the layer, without the prefix that the format adds.
        a: tensor name of A, (r, d_in) or (r, d_in, k, k) for a convolution.
        b: tensor name of B, (d_out, r) or (d_out, r, 1, 1).
        rank: r.
        d_in: columns of the update, kernel included.
        d_out: rows of the update.
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA; 1 where the file does not say.
        magnitude: tensor name of DoRA's magnitudes, if there are any.
    """

    layer: str
    a: str
    b: str
    rank: int
    d_in: int
    d_out: int
    scale: float
    magnitude: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """What an adapter is made of.

    Attributes:
        format: peft, diffusers, kohya, cloneofsimo or model (a full checkpoint).
        peft_type: LORA, IA3, ...; empty for a full checkpoint.
        pairs: low-rank updates, in order of layer names.
        other: tensors of the method that are no pairs (IA3 vectors, prefixes, Kronecker factors).
        extra: tensors that the method does not need: whole layers, embeddings, heads.
        broken: what does not fit together, in words: a missing partner, ranks that differ.
    """

    format: str
    peft_type: str
    pairs: tuple[Pair, ...] = ()
    other: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
