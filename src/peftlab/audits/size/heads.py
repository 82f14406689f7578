"""All heads by name. A head turns spectra into a size; see ``guess.Head`` for what it must do."""

from __future__ import annotations

from collections.abc import Callable

from peftlab.audits.size.discriminant import Discriminant
from peftlab.audits.size.guess import Head
from peftlab.audits.size.ordinal import Ordinal
from peftlab.audits.size.regression import Ridge
from peftlab.audits.size.votes import Nearest, Votes
from peftlab.core.errors import ConfigError, suggest

HEADS: dict[str, Callable[[], Head]] = {
    "vote": Votes,
    "median": lambda: Votes("median"),
    "mean": lambda: Votes("mean"),
    "frobenius": lambda: Votes(norms=True),
    "nearest": Nearest,
    "norm": lambda: Discriminant(norm=True),
    "ridge": Ridge,
    "log-ridge": lambda: Ridge(log=True),
    "lda": Discriminant,
    "ordinal": Ordinal,
}
ABOUT = {
    "vote": "each matrix votes for the size of its most similar one in the bank (published method)",
    "median": "median of the votes in place of their mode",
    "mean": "mean of the votes",
    "frobenius": "vote with the norm of each matrix in place of its spectrum (published baseline)",
    "nearest": "most similar adapter over all matrices at once",
    "norm": "mean log-norm of all matrices, one number an adapter",
    "ridge": "ridge regression on all spectra",
    "log-ridge": "ridge regression of log-size on log-spectra",
    "lda": "shrinkage LDA of log-spectra",
    "ordinal": "proportional-odds regression on log-spectra",
}


def make(name: str) -> Head:
    """Return a new head.

    Raises:
        ConfigError: ``SIZE-HEAD`` with the nearest names.

    Examples:
        >>> type(make("vote")).__name__
        'Votes'
    """
    if name not in HEADS:
        raise ConfigError(
            f"there is no head {name!r}", code="SIZE-HEAD", fix=suggest(name, HEADS)
        )  # fmt: skip
    return HEADS[name]()
