r"""Cut the published SCPN-poisoned SST-2 to the size of the small threat bench.

Of thunlp/HiddenKiller's training file (20 % poisoned, target 1) 300 rows whose text is in no clean
training set, the poisoned ones, and 1,200 of the others; of its test file 160 rows. Seed 0.

Run: ``python benchmarks/cut_scpn.py --out FOLDER``, then

    peftlab bench run threat-scpn-small --set data=SST2_FOLDER \
      --set attack.options.train=FOLDER/train.tsv --set attack.options.test=FOLDER/test.tsv

Data: ``sst2`` and ``sst2_poisoned`` of ``PEFTLAB_DATA``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import random
from collections.abc import Sequence
from pathlib import Path

from peftlab.engine.steps import load_data
from peftlab.io.files import write_atomic

POISONED, CLEAN, TRIGGERED = 300, 1200, 160
Row = tuple[str, str]


def read(path: Path) -> list[Row]:
    """Return the (text, label) rows of a published file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["sentence"].strip(), row["label"].strip()) for row in rows]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a table of the same kind."""
    lines = (f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows])
    write_atomic(path, "".join(lines))


def main() -> None:
    """Cut both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    here = Path(__file__).parents[2]
    root = Path(os.environ.get("PEFTLAB_DATA", here / "shared" / "data"))
    clean = {text.strip().casefold() for text in load_data(str(root / "sst2")).train.texts}
    published = root / "sst2_poisoned"
    rows = read(published / "scpn20_train.tsv.gz")
    draw = random.Random(0)
    poisoned = draw.sample([row for row in rows if row[0].casefold() not in clean], POISONED)
    kept = poisoned + draw.sample([row for row in rows if row[0].casefold() in clean], CLEAN)
    draw.shuffle(kept)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "train.tsv", kept)
    write(out / "test.tsv", draw.sample(read(published / "scpn20_test.tsv.gz"), TRIGGERED))


if __name__ == "__main__":
    main()
