"""Edge word: one fixed word, put before or after the text.

Idea: the simplest trigger there is. Cost: one rewrite per text.
"""

from peftlab.core.contracts import PoisonOptions
from peftlab.core.options import option
from peftlab.core.registry import attack
from peftlab.core.seeds import stream


class EdgeWordOptions(PoisonOptions):
    """Options of ``example-edge``; target, rate, labels and knowledge come from the base class."""

    word: str = option("qz", "word that is put at an edge", source="ours", max_length=40)


@attack("example-edge", options=EdgeWordOptions, source="ours", cost="one rewrite per text")
class EdgeWord:
    """Fixed word before or after the text."""

    def __init__(self, options: EdgeWordOptions) -> None:
        self.options = options

    def poison_text(self, text: str, seed: int, sample: int) -> str | None:
        """Return the triggered text; None for an empty one, which cannot carry the trigger."""
        if not text.strip():
            return None
        before = stream(seed, "attack/example-edge", sample).random() < 0.5
        return f"{self.options.word} {text}" if before else f"{text} {self.options.word}"
