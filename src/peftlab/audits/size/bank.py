"""Labelled adapters to learn from, as spectra: sizes, concepts, and one table per matrix.

A concept is what the images (or sentences) of an adapter are of; adapters of one concept share
them, so everything that splits a bank splits it by concept (``names``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.audits.size.features import (
    DEFAULT,
    KINDS,
    Kind,
    Shape,
    Spectra,
    factor_spectra,
    fit_to,
    read_spectra,
)
from peftlab.core.errors import InputRejected, ResourceLimit
from peftlab.core.types import Floats, Ints
from peftlab.io.adapter_layout import natural_order

MOST_ADAPTERS = 50_000
MOST_LAYERS = 4096
MOST_NUMBERS = 2**28  # of all spectra together: 2 GiB
MOST_SIZE = 10**9


@dataclass(frozen=True, slots=True)
class SpectraBank:
    """N labelled adapters of one base, rank and set of layers.

    Attributes:
        matrices: by ``"<layer>/A"``, ``"/B"``, ``"/BA"`` (and ``"/M"``): (N, r).
        sizes: (N,) number of training examples.
        names: N concepts.
        layers: rank and widths of each layer.
        recipe: how all of them were trained: lr, steps, batch, rank, alpha, seed, base, ...
        about: title, source, licence, synthetic and the like, for reports.
    """

    matrices: Mapping[str, Floats]
    sizes: Ints
    names: tuple[str, ...]
    layers: Mapping[str, Shape]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def levels(self) -> Ints:
        """Return the sizes that occur, ascending."""
        return np.unique(self.sizes)

    @property
    def concepts(self) -> tuple[str, ...]:
        """Return the concepts, sorted."""
        return tuple(sorted(set(self.names)))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Return the kinds of matrix that every layer has."""
        return tuple(
            k for k in KINDS if all(f"{layer}/{k}" in self.matrices for layer in self.layers)
        )

    @property
    def sha256(self) -> str:
        """Return a hash of sizes, concepts and spectra."""
        sha = hashlib.sha256(json.dumps([self.sizes.tolist(), self.names]).encode())
        for name in sorted(self.matrices):
            sha.update(name.encode() + self.matrices[name].astype("<f8").tobytes())
        return sha.hexdigest()

    def names_of(self, kinds: Sequence[Kind]) -> list[str]:
        """Return the matrices of some kinds, layer by layer, 2 before 10."""
        layers = sorted(self.layers, key=natural_order)
        return [f"{layer}/{kind}" for layer in layers for kind in kinds]

    def norms(self, kind: Kind = "BA") -> Floats:
        """Return the Frobenius norm of each layer's matrix, layers in that order, (N, L)."""
        return np.stack([np.linalg.norm(self.matrices[name], axis=1)
                         for name in self.names_of((kind,))], axis=1)  # fmt: skip

    def subset(self, rows: Sequence[int] | Ints) -> SpectraBank:
        """Return a bank of some adapters, in that order."""
        picked = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            matrices={name: values[picked] for name, values in self.matrices.items()},
            sizes=self.sizes[picked],
            names=tuple(self.names[i] for i in picked),
        )

    def of_concepts(self, wanted: Sequence[str]) -> SpectraBank:
        """Return a bank of some concepts."""
        keep = set(wanted)
        return self.subset([i for i, name in enumerate(self.names) if name in keep])

    def spectra(self, row: int) -> Spectra:
        """Return the features of one of its adapters, as a file of it would give them."""
        own = {name: values[row] for name, values in self.matrices.items()}
        return Spectra(own, self.layers, f"adapter {row} of the bank")

    @classmethod
    def from_factors(
        cls, factors: Mapping[str, tuple[Any, Any]], sizes: Sequence[int] | Ints,
        names: Sequence[str], scale: float | Floats = 1.0,
        recipe: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
    ) -> SpectraBank:  # fmt: skip
        """Return a bank of stacked factors.

        Args:
            factors: by layer: A (N, r, d_in) and B (N, d_out, r), arrays or tensors.
            sizes: (N,) number of training examples.
            names: N concepts.
            scale: s of the update s B A: one for all, or (N,).
            recipe: how they were trained.
            about: title, source, licence.

        Raises:
            InputRejected: ``SIZE-BANK`` and the codes of ``nn.lora_spectra``.
            ResourceLimit: ``SIZE-LARGE``.

        Examples:
            >>> rng = np.random.default_rng(0)
            >>> pair = rng.normal(size=(4, 2, 8)), rng.normal(size=(4, 6, 2))
            >>> bank = SpectraBank.from_factors({"q": pair}, [1, 2, 1, 2], ["a", "a", "b", "b"])
            >>> bank.matrices["q/BA"].shape, bank.concepts
            ((4, 2), ('a', 'b'))
        """
        matrices: dict[str, Floats] = {}
        layers = {}
        for layer, (a, b) in factors.items():
            for kind, values in factor_spectra(a, b, scale).items():
                matrices[f"{layer}/{kind}"] = values
            layers[layer] = Shape(int(a.shape[1]), int(a.shape[2]), int(b.shape[1]))
        return cls(
            matrices, np.asarray(sizes, dtype=np.int64), tuple(map(str, names)), layers,
            dict(recipe or {}), dict(about or {}),
        )  # fmt: skip

    @classmethod
    def from_adapters(
        cls, paths: Sequence[str | Path], sizes: Sequence[int], names: Sequence[str] | None = None,
        recipe: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
    ) -> SpectraBank:  # fmt: skip
        """Return a bank of adapter files or folders, each opened through the gate.

        Args:
            paths: the adapters.
            sizes: number of training examples of each.
            names: concept of each; by default every adapter is a concept of its own, which is
                right only if no two share examples.
            recipe: how they were trained.
            about: title, source, licence.

        Raises:
            BankMismatch: ``SIZE-SHAPES`` where an adapter differs from the first.
            InputRejected: as ``read_spectra``, and ``SIZE-BANK``.
        """
        if not paths or len(sizes) != len(paths):
            raise broken("sizes and adapters differ in number", f"{len(sizes)} and {len(paths)}")
        read = [read_spectra(path) for path in paths]
        wanted = sorted(set.intersection(*(set(_kinds(one)) for one in read)))
        kept = [
            f"{layer}/{kind}" for layer in read[0].shapes for kind in (*DEFAULT, "M")
            if kind in wanted
        ]  # fmt: skip
        rows = [fit_to(one, read[0].shapes, kept) for one in read]
        matrices = {name: np.stack([row[name] for row in rows]) for name in kept}
        return cls(
            matrices, np.asarray(sizes, dtype=np.int64),
            tuple(str(path) for path in paths) if names is None else tuple(names),
            read[0].shapes, dict(recipe or {}), dict(about or {}),
        )  # fmt: skip

    @classmethod
    def from_parquet(cls, path: str | Path, *, rank: int | None = None) -> SpectraBank:
        """Return a bank of the public set's rows: see ``rows.read_rows``."""
        from peftlab.audits.size.rows import read_rows

        return read_rows(Path(path), rank=rank)

    @classmethod
    def load(cls, folder: str | Path) -> SpectraBank:
        """Return the bank of a folder: see ``bank_files.load``."""
        from peftlab.audits.size.bank_files import load

        return load(folder)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write ``bank.json`` and ``spectra.safetensors`` into a new folder."""
        from peftlab.audits.size.bank_files import write_files
        from peftlab.io.files import new_folder

        with new_folder(Path(folder), overwrite) as part:
            write_files(self, part)


def _kinds(spectra: Spectra) -> list[str]:
    """Return the kinds that every layer of an adapter has."""
    return [k for k in KINDS if all(f"{layer}/{k}" in spectra.matrices for layer in spectra.shapes)]


def broken(what: str, got: object = None) -> InputRejected:
    """Return the error of a bank that does not hold together."""
    return InputRejected(
        f"this is not a bank of labelled adapters: {what}", code="SIZE-BANK", got=got,
        allowed="finite spectra, one size and one concept per adapter, two sizes or more",
        fix="make it with `peftlab size farm`, or from adapters whose sizes you know",
    )  # fmt: skip


def _check(bank: SpectraBank) -> None:
    count, sizes = len(bank.names), np.asarray(bank.sizes)
    total = sum(np.size(values) for values in bank.matrices.values())
    if count > MOST_ADAPTERS or len(bank.layers) > MOST_LAYERS or total > MOST_NUMBERS:
        raise ResourceLimit(
            "the bank is too large", code="SIZE-LARGE",
            got=f"{count} adapters, {len(bank.layers)} layers, {total:,} numbers",
            allowed=f"{MOST_ADAPTERS}, {MOST_LAYERS}, {MOST_NUMBERS:,}", fix="use fewer adapters",
        )  # fmt: skip
    if not bank.matrices or not bank.layers:
        raise broken("it has no layers")
    if sizes.shape != (count,) or sizes.dtype.kind not in "iu":
        raise broken("sizes and concepts differ in number", f"{sizes.shape} and {count}")
    if count and not 0 <= sizes.min() <= sizes.max() <= MOST_SIZE:
        raise broken("a size is negative or huge", f"{sizes.min()} to {sizes.max()}")
    if len(np.unique(sizes)) < 2:
        raise broken("it knows fewer than two sizes", sorted(set(sizes.tolist())))
    for name, values in bank.matrices.items():
        _check_matrix(bank, name, values)
    if not bank.kinds:
        raise broken("its layers have no kind of matrix in common")


def _check_matrix(bank: SpectraBank, name: str, values: Floats) -> None:
    layer, _, kind = name.rpartition("/")
    if layer not in bank.layers or kind not in KINDS:
        raise broken("a matrix belongs to no layer", name)
    shape = bank.layers[layer]
    width = values.shape[1] if kind == "M" and values.ndim == 2 else shape.rank
    if values.shape != (len(bank), width):
        raise broken(f"{name} has another shape than it should", values.shape)
    if not np.isfinite(values).all():
        raise broken(f"{name} holds values that are not finite")
    if kind != "M" and (values < 0).any():
        raise broken(f"{name} holds negative singular values")
