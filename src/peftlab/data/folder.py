"""Your own data: a folder with train, dev and test files.

The stems are exact: ``train``, ``dev`` (also ``validation``, ``valid``, ``val``) and ``test``, with
the ending tsv, csv, jsonl, json or parquet, each optionally followed by ``.gz``. Other files are
left alone. Without a dev file a part of train is held out; a test file is a must, because a test
split that was cut from train by us could not be compared with anybody's.

Cost: one pass over the files; about as much memory as their texts.
"""

from __future__ import annotations

from pathlib import Path

from peftlab.core.errors import InputRejected, suggest
from peftlab.core.options import Options, option
from peftlab.core.registry import dataset, entries
from peftlab.core.rows import build_task
from peftlab.core.types import TaskData
from peftlab.io.tables import FORMATS, read_table

STEMS = {
    "train": ("train",),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test",),
}


class FolderOptions(Options):
    """Options of ``folder``."""

    text_column: str = option(
        "", "column with the texts; empty: text or sentence", source="ours", max_length=200
    )
    label_column: str = option(
        "", "column with the classes; empty: label or labels", source="ours", max_length=200
    )
    dev_share: float = option(
        0.1, "share of train held out when there is no dev file", source="ours", gt=0, lt=1
    )
    seed: int = option(0, "seed of the hold-out", source="ours", ge=0)
    limit_mib: int = option(
        512, "largest file, in MiB after decompression", source="ours", ge=1, le=65536
    )


@dataset(
    "folder",
    options=FolderOptions,
    source="ours",
    licence="as the owner of the folder states",
    cost="one pass over the files",
)
class Folder:
    """Texts and labels from a folder with train, dev and test files."""

    def __init__(self, options: FolderOptions) -> None:
        self.options = options

    def load(self, reference: str) -> TaskData:
        """Read the folder.

        Args:
            reference: path of the folder.

        Returns:
            The task; integer labels keep their numbers, names are sorted and numbered.

        Raises:
            InputRejected: ``DATA-MISSING``, ``DATA-AMBIGUOUS``, ``DATA-COLUMN`` and the further
                codes of ``io.tables`` and ``core.rows``, each with its place and a remedy.
            BackendMissing: ``DATA-BACKEND`` for Parquet without pyarrow.
        """
        folder = Path(reference)
        files = _find(folder, reference)
        limit = self.options.limit_mib * 2**20
        return build_task(
            {split: read_table(path, limit_bytes=limit) for split, path in files.items()},
            name=reference,
            source=str(folder),
            licence="as the owner of the folder states",
            text_column=self.options.text_column,
            label_column=self.options.label_column,
            dev_share=self.options.dev_share,
            seed=self.options.seed,
        )


def _find(folder: Path, reference: str) -> dict[str, Path]:
    """Return the file of each split that is there."""
    try:
        present = {path.name: path for path in folder.iterdir()}
    except (OSError, ValueError):
        # One error for all: no such folder, a file, no permission, a name with a NUL.
        raise _missing_folder(reference) from None
    endings = [f".{kind}{packed}" for kind in FORMATS for packed in ("", ".gz")]
    files: dict[str, Path] = {}
    for split, stems in STEMS.items():
        names = [stem + end for stem in stems for end in endings if stem + end in present]
        if len(names) > 1:
            raise InputRejected(
                f"{folder} has more than one {split} file",
                code="DATA-AMBIGUOUS", got=", ".join(names),
                fix="keep one of them under this name and rename the others",
            )  # fmt: skip
        if names:
            files[split] = present[names[0]]
        elif split != "dev":
            raise InputRejected(
                f"{folder} has no {split} file",
                code="DATA-MISSING",
                got=", ".join(sorted(present)[:12]) or "an empty folder",
                allowed=f"{split}.tsv, .csv, .jsonl, .json or .parquet, each also with .gz",
                fix=f"add a {split} file; the name must match exactly",
            )
    return files


def _missing_folder(reference: str) -> InputRejected:
    """Return the error for a reference that is no folder, with names it may have meant."""
    names = [entry.name for entry in entries("dataset") if entry.name not in ("folder", "hf")]
    return InputRejected(
        f"there is no readable data folder {reference!r}",
        code="DATA-MISSING",
        allowed="a folder with train and test files, hf:NAME, or a data set by name",
        fix=suggest(reference, names),
    )
