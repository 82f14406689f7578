"""POPQUORN, offensiveness: how offensive is a comment, by 262 raters like the US population.

Five points, 1 (not offensive at all) to 5. Its repository states no licence: the file may be read
where the user has it, and nothing of it ships here.

Source: Pei and Jurgens 2023, arXiv 2306.06826; the released file read at commit dbb118c2.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.sets.table import Source, locate, noted, read_columns, without

POPQUORN = Source(
    "POPQUORN offensiveness", "https://github.com/Jiaxin-Pei/Potato-Prolific-Dataset",
    "no licence found: use it where it is, do not pass it on", ("raw_data",),
)  # fmt: skip
LABELS = ("1", "2", "3", "4", "5")
ATTRIBUTES = ("gender", "race", "age", "occupation", "education")


def load(path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
    """Return the ratings of POPQUORN's offensiveness task.

    Args:
        path: ``dataset/offensiveness/raw_data.csv``, or its folder.
        drop_raters: ids to leave out.

    Raises:
        InputRejected: ``RATERS-FILE`` and the codes of ``table`` and ``Ratings.from_long``.
        ConfigError: ``RATERS-DROP``.
    """
    needed = ["instance_id", "user_id", "offensiveness", *ATTRIBUTES]
    columns = read_columns(locate(path, POPQUORN.files, POPQUORN), needed, POPQUORN)
    ratings = Ratings.from_long(
        columns, item="instance_id", rater="user_id", label="offensiveness", attrs=ATTRIBUTES,
        labels=LABELS,
    )  # fmt: skip
    return without(noted(ratings, [POPQUORN.note()], first=True), drop_raters, columns["user_id"])
