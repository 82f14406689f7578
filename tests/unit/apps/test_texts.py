"""Reading the texts to score."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.apps.cli import texts
from peftlab.apps.cli.steps import option_values
from peftlab.core.errors import ConfigError, InputRejected


def read(tmp_path, content, name="texts.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return texts.read_texts(path)


def test_kinds_of_rows(tmp_path):
    assert read(tmp_path, '{"text": "a"}\n"b"\n\n{"sentence": "c", "label": 1}\r\n') == list("abc")
    assert read(tmp_path, "a\r\n\nc", "texts.txt") == ["a", "", "c"]
    assert read(tmp_path, "", "texts.txt") == read(tmp_path, "") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_every_text_survives(tmp_path, given_texts):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in given_texts)
    assert read(tmp_path, rows) == given_texts


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff", "TEXTS-ENCODING"), (b"{", "TEXTS-ROW"), (b"3\n", "TEXTS-ROW"),
        (b"{}\n", "TEXTS-ROW"), (b'{"text": null}\n', "TEXTS-ROW"), (b"[" * 10**5, "TEXTS-ROW"),
        (b'{"text": "half \\ud800"}\n', "TEXTS-ENCODING"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, content, code):
    with pytest.raises(InputRejected) as caught:
        read(tmp_path, content)
    assert caught.value.code == code
    assert caught.value.fix


def test_a_byte_order_mark_is_no_part_of_the_first_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    assert read(tmp_path, mark + b'{"text": "a"}\n') == ["a"]
    assert read(tmp_path, mark + b"a\r\nb", "texts.txt") == ["a", "b"]


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "texts.jsonl").write_text("a")
    monkeypatch.setattr(texts.Path, "open", refuse)
    with pytest.raises(InputRejected, match="TEXTS-READ"):
        texts.read_texts(tmp_path / "texts.jsonl")


def test_packed_files(tmp_path):
    packed = gzip.compress(b'{"text": "a"}\n', mtime=0)
    assert read(tmp_path, packed, "texts.jsonl.gz") == ["a"]
    assert read(tmp_path, gzip.compress(b"a\nb", mtime=0), "texts.txt.gz") == ["a", "b"]
    with pytest.raises(InputRejected, match="TEXTS-READ"):
        read(tmp_path, packed[:-9], "texts.jsonl.gz")


def test_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "LIMIT", 3)
    with pytest.raises(InputRejected, match="TEXTS-LARGE"):
        read(tmp_path, "four")


def test_option_values():
    assert option_values("attack", "badnets", ["rate=0.2", "trigger=2024", "target = 1"]) == {
        "rate": 0.2, "trigger": "2024", "target": 1,
    }  # fmt: skip
    assert option_values("defence", "psim", ["checkpoints=2,4"]) == {"checkpoints": [2, 4]}
    assert option_values("defence", "psim", ["nothing=x"]) == {"nothing": "x"}
    for pair in ("rate", "=1", " =1"):
        with pytest.raises(ConfigError, match="CLI-OPTION"):
            option_values("attack", "badnets", [pair])
    with pytest.raises(ConfigError, match="REGISTRY-NAME"):
        option_values("attack", "badnet", [])
