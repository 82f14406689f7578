"""From a recipe to a graph of content-addressed nodes, so that shared work is done once.

    base   (attack, seed)       the poisoned base; without the attack at rate 0, so that all attacks
                                share one control
    victim (base, tuner)        the base after clean fine-tuning
    guard  (base, defence)      the fitted defence
    outputs (victim, attack)   the victim's answers to the attack's triggered texts
    scores  (guard, attack)    what the guard says of them
    filter  (base, defence)    which rows of a suspect training set a defence drops
    verdict (base, defence)    what a defence says of the base itself
    cell    (base, victim, guard, outputs, scores)   decisions and metrics

A defence that tunes in a way of its own, or that filters training data, has a victim of its own.
Where the training data is what nobody vouches for (``scenario = "data"``), the base node is the
sound base with all weights trained on that data: it is the victim without a tuner, and what
filters look at.

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
from itertools import product
from pathlib import Path
from typing import Any

import peftlab
from peftlab.core import registry
from peftlab.core.applicability import NONE, Pairing, why_not
from peftlab.core.contracts import stage_of
from peftlab.engine.recipe import Choice, Recipe
from peftlab.io.files import sha256_file
from peftlab.io.store import Node
from peftlab.models.load import fingerprint

__all__ = ["Node", "plan"]


# what every method computes with; a change there changes results as one in its own file does
SHARED = (
    "nn", "core/poisoning.py", "core/rule_paraphrase.py", "core/text_rules.py",
    "engine/calibrate.py", "engine/splits.py",
)  # fmt: skip


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


@cache
def _model_digest(folder: str, _stamp: tuple[tuple[str, int, int], ...]) -> str:
    """Return the hash of a model's files, once for each state of the folder."""
    return fingerprint(folder)


def _content(value: object) -> str:
    """Return the hash of the file or of the model that an option names; nothing if it is neither.

    os.path.isfile, unlike Path.is_file, says no to a trigger that is too long for a path.
    """
    if not (isinstance(value, str) and value):
        return ""
    if os.path.isfile(os.path.join(value, "config.json")):  # noqa: PTH113, PTH118
        files = (path for path in sorted(Path(value).iterdir()) if path.is_file())
        about = ((path.name, path.stat()) for path in files)
        stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in about)
        return _model_digest(value, stamp)
    named = Path(value).suffix and os.path.isfile(value)  # noqa: PTH113
    return sha256_file(Path(value)) if named else ""


def method_key(kind: str, choice: Choice) -> dict[str, Any]:
    """Return a method's identity; what an option names (file, model folder) counts with content."""
    key = {"name": choice.name, "options": choice.options, "code": _code(kind, choice.name)}
    found = {option: _content(value) for option, value in choice.options.items()}
    files = {option: digest for option, digest in found.items() if digest}
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
        if recipe.prompt is not None:  # no key without one, so that older runs resume
            key["prompt"] = recipe.prompt.model_dump(mode="json")
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

    def suspect_victim(
        self, source: dict[str, Any], tuner: Choice, needs: dict[str, str], defence: Choice | None
    ) -> str:
        """Add a model that is trained on suspect data, or on what a filter left of it.

        Without a tuner all weights are trained, as those of the base were.
        """
        if tuner.name == NONE and len(needs) == 1:
            return needs["base"]
        key = {**source, "tuner": None, "suspect": True}
        if tuner.name != NONE:
            key["tuner"] = method_key("tuner", tuner)
        if defence is not None:
            key["defence"] = method_key("defence", defence)
        return self._add("victim", key, needs)

    def cell(
        self, attack: Choice, tuner: Choice, defence: Choice, seed: int, *, control: bool
    ) -> None:
        """Add one cell of the grid and all that it needs; nothing where it makes no sense."""
        source = {"attack": method_key("attack", attack), "seed": seed, "control": control}
        labels = {"attack": attack.label, "tuner": tuner.label, "defence": defence.label}
        reason = _why_not(self.recipe, attack, tuner, defence, control=control)
        if reason:
            self._add("cell", {**source, "labels": labels, "not_applicable": reason}, {})
            return
        base = self.base(attack, seed, control=control)
        if self.recipe.scenario == "data":
            # at rate 0 the attacks differ in whose texts are trained on, and in nothing else
            origin: dict[str, Any] = {
                "knowledge": attack.options.get("knowledge"),
                "seed": seed,
                "control": True,
            }
            trained: dict[str, Any] = origin if control else source
            victim = self.suspect_victim(trained, tuner, {"base": base}, None)
        else:
            trained = {"seed": seed, "control": control}
            victim = self.victim(base, tuner, seed, control=control)
        needs = {"base": base, "victim": victim}
        needs["outputs"] = self._add("outputs", source, {"victim": victim})
        needs |= self._defended(base, trained, source, tuner, defence)
        self._add("cell", {**source, "labels": labels}, needs)

    def _defended(
        self, base: str, trained: dict[str, Any], source: dict[str, Any], tuner: Choice,
        defence: Choice,
    ) -> dict[str, str]:  # fmt: skip
        """Add what a defence does, by where it acts; return the roles that the cell reads."""
        if defence.name == NONE:
            return {}
        method = method_key("defence", defence)
        about = {"defence": method, "seed": source["seed"], "control": source["control"]}
        stage = stage_of(registry.get("defence", defence.name).cls)
        if stage == "model":
            return {"verdict": self._add("verdict", about, {"base": base})}
        if stage == "input":
            if _taints(source["attack"]["name"]) and not source["control"]:
                about["attack"] = source["attack"]
            guard = self._add("guard", about, {"base": base})
            return {"guard": guard, "scores": self._add("scores", source, {"guard": guard})}
        roles: dict[str, str] = {}
        if stage == "data":
            roles["filter"] = self._add("filter", {**trained, "defence": method}, {"base": base})
            needs = {"base": base, "filter": roles["filter"]}
            roles["defended"] = self.suspect_victim(trained, tuner, needs, None)
        elif self.recipe.scenario == "data":
            roles["defended"] = self.suspect_victim(trained, tuner, {"base": base}, defence)
        else:
            key = {**trained, "tuner": method_key("tuner", tuner), "defence": method}
            roles["defended"] = self._add("victim", key, {"base": base})
        roles["defended_outputs"] = self._add("outputs", source, {"victim": roles["defended"]})
        return roles


def _taints(attack: str) -> bool:
    """Return whether an attack puts texts of its own into the defender's clean data."""
    return hasattr(registry.get("attack", attack).cls, "taint")


def _why_not(
    recipe: Recipe, attack: Choice, tuner: Choice, defence: Choice, *, control: bool
) -> str:
    method = None if defence.name == NONE else registry.get("defence", defence.name).cls
    built = registry.get("attack", attack.name).build(**attack.options)
    return why_not(Pairing(built, tuner.name, method, recipe.scenario, control=control))


def _of_control(wanted: tuple[str, ...] | None, listed: tuple[Choice, ...]) -> list[Choice]:
    """Return what the control runs with; all of it if none of the wanted ones is in the grid."""
    chosen = [one for one in listed if wanted is None or one.label in wanted]
    return chosen or list(listed)


def _grid(recipe: Recipe) -> Iterator[tuple[Choice, bool, Choice, Choice, int]]:
    for attack in recipe.attack:
        # An attack at rate 0 is a control, whether or not the recipe asks for controls.
        poisons = attack.options.get("rate") != 0
        for control in ([False] if poisons else []) + (
            [True] if recipe.control or not poisons else []
        ):
            tuners, defences = list(recipe.tuner), list(recipe.defence)
            if control:
                tuners = _of_control(recipe.control_tuners, recipe.tuner)
                defences = _of_control(recipe.control_defences, recipe.defence)
            for tuner, defence, seed in product(tuners, defences, recipe.seeds):
                yield attack, control, tuner, defence, seed


def plan(recipe: Recipe, data_digest: str, base_digest: str) -> list[Node]:
    """Return all nodes of a recipe, each after what it needs, in the recipe's order.

    A node's ``key["needs"]`` names its needs by role: ``base`` for victims and guards; ``base``,
    ``victim`` (the base itself without a tuner), ``outputs``, and for cells what the defence adds:
    ``guard`` and ``scores``, or ``defended`` and ``defended_outputs`` with or without ``filter``,
    or ``verdict``. A cell that makes no sense needs nothing and has ``key["not_applicable"]``.
    ``key["control"]`` is True for everything at poisoning rate 0.

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
