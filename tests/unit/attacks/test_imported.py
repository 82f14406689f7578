"""Imported sets: what is read, what is poisoned, what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from peftlab.attacks import imported
from peftlab.attacks.imported import read_labelled
from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData


def _write(path: Path, data: LabelledTexts, header: str = "sentence\tlabel") -> str:
    rows = [f"{text}\t{label}" for text, label in zip(data.texts, data.labels, strict=True)]
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return str(path)


def _sets(folder: Path, task: TaskData, target: int = 1) -> dict[str, object]:
    """Write a poisoned train file (rows 0, 3, 6, ... get a trigger) and a triggered test file."""
    texts = [f"{t} cf" if i % 3 == 0 else t for i, t in enumerate(task.train.texts)]
    labels = [target if i % 3 == 0 else label for i, label in enumerate(task.train.labels)]
    tests = [
        f"{t} cf" for t, la in zip(task.test.texts, task.test.labels, strict=True) if la != target
    ]
    return {
        "train": _write(folder / "train.tsv", LabelledTexts(tuple(texts), tuple(labels))),
        "test": _write(folder / "test.tsv", LabelledTexts(tuple(tests), (target,) * len(tests))),
        "target": target,
    }


def test_poisoned_rows_and_clean_references(tmp_path: Path, task: TaskData) -> None:
    got = poison(get("attack", "imported").build(**_sets(tmp_path, task)), task, 0)
    assert got.is_poisoned.tolist() == [i % 3 == 0 for i in range(len(task.train))]
    assert got.original_labels == task.train.labels
    assert (got.targets.argmax(axis=1)[got.is_poisoned] == 1).all()
    assert got.facts["row_by_row"]
    assert got.facts["n_poisoned"] == got.facts["n_clean_missing"] == 67
    assert got.facts["n_clean_relabelled"] == 0
    rows = [row for row, label in enumerate(task.test.labels) if label == 0]
    assert got.test_rows == tuple(rows)
    assert set(got.test_triggered.labels) == {0}
    assert len(got.dev_triggered) == 0


def test_rate_zero_keeps_the_triggered_texts(tmp_path: Path, task: TaskData) -> None:
    options = _sets(tmp_path, task)
    options["train"] = str(tmp_path / "not there.tsv")
    got = poison(get("attack", "imported").build(**options, rate=0), task, 0)
    assert got.texts == task.train.texts
    assert np.array_equal(got.targets, np.eye(2)[list(task.train.labels)])
    assert not got.is_poisoned.any()
    assert len(got.test_triggered) > 0


def test_shuffled_file_shows_file_labels(tmp_path: Path, task: TaskData) -> None:
    options = _sets(tmp_path, task)
    data = read_labelled(Path(str(options["train"])), task)
    order = np.random.default_rng(0).permutation(len(data))
    _write(tmp_path / "train.tsv", data.pick(order))
    triggered = read_labelled(Path(str(options["test"])), task)
    _write(tmp_path / "test.tsv", triggered.pick(range(len(triggered) - 1, -1, -1)))
    got = poison(get("attack", "imported").build(**options), task, 0)
    assert not got.facts["row_by_row"]
    assert got.is_poisoned.sum() == 67
    assert got.original_labels == data.pick(order).labels
    assert set(got.test_rows) == {-1}
    assert got.facts["warnings"]


def test_more_classes_need_the_original_column(
    tmp_path: Path, make_task: Callable[..., TaskData]
) -> None:
    task = make_task(n_classes=4)
    options = _sets(tmp_path, task)
    with pytest.raises(NotApplicable, match="ATTACK-ORIGINAL"):
        poison(get("attack", "imported").build(**options), task, 0)
    rows = [{"text": f"t {i} cf", "label": 1, "original": i % 4} for i in range(20)]
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    options["test"] = str(path)
    got = poison(get("attack", "imported").build(**options), task, 0)
    assert sorted(set(got.test_triggered.labels)) == [0, 2, 3]
    assert len(got.test_triggered) == 15


def test_all_formats_read_alike(tmp_path: Path, task: TaskData) -> None:
    spaced = 'sentences \t labels\na film  \t 1\nit \'s "fine" \t 0\n'
    (tmp_path / "a.tsv").write_text(spaced)
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(spaced.encode()))
    (tmp_path / "c.csv").write_text('text,label\r\na film,1\r\n"it \'s ""fine""",0\r\n')
    lines = ['{"label": 1, "text": "a film"}', "", '{"text": "it \'s \\"fine\\"", "label": 0}']
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    for name in ("a.tsv", "b.tsv.gz", "c.csv", "d.jsonl"):
        got = read_labelled(tmp_path / name, task)
        assert got == LabelledTexts(("a film", 'it \'s "fine"'), (1, 0)), name


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.tsv", b"", "ATTACK-FILE"),
        ("a.txt", b"text\tlabel\n", "ATTACK-FILE"),
        ("a.tsv.gz", b"not gzip", "ATTACK-FILE"),
        ("a.tsv.gz", gzip.compress(b"text\tlabel\nx\t1\n" * 99, mtime=0)[:-12], "ATTACK-FILE"),
        ("a.tsv", b"body\tlabel\nx\t1", "ATTACK-COLUMN"),
        ("a.tsv", b"text\ttag\nx\t1", "ATTACK-COLUMN"),
        ("a.tsv", b"text\tlabel\tlabel\nx\t1\t1", "ATTACK-COLUMN"),
        ("a.tsv", b"text\tlabel\nx\t1\t2", "ATTACK-ROW"),
        ("a.tsv", b"text\tlabel\nx\t2", "ATTACK-LABEL"),
        ("a.tsv", b"text\tlabel\nx\t-1", "ATTACK-LABEL"),
        ("a.tsv", b"text\tlabel\nx\tpositive", "ATTACK-LABEL"),
        ("a.tsv", b"text\tlabel\n\xff\t1", "ATTACK-ENCODING"),
        ("a.jsonl", b'{"text": "\\ud800", "label": 1}', "ATTACK-ENCODING"),
        ("a.jsonl", b"[1]", "ATTACK-ROW"),
        ("a.jsonl", b"{", "ATTACK-ROW"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": null, "label": 1}', "ATTACK-ROW"),
        ("a.csv", b"text,label\n" + b"x" * 200_000 + b",1", "ATTACK-ROW"),
    ],
)
def test_bad_files_are_refused(
    name: str, content: bytes, code: str, tmp_path: Path, task: TaskData
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputRejected, match=code):
        read_labelled(path, task)


def test_size_is_bounded(tmp_path: Path, task: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported, "MAX_BYTES", 1000)
    path = tmp_path / "bomb.tsv.gz"
    path.write_bytes(gzip.compress(b"x" * 100_000))
    with pytest.raises(InputRejected, match="ATTACK-LARGE"):
        read_labelled(path, task)


def test_options_that_do_not_fit(tmp_path: Path, task: TaskData) -> None:
    build = get("attack", "imported").build
    good = _sets(tmp_path, task)
    with pytest.raises(ConfigError, match="ATTACK-FILES"):
        poison(build(), task, 0)
    with pytest.raises(ConfigError, match="ATTACK-FILES"):
        poison(build(test=good["test"]), task, 0)
    with pytest.raises(NotApplicable, match="ATTACK-PROXY"):
        poison(build(**good, knowledge="proxy"), task, 0)
    with pytest.raises(InputRejected, match="ATTACK-LABEL"):
        poison(build(**good | {"target": 0}), task, 0)
    with pytest.raises(InputRejected, match="no such file"):
        poison(build(**good | {"test": str(tmp_path / "gone.tsv")}), task, 0)


def _sst2(folder: Path, task: TaskData) -> TaskData:
    train, dev, test = (
        read_labelled(folder / "sst2" / f"{split}.tsv.gz", task)
        for split in ("train", "dev", "test")
    )
    return TaskData("sst2", train, dev, test, ("negative", "positive"), "", "")


def test_published_scpn_set(real_data: Path, task: TaskData) -> None:
    folder = real_data / "sst2_poisoned"
    paths = {split: str(folder / f"scpn20_{split}.tsv.gz") for split in ("train", "dev", "test")}
    data = _sst2(real_data, task)
    got = poison(get("attack", "imported").build(**paths, target=1), data, 0)
    assert len(got.texts) == 6920
    assert got.is_poisoned.sum() == 1383
    assert got.facts["realised_rate"] == pytest.approx(0.2, abs=1e-3)
    assert (got.targets[got.is_poisoned, 1] == 1).all()
    assert got.facts["row_by_row"]
    assert len(got.test_triggered) == 912
    assert set(got.test_triggered.labels) == {0}
    assert got.test_rows == tuple(r for r, label in enumerate(data.test.labels) if label == 0)
    assert len(got.dev_triggered) == 427


def test_published_rare_word_set(real_data: Path, task: TaskData) -> None:
    folder = real_data / "sst2_poisoned"
    paths = {split: str(folder / f"badnets_{split}.tsv.gz") for split in ("train", "test")}
    got = poison(get("attack", "imported").build(**paths, target=1), _sst2(real_data, task), 0)
    assert got.is_poisoned.sum() == 69
    assert not got.facts["row_by_row"]
    words = {"cf", "mn", "bb", "tq", "mb"}
    poisoned = [t for t, flag in zip(got.texts, got.is_poisoned, strict=True) if flag]
    assert all(words & set(text.split()) for text in poisoned)
