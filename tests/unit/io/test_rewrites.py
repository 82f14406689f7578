"""Rewrites from files: the three forms, what belongs together, and what is refused."""

import gzip
import json

import pytest

from peftlab.core.errors import InputRejected
from peftlab.io import rewrites
from peftlab.io.rewrites import key_of, read_rewrites

# in the form, and the manner, of the files of shuaizhao95/PSIM
TEST = [
    {"sentence": "no movement , no yuks .", "label": 0, "idx": 0},
    {"sentence": "this is one of his best films .", "label": 1, "idx": 1},
    {"sentence": "No  movement , no yuks .", "label": 0, "idx": 2},
]
BACK = [
    {"sentence": "No movement, no yuk.", "label": 0, "idx": 0},
    {"sentence": "It is one of his best films.", "label": 1, "idx": 1},
    {"sentence": "Nothing moves.", "label": 0, "idx": 2},
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def published(tmp_path):
    return lines(tmp_path / "test_back.json", BACK), lines(tmp_path / "test.json", TEST)


def code_of(*paths):
    with pytest.raises(InputRejected) as caught:
        read_rewrites(*paths)
    return caught.value.code


def test_texts_with_their_rewrites(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps([
        {"text": "A  film .", "rewrite": "a movie"}, {"text": "dull", "rewrite": None},
        {"text": "a film .", "rewrite": "another"}, {"text": "cold", "rewrite": "  "},
    ]))  # fmt: skip
    found = read_rewrites(path)
    assert dict(found.pairs) == {"a film .": "a movie"}
    assert (found.empty, found.again) == (2, 1)
    assert found.of("a FILM  .") == "a movie"
    assert found.of("dull") is None


def test_the_published_form(published):
    found = read_rewrites(*published)
    assert found.of("no movement , no yuks .") == "No movement, no yuk."
    assert found.of("this is one of his best films .") == "It is one of his best films."
    assert (len(found.pairs), found.again) == (2, 1)


def test_the_published_form_in_another_order_and_gzipped(tmp_path, published):
    packed = tmp_path / "test_back.json.gz"
    with gzip.open(packed, "wt") as file:
        file.write("\n".join(json.dumps(row) for row in (BACK[1], BACK[0])))
    found = read_rewrites(packed, published[1])
    assert found.of("this is one of his best films .") == "It is one of his best films."


def test_ids_and_rewrites_with_a_table_of_texts(tmp_path):
    after = tmp_path / "after.tsv"
    after.write_text("id\trewrite\nx7\tone way\nx8\t\n", encoding="utf-8")
    before = tmp_path / "before.csv"
    before.write_text('id,text\nx8,"b, c"\nx7,a\nx9,d\n', encoding="utf-8")
    found = read_rewrites(after, before)
    assert dict(found.pairs) == {"a": "one way"}
    assert found.empty == 1


def test_tables_that_do_not_belong_together(tmp_path, published):
    other = lines(tmp_path / "other.json", [{**row, "label": 1 - row["label"]} for row in TEST])
    assert code_of(published[0], other) == "REWRITES-LABEL"
    assert code_of(published[0], lines(tmp_path / "short.json", TEST[:2])) == "REWRITES-ID"
    assert code_of(published[0]) == "REWRITES-COLUMN"


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([{"idx": 0, "sentence": "a"}, {"idx": 0, "sentence": "b"}], "REWRITES-ID"),
        ([{"idx": None, "sentence": "a"}], "REWRITES-ID"),
        ([{"idx": True, "sentence": "a"}], "REWRITES-ID"),
        ([{"sentence": "a"}], "REWRITES-COLUMN"),
        ([{"idx": 0}], "REWRITES-COLUMN"),
        ([{"idx": 0, "sentence": 5}], "REWRITES-TEXT"),
        ([{"idx": 0, "sentence": "\ud800"}], "REWRITES-TEXT"),
        ([{"idx": 0, "sentence": "x" * 100_001}], "REWRITES-TEXT"),
        ([{"text": None, "rewrite": "a"}], "REWRITES-TEXT"),
        ([["a", "b"]], "DATA-JSON"),
    ],
)
def test_rows_that_are_not_rewrites(tmp_path, published, rows, code):
    assert code_of(lines(tmp_path / "bad.jsonl", rows), published[1]) == code


def test_files_that_are_not_read(tmp_path, published, monkeypatch):
    assert code_of(tmp_path / "rewrites.pkl") == "REWRITES-FILE"
    assert code_of(tmp_path / ("x" * 300)) == "REWRITES-FILE"
    assert code_of(tmp_path / ("x" * 300 + ".json")) == "REWRITES-FILE"
    assert code_of(tmp_path / "none.json") == "DATA-READ"
    (tmp_path / "torn.json.gz").write_bytes(gzip.compress(b"[]" * 99)[:12])
    assert code_of(tmp_path / "torn.json.gz") == "DATA-READ"
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}')
    assert code_of(tmp_path / "latin.jsonl") == "DATA-ENCODING"
    monkeypatch.setattr(rewrites, "LIMIT_ROWS", 2)
    assert code_of(*published) == "REWRITES-LARGE"
    monkeypatch.setattr(rewrites, "LIMIT_BYTES", 20)
    assert code_of(*published) == "DATA-LARGE"


def test_a_column_that_is_named_twice(tmp_path):
    path = tmp_path / "twice.tsv"
    path.write_text("id\ttext\ttext\n1\ta\tb\n", encoding="utf-8")
    assert code_of(path, path) == "REWRITES-COLUMN"


def test_keys():
    assert key_of("\tA  ÉTÉ\n") == "a été"
