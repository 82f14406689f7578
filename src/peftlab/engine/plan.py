"""From a recipe to a graph of content-addressed nodes, so that shared work is done once.

    base   (attack, seed)       the poisoned base; without the attack at rate 0, so that all attacks
                                share one control
    victim (base, tuner)        the base after clean fine-tuning
    guard  (base, defence)      the fitted defence
    outputs (victim, attack)   the victim's answers to the attack's triggered texts
    scores  (guard, attack)    what the guard says of them
    cell    (base, victim, guard, outputs, scores)   decisions and metrics

A node's id is the SHA-256 of all that its result depends on: its key, the ids of what it needs,
the data, the clean base and the source of its method.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import peftlab
from peftlab.core import registry
from peftlab.engine.recipe import NONE, Choice, Recipe
from peftlab.io.files import sha256_file
from peftlab.io.store import Node

__all__ = ["Node", "plan"]


# what every method computes with; a change there changes results as one in its own file does
SHARED = ("nn", "core/poisoning.py", "engine/calibrate.py", "engine/splits.py")


@cache
def shared_code() -> str:
    """Return a hash of the sources that every method computes with."""
    root, sha = Path(peftlab.__file__).parent, hashlib.sha256()
    for name in SHARED:
        for file in sorted((root / name).glob("*.py")) or [root / name]:
            sha.update(file.read_bytes())
    return sha.hexdigest()[:16]


@cache
def _code(kind: str, name: str) -> str:
    """Return the version of a method: the package's, its own file's and that of shared code."""
    file = inspect.getsourcefile(registry.get(kind, name).cls)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else "built in"
    return f"{peftlab.__version__}/{digest}/{shared_code()}"


def node_id(kind: str, key: dict[str, Any]) -> str:
    """Return the content address of a node."""
    text = json.dumps([kind, key], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def method_key(kind: str, choice: Choice) -> dict[str, Any]:
    """Return a method's identity; an option that names a file counts with the file's content."""
    key = {"name": choice.name, "options": choice.options, "code": _code(kind, choice.name)}
    # os.path.isfile, unlike Path.is_file, says no to a trigger that is too long for a path.
    files = {
        option: sha256_file(Path(value))
        for option, value in choice.options.items()
        if isinstance(value, str) and Path(value).suffix and os.path.isfile(value)  # noqa: PTH113
    }
    return {**key, "files": files} if files else key


@dataclass
class _Planner:
    """Collects nodes in the order in which they are first needed."""

    recipe: Recipe
    data_digest: str
    base_digest: str

    def __post_init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def _add(self, kind: str, key: dict[str, Any], needs: dict[str, str]) -> str:
        full = {**key, "needs": needs}
        node = Node(node_id(kind, full), kind, full, tuple(dict.fromkeys(needs.values())))
        self.nodes.setdefault(node.id, node)
        return node.id

    def base(self, attack: Choice, seed: int, *, control: bool) -> str:
        """Add the (un)poisoned base; at rate 0 nothing of the attack but its data source counts."""
        recipe = self.recipe
        key: dict[str, Any] = {
            "base": recipe.base,
            "base_digest": self.base_digest,
            "data": recipe.data,
            "data_options": recipe.data_options,
            "data_digest": self.data_digest,
            "limits": recipe.limits.model_dump(mode="json"),
            "attacker": recipe.attacker.model_dump(mode="json"),
            "version": peftlab.__version__,
            "seed": seed,
            "control": control,
        }
        if control:
            key["knowledge"] = attack.options.get("knowledge")
        else:
            key["attack"] = method_key("attack", attack)
        return self._add("base", key, {})

    def victim(self, base: str, tuner: Choice, seed: int, *, control: bool) -> str:
        """Add the fine-tune; without a tuner the base itself is the victim."""
        if tuner.name == NONE:
            return base
        key = {"tuner": method_key("tuner", tuner), "seed": seed, "control": control}
        return self._add("victim", key, {"base": base})

    def guard(self, base: str, defence: Choice, seed: int, *, control: bool) -> str | None:
        """Add the fitted defence, if there is one."""
        if defence.name == NONE:
            return None
        key = {"defence": method_key("defence", defence), "seed": seed, "control": control}
        return self._add("guard", key, {"base": base})

    def cell(
        self, attack: Choice, tuner: Choice, defence: Choice, seed: int, *, control: bool
    ) -> None:
        """Add one cell of the grid and all that it needs."""
        base = self.base(attack, seed, control=control)
        needs = {"base": base, "victim": self.victim(base, tuner, seed, control=control)}
        guard = self.guard(base, defence, seed, control=control)
        texts = {"attack": method_key("attack", attack), "seed": seed, "control": control}
        needs["outputs"] = self._add("outputs", texts, {"victim": needs["victim"]})
        if guard is not None:
            needs["guard"] = guard
            needs["scores"] = self._add("scores", texts, {"guard": guard})
        key = {
            **texts,
            "labels": {"attack": attack.label, "tuner": tuner.label, "defence": defence.label},
        }
        self._add("cell", key, needs)


def _control_tuners(recipe: Recipe) -> list[Choice]:
    """Return the tuners of the control; all of them if none of the listed ones is in the grid."""
    wanted = recipe.control_tuners
    chosen = [one for one in recipe.tuner if wanted is None or one.label in wanted]
    return chosen or list(recipe.tuner)


def _grid(recipe: Recipe) -> Iterator[tuple[Choice, bool, Choice, Choice, int]]:
    for attack in recipe.attack:
        # An attack at rate 0 is a control, whether or not the recipe asks for controls.
        poisons = attack.options.get("rate") != 0
        for control in ([False] if poisons else []) + (
            [True] if recipe.control or not poisons else []
        ):
            for tuner in _control_tuners(recipe) if control else recipe.tuner:
                for defence in recipe.defence:
                    for seed in recipe.seeds:
                        yield attack, control, tuner, defence, seed


def plan(recipe: Recipe, data_digest: str, base_digest: str) -> list[Node]:
    """Return all nodes of a recipe, each after what it needs, in the recipe's order.

    A node's ``key["needs"]`` names its needs by role: ``base`` for victims and guards; ``base``,
    ``victim`` (the base itself without a tuner), ``outputs``, and ``guard`` and ``scores`` (absent
    without a defence) for cells. ``key["control"]`` is True for everything at poisoning rate 0.

    Args:
        recipe: fully resolved.
        data_digest: hash of the texts that will be used (``TaskData.digest()``).
        base_digest: hash of the clean base's files.

    Raises:
        ConfigError: ``REGISTRY-NAME``.
    """
    planner = _Planner(recipe, data_digest, base_digest)
    for attack, control, tuner, defence, seed in _grid(recipe):
        planner.cell(attack, tuner, defence, seed, control=control)
    return list(planner.nodes.values())
