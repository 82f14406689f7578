"""A bank as a folder: ``bank.json`` (sizes, concepts, layers, recipe) and ``spectra.safetensors``.

A folder with ``*.parquet`` rows instead is read through ``rows``. Nothing in it is a pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from peftlab.audits.size.bank import MOST_SIZE, SpectraBank, broken
from peftlab.audits.size.features import Shape
from peftlab.core.errors import ConfigError, InputRejected, suggest
from peftlab.core.types import Floats
from peftlab.io.files import dump_json, read_json, write_atomic
from peftlab.io.header import read_header

SCHEMA, KIND = "peftlab.size-bank/1", "size"
ABOUT, SPECTRA = "bank.json", "spectra.safetensors"
JSON_LIMIT = 32 * 2**20  # bytes; 50,000 adapters with long names
BUILTIN = Path(__file__).parent / "banks"
PREFIX = "builtin:"


def builtin_banks() -> dict[str, Path]:
    """Return the banks that the package ships, by name, the plainest (shortest) name first."""
    if not BUILTIN.is_dir():
        return {}
    found = sorted(BUILTIN.iterdir(), key=lambda path: (len(path.name), path.name))
    return {path.name: path for path in found if is_bank(path)}


def is_bank(folder: Path) -> bool:
    """Tell whether a folder looks like a bank of this audit, without reading it."""
    return (folder / ABOUT).is_file() or any(folder.glob("*.parquet"))


def find(reference: str | Path) -> Path:
    """Return the folder of a bank: a path, or ``builtin:NAME``.

    Raises:
        ConfigError: ``SIZE-BANK-NAME`` for a name that is not shipped.
        InputRejected: ``SIZE-BANK`` for a folder that holds none.
    """
    text = str(reference)
    if text.startswith(PREFIX):
        name, known = text.removeprefix(PREFIX), builtin_banks()
        if name not in known:
            raise ConfigError(
                f"there is no built-in bank {name!r}", code="SIZE-BANK-NAME",
                fix=suggest(name, known),
            )  # fmt: skip
        return known[name]
    folder = Path(text)
    if not is_bank(folder):
        raise broken(f"{folder} has neither {ABOUT} nor *.parquet")
    return folder


def load(reference: str | Path) -> SpectraBank:
    """Return a bank; every number in it is checked.

    Raises:
        ConfigError: ``SIZE-BANK-NAME``.
        InputRejected: ``SIZE-BANK`` and the codes of ``io.files`` and ``io.header``.
    """
    folder = find(reference)
    if not (folder / ABOUT).is_file() or not (folder / SPECTRA).is_file():
        return SpectraBank.from_parquet(folder)
    about = read_about(folder)
    bank = SpectraBank(
        read_tensors(folder / SPECTRA, about["layers"]),
        np.asarray(about["sizes"], dtype=np.int64), tuple(about["names"]), about["layers"],
        about["recipe"], about["about"],
    )  # fmt: skip
    if bank.sha256 != about["sha256"]:
        raise broken(f"{SPECTRA} is not the one that {ABOUT} was written with")
    return bank


def read_about(folder: Path) -> dict[str, Any]:
    """Return what ``bank.json`` says, checked, with layers as ``Shape``; spectra stay unread.

    Raises:
        InputRejected: ``SIZE-BANK`` and the codes of ``io.files``.
    """
    found = read_json(folder / ABOUT, JSON_LIMIT)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise broken(f"{ABOUT} has another schema", _schema(found))
    sizes, names = found.get("sizes"), found.get("names")
    if not (_is_list(sizes, int) and _is_list(names, str) and len(sizes) == len(names)):
        raise broken(f"{ABOUT} has no sizes and names of one length")
    if any(abs(size) > MOST_SIZE for size in sizes):
        raise broken("a size is negative or huge")
    recipe, about = found.get("recipe"), found.get("about")
    if not isinstance(recipe, dict) or not isinstance(about, dict):
        raise broken(f"{ABOUT} has no recipe")
    return {
        "sizes": sizes, "names": names, "layers": _layers(found.get("layers")), "recipe": recipe,
        "about": about, "sha256": found.get("sha256"),
    }  # fmt: skip


def _schema(found: Any) -> str:
    return str(found.get("schema") if isinstance(found, dict) else type(found).__name__)[:80]


def _is_list(values: Any, kind: type) -> TypeGuard[list[Any]]:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _layers(listed: Any) -> dict[str, Shape]:
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise broken("a layer has no name")
        numbers = [entry.get(key) for key in Shape._fields]
        if not _is_list(numbers, int) or min(numbers) < 1:
            raise broken(f"layer {entry['name'][:80]} has no sound rank and widths", numbers)
        found[entry["name"]] = Shape(*numbers)
    if not found or len(found) < len(listed):
        raise broken("it has no layers, or one twice")
    return found


def write_files(bank: SpectraBank, folder: Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write the two files of a bank into a folder that is there.

    Args:
        bank: what to write.
        folder: where.
        extra: more keys for ``bank.json``.
    """
    from safetensors.numpy import save

    about = {
        "schema": SCHEMA,
        "kind": KIND,
        "sha256": bank.sha256,
        "recipe": dict(bank.recipe),
        "about": dict(bank.about),
        "layers": [{"name": name, **shape._asdict()} for name, shape in bank.layers.items()],
        "sizes": bank.sizes.tolist(),
        "names": list(bank.names),
        **(extra or {}),
    }
    tensors = {
        key: np.ascontiguousarray(bank.matrices[name])
        for key, name in _keys(bank.layers).items()
        if name in bank.matrices
    }
    write_atomic(folder / SPECTRA, save(tensors))
    write_atomic(folder / ABOUT, dump_json(about) + "\n")


def _keys(layers: Mapping[str, Shape]) -> dict[str, str]:
    """Return tensor names of the file (layers by number: a layer may be called anything)."""
    return {
        f"{number}.{kind}": f"{layer}/{kind}"
        for number, layer in enumerate(layers) for kind in ("A", "B", "BA", "M")
    }  # fmt: skip


def read_tensors(path: Path, layers: Mapping[str, Shape]) -> dict[str, Floats]:
    """Return the spectra of a file, once its header is sound.

    Raises:
        InputRejected: ``SIZE-BANK`` or ``TENSORS-HEADER``.
    """
    from safetensors.numpy import load_file

    header = read_header(path)
    keys = _keys(layers)
    for name, entry in header.items():
        if name != "__metadata__" and (name not in keys or entry["dtype"] != "F64"):
            raise broken(f"{path.name} holds something else than spectra", name)
    try:
        found = load_file(path)
    except Exception as error:
        raise InputRejected(
            f"{path.name} cannot be read", code="SIZE-BANK", got=str(error)[:200],
            fix="make or fetch the bank again",
        ) from error  # fmt: skip
    return {keys[name]: values for name, values in found.items()}
