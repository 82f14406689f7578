"""The folder loader: all formats, labels, splits, and an error for everything that is wrong."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core import registry
from peftlab.core.errors import BackendMissing, InputRejected
from peftlab.core.types import TaskData
from peftlab.data.folder import Folder, FolderOptions
from peftlab.io import tables

GOOD = "sentence\tlabel\na fine day\t1\na bad day\t0\n"
DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared" / "data"))


def load(folder: Path, **options) -> TaskData:
    return Folder(FolderOptions(**options)).load(str(folder))


def put(folder: Path, **files: str | bytes) -> Path:
    """Write files; ``train_tsv=...`` becomes train.tsv. Missing splits become good TSV files."""
    for key, content in files.items():
        name = key.replace("_", ".")
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    for split in ("train", "dev", "test"):
        if not any(key.startswith(split) for key in files):
            (folder / f"{split}.tsv").write_text(GOOD)
    return folder


def rejected(folder: Path, code: str, **options) -> str:
    with pytest.raises(InputRejected) as caught:
        load(folder, **options)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.fix
    return str(caught.value)


def write(path: Path, kind: str, rows: list[tuple[str, str | int]]) -> None:
    if kind == "tsv":
        data = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]).encode()
    elif kind == "csv":
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([("text", "label"), *rows])
        data = buffer.getvalue().encode()
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        texts, labels = zip(*rows, strict=True)
        pq.write_table(pa.table({"text": texts, "label": labels}), sink)
        data = sink.getvalue()
    else:
        objects = [{"text": text, "label": label} for text, label in rows]
        lines = "\n".join(json.dumps(row) for row in objects)
        data = (json.dumps(objects, indent=1) if kind == "json" else lines).encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=30)
NAMES = st.sampled_from(["good", "bad", "not sure", "ähnlich"])


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", tables.FORMATS)
def test_round_trip(kind, packed, tmp_path):
    @settings(max_examples=15, deadline=None)
    @given(st.data())
    def run(data):
        text = PLAIN if kind == "tsv" else TEXT
        label = data.draw(st.sampled_from([NAMES, st.sampled_from([0, 1])]))
        rows = data.draw(st.lists(st.tuples(text, label), min_size=2, max_size=8))
        rows += [("x", row) for row in (("good", "bad") if isinstance(rows[0][1], str) else (0, 1))]
        for split in ("train", "dev", "test"):
            write(tmp_path / f"{split}.{kind}{packed}", kind, rows)
        task = load(tmp_path)
        names = sorted({str(label) for _, label in rows})
        assert task.label_names == tuple(names)
        for part in (task.train, task.dev, task.test):
            assert part.texts == tuple(text for text, _ in rows)
            assert [task.label_names[number] for number in part.labels] == [
                str(label) for _, label in rows
            ]

    run()


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", tables.FORMATS)
def test_any_bytes_load_or_are_refused(kind, packed, tmp_path):
    put(tmp_path)
    (tmp_path / "train.tsv").unlink()

    @settings(max_examples=25, deadline=None)
    @given(
        st.binary(max_size=80)
        | st.text(st.sampled_from('text,label\t"\n\r{}[]:01é\x00\ud800'), max_size=80).map(
            lambda text: b"text\tlabel\n" + text.encode("utf-8", "surrogatepass")
        )
    )
    def run(data):
        raw = gzip.compress(data) if packed and len(data) % 2 else data
        (tmp_path / f"train.{kind}{packed}").write_bytes(raw)
        # Any other exception would come through and fail the test.
        with contextlib.suppress(InputRejected):
            load(tmp_path)

    run()


def test_damaged_parquet_is_refused(tmp_path):
    put(tmp_path)
    (tmp_path / "train.tsv").unlink()
    path = tmp_path / "train.parquet"
    write(path, "parquet", [("some text", 0), ("other text", 1)] * 20)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    rejected(tmp_path, "DATA-PARQUET")


def test_gluestyle_columns_and_ignored_files(tmp_path):
    head = "idx\t sentence \tlabel\n"
    put(tmp_path, train_tsv=head + '1\ta "good one\t1\r\n2\tbad\t0\r\n\n')
    (tmp_path / "train_big.tsv").write_text("nonsense")
    task = load(tmp_path)
    assert task.train.texts == ('a "good one', "bad")
    assert any("idx" in note for note in task.notes)


def test_names_are_numbered_alike_in_all_splits(tmp_path):
    put(
        tmp_path,
        train_jsonl='{"text": "a", "labels": "no"}\n{"text": "b", "labels": "yes"}\n',
        dev_jsonl='{"text": "c", "labels": "yes"}',
        test_csv='text,labels\n"d, d",yes\n',
    )
    task = load(tmp_path)
    assert task.label_names == ("no", "yes")
    assert (task.train.labels, task.dev.labels, task.test.labels) == ((0, 1), (1,), (1,))


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_other_names_of_dev(name, tmp_path):
    put(tmp_path, train_tsv=GOOD, test_tsv=GOOD)
    (tmp_path / "dev.tsv").rename(tmp_path / f"{name}.tsv")
    assert len(load(tmp_path).dev) == 2


@pytest.mark.parametrize(("n", "held_out"), [(10, 5), (400, 100), (3000, 300), (12000, 1000)])
def test_dev_is_held_out(n, held_out, tmp_path):
    put(tmp_path, train_tsv="text\tlabel\n" + "".join(f"t {i}\t{i % 2}\n" for i in range(n)))
    (tmp_path / "dev.tsv").unlink()
    task = load(tmp_path)
    assert (len(task.train), len(task.dev)) == (n - held_out, held_out)
    assert not set(task.train.texts) & set(task.dev.texts)
    assert any("held out" in note for note in task.notes)
    assert task.digest() == load(tmp_path).digest()
    assert task.digest() != load(tmp_path, seed=1).digest()


def test_hold_out_keeps_every_class_in_train(tmp_path):
    put(tmp_path, train_tsv="text\tlabel\n" + "a\t0\n" * 9 + "rare\t1\n")
    (tmp_path / "dev.tsv").unlink()
    assert set(load(tmp_path).train.labels) == {0, 1}
    put(tmp_path, train_tsv=GOOD)
    (tmp_path / "dev.tsv").unlink()
    rejected(tmp_path, "DATA-FEW")


def test_empty_and_very_long_texts_are_legal(tmp_path):
    long = "word " * 10_000
    task = load(put(tmp_path, train_tsv=f"text\tlabel\n\t0\n{long}\t1\n"))
    assert task.train.texts == ("", long)
    assert any("HYGIENE-EMPTY-TRAIN" in note for note in task.notes)
    assert any("HYGIENE-LONG-TRAIN" in note for note in task.notes)


def test_missing_folder_suggests(tmp_path):
    assert "did you mean reviews" in rejected(Path("review"), "DATA-MISSING")
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, tmp_path / "none", Path("a\0b")):
        rejected(path, "DATA-MISSING")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split(split, tmp_path):
    put(tmp_path)
    (tmp_path / f"{split}.tsv").rename(tmp_path / f"{split}_v2.tsv")
    assert f"{split}_v2.tsv" in rejected(tmp_path, "DATA-MISSING")


def test_two_files_for_one_split(tmp_path):
    put(tmp_path, train_tsv=GOOD, train_csv="text,label\n")
    assert "train.csv" in rejected(tmp_path, "DATA-AMBIGUOUS")
    put(tmp_path, val_csv="text,label\n")
    (tmp_path / "train.csv").unlink()
    assert "val.csv" in rejected(tmp_path, "DATA-AMBIGUOUS")


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("tsv", "phrase\tlabel\na\t0\n", "DATA-COLUMN", "phrase, label"),
        ("tsv", "text\tclass\na\t0\n", "DATA-COLUMN", "text, class"),
        ("tsv", "text\ttext\tlabel\na\ta\t0\n", "DATA-COLUMN", "twice"),
        ("tsv", "", "DATA-COLUMN", "no text column"),
        ("tsv", "text\tlabel\n", "DATA-EMPTY", "no rows"),
        ("json", "[]", "DATA-COLUMN", "none"),
        ("tsv", b"text\tlabel\ngood\t1\ncaf\xe9\t0\n", "DATA-ENCODING", "offset 21 (line 3)"),
        ("tsv", b"\xef\xbb\xbftext\tlabel\n\xff\t0\n", "DATA-ENCODING", "offset 14 (line 2)"),
        ("json", '[{"text": "\\ud800", "label": 0}]', "DATA-ENCODING", "row 1"),
        ("tsv", "text\tlabel\na\t0\nb\t0\n", "DATA-ONECLASS", "'0'"),
        ("tsv", "text\tlabel\na\t1\nb\t2\n", "DATA-LABEL", "0, 1"),
        ("tsv", "text\tlabel\na\t0\nb\t-1\n", "DATA-LABEL", "-1"),
        ("tsv", "text\tlabel\na\t0\nb\t\n", "DATA-LABEL", "line 3"),
        ("jsonl", '{"text": "a", "label": 0.5}', "DATA-LABEL", "line 1"),
        ("jsonl", '{"text": "a", "label": [0]}', "DATA-LABEL", "line 1"),
        ("jsonl", '{"text": "a", "label": NaN}', "DATA-LABEL", "line 1"),
        ("jsonl", '{"text": "a", "label": 1}\n{"text": null, "label": 0}', "DATA-TEXT", "line 2"),
        ("jsonl", '{"text": "a", "label": 1}\n{"label": 0}', "DATA-TEXT", "line 2"),
        ("jsonl", '{"text": 7, "label": 1}', "DATA-TEXT", "int"),
        ("jsonl", '{"text": "a", "label": 1}\n\n{"text"', "DATA-JSON", "line 3"),
        ("jsonl", "[1, 2]", "DATA-JSON", "list"),
        ("json", '["a"]', "DATA-JSON", "str"),
        ("json", "[" * 100_000, "DATA-JSON", "JSON"),
        ("tsv", "text\tlabel\na\t0\nb\tc\t1\n", "DATA-FIELDS", "line 3"),
        ("csv", "text,label\na,0\nb,c,1\n", "DATA-FIELDS", "line 3"),
        ("csv", 'text,label\n"a,0\n', "DATA-CSV", "csv"),
        ("csv", "text,label\n" + "x" * 200_000 + ",0\n", "DATA-CSV", "limit"),
    ],
)
def test_errors_of_a_file(name, content, code, says, tmp_path):
    put(tmp_path, **{f"train_{name}": content})
    assert says in rejected(tmp_path, code)


def test_many_labels_are_not_classes(tmp_path):
    rows = "".join(f"t\t{i}\n" for i in range(1500))
    put(tmp_path, train_tsv="text\tlabel\n" + rows)
    assert "1500 different" in rejected(tmp_path, "DATA-LABEL")


def test_label_unknown_to_train(tmp_path):
    put(tmp_path, test_tsv="text\tlabel\na\t0\nb\t2\n")
    assert "test.tsv, line 3" in rejected(tmp_path, "DATA-LABEL")


def test_column_options(tmp_path):
    bad = "phrase\tgrade\na\t0\nb\t1\n"
    put(tmp_path, train_tsv=bad, dev_tsv=bad, test_tsv=bad)
    assert load(tmp_path, text_column="phrase", label_column="grade").n_classes == 2
    rejected(tmp_path, "DATA-COLUMN", text_column="phrase")


def test_size_limits(tmp_path, monkeypatch):
    bomb = gzip.compress(b"text\tlabel\n" + b"a\t0\n" * 400_000)
    put(tmp_path, train_tsv_gz=bomb)
    assert len(bomb) < 10_000
    rejected(tmp_path, "DATA-LARGE", limit_mib=1)
    monkeypatch.setattr(tables, "LIMIT_ROWS", 1000)
    rejected(tmp_path, "DATA-LARGE")


def test_parquet_bomb(tmp_path):
    put(tmp_path)
    (tmp_path / "train.tsv").unlink()
    path = tmp_path / "train.parquet"
    write(path, "parquet", [("same long text " * 20, 0), ("other", 1)] * 10_000)
    assert path.stat().st_size < 100_000
    rejected(tmp_path, "DATA-LARGE", limit_mib=1)


def test_broken_gzip(tmp_path):
    put(tmp_path, train_tsv_gz=gzip.compress(GOOD.encode())[:-6])
    rejected(tmp_path, "DATA-READ")
    (tmp_path / "train.tsv.gz").write_bytes(b"not gzip")
    rejected(tmp_path, "DATA-READ")
    (tmp_path / "train.tsv.gz").unlink()
    (tmp_path / "train.tsv").mkdir()
    rejected(tmp_path, "DATA-READ")
    (tmp_path / "train.tsv").rmdir()
    os.mkfifo(tmp_path / "train.tsv")
    rejected(tmp_path, "DATA-READ")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    put(tmp_path, train_parquet=b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendMissing, match=r"peftlab\[parquet\]"):
        load(tmp_path)


def test_registered():
    entry = registry.get("dataset", "folder")
    assert entry.cls is Folder
    assert entry.summary


@pytest.mark.skipif(not (DATA / "sst2").is_dir(), reason=f"no SST-2 in {DATA} (PEFTLAB_DATA)")
def test_sst2():
    task = load(DATA / "sst2")
    assert [len(part) for part in (task.train, task.dev, task.test)] == [6920, 872, 1821]
    assert task.n_classes == 2
