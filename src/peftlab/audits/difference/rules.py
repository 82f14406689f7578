"""What can be odd about a comparison with a base, and the options that decide when it is."""

from __future__ import annotations

from peftlab.core.findings import Severity, rule
from peftlab.core.options import Options, option

ROWS = rule(
    "DIFF-EMBEDDING-ROWS", Severity.MEDIUM, "a few rows alone differ in a table of words",
    why="a trigger word can be planted so without any other trace",
    fix="find out which words the rows stand for; use the base's rows if nobody can say why",
)  # fmt: skip
OUTLIERS = rule(
    "DIFF-ROWS", Severity.LOW, "a few rows of a table of words moved much further than all others",
    why="words that were trained in a way of their own look like this; so do very frequent ones",
    fix="find out which words the rows stand for",
)  # fmt: skip
FEW = rule(
    "DIFF-FEW", Severity.LOW, "only one or two tensors of the base were changed",
    why="that is an edit, not a fine-tune", fix="ask what was edited, and how",
)  # fmt: skip
ADDED = rule(
    "DIFF-ADDED", Severity.MEDIUM, "a tensor that the base does not have",
    why="it belongs to another model, or carries data", fix="ask what it is for",
)  # fmt: skip
MISSING = rule(
    "DIFF-MISSING", Severity.LOW, "tensors of the base are missing",
    why="a library fills them with random numbers, without an error",
    fix="get the whole checkpoint",
)  # fmt: skip
SHAPE = rule(
    "DIFF-SHAPE", Severity.MEDIUM, "a tensor has another shape than in the base",
    why="the checkpoint is of another model", fix="name the base that it was tuned from",
)  # fmt: skip
LARGE = rule(
    "DIFF-LARGE", Severity.LOW, "a change is larger than the weight it is added to",
    why="the base's part in the layer is drowned: it was overwritten rather than tuned",
    fix="check base and scale; ask how it was trained",
)  # fmt: skip
BASE = rule(
    "DIFF-BASE", Severity.MEDIUM, "nothing of the artefact is found in the base",
    why="nothing could be compared", fix="name the base that it was tuned from",
)  # fmt: skip
LOW_RANK = rule(
    "DIFF-LOW-RANK", Severity.INFO, "the largest changes are of low rank",
    why="a merged adapter or an edit, no full fine-tune", fix="ask which adapter was merged",
)  # fmt: skip


class DifferenceOptions(Options):
    """Options of the comparison with a base."""

    rows: int = option(
        16, "most rows of a table of words that are a few", source="ours (EP: 1, SOS: about 5)",
        ge=1, le=10_000,
    )  # fmt: skip
    rows_share: float = option(
        0.01, "most of the rows, as a share, that are a few", source="ours", gt=0, le=0.5
    )
    far: float = option(
        5.0,
        "times the median of the moved rows that is much further",
        source="ours: 2.5 at most in two fine-tunes of the built-in encoder, 6.9 by EP, 22 by SOS",
        gt=1,
    )
    large: float = option(
        1.0, "size of a change over that of its weight above which it is large", source="ours", gt=0
    )
    ranked: int = option(
        5, "changes, from the largest, whose rank is measured", source="ours", ge=0, le=1000
    )
    listed: int = option(200, "most rows of the tables", source="ours", ge=1, le=100_000)
