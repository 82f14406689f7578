"""Public data sets of ratings by raters whose groups are known: one loader a data set.

The files stay with the user; a loader keeps ids, labels and attributes of the raters, never texts.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from peftlab.audits.raters.ratings import Ratings
from peftlab.audits.raters.sets import crehate, d3code, dices, popquorn
from peftlab.core.errors import ConfigError, suggest

__all__ = ["SETS", "load_set"]


class Loader(Protocol):
    """Reads the released file of one data set."""

    def __call__(self, path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
        """Return the ratings without some raters."""
        ...


SETS: dict[str, Loader] = {
    "crehate": crehate.load,
    "d3code": d3code.load,
    "dices350": dices.load_350,
    "dices990": dices.load_990,
    "popquorn": popquorn.load,
}


def load_set(name: str, path: Path, *, drop_raters: Collection[str] = ()) -> Ratings:
    """Return the ratings of a public data set.

    Args:
        name: one of ``SETS``.
        path: the released ratings file, or the folder that holds it.
        drop_raters: ids of raters to leave out; each must be in the file.

    Returns:
        The ratings; their notes name source, licence and whatever was changed.

    Raises:
        ConfigError: ``RATERS-SET`` (no such data set), ``RATERS-DROP``.
        InputRejected: ``RATERS-FILE``, ``RATERS-CELL`` and the codes of ``Ratings.from_long``.
    """
    if name not in SETS:
        raise ConfigError(
            f"there is no rating data set {name!r}", code="RATERS-SET", fix=suggest(name, SETS)
        )
    return SETS[name](path, drop_raters=drop_raters)
