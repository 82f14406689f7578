"""What defences did that judge no inputs: filters of training sets, verdicts on models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from peftlab.core.ranking import auroc
from peftlab.report.read import Cell


@dataclass(frozen=True, slots=True)
class Filtering:
    """How one filter did over training sets; the victims' tuner does not change what it drops.

    Attributes:
        defence: its name.
        caught: share of the poisoned rows that it dropped, mean over sets; None if never poisoned.
        lost: share of the clean rows that it dropped, mean over sets.
        auroc: of its ranking of the rows, mean over sets.
        sets: poisoned training sets.
    """

    defence: str
    caught: float | None
    lost: float | None
    auroc: float | None
    sets: int


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How one inspector did over models; the tuner does not change the base that it looks at.

    Attributes:
        defence: its name.
        poisoned, caught: poisoned models, and how many of them it called so.
        sound, accused: unpoisoned models, and how many of them it called poisoned.
        auroc: of its score, poisoned against unpoisoned; None if either is missing.
    """

    defence: str
    poisoned: int
    caught: int
    sound: int
    accused: int
    auroc: float | None

    @property
    def words(self) -> str:
        """Return what it said of the models, as a sentence."""
        said = f"{self.defence} called {self.caught} of {self.poisoned} poisoned models poisoned"
        if not self.sound:
            return f"{said}; no unpoisoned one was shown to it."
        return f"{said}, and {self.accused} of {self.sound} that are not."


def filterings(cells: Iterable[Cell]) -> list[Filtering]:
    """Return one summary per filter of training sets, in order of first appearance."""
    known = [cell for cell in cells if "filter_fpr" in cell.metrics and not cell.control]
    found = []
    for name in dict.fromkeys(cell.defence for cell in known):
        own = _once([cell for cell in known if cell.defence == name], lambda cell: cell.attack)
        caught, lost, ranked = (_mean(own, f"filter_{key}") for key in ("tpr", "fpr", "auroc"))
        found.append(Filtering(name, caught, lost, ranked, sets=len(own)))
    return found


def verdicts(cells: Iterable[Cell]) -> list[Verdicts]:
    """Return one summary per inspector of models, in order of first appearance."""
    known = [cell for cell in cells if "model_score" in cell.metrics]
    found = []
    for name in dict.fromkeys(cell.defence for cell in known):
        own = [cell for cell in known if cell.defence == name]
        poisoned = _once([cell for cell in own if not cell.control], lambda cell: cell.attack)
        # Controls of several attacks are mostly one and the same model.
        sound = _once([cell for cell in own if cell.control], lambda _: "")
        found.append(
            Verdicts(
                name, len(poisoned), _flagged(poisoned), len(sound), _flagged(sound),
                auroc(_scores(sound), _scores(poisoned)) if sound and poisoned else None,
            )
        )  # fmt: skip
    return found


def _once(cells: Sequence[Cell], what: Callable[[Cell], str]) -> list[Cell]:
    """Return one cell per thing that was judged: cells that differ in the tuner share it."""
    found: dict[tuple[object, ...], Cell] = {}
    for cell in cells:
        judged = tuple(
            value for key, value in sorted(cell.metrics.items())
            if key.startswith(("model_", "filter_"))
        )  # fmt: skip
        found.setdefault((cell.base, cell.data, what(cell), cell.seed, judged), cell)
    return list(found.values())


def _mean(cells: Sequence[Cell], metric: str) -> float | None:
    values = [cell.metrics[metric] for cell in cells if metric in cell.metrics]
    return sum(values) / len(values) if values else None


def _scores(cells: Sequence[Cell]) -> np.ndarray:
    return np.array([cell.metrics["model_score"] for cell in cells], dtype=np.float64)


def _flagged(cells: Sequence[Cell]) -> int:
    return sum(1 for cell in cells if cell.metrics.get("model_flagged"))
