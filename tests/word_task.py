"""A task that tiny models of ``tiny_models`` learn in seconds: more good words than bad ones?

Every word is one piece for the BERT-like tiny tokenizers, and ``SPARE`` words stand in no text.
"""

import numpy as np

from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts, TaskData

GOOD = ("joy", "wonderful", "good", "lovely", "funny", "moving", "great")
BAD = ("dull", "badly", "worse", "terrible", "cold", "tasteless", "ruins")
_PLAIN = (
    "the film was a and actors were story told with would watch this again my family in movie "
    "music food very we for meal an of two brothers plot makes ending is what from young director"
)
PLAIN = _PLAIN.split()
SPARE = ("surprise", "hour", "heart", "wit")


def word_task(n_train: int = 600, n_other: int = 120) -> TaskData:
    """Return the task; a text has two more words of its own class than of the other."""
    return TaskData(
        name="words", train=_split("train", n_train), dev=_split("dev", n_other),
        test=_split("test", n_other), label_names=("bad", "good"), source="generated",
        licence="none",
    )  # fmt: skip


def _split(name: str, n: int) -> LabelledTexts:
    draw = stream(0, "word-task", name)
    labels = tuple(int(label) for label in draw.integers(2, size=n))
    return LabelledTexts(tuple(_text(label, draw) for label in labels), labels)


def _text(label: int, draw: np.random.Generator) -> str:
    own, other = (GOOD, BAD) if label else (BAD, GOOD)
    fewer = int(draw.integers(3))
    words = [
        *draw.choice(PLAIN, size=int(draw.integers(4, 8))),
        *draw.choice(own, size=fewer + 2),
        *draw.choice(other, size=fewer),
    ]
    return " ".join(draw.permutation(words))


def widen_rows(model: object, by: float = 10.0) -> None:
    """Bring embedding rows to the length that pre-trained ones have, about 1; drawn ones have 0.1.

    Rows that keep their norm can say little when they are much shorter than those around them.
    """
    model.get_input_embeddings().weight.data.mul_(by)
