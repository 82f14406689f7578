"""Adapters of a bank as folders that stock ``peft`` reads, for trying audits on them.

Those of ``tiny-lm`` load onto ``base_folder("tiny-lm")``, a stock ``OPTForCausalLM``. The denoiser
is no model of transformers, so its adapters can be audited but not loaded by ``peft``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peftlab.audits.size.farm.recipe import Backbone, FarmOptions
from peftlab.audits.size.rows import DOWN, SHAPES, UP
from peftlab.audits.size.rows import FILE as ROWS
from peftlab.core.errors import BackendMissing, ConfigError
from peftlab.io.files import new_folder, write_atomic, write_json

FOLDER = Path(__file__).parent / "bases"
Factor = NDArray[np.float32]
Adapter = dict[str, tuple[Factor, Factor]]  # layer -> A (r, d_in), B (d_out, r)


def base_folder(backbone: Backbone) -> Path:
    """Return the folder of a base's weights."""
    return FOLDER / backbone


def export_adapters(
    bank: str | Path, out: Path, rows: Sequence[int] | None = None, *, overwrite: bool = False
) -> list[Path]:
    """Write adapters of a bank as ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        bank: folder that ``size farm`` wrote, with ``adapters.parquet`` in it.
        out: a new folder; each adapter gets one in it, ``0000-concept-0000-size-1``.
        rows: which adapters; all of them unless named.
        overwrite: replace an old folder.

    Returns:
        The folders, in the order of ``rows``.

    Raises:
        ConfigError: ``FARM-FACTORS`` where the bank holds no adapters; ``FOLDER-EXISTS``.
        BackendMissing: ``DATA-BACKEND`` without pyarrow.
    """
    adapters, sizes, names, recipe = read_factors(Path(bank))
    picked = range(len(sizes)) if rows is None else rows
    titles = [f"{row:04d}-{names[row]}-size-{sizes[row]}" for row in picked]
    with new_folder(out, overwrite) as part:
        for row, title in zip(picked, titles, strict=True):
            (part / title).mkdir()
            write_adapter(part / title, adapters(row), recipe)
    return [Path(out) / title for title in titles]


def read_factors(bank: Path) -> tuple[Any, list[int], list[str], dict[str, Any]]:
    """Return a function of a row that gives its adapter; sizes; concepts; the recipe."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise BackendMissing(
            "rows of adapters need pyarrow", code="DATA-BACKEND",
            fix='pip install "peftlab[parquet]"',
        ) from None  # fmt: skip
    file = bank / ROWS
    if not file.is_file():
        raise ConfigError(
            f"{bank} holds spectra only, no adapters", code="FARM-FACTORS",
            fix="make the bank anew with `peftlab size farm`, with pyarrow installed",
        )  # fmt: skip
    table = pq.read_table(file)
    notes = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    shapes = notes[SHAPES]
    stacks = {
        column: table.column(column).combine_chunks().flatten().to_numpy()
        .astype(np.float32).reshape(-1, *shape) for column, shape in shapes.items()
    }  # fmt: skip
    layers = [column.removesuffix(DOWN) for column in shapes if column.endswith(DOWN)]

    def adapter(row: int) -> Adapter:
        return {layer: (stacks[layer + DOWN][row], stacks[layer + UP][row]) for layer in layers}

    recipe = notes["peftlab.recipe"]
    return adapter, table.column("label").to_pylist(), table.column("name").to_pylist(), recipe


def write_adapter(folder: Path, adapter: Adapter, recipe: Mapping[str, Any]) -> None:
    """Write one adapter into a folder that is there."""
    from safetensors.numpy import save

    tensors = {}
    for layer, (a, b) in adapter.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = np.ascontiguousarray(a)
        tensors[f"base_model.model.{layer}.lora_B.weight"] = np.ascontiguousarray(b)
    write_atomic(folder / "adapter_model.safetensors", save(tensors, {"format": "pt"}))
    is_lm = recipe["backbone"] == "tiny-lm"
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA", "task_type": "CAUSAL_LM" if is_lm else None,
            "base_model_name_or_path": recipe["backbone"], "revision": None,
            "inference_mode": True, "r": recipe["rank"], "lora_alpha": recipe["alpha"],
            "target_modules": sorted({layer.rsplit(".", 1)[1] for layer in adapter}),
            "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
            "init_lora_weights": True, "use_rslora": False, "use_dora": False,
            "modules_to_save": None,
        },
    )  # fmt: skip


def clean_adapters(
    out: Path, count: int, seed: int = 0, *, backbone: Backbone = "tiny-lm", steps: int = 60
) -> list[Path]:
    """Train honest adapters and write them as ``peft`` folders: what an audit must pass.

    Args:
        out: a new folder.
        count: how many.
        seed: of everything random.
        backbone: what is adapted.
        steps: of each; 200 adapters x 60 steps take some 6 s of one core.
    """
    from peftlab.audits.size.farm.run import run_farm

    options = FarmOptions(
        backbone=backbone, concepts=max(2, -(-count // 6)), seed=seed, steps=steps, seeds="own"
    )
    farm = run_farm(options)
    factors, recipe = farm.factors(), farm.recipe()
    titles = [f"{row:04d}" for row in range(count)]
    with new_folder(out) as part:
        for row, title in enumerate(titles):
            (part / title).mkdir()
            own = {layer: (a[row].numpy(), b[row].numpy()) for layer, (a, b) in factors.items()}
            write_adapter(part / title, own, recipe)
    return [Path(out) / title for title in titles]
