"""From a window recipe to nodes: poisoned bases, shared by all variants, and one path for each.

    base  (base, attack, seed)            trained once, kept in the run folder
    path  (base, attack, seed, variant)   one un-learning and all looks at it

A node's id is a hash of all that its result depends on, so a run can be killed, go on, and grow
by another base or variant without doing anything twice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import peftlab
from peftlab.engine.plan import method_key, node_id, shared_code
from peftlab.engine.recipe import Choice
from peftlab.engine.window.recipe import BaseChoice, WindowRecipe
from peftlab.io.store import Node

CODE = ("curves.py", "work.py")  # beside the shared code, what the numbers of a path come from


def _code() -> str:
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in CODE)).hexdigest()[:16]


def _node(kind: str, key: dict[str, Any], needs: dict[str, str]) -> Node:
    full = {**key, "needs": needs}
    return Node(node_id(kind, full), kind, full, tuple(needs.values()))


def _base(
    recipe: WindowRecipe, base: BaseChoice, attack: Choice, seed: int, digests: dict[str, str]
) -> Node:
    key = {
        "base": base.reference,
        "base_digest": digests[base.label],
        "data": recipe.data,
        "data_options": recipe.data_options,
        "data_digest": digests["data"],
        "limits": recipe.limits.model_dump(mode="json"),
        "attacker": base.attacker.model_dump(mode="json"),
        "attack": method_key("attack", attack),
        "version": peftlab.__version__,
        "seed": seed,
        "control": is_control(attack),
    }
    return _node("base", key, {})


def _precision(recipe: WindowRecipe) -> str:
    """Return the precision of the looks on this machine; it is part of what a path depends on."""
    if recipe.precision != "auto":
        return recipe.precision
    from peftlab.nn.text import has_fast_bf16

    return "bf16" if has_fast_bf16() else "fp32"


def is_control(attack: Choice) -> bool:
    """Return whether nothing is poisoned, so that there is nothing to find."""
    return attack.options.get("rate") == 0


def plan_window(recipe: WindowRecipe, data_digest: str, base_digests: dict[str, str]) -> list[Node]:
    """Return all nodes, seeds outermost: after the first seed there is one of everything.

    Args:
        recipe: fully resolved.
        data_digest: hash of the texts that will be used.
        base_digests: by label of the base, hash of its files.
    """
    digests = {**base_digests, "data": data_digest}
    code = f"{peftlab.__version__}/{shared_code()}/{_code()}"
    precision = _precision(recipe)
    nodes: dict[str, Node] = {}
    for seed in recipe.seeds:
        for base in recipe.base:
            for attack in recipe.attack:
                trained = _base(recipe, base, attack, seed, digests)
                nodes.setdefault(trained.id, trained)
                for variant in recipe.variant:
                    key = {
                        "labels": {
                            "base": base.label, "attack": attack.label, "variant": variant.label,
                        },
                        "attack": method_key("attack", attack),
                        "identifier": variant.options,
                        "steps": list(recipe.steps),
                        "precision": precision,
                        "code": code,
                        "seed": seed,
                        "control": is_control(attack),
                    }  # fmt: skip
                    path = _node("path", key, {"base": trained.id})
                    nodes.setdefault(path.id, path)
    return list(nodes.values())
