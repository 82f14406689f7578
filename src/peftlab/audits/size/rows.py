"""The public data set's schema: one Parquet row per adapter, one list column per LoRA matrix.

    label   size of the training set          name   concept
    <layer>.lora.down   A, row by row         <layer>.lora.up   B, row by row

The shape of each matrix stands in the file's metadata, as JSON under ``SHAPES``; files without it
(nested lists, or the rank named) are read too. Optional columns: rank, alpha, lr, steps, batch,
seed, augment, base_sha256, loss_final.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.audits.size.bank import SpectraBank, broken
from peftlab.audits.size.features import Shape, factor_spectra
from peftlab.core.errors import BackendMissing, ConfigError, InputRejected
from peftlab.core.types import Floats

DOWN, UP = ".lora.down", ".lora.up"
SHAPES = "peftlab.shapes"  # metadata key: {column: [rows, columns]}
RECIPE = "peftlab.recipe"  # metadata key: what all rows share
ABOUT = "peftlab.about"
EXTRA = ("rank", "alpha", "lr", "steps", "batch", "seed", "augment", "base_sha256", "loss_final")
BATCH = 64  # rows that are held as factors at once
MOST_BYTES = 2**31  # of one batch, once unfolded
FILE = "adapters.parquet"


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BackendMissing(
            "rows of adapters need pyarrow", code="DATA-BACKEND",
            fix='pip install "peftlab[parquet]"',
        ) from None  # fmt: skip
    return pa, pq


def write_rows(
    path: Path, factors: Mapping[str, tuple[Any, Any]], sizes: Sequence[int],
    names: Sequence[str], *, columns: Mapping[str, Sequence[Any]] | None = None,
    recipe: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:  # fmt: skip
    """Write adapters in the public set's schema.

    Args:
        path: the file.
        factors: by layer: A (N, r, d_in) and B (N, d_out, r).
        sizes: N sizes.
        names: N concepts.
        columns: some of ``EXTRA``, N values each.
        recipe: what all rows share.
        about: title, source, licence.
        half: store float16 instead of float32.

    Raises:
        BackendMissing: ``DATA-BACKEND`` without pyarrow.
    """
    pa, pq = _pyarrow()
    data: dict[str, Any] = {
        "label": pa.array(np.asarray(sizes, dtype=np.int32)),
        "name": pa.array([str(name) for name in names]),
    }
    shapes = {}
    for layer, pair in factors.items():
        for ending, factor in zip((DOWN, UP), pair, strict=True):
            stack = np.asarray(factor, dtype=np.float16 if half else np.float32)
            shapes[layer + ending] = list(stack.shape[1:])
            width = int(np.prod(stack.shape[1:]))
            offsets = pa.array(np.arange(len(stack) + 1, dtype=np.int32) * width)
            data[layer + ending] = pa.ListArray.from_arrays(offsets, pa.array(stack.reshape(-1)))
    for key, values in (columns or {}).items():
        data[key] = pa.array(values)
    notes = {SHAPES: shapes, RECIPE: dict(recipe or {}), ABOUT: dict(about or {})}
    table = pa.table(data).replace_schema_metadata(
        {key: json.dumps(value, sort_keys=True) for key, value in notes.items()}
    )
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path, *, rank: int | None = None) -> SpectraBank:
    """Return a bank of a Parquet file or of all Parquet files of a folder, batch by batch.

    Args:
        path: ``*.parquet``, or a folder of shards.
        rank: r, where the files do not tell shapes.

    Raises:
        InputRejected: ``SIZE-BANK``, ``DATA-PARQUET``.
        ConfigError: ``SIZE-RANK`` if the shapes cannot be told without a rank.
        BackendMissing: ``DATA-BACKEND`` without pyarrow.
    """
    pa, _ = _pyarrow()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise broken(f"{path} holds no *.parquet")
    parts: list[SpectraPart] = []
    try:
        for file in files:
            parts += _read_file(file, rank)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise InputRejected(
            f"{path} holds no readable rows of adapters", code="DATA-PARQUET",
            got=str(error)[:200], fix="get the file again, or write it again",
        ) from None  # fmt: skip
    return _joined(parts)


class SpectraPart:
    """Spectra of some rows: what is left of a batch."""

    def __init__(
        self, batch: Any, pairs: Sequence[str], notes: Mapping[str, Any], rank: int | None
    ) -> None:
        self.sizes = [int(value) for value in batch.column("label").to_pylist()]
        self.names = [str(value) for value in batch.column("name").to_pylist()]
        own = {key: batch.column(key).to_pylist() for key in EXTRA if key in batch.schema.names}
        self.extra = {key: sorted(set(values), key=str) for key, values in own.items()}
        self.notes = notes
        scale = _scale(own, len(self.sizes))
        self.matrices: dict[str, Floats] = {}
        self.layers: dict[str, Shape] = {}
        for layer in pairs:
            a = _matrix(batch, layer + DOWN, notes.get(SHAPES, {}), rank, 0)
            b = _matrix(batch, layer + UP, notes.get(SHAPES, {}), rank, 1)
            self.layers[layer] = Shape(a.shape[1], a.shape[2], b.shape[1])
            for kind, values in factor_spectra(a, b, scale).items():
                self.matrices[f"{layer}/{kind}"] = values


def _scale(own: Mapping[str, Sequence[Any]], count: int) -> float | Floats:
    """Return alpha / r where both are told, else 1."""
    if "alpha" not in own or "rank" not in own:
        return 1.0
    pairs = zip(own["alpha"], own["rank"], strict=True)
    scales = [1.0 if a is None or not r else float(a) / float(r) for a, r in pairs]
    return np.array(scales).reshape(count)


def _read_file(path: Path, rank: int | None) -> Iterator[SpectraPart]:
    _, pq = _pyarrow()
    file = pq.ParquetFile(path)
    columns = file.schema_arrow.names
    notes = {
        key.decode(): json.loads(value)
        for key, value in (file.schema_arrow.metadata or {}).items()
        if key.decode() in {SHAPES, RECIPE, ABOUT}
    }
    pairs = [name.removesuffix(DOWN) for name in columns if name.endswith(DOWN)]
    lone = [layer for layer in pairs if layer + UP not in columns]
    if not pairs or lone or not {"label", "name"} <= set(columns):
        raise broken(f"{path.name} is not in the public set's schema", lone or columns[:6])
    # a small file can unfold to a huge table
    if (
        file.metadata.num_rows
        and _row_bytes(file) * min(BATCH, file.metadata.num_rows) > MOST_BYTES
    ):
        raise broken(f"{path.name} has rows that are too large", f"{_row_bytes(file)} bytes a row")
    wanted = ["label", "name", *(key for key in EXTRA if key in columns)]
    wanted += [layer + ending for layer in pairs for ending in (DOWN, UP)]
    for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
        yield SpectraPart(batch, pairs, notes, rank)


def _row_bytes(file: Any) -> int:
    about = file.metadata
    total = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    return int(total / max(about.num_rows, 1))


def _matrix(
    batch: Any, column: str, shapes: Mapping[str, Any], rank: int | None, rank_axis: int
) -> Any:
    """Return one column as (n, rows, columns)."""
    values = batch.column(column)
    if values.null_count:
        raise broken(f"{column} is missing in some rows")
    count, flat, outer = len(values), values.flatten(), None
    if hasattr(flat, "flatten") and str(flat.type).startswith(("list", "large_list", "fixed")):
        outer, flat = len(flat) // count, flat.flatten()
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32)
    shape = shapes.get(column)
    if shape is None and outer is not None:
        shape = [outer, len(numbers) // (count * outer)]
    if shape is None and rank is not None:
        width = len(numbers) // (count * rank)
        shape = [rank, width] if rank_axis == 0 else [width, rank]
    if shape is None:
        raise ConfigError(
            f"the shape of {column} stands nowhere in the file", code="SIZE-RANK",
            fix="say the rank of the adapters: SpectraBank.from_parquet(path, rank=8)",
        )  # fmt: skip
    if len(shape) != 2 or count * int(np.prod(shape)) != len(numbers):
        raise broken(f"{column} has lists of another length than {shape}")
    return numbers.reshape(count, *shape)


def _joined(parts: Sequence[SpectraPart]) -> SpectraBank:
    if not parts:
        raise broken("it has no rows")
    first = parts[0]
    if any(part.layers != first.layers for part in parts):
        raise broken("its files hold adapters of different layers or ranks")
    extra: dict[str, set[Any]] = {key: set() for key in first.extra}
    for part in parts:
        for key in extra:
            extra[key] |= set(part.extra.get(key, []))
    shared = {
        key: next(iter(values))
        for key, values in extra.items()
        if len(values) == 1 and key != "loss_final"
    }
    return SpectraBank(
        {name: np.concatenate([part.matrices[name] for part in parts]) for name in first.matrices},
        np.array([size for part in parts for size in part.sizes], dtype=np.int64),
        tuple(name for part in parts for name in part.names),
        first.layers,
        {**shared, **first.notes.get(RECIPE, {})},
        first.notes.get(ABOUT, {}),
    )
