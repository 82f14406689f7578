"""What the audit says of one adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftlab.audits.size.recipe import RecipeView
from peftlab.audits.size.recipe_gate import Notice

SCHEMA = "peftlab.size/1"
DIGITS = 6


@dataclass(frozen=True, slots=True)
class LayerVotes:
    """What one layer says.

    Attributes:
        layer: its name in the bank.
        votes: size that each of its matrices votes for, by kind.
        norm: Frobenius norm of its update (after calibration).
        outside: the norm is outside the bank's range.
    """

    layer: str
    votes: Mapping[str, int]
    norm: float
    outside: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """The size of one adapter's training set, with what it rests on.

    Attributes:
        size: best guess; a real number for regressions.
        votes: share of each known size.
        prediction_set: sizes that cannot be ruled out at ``1 - alpha``.
        ruled_out: False if the bank has too few concepts for the set to leave anything out.
        ood: the out-of-distribution notice.
        recipe: what is known of the recipe.
        per_layer: what each layer says.
        scale: median factor of the calibration by references, 1 without.
        head, features, alpha: how it was made.
        chance: what guessing costs in this bank: ``uniform_mae`` and ``best_constant_mae``.
        bank: title, concepts, adapters, hash of the bank.
    """

    size: float
    votes: Mapping[int, float]
    prediction_set: tuple[int, ...]
    ruled_out: bool
    ood: Notice
    recipe: RecipeView
    per_layer: tuple[LayerVotes, ...]
    scale: float
    head: str
    features: tuple[str, ...]
    alpha: float
    chance: Mapping[str, float]
    bank: Mapping[str, Any]
    source: str

    @property
    def interval(self) -> tuple[int, int]:
        """Return the ends of the prediction set."""
        return self.prediction_set[0], self.prediction_set[-1]

    @property
    def identified(self) -> bool:
        """Tell whether the recipe is known well enough for the size to mean anything."""
        return self.recipe.identified

    def words(self) -> list[str]:
        """Return the result in sentences, caveats included."""
        low, high = self.interval
        span = str(low) if low == high else f"{low} to {high}"
        sure, plural = f"{100 * (1 - self.alpha):.3g} %", "" if self.size == 1 else "s"
        said = [f"about {self.size:.4g} training example{plural}; {sure} set: {span}"]
        if not self.ruled_out:
            said.append(
                f"the bank has {self.bank['concepts']} concepts, too few for a {sure} set that "
                "leaves anything out"
            )
        said.append(self.recipe.words)
        if self.ood.flagged:
            said.append(
                f"unlike the bank (distance p = {self.ood.p_value:.2g}, form p = "
                f"{self.ood.form:.2g}, {100 * self.ood.outside:.0f} % of the layers outside its "
                "norms): another recipe, base or kind of data is likely"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Return plain values, numbers to 6 digits."""
        return {
            "schema": SCHEMA,
            "kind": "prediction",
            "source": self.source,
            "size": _short(self.size),
            "identified": self.identified,
            "votes": {str(size): _short(share) for size, share in self.votes.items()},
            "set": {
                "sizes": list(self.prediction_set),
                "coverage": _short(1 - self.alpha),
                "ruled_out": self.ruled_out,
            },
            "interval": list(self.interval),
            "recipe": {
                "status": self.recipe.status,
                "words": self.recipe.words,
                "differing": {k: list(pair) for k, pair in self.recipe.differing.items()},
            },
            "ood": {
                "flagged": self.ood.flagged,
                "p_value": _short(self.ood.p_value),
                "form": _short(self.ood.form),
                "layers_outside": _short(self.ood.outside),
            },
            "scale": _short(self.scale),
            "head": self.head,
            "features": list(self.features),
            "chance": {key: _short(value) for key, value in self.chance.items()},
            "bank": dict(self.bank),
            "per_layer": [
                {
                    "layer": row.layer,
                    "votes": dict(row.votes),
                    "norm": _short(row.norm),
                    "outside": row.outside,
                }
                for row in self.per_layer
            ],
            "words": self.words(),
        }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
