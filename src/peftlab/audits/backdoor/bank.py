"""A bank of adapters that are known to be clean or backdoored, as statistics of their updates.

No weights are kept: five numbers of each low-rank update (``nn/lora_spectra``) cannot be turned
back into a working backdoor. No stack of full updates (PEFTGuard's input) is built: the statistics
come from the factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.errors import InputRejected
from peftlab.core.types import Bools, Floats
from peftlab.io.files import new_folder, read_json, write_json
from peftlab.io.header import read_header

if TYPE_CHECKING:
    from peftlab.io.adapter_layout import AdapterLayout
    from peftlab.io.artefact import Artefact

KIND = "backdoor"
ABOUT, ROWS = "bank.json", "statistics.safetensors"
NAMES = ("largest", "frobenius", "stable_rank", "entropy", "kurtosis")
MOST_BYTES = 2**26  # of the statistics: some 70 thousand adapters of 24 updates
TINY = 1e-12  # an update of zeros has a logarithm too


def statistics_of(artefact: Artefact, layout: AdapterLayout) -> Floats:
    """Return the five statistics of every update of an adapter, (P, 5), sizes as logarithms.

    Args:
        artefact: open, headers checked.
        layout: its P low-rank pairs, in order of layer names.

    Raises:
        InputRejected, ResourceLimit: from ``nn.lora_spectra``.
    """
    from peftlab.nn.factors import factors_of
    from peftlab.nn.lora_spectra import spectral_statistics

    rows = np.empty((len(layout.pairs), len(NAMES)))
    for row, pair in zip(rows, layout.pairs, strict=True):
        a, b = factors_of(artefact, pair)
        row[:] = spectral_statistics(a, b, pair.scale).row()
    # sizes and tails are ratios by nature: a doubled update is one step, not many
    rows[:, [0, 1, 4]] = np.log(rows[:, [0, 1, 4]] + TINY)
    return rows


@dataclass(frozen=True, slots=True)
class AdapterBank:
    """Statistics of N adapters of one shape.

    Attributes:
        rows: (N, P, 5), see ``statistics_of``.
        backdoored: (N,).
        layers: P names of layers, with the shape of each update: ``name (rows x columns)``.
        about: how the adapters were made: base, data, attacks, one entry an adapter.
    """

    rows: Floats
    backdoored: Bools
    layers: tuple[str, ...]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def save(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the bank as JSON and safetensors into a new folder."""
        from safetensors.numpy import save_file

        with new_folder(folder, overwrite=overwrite) as part:
            save_file({"rows": self.rows}, part / ROWS)
            write_json(part / ABOUT, {
                "kind": KIND, "layers": list(self.layers), "statistics": list(NAMES),
                "backdoored": self.backdoored.tolist(), "about": dict(self.about),
            })  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> AdapterBank:
        """Return the bank in a folder.

        Raises:
            InputRejected: ``BANK-KIND`` for another kind of bank, ``BANK-BROKEN``, or the codes of
                reading JSON and safetensors.
        """
        about = read_json(folder / ABOUT)
        if not isinstance(about, dict) or about.get("kind") != KIND:
            raise InputRejected(
                f"{folder} is no bank of clean and backdoored adapters", code="BANK-KIND",
                got=repr(about.get("kind") if isinstance(about, dict) else about)[:80],
                allowed=KIND, fix="make one with `peftlab bench bank`",
            )  # fmt: skip
        layers, labels = _all(about.get("layers"), str), _all(about.get("backdoored"), bool)
        rows = _read_rows(folder / ROWS)
        fits = rows.shape == (len(labels), len(layers), len(NAMES)) and rows.size > 0
        if not (fits and np.isfinite(rows).all() and isinstance(about.get("about"), dict)):
            raise InputRejected(
                f"{folder} is a damaged bank of adapters", code="BANK-BROKEN",
                got=f"statistics of shape {rows.shape}",
                fix="make it again with `peftlab bench bank`",
            )  # fmt: skip
        return cls(rows, np.array(labels, dtype=bool), tuple(layers), about["about"])


def _all(values: object, kind: type) -> list[Any]:
    """Return a list whose items are all of one type, and nothing of any other."""
    sound = isinstance(values, list) and all(type(value) is kind for value in values)
    return list(values) if sound and isinstance(values, list) else []


def _read_rows(path: Path) -> Floats:
    from safetensors.numpy import load_file

    entry = read_header(path).get("rows")
    if not entry or entry["dtype"] != "F64" or path.stat().st_size > MOST_BYTES:
        raise InputRejected(
            f"{path} does not hold the statistics of a bank", code="BANK-BROKEN",
            allowed=f"one F64 tensor called rows, at most {MOST_BYTES} bytes",
            fix="make it again with `peftlab bench bank`",
        )  # fmt: skip
    return np.asarray(load_file(path)["rows"], dtype=np.float64)


def layer_names(layout: AdapterLayout) -> tuple[str, ...]:
    """Return the names and shapes by which an adapter and a bank are matched."""
    return tuple(f"{pair.layer} ({pair.d_out} x {pair.d_in})" for pair in layout.pairs)


def stack(
    found: Sequence[tuple[Floats, bool]], layers: tuple[str, ...], about: Mapping[str, Any]
) -> AdapterBank:
    """Return the bank of adapters measured one by one."""
    rows = np.stack([row for row, _ in found])
    return AdapterBank(rows, np.array([bad for _, bad in found]), layers, about)
