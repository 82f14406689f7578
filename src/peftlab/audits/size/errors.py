"""The one error of this audit that has an exit code of its own."""

from __future__ import annotations

from peftlab.core.errors import NotApplicable


class BankMismatch(NotApplicable):
    """The adapter has other layers, ranks or widths than the bank; exit code 4."""

    exit_code = 4
