"""What of an adapter tells how much data it saw: the singular values of A, B and B A, by layer.

For a layer with factors A (r, d_in) and B (d_out, r) and the update s B A:

    A, B   their own singular values, r each
    BA     the r largest singular values of s B A
    M      DoRA's magnitudes as they are: one vector of d_out, where the file has them

The product is never formed (see ``nn.lora_spectra``). Source: the equations of arXiv 2406.19395;
M is ours. An orthogonal change of basis inside a layer (A -> Q A, B -> B Q^T) changes none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from peftlab.audits.size.errors import BankMismatch
from peftlab.core.errors import InputRejected
from peftlab.core.types import Floats

if TYPE_CHECKING:
    import torch

    from peftlab.io.adapter_layout import AdapterLayout
    from peftlab.io.artefact import Artefact

Kind = Literal["A", "B", "BA", "M"]
KINDS: tuple[Kind, ...] = ("A", "B", "BA", "M")
DEFAULT: tuple[Kind, ...] = ("A", "B", "BA")
LISTED = 4  # layers that a message names
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Shape(NamedTuple):
    """Rank and widths of one layer's update."""

    rank: int
    d_in: int
    d_out: int


@dataclass(frozen=True, slots=True)
class Spectra:
    """The features of one adapter.

    Attributes:
        matrices: by ``"<layer>/A"``, ``"<layer>/B"``, ``"<layer>/BA"`` and, for DoRA,
            ``"<layer>/M"``: one vector each.
        shapes: by layer.
        source: where it comes from, for messages.
    """

    matrices: Mapping[str, Floats]
    shapes: Mapping[str, Shape]
    source: str = ""


def factor_spectra(a: Any, b: Any, scale: float | Floats = 1.0) -> dict[Kind, Floats]:
    """Return the singular values of many pairs of one shape: A, B and BA, (N, r) each.

    Args:
        a: (N, r, d_in), an array or a tensor.
        b: (N, d_out, r).
        scale: one for all, or (N,); of BA only.

    Raises:
        InputRejected: the codes of ``nn.lora_spectra``.

    Examples:
        >>> found = factor_spectra(np.eye(2, 5)[None], 3 * np.eye(4, 2)[None], 0.5)
        >>> {kind: values.tolist() for kind, values in found.items()}
        {'A': [[1.0, 1.0]], 'B': [[3.0, 3.0]], 'BA': [[1.5, 1.5]]}
    """
    import torch

    from peftlab.nn.lora_spectra import stacked_singular_values

    left, right = _tensor(b), _tensor(a)
    one = torch.eye(right.shape[-2], dtype=torch.float64).expand(len(right), -1, -1)
    return {
        "A": stacked_singular_values(right, one),
        "B": stacked_singular_values(one, left),
        "BA": stacked_singular_values(right, left, scale),
    }


def _tensor(factors: Any) -> torch.Tensor:
    import torch

    return factors if isinstance(factors, torch.Tensor) else torch.from_numpy(np.asarray(factors))


def spectra_of(artefact: Artefact, layout: AdapterLayout, kinds: Sequence[Kind] = KINDS) -> Spectra:
    """Return the features of an adapter that passed the gate; pairs of one shape are done at once.

    Args:
        artefact: open, headers checked.
        layout: which of its tensors belong together.
        kinds: which features; M is left out where the adapter has none.

    Raises:
        InputRejected: ``SIZE-PAIRS`` if there is no low-rank pair, and the codes of
            ``nn.lora_spectra``.
    """
    import torch

    from peftlab.nn.factors import factors_of, tensor_of

    if not layout.pairs:
        raise InputRejected(
            f"{artefact.source} has no low-rank updates", code="SIZE-PAIRS",
            got=layout.peft_type or layout.format, allowed="LoRA in any of its formats",
            fix="this audit reads LoRA adapters only",
        )  # fmt: skip
    matrices: dict[str, Floats] = {}
    groups: dict[Shape, list[int]] = {}
    for number, pair in enumerate(layout.pairs):
        groups.setdefault(Shape(pair.rank, pair.d_in, pair.d_out), []).append(number)
    for members in groups.values():
        pairs = [layout.pairs[number] for number in members]
        factors = [factors_of(artefact, pair) for pair in pairs]
        found = factor_spectra(
            torch.stack([a for a, _ in factors]), torch.stack([b for _, b in factors]),
            np.array([pair.scale for pair in pairs]),
        )  # fmt: skip
        for row, pair in enumerate(pairs):
            matrices |= {
                f"{pair.layer}/{kind}": found[kind][row] for kind in found if kind in kinds
            }
    for pair in layout.pairs:
        if pair.magnitude is not None and "M" in kinds:
            # a copy: the tensor lies in the mapped file
            magnitude = tensor_of(artefact, pair.magnitude).float().numpy()
            matrices[f"{pair.layer}/M"] = np.array(magnitude, dtype=np.float64).ravel()
    return Spectra(matrices, shapes_of(layout), artefact.source)


def read_spectra(reference: str | Path) -> Spectra:
    """Return the features of an adapter: a folder, a file or a hub id, opened through the gate.

    Raises:
        InputRejected: ``SIZE-PICKLE`` for a pickle, which is never opened; ``SIZE-ADAPTER`` with
            the gate's finding where the gate stops it.
    """
    from peftlab.io.adapter_layout import read_layout
    from peftlab.io.gate import inspect, open_artefact
    from peftlab.io.gate.limits import Limits

    source = str(reference)
    _refuse_pickle(source)
    artefact, checks = open_artefact(source, limits=Limits())
    if artefact is None:
        raise _stopped(source, checks)
    with artefact:
        checks = [*checks, *inspect(artefact, limits=Limits())]
        if any(check.status == "stopped" for check in checks):
            raise _stopped(source, checks)
        return spectra_of(artefact, read_layout(artefact))


def _refuse_pickle(source: str) -> None:
    if source.lower().endswith(PICKLES):
        raise InputRejected(
            f"{Path(source).name} is a pickle, which can run code, and is not opened",
            code="SIZE-PICKLE", allowed="*.safetensors",
            fix=f"ask for safetensors, or run `peftlab convert --sandbox {Path(source).name}`",
        )  # fmt: skip


def _stopped(source: str, checks: Iterable[Any]) -> InputRejected:
    stopped = next(check for check in checks if check.status == "stopped")
    found = stopped.findings[-1] if stopped.findings else None
    return InputRejected(
        f"the gate stopped {source} at step {stopped.name}", code="SIZE-ADAPTER",
        got=f"{found.code}: {found.title} {found.evidence}" if found else stopped.reason,
        fix=found.fix if found else "run `peftlab audit` on it for the whole report",
    )  # fmt: skip


def canonical(layer: str) -> str:
    """Return a name that is the same for a layer in all formats.

    Examples:
        >>> canonical("unet.down_blocks.0.attn1.to_q"), canonical("lora_unet_mid_block_to_q")
        ('down_blocks_0_attn1_to_q', 'mid_block_to_q')
    """
    name = re.sub(r"[^a-z0-9]+", "_", layer.lower()).strip("_")
    return re.sub(r"^(base_model_model_|lora_|unet_)+", "", name)


def fit_to(
    spectra: Spectra, shapes: Mapping[str, Shape], wanted: Iterable[str]
) -> dict[str, Floats]:
    """Return the vectors that a bank asks for, by the bank's names.

    Args:
        spectra: of the adapter.
        shapes: of the bank's layers.
        wanted: matrix names of the bank, ``"<layer>/<kind>"``.

    Raises:
        BankMismatch: ``SIZE-SHAPES``, with what differs.
    """
    wrong = differences(spectra.shapes, shapes)
    if wrong:
        raise _mismatch(spectra.source, wrong)
    partners = _partners(spectra.shapes, shapes)
    found = {}
    for name in wanted:
        layer, _, kind = name.rpartition("/")
        vector = spectra.matrices.get(f"{partners[layer]}/{kind}")
        if vector is None:
            raise _mismatch(spectra.source, f"the adapter has no {kind} at {layer}")
        found[name] = vector
    return found


def _partners(adapter: Mapping[str, Shape], bank: Mapping[str, Shape]) -> dict[str, str]:
    """Return the adapter's layer of each of the bank's: by exact names, else by canonical ones."""
    if set(adapter) == set(bank):
        return {layer: layer for layer in bank}
    own = {canonical(layer): layer for layer in adapter}
    return {layer: own[name] for layer in bank if (name := canonical(layer)) in own}


def shapes_of(layout: AdapterLayout) -> dict[str, Shape]:
    """Return rank and widths of each low-rank update of an adapter."""
    return {pair.layer: Shape(pair.rank, pair.d_in, pair.d_out) for pair in layout.pairs}


def differences(adapter: Mapping[str, Shape], bank: Mapping[str, Shape]) -> str:
    """Return in words how layers, ranks and widths differ; empty if they do not.

    Examples:
        >>> differences({"q": Shape(4, 8, 8)}, {"q": Shape(8, 8, 8)})
        '1 layers differ: q: rank 4 (bank: 8)'
    """
    partners = _partners(adapter, bank)
    used = set(partners.values())
    parts = [
        f"{len(names)} layers {what}: {', '.join(names[:LISTED])}"
        for names, what in (
            ([layer for layer in bank if layer not in partners], "of the bank only"),
            ([layer for layer in adapter if layer not in used], "of the adapter only"),
        )
        if names
    ]
    uneven = [
        f"{layer}: {_uneven(adapter[own], bank[layer])}"
        for layer, own in partners.items()
        if adapter[own] != bank[layer]
    ]
    if uneven:
        parts.append(f"{len(uneven)} layers differ: {'; '.join(uneven[:LISTED])}")
    return "; ".join(parts)


def _uneven(mine: Shape, its: Shape) -> str:
    axes = zip(Shape._fields, mine, its, strict=True)
    return ", ".join(f"{axis} {own} (bank: {other})" for axis, own, other in axes if own != other)


def _mismatch(source: str, what: str) -> BankMismatch:
    return BankMismatch(
        f"the layers of {source or 'the adapter'} are not those of the bank", code="SIZE-SHAPES",
        got=what, allowed="the same layers, ranks and widths as the bank's adapters",
        fix="use a bank made from the same base with the same rank and target modules "
        "(`peftlab size farm`)",
    )  # fmt: skip
