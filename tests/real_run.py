"""A small real grid, run in a process that a test may kill.

Loading this module loads the heavy libraries too, so that a fork server starts runs at once.
"""

import hashlib
import json
from pathlib import Path

import peft  # noqa: F401  loaded before the fork
import torch
import transformers  # noqa: F401

from peftlab.engine.bench import run_recipe
from peftlab.engine.recipe import make_recipe

RECIPE = {
    "name": "real",
    "seeds": [0],
    "attacker": {"epochs": 0.3},
    "attack": [{"name": "badnets"}],
    "tuner": [{"name": "lora", "options": {"epochs": 0.3}}],
    "defence": [
        {"name": "none"},
        {"name": "onion"},
        {"name": "psim", "options": {"checkpoints": (2, 4)}},
    ],
}


def go(out: str, base: str, data: str, workers: int) -> None:
    """Run the grid, or go on with it."""
    torch.set_num_threads(1)
    run_recipe(make_recipe({**RECIPE, "base": base, "data": data}), Path(out), workers=workers)


def content(out: Path) -> str:
    """Return everything that must be equal: results without cost and time, and what was judged."""
    results = json.loads((out / "results.json").read_text())
    results.pop("created")
    for cell in results["cells"]:
        cell.pop("cost")
    files = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("judged.json", "*.npy", "*.safetensors")
        for path in sorted((out / "nodes").rglob(pattern))
    }
    return json.dumps([results, files], indent=1)
