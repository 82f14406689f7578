"""Text classification data from the Hugging Face hub: ``hf:NAME[:CONFIG][@REVISION]``.

Uses the ``datasets`` package (extra ``peftlab[hub]``); no code from the hub is ever run. Pin a
revision (a commit) in anything you publish: a name alone can change under you.

Where the test split is missing or its labels are hidden (-1, as GLUE has it), the validation split
serves as test and dev is held out of train; the task's notes say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from peftlab.core.errors import BackendMissing, ConfigError, InputRejected
from peftlab.core.options import Options, option
from peftlab.core.registry import dataset
from peftlab.core.rows import LABEL_COLUMNS, Table, build_task
from peftlab.core.types import TaskData

_REFERENCE = re.compile(
    r"hf:(?P<name>[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?)"
    r"(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_DEV = ("validation", "dev", "valid", "val")


class HubOptions(Options):
    """Options of ``hf``."""

    text_column: str = option(
        "", "column with the texts; empty: text or sentence", source="ours", max_length=200
    )
    label_column: str = option(
        "", "column with the classes; empty: label or labels", source="ours", max_length=200
    )
    dev_share: float = option(
        0.1, "share of train held out when there is no dev split", source="ours", gt=0, lt=1
    )
    seed: int = option(0, "seed of the hold-out", source="ours", ge=0)


class HubSplit(Protocol):
    """What we use of ``datasets.Dataset``."""

    column_names: list[str]
    features: Mapping[str, Any]

    def __getitem__(self, column: str, /) -> Iterable[Any]:
        """Return a column."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the user typed, in parts."""

    name: str
    config: str | None
    revision: str | None


Fetch = Callable[[Reference], Mapping[str, HubSplit]]


def parse_reference(reference: str) -> Reference:
    """Split ``hf:NAME[:CONFIG][@REVISION]`` into its parts.

    Raises:
        ConfigError: ``DATA-NAME``.

    Examples:
        >>> parse_reference("hf:nyu-mll/glue:sst2@main")
        Reference(name='nyu-mll/glue', config='sst2', revision='main')
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            "this is not the name of a data set on the hub",
            code="DATA-NAME", got=reference[:200], allowed="hf:NAME[:CONFIG][@REVISION]",
            fix="write for example hf:stanfordnlp/sst2 or hf:nyu-mll/glue:sst2",
        )  # fmt: skip
    return Reference(match["name"], match["config"], match["revision"])


def fetch_from_hub(reference: Reference) -> Mapping[str, HubSplit]:
    """Return the splits of a data set on the hub (or in its local cache).

    Raises:
        BackendMissing: ``DATA-BACKEND`` without the ``datasets`` package.
        InputRejected: ``DATA-HUB`` if the hub cannot be reached or does not have it.
    """
    try:
        import datasets
    except ImportError:
        raise BackendMissing(
            "data from the hub needs the datasets package",
            code="DATA-BACKEND", fix='pip install "peftlab[hub]", or use a folder of files',
        ) from None  # fmt: skip
    try:
        splits: Mapping[str, HubSplit] = datasets.load_dataset(
            reference.name, reference.config, revision=reference.revision
        )
    except Exception as error:  # noqa: BLE001  the library lets errors of a dozen others through
        raise InputRejected(
            f"the hub did not give us {reference.name!r}",
            code="DATA-HUB", got=f"{type(error).__name__}: {error}"[:300],
            fix="check the name, the network and HF_HUB_OFFLINE; without a network, "
            "save the splits as files and give the folder instead",
        ) from None  # fmt: skip
    return splits


@dataset(
    "hf",
    options=HubOptions,
    source="huggingface/datasets",
    licence="as its card states",
    cost="a download at the first use",
)
class HubData:
    """Texts and labels from the Hugging Face hub, hf:NAME[:CONFIG][@REVISION]."""

    def __init__(self, options: HubOptions, fetch: Fetch = fetch_from_hub) -> None:
        self.options = options
        self._fetch = fetch

    def load(self, reference: str) -> TaskData:
        """Fetch the data set and map its splits and columns.

        Args:
            reference: ``hf:NAME[:CONFIG][@REVISION]``.

        Raises:
            ConfigError: ``DATA-NAME``.
            BackendMissing: ``DATA-BACKEND`` without the ``datasets`` package.
            InputRejected: ``DATA-HUB``, ``DATA-MISSING`` and the codes of ``core.rows``.
        """
        wanted = parse_reference(reference)
        splits = self._fetch(wanted)
        label_column = self.options.label_column
        chosen, notes = _choose(splits, (label_column,) if label_column else LABEL_COLUMNS)
        if wanted.revision is None:
            notes.append("no revision given: this data can change; pin one with @REVISION")
        return build_task(
            {split: _table(reference, part) for split, part in chosen.items()},
            name=reference,
            source=reference,
            licence="as its card states",
            text_column=self.options.text_column,
            label_column=label_column,
            label_names=_label_names(chosen["train"], label_column),
            dev_share=self.options.dev_share,
            seed=self.options.seed,
            notes=notes,
        )


def _choose(
    splits: Mapping[str, HubSplit], label_columns: tuple[str, ...]
) -> tuple[dict[str, HubSplit], list[str]]:
    """Return which hub split serves as train, dev and test, and remarks about it."""
    dev = next((splits[name] for name in _DEV if name in splits), None)
    test = splits.get("test")
    notes: list[str] = []
    if dev is not None and (test is None or _hidden(test, label_columns)):
        dev, test = None, dev
        notes.append("no labelled test split: the validation split serves as test")
    if "train" not in splits or test is None:
        raise InputRejected(
            "the data set lacks a train split, or both test and validation",
            code="DATA-MISSING", got=", ".join(splits) or "no splits",
            fix="save the splits that you want as files and give the folder instead",
        )  # fmt: skip
    chosen = {"train": splits["train"], "test": test}
    return ({**chosen, "dev": dev} if dev is not None else chosen), notes


def _hidden(split: HubSplit, label_columns: tuple[str, ...]) -> bool:
    """Return whether a split has no labels: no such column, or -1 throughout."""
    column = next((name for name in label_columns if name in split.column_names), None)
    return column is None or all(label == -1 for label in split[column])


def _label_names(split: HubSplit, label_column: str) -> tuple[str, ...] | None:
    """Return the class names that the features state, if they do."""
    for column in (label_column,) if label_column else LABEL_COLUMNS:
        names = getattr(split.features.get(column), "names", None)
        if names:
            return tuple(str(name) for name in names)
    return None


def _table(where: str, split: HubSplit) -> Table:
    columns = list(split.column_names)
    rows = list(zip(*(split[column] for column in columns), strict=True))
    return Table(where, tuple(name.strip() for name in columns), rows, range(1, len(rows) + 1))
