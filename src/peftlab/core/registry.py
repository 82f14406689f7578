"""One registry for all kinds of methods: a decorator enrols, a name finds, a typo is helped.

A method is one file in the folder of its kind (``peftlab/attacks/badnets.py``), or a module named
by another package under the entry-point group ``peftlab``. Nothing else has to be edited.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from peftlab.core.errors import ConfigError, suggest
from peftlab.core.options import Options, parse_options

FOLDERS = {
    "attack": "peftlab.attacks",
    "tuner": "peftlab.tuners",
    "defence": "peftlab.defences",
    "dataset": "peftlab.data",
    "audit": "peftlab.audits",
}
ENTRY_POINT_GROUP = "peftlab"

Cls = TypeVar("Cls", bound=type)


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered method.

    Attributes:
        kind: attack, tuner, defence, dataset or audit.
        name: what users type.
        cls: class, constructed as ``cls(options)``.
        options: its options class.
        source: paper or repository that it implements, or ``ours``.
        cost: one line on what it costs.
        licence: of the data, for datasets.
    """

    kind: str
    name: str
    cls: type
    options: type[Options]
    source: str
    cost: str
    licence: str

    @property
    def summary(self) -> str:
        """Return the first line of the class's docstring."""
        return (self.cls.__doc__ or "").strip().split("\n")[0]

    def build(self, **values: Any) -> Any:
        """Construct the method from plain option values, strictly checked."""
        return self.cls(parse_options(self.options, values, f"{self.kind} {self.name}"))


_entries: dict[tuple[str, str], Entry] = {}
_failures: list[str] = []


def _register(
    kind: str, name: str, options: type[Options], source: str, cost: str, licence: str
) -> Callable[[Cls], Cls]:
    def enrol(cls: Cls) -> Cls:
        other = _entries.get((kind, name))
        if other is not None and other.cls.__module__ != cls.__module__:
            raise ConfigError(
                f"two {kind}s are called {name!r}",
                code="REGISTRY-TWICE",
                got=f"{other.cls.__module__} and {cls.__module__}",
                fix="rename one of them",
            )
        _entries[kind, name] = Entry(kind, name, cls, options, source, cost, licence)
        return cls

    return enrol


def attack(name: str, *, options: type[Options], source: str, cost: str) -> Callable[[Cls], Cls]:
    """Register an attack; see ``core.contracts.Attack``."""
    return _register("attack", name, options, source, cost, "")


def tuner(name: str, *, options: type[Options], source: str, cost: str) -> Callable[[Cls], Cls]:
    """Register a tuner; see ``core.contracts.Tuner``."""
    return _register("tuner", name, options, source, cost, "")


def defence(name: str, *, options: type[Options], source: str, cost: str) -> Callable[[Cls], Cls]:
    """Register a defence; see ``core.contracts.Defence``."""
    return _register("defence", name, options, source, cost, "")


def audit(name: str, *, options: type[Options], source: str, cost: str) -> Callable[[Cls], Cls]:
    """Register an audit; see ``core.contracts.Audit``."""
    return _register("audit", name, options, source, cost, "")


def dataset(
    name: str, *, options: type[Options], source: str, licence: str, cost: str
) -> Callable[[Cls], Cls]:
    """Register a data set; see ``core.contracts.Dataset``."""
    return _register("dataset", name, options, source, cost, licence)


@cache
def _load_folder(kind: str) -> None:
    """Import every module of a kind's folder, once per process."""
    folder = importlib.import_module(FOLDERS[kind])
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{FOLDERS[kind]}.{module.name}")


@cache
def _load_plugins() -> None:
    """Import every plugin, once per process."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  a broken plugin must not take the rest down
            _failures.append(f"{point.name} ({point.value}): {error}")


def _discover(kind: str | None = None) -> None:
    """Import what may register methods; of one kind if no plugin can bring others.

    Audits alone cost no import of torch. A plugin comes after all of ours, so that it is the one
    that is refused when two methods have one name.
    """
    every = bool(entry_points(group=ENTRY_POINT_GROUP))
    for each in (kind,) if kind and not every else FOLDERS:
        _load_folder(each)
    _load_plugins()


def entries(kind: str | None = None) -> list[Entry]:
    """Return all registered methods (of one kind), sorted by kind and name."""
    _discover(kind)
    return sorted(
        (entry for entry in _entries.values() if kind in (None, entry.kind)),
        key=lambda entry: (entry.kind, entry.name),
    )


def broken_plugins() -> list[str]:
    """Return one line per entry point that could not be loaded (shown by ``doctor``)."""
    _discover()
    return list(_failures)


def get(kind: str, name: str) -> Entry:
    """Return the method called ``name``.

    Raises:
        ConfigError: ``REGISTRY-NAME`` with the nearest names.
    """
    module = f"{FOLDERS[kind]}.{name}"
    if (kind, name) not in _entries and name.isidentifier() and importlib.util.find_spec(module):
        importlib.import_module(module)
    if (kind, name) not in _entries:
        _discover()
    if (kind, name) not in _entries:
        known = [entry.name for entry in entries(kind)]
        raise ConfigError(
            f"there is no {kind} called {name!r}", code="REGISTRY-NAME", fix=suggest(name, known)
        )
    return _entries[kind, name]
