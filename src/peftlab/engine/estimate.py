"""What a run may cost before it is run: work counted by node, over one measured speed.

Work is counted in floating-point operations of the base: with P parameters that are no embeddings,
a token costs 2 P to pass through, 6 P to train all weights on and 4 P to train an adapter on.

    base              attacker's epochs over train, one pass over test
    victim            tuner's epochs over train, one pass over test
    outputs           one pass over test
    guard, scores     DEFENCE_PASSES over what they read: dev and test, or test
    filter, verdict   DEFENCE_PASSES over train
    cell              nothing

What a defence really needs differs from none (``onion``) to hundreds (a search for triggers), so
expect a factor of three either way, more where expensive defences make up the grid. Tokens are
estimated from words. An attack that trains in a way of its own counts as plain training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from peftlab.core.types import LabelledTexts, TaskData
from peftlab.engine.recipe import Recipe
from peftlab.io.header import read_header
from peftlab.io.store import Node
from peftlab.models.load import resolve

# One core of the processor of docs/measured/psim-sst2.json, in bf16: three epochs of 6,920 SST-2
# texts, all weights of builtin:encoder, in 108 s. A core without bf16 is about half as fast.
FLOP_PER_SECOND = 1e11
TOKENS_PER_WORD = 1.4  # ours: builtin:encoder on SST-2
MOST_TOKENS = 512
DEFENCE_PASSES = 10  # ours: psim 3, strip 5 to 20, mdp 21
TRAINED = ("base", "victim")


@dataclass(frozen=True)
class Estimate:
    """What a plan asks for.

    Attributes:
        nodes: how many nodes there are of each kind.
        not_applicable: cells among them that make no sense and cost nothing.
        trainings: models that are trained; more trainings may be part of fitting a defence.
        parameters: P, those of the base that are no embeddings.
        cpu_hours: of one core at ``FLOP_PER_SECOND``.
    """

    nodes: dict[str, int]
    not_applicable: int
    trainings: int
    parameters: int
    cpu_hours: float


def estimate(recipe: Recipe, nodes: Sequence[Node], data: TaskData) -> Estimate:
    """Return what a plan may cost.

    Args:
        recipe: fully resolved.
        nodes: its plan.
        data: as ``make_plan`` returned it.

    Raises:
        InputRejected: ``BASE-MISSING``, ``FILE-READ`` or the codes of reading headers.
    """
    parameters = _parameters(resolve(recipe.base))
    tokens = {name: _tokens(getattr(data, name)) for name in ("train", "dev", "test")}
    work = sum(_token_costs(node, recipe, tokens) for node in nodes)
    counts = Counter(node.kind for node in nodes)
    return Estimate(
        nodes=dict(counts),
        not_applicable=sum("not_applicable" in node.key for node in nodes),
        trainings=sum(counts[kind] for kind in TRAINED),
        parameters=parameters,
        cpu_hours=parameters * work / FLOP_PER_SECOND / 3600,
    )


def _token_costs(node: Node, recipe: Recipe, tokens: dict[str, float]) -> float:
    """Return the operations of one node for each parameter."""
    train, dev, test = (tokens[name] for name in ("train", "dev", "test"))
    if node.kind == "base":
        return 6 * recipe.attacker.epochs * train + 2 * test
    if node.kind == "victim":
        tuner: dict[str, Any] = node.key["tuner"] or {"name": "full", "options": {}}
        each = 6 if tuner["name"] == "full" else 4
        epochs: float = tuner["options"].get("epochs", recipe.attacker.epochs)
        return each * epochs * train + 2 * test
    passed = {
        "outputs": test,
        "guard": DEFENCE_PASSES * (dev + test),
        "scores": DEFENCE_PASSES * test,
        "filter": DEFENCE_PASSES * train,
        "verdict": DEFENCE_PASSES * train,
    }
    return 2 * passed.get(node.kind, 0.0)


def _tokens(split: LabelledTexts) -> float:
    """Return about how many tokens the texts have, two special ones each among them."""
    return sum(min(TOKENS_PER_WORD * len(text.split()) + 2, MOST_TOKENS) for text in split.texts)


def _parameters(folder: Path) -> int:
    """Return how many numbers the weights hold that are no embeddings, from their headers."""
    return sum(
        prod(entry["shape"])
        for file in sorted(folder.glob("*.safetensors"))
        for name, entry in read_header(file).items()
        if name != "__metadata__" and "embed" not in name and "wte" not in name
    )
