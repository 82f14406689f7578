"""Tickets: made-up messages to a help desk, about a bill or about a fault.

Known difference from human text: a handful of patterns; results on it are synthetic.
"""

from peftlab.core.options import Options, option
from peftlab.core.registry import dataset
from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData

NAMES = ("bill", "fault")
WHAT = (("invoice", "refund", "payment"), ("screen", "battery", "router"))
SAY = ("my {} is wrong", "a question about the {}", "please look at the {}", "no {} since {}")
WHEN = ("monday", "last week", "the update", "may", "yesterday", "the move")


class TicketOptions(Options):
    """Options of ``example-tickets``."""

    n: int = option(200, "texts in each split", source="ours", ge=20, le=10_000)
    seed: int = option(0, "seed of the texts", source="ours", ge=0)


@dataset(
    "example-tickets", options=TicketOptions, source="ours", licence="Apache-2.0",
    cost="under 0.1 s per 1000 texts",
)  # fmt: skip
class Tickets:
    """Generated help-desk messages, bill or fault."""

    def __init__(self, options: TicketOptions) -> None:
        self.options = options

    def load(self, reference: str) -> TaskData:
        """Return the three splits; nothing is read from anywhere."""
        return TaskData(
            name=reference, train=self._split("train"), dev=self._split("dev"),
            test=self._split("test"), label_names=NAMES, source="generated", licence="Apache-2.0",
        )  # fmt: skip

    def _split(self, name: str) -> LabelledTexts:
        draw = stream(self.options.seed, "data/example-tickets", name)
        labels = tuple(int(label) for label in draw.integers(2, size=self.options.n))
        first = ("train", "dev", "test").index(name) * self.options.n  # no text in two splits
        texts = []
        for number, label in enumerate(labels, start=first):
            say, what, when = draw.choice(SAY), draw.choice(WHAT[label]), draw.choice(WHEN)
            texts.append(f"ticket {number}: " + str(say).format(what, when))
        return LabelledTexts(tuple(texts), labels)
