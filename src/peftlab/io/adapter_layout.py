"""Which tensors of an adapter belong together, from names, shapes, config and metadata alone.

Readers: ``peft`` (``*.lora_A.weight``), diffusers (``*.lora.down.weight``), kohya
(``lora_unet_*.lora_down.weight`` with ``alpha``), cloneofsimo (``unet:N:down``). Nothing here runs
a pattern of the artefact, and the only values that are read are kohya's one-number ``alpha``.

Sources of the names: huggingface/peft 0.21.2 (``utils/save_and_load.py``, ``tuners/*``),
huggingface/diffusers (``loaders/lora_base.py``), kohya-ss/sd-scripts (``networks/lora.py``),
cloneofsimo/lora (``lora_diffusion/safe_open.py``).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from peftlab.io.adapter_names import Part, method_of, read_name
from peftlab.io.adapter_scale import Scales
from peftlab.io.artefact import Artefact, TensorInfo

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, slots=True)
class Pair:
    """One low-rank update ``scale * B A`` of one layer, or ``scale * B diag(e) A``.

    Attributes:
        layer: name of the layer, without the prefix that the format adds.
        a: tensor name of A, (r, d_in) or (r, d_in, k, k) for a convolution.
        b: tensor name of B, (d_out, r) or (d_out, r, 1, 1).
        rank: r.
        d_in: columns of the update, kernel included; of an embedding the number of words.
        d_out: rows of the update.
        scale: alpha / r, or alpha / sqrt(r) for rsLoRA; 1 where the file does not say.
        magnitude: tensor name of DoRA's magnitudes, if there are any.
        diagonal: tensor name of AdaLoRA's singular values e, (r, 1), if there are any.
    """

    layer: str
    a: str
    b: str
    rank: int
    d_in: int
    d_out: int
    scale: float
    magnitude: str | None = None
    diagonal: str | None = None


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """What an adapter is made of.

    Attributes:
        format: peft, diffusers, kohya, cloneofsimo or model (a full checkpoint).
        peft_type: LORA, IA3, ...; empty for a full checkpoint.
        pairs: low-rank updates, in order of layer names, 2 before 10.
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


@dataclass(slots=True)
class _Layer:
    """The tensors of one layer by their part in the update."""

    names: dict[str, str] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)

    def add(self, part: str, name: str) -> None:
        if part in self.names:
            self.twice.append(name)
        else:
            self.names[part] = name


def read_layout(artefact: Artefact) -> AdapterLayout:
    """Return which tensors of an artefact belong together.

    Args:
        artefact: open; its config, tensors and metadata filled by the gate.

    Examples:
        >>> shapes = {"lora_A": (4, 32), "lora_B": (64, 4)}
        >>> made = Artefact("demo", "folder", config={"peft_type": "LORA", "r": 4, "lora_alpha": 8})
        >>> for part, shape in shapes.items():
        ...     name = f"base_model.model.fc1.{part}.weight"
        ...     made.tensors[name] = TensorInfo("adapter_model.safetensors", "F32", shape, 0, 0)
        >>> (pair,) = read_layout(made).pairs
        >>> pair.layer, pair.rank, pair.d_in, pair.d_out, pair.scale
        ('fc1', 4, 32, 64, 2.0)
    """
    declared = artefact.config.get("peft_type")
    peft_type = declared if isinstance(declared, str) else ""
    parts = {name: read_name(name, peft_type) for name in artefact.tensors}
    kind = _format(parts, peft_type=peft_type)
    if kind == "model":
        return AdapterLayout("model", "")
    layers: defaultdict[str, _Layer] = defaultdict(_Layer)
    for name, part in parts.items():
        if part.role in {"A", "B", "E", "magnitude", "alpha"}:
            layers[part.layer].add(part.role, name)
    other = [name for name, part in parts.items() if part.role == "other"]
    broken = [f"{name}: a second tensor of its kind" for x in layers.values() for name in x.twice]
    scales = Scales(artefact, kind)
    pairs = []
    for layer in sorted(layers, key=natural_order):
        names = layers[layer].names
        wrong = next(_misfits(layer, names, artefact.tensors), "")
        if wrong:
            broken.append(wrong)
        elif "A" in names:
            pairs.append(_pair(layer, names, artefact.tensors, scales))
        else:  # LoHa and LoKr of kohya have alpha and dora_scale too
            other += names.values()
    return AdapterLayout(
        format=kind,
        peft_type=peft_type or method_of(artefact.tensors),
        pairs=tuple(pairs),
        other=tuple(sorted(other, key=natural_order)),
        extra=tuple(
            sorted((name for name, p in parts.items() if p.role == "extra"), key=natural_order)
        ),
        broken=tuple(broken),
    )


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts numbers inside names by value.

    Examples:
        >>> sorted(["layers.10", "layers.2", "head"], key=natural_order)
        ['head', 'layers.2', 'layers.10']
    """
    words = re.split(r"(\d+)", name)
    return tuple((int(word[:18]) if i % 2 else 0, word) for i, word in enumerate(words))


def _format(parts: Mapping[str, Part], *, peft_type: str) -> str:
    """Return whose way of writing this is; the config decides, then the most frequent way."""
    if peft_type:
        return "peft"
    counts: defaultdict[str, int] = defaultdict(int)
    for part in parts.values():
        if part.format:
            counts[part.format] += 1
    if not counts:
        return "model"
    return max(sorted(counts), key=lambda each: counts[each])


def _misfits(
    layer: str, names: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> Iterator[str]:
    """Yield what is wrong with the tensors of one layer; what follows from that comes after it."""
    if "alpha" in names and math.prod(tensors[names["alpha"]].shape) != 1:
        yield f"{names['alpha']}: shape {list(tensors[names['alpha']].shape)} is not one number"
    if not {"A", "B"} & set(names):
        return
    if "A" not in names or "B" not in names:
        there, gone = ("A", "B") if "A" in names else ("B", "A")
        yield f"{names[there]}: has no partner {gone} in layer {layer}"
        return
    a, b = tensors[names["A"]], tensors[names["B"]]
    for name, info in ((names["A"], a), (names["B"], b)):
        if info.dtype not in FLOATS:
            yield f"{name}: is {info.dtype}, a factor must hold real numbers"
        if not 2 <= len(info.shape) <= 5 or 0 in info.shape:
            yield f"{name}: shape {list(info.shape)} is none of a factor"
            return
    rank, d_out = a.shape[0], b.shape[0]
    if b.shape[1] != rank or math.prod(b.shape[2:]) != 1:
        yield f"{names['B']}: shape {list(b.shape)} does not fit rank {rank} of its partner"
    if "E" in names and math.prod(tensors[names["E"]].shape) != rank:
        yield f"{names['E']}: does not hold {rank} numbers, one for each rank"
    widths = (d_out, math.prod(a.shape[1:]), a.shape[1])
    if "magnitude" in names and math.prod(tensors[names["magnitude"]].shape) not in widths:
        yield f"{names['magnitude']}: holds neither one number a row nor one a column"


def _pair(
    layer: str, names: Mapping[str, str], tensors: Mapping[str, TensorInfo], scales: Scales
) -> Pair:
    a, b = tensors[names["A"]], tensors[names["B"]]
    rank = a.shape[0]
    return Pair(
        layer=layer,
        a=names["A"],
        b=names["B"],
        rank=rank,
        d_in=math.prod(a.shape[1:]),
        d_out=b.shape[0],
        scale=scales.of(layer, rank, names.get("alpha")),
        magnitude=names.get("magnitude"),
        diagonal=names.get("E"),
    )
