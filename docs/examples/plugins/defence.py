"""Unseen words: how many words of a text stand in none of the user's own clean texts.

Idea: a rare-word trigger is a word that nobody uses. Limits: blind to sentence and syntactic
triggers; a text on a new topic looks suspicious. Cost: no pass through the model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.core.contracts import FitContext, GuardOptions
from peftlab.core.options import option
from peftlab.core.registry import defence
from peftlab.core.types import Scores
from peftlab.io.files import read_json, write_json

FILE = "words.json"


class UnseenOptions(GuardOptions):
    """Options of ``example-unseen``; alpha, delta, sides and action come from the base class."""

    min_count: int = option(1, "texts that a known word stands in", source="ours", ge=1, le=1000)


@defence("example-unseen", options=UnseenOptions, source="ours", cost="no model pass")
class Unseen:
    """Counts words that no clean text has."""

    def __init__(self, options: UnseenOptions) -> None:
        self.options = options
        self.known: frozenset[str] = frozenset()

    def fit(self, context: FitContext) -> None:
        """Learn the words of the clean fit texts; the base is not needed."""
        counts: dict[str, int] = {}
        for text in context.fit.texts:
            for word in set(text.split()):
                counts[word] = counts.get(word, 0) + 1
        enough = self.options.min_count
        self.known = frozenset(word for word, count in counts.items() if count >= enough)

    def score(self, texts: Sequence[str]) -> Scores:
        """Return the number of unknown words of each text; larger is more suspicious."""
        counts = [sum(word not in self.known for word in text.split()) for text in texts]
        return Scores(np.array(counts, dtype=np.float64))

    def save(self, folder: Path) -> None:
        """Write the known words."""
        write_json(folder / FILE, sorted(self.known))

    def load(self, folder: Path, load_base: Callable[[], tuple[Any, Any]]) -> None:  # noqa: ARG002
        """Restore what ``save`` wrote."""
        self.known = frozenset(read_json(folder / FILE))
