"""Which tensor of a base an adapter's layer stands for, although their names differ in front.

A base may have been saved with or without its head, so that ``model.layers.0`` and ``layers.0`` are
the same layer; kohya writes dots as underscores; a checkpoint and its base may differ likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from peftlab.io.artefact import TensorInfo

PACKED = ("I8", "U8", "I32", "F8_E4M3", "F8_E5M2")  # of quantised bases: other shapes or units
FRONT = re.compile(
    r"^(?:base_model|model|module|transformer|unet|text_encoder|te\d?|bert|roberta|distilbert"
    r"|deberta|electra|backbone|encoder)\.|^(?:unet|te\d?|transformer)_"
)


class BaseTensors:
    """The tensors of a base, found by the names that adapters use.

    Examples:
        >>> table = {"model.layers.0.q_proj.weight": TensorInfo("m", "F32", (8, 4), 0, 0)}
        >>> base = BaseTensors(table)
        >>> base.weight_of("layers.0.q_proj")
        'model.layers.0.q_proj.weight'
        >>> base.find("model.layers.1.q_proj.weight") is None
        True
    """

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = tensors
        self._short: dict[str, str | None] = {}
        for name in tensors:
            for form in _forms(name):  # what two tensors share names neither
                self._short[form] = None if form in self._short else name

    def find(self, name: str) -> str | None:
        """Return the tensor of the base that has this name, or this name but for its front."""
        if name in self.tensors:
            return name
        for form in (name, *_forms(name)):
            found = self._short.get(form)
            if found is not None:
                return found
        return None

    def weight_of(self, layer: str) -> str | None:
        """Return the weight that a low-rank update of ``layer`` is added to."""
        layer = layer.split("@", 1)[0].removesuffix(".base_layer")
        return self.find(f"{layer}.weight") or self.find(layer)


def _forms(name: str) -> Iterable[str]:
    """Yield shorter forms of a name, all with underscores, the longest first."""
    seen = [name]
    while (short := FRONT.sub("", seen[-1])) != seen[-1]:
        seen.append(short)
    return dict.fromkeys(_joined(each) for each in seen)


def _joined(name: str) -> str:
    stem, dot, end = name.rpartition(".")
    return f"{stem.replace('.', '_')}{dot}{end}" if dot else name
