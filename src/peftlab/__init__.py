"""peftlab: know what is in a fine-tune before you ship it.

    import peftlab
    data = peftlab.load_data("reviews")
    guard = peftlab.Guard.fit("builtin:encoder", data, "psim", {"alpha": 0.05})
    guard.score(["a text to judge"]).flagged
    peftlab.audit("adapter/", against="builtin:encoder").ok("high")

Everything here is imported when it is first used, so that ``import peftlab`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from peftlab.core.errors import PeftlabError
    from peftlab.core.prompt import Prompt
    from peftlab.core.registry import attack, dataset, defence, entries, get, tuner
    from peftlab.engine.audit import AuditReport, audit
    from peftlab.engine.bench import run_recipe
    from peftlab.engine.evaluate import evaluate_guard, evaluate_victim
    from peftlab.engine.generation_guard import PsimGeneration
    from peftlab.engine.guard import Guard
    from peftlab.engine.recipe import load_recipe, make_recipe
    from peftlab.engine.steps import load_data, make_poison, train_base, tune
    from peftlab.models.load import load_base, load_victim

_HOMES = {
    "PeftlabError": "core.errors",
    "Prompt": "core.prompt",
    "attack": "core.registry",
    "dataset": "core.registry",
    "defence": "core.registry",
    "entries": "core.registry",
    "get": "core.registry",
    "tuner": "core.registry",
    "AuditReport": "engine.audit",
    "audit": "engine.audit",
    "run_recipe": "engine.bench",
    "evaluate_guard": "engine.evaluate",
    "evaluate_victim": "engine.evaluate",
    "PsimGeneration": "engine.generation_guard",
    "Guard": "engine.guard",
    "load_recipe": "engine.recipe",
    "make_recipe": "engine.recipe",
    "load_data": "engine.steps",
    "make_poison": "engine.steps",
    "train_base": "engine.steps",
    "tune": "engine.steps",
    "load_base": "models.load",
    "load_victim": "models.load",
}

__all__ = [
    "AuditReport",
    "Guard",
    "PeftlabError",
    "Prompt",
    "PsimGeneration",
    "__version__",
    "attack",
    "audit",
    "dataset",
    "defence",
    "entries",
    "evaluate_guard",
    "evaluate_victim",
    "get",
    "load_base",
    "load_data",
    "load_recipe",
    "load_victim",
    "make_poison",
    "make_recipe",
    "run_recipe",
    "train_base",
    "tune",
    "tuner",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'peftlab' has no attribute {name!r}")
    return getattr(import_module(f"peftlab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
