"""One tree of errors; each says what is wrong, what was got, what is allowed and how to mend it.

    PeftlabError
    |-- ConfigError       a name, option, recipe or command line is wrong            exit 2
    |-- NotApplicable     the pieces asked for do not fit together                   exit 2
    |-- BackendMissing    an optional dependency is not installed                    exit 2
    |-- InputRejected     a file, folder or text from outside is refused             exit 3
    |-- ResourceLimit     disk, memory or a limit of ours ran out                    exit 4
    `-- RunFailed         the work itself failed (non-finite loss, a dead worker)    exit 5

Every error carries a stable code such as ``CAL-FEW``; ``docs/reference/errors.md`` lists them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from peftlab.core.printable import printable


class PeftlabError(Exception):
    """Base of all errors that peftlab raises on purpose.

    Args:
        what: what is wrong, in one line.
        code: stable code, upper case with a dash (``DATA-COLUMN``).
        got: what was received, if that helps.
        allowed: what would have been accepted.
        fix: what to do about it, imperative.
    """

    exit_code = 5

    def __init__(
        self,
        what: str,
        *,
        code: str,
        got: object | None = None,
        allowed: object | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.code, self.got, self.allowed, self.fix = what, code, got, allowed, fix
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message as shown to people: one summary line, then details.

        Names in it may come from outside, so nothing in it can steer a terminal.
        """
        lines = [f"{self.what} [{self.code}]"]
        if self.got is not None:
            lines.append(f"  got: {self.got}")
        if self.allowed is not None:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix is not None:
            lines.append(f"  to mend it: {self.fix}")
        return printable("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way back from a worker process."""
        return (
            _rebuild,
            (type(self), self.what, self.code, self.got, self.allowed, self.fix),
        )


def _rebuild(
    cls: type[PeftlabError],
    what: str,
    code: str,
    got: object | None,
    allowed: object | None,
    fix: str | None,
) -> PeftlabError:
    return cls(what, code=code, got=got, allowed=allowed, fix=fix)


class ConfigError(PeftlabError):
    """A name, an option, a recipe or the command line is wrong."""

    exit_code = 2


class NotApplicable(PeftlabError):
    """The method does not apply to this model, data or scenario."""

    exit_code = 2


class BackendMissing(PeftlabError):
    """An optional dependency is needed; the message names the extra to install."""

    exit_code = 2


class InputRejected(PeftlabError):
    """An artefact or a data file from outside is refused."""

    exit_code = 3


class ResourceLimit(PeftlabError):
    """Disk, memory or one of our own limits ran out."""

    exit_code = 4


class RunFailed(PeftlabError):
    """The work itself failed: a non-finite loss, memorised labels, a lost worker."""

    exit_code = 5


def suggest(name: str, known: Iterable[str]) -> str:
    """Return 'did you mean ...' for a misspelt name, or the sorted list of what is known.

    Examples:
        >>> suggest("badnet", ["badnets", "insent"])
        'did you mean badnets? (known: badnets, insent)'
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(names) or "none"
    return f"did you mean {' or '.join(near)}? (known: {listed})" if near else f"known: {listed}"
