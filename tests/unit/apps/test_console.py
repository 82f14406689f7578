"""How the command line talks: streams, escapes, errors, exit codes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.apps.cli import console
from peftlab.core.errors import InputRejected
from peftlab.core.printable import printable

UNSAFE = set(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2066, 0xFEFF]))


@given(st.text())
def test_printable_text_steers_nothing(text):
    shown = printable(text)
    assert not UNSAFE & set(shown)
    shown.encode()
    assert printable(shown) == shown
    if not any(char in UNSAFE or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        assert shown.isascii() == text.isascii()


@given(st.recursive(st.text() | st.integers(), lambda each: st.dictionaries(st.text(), each)))
def test_escaped_json_means_the_same(value):
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


def test_harmless_text_stays():
    for text in ("caf\u00e9 \u4e2d\u6587 \U0001f600", "a\tb\nc", "na\u0308ive"):
        assert printable(text) == text


def test_results_and_talk_go_their_ways(capsys):
    console.out("result\x1b[2J")
    console.say("talk\u202e")
    console.out_json({"a": np.float64(1.5), "b": np.arange(2)}, indent=None)
    found = capsys.readouterr()
    assert found.out == 'result\\u001b[2J\n{"a": 1.5, "b": [0, 1]}\n'
    assert found.err == "talk\\u202e\n"


def test_json_is_strict():
    with pytest.raises(ValueError, match="JSON"):
        console.out_json({"a": float("nan")})
    with pytest.raises(TypeError):
        console.out_json({"a": object()})


def test_errors_in_words(capsys):
    with pytest.raises(SystemExit) as end, console.errors_in_words(debug=False):
        raise InputRejected("odd \x1b]0;file", code="X-ODD", got="\x07", fix="look at it")
    assert end.value.code == 3
    found = capsys.readouterr()
    assert not found.out
    assert found.err.splitlines() == [
        "error: odd \\u001b]0;file [X-ODD]", "  got: \\u0007", "  to mend it: look at it",
    ]  # fmt: skip


def test_a_failure_of_ours(capsys):
    with pytest.raises(SystemExit) as end, console.errors_in_words(debug=False):
        raise ZeroDivisionError("once\nand more")
    assert end.value.code == 5
    assert "ZeroDivisionError: once [INTERNAL]" in capsys.readouterr().err


def test_debug_lets_errors_through():
    for error in (InputRejected("x", code="X-Y"), ZeroDivisionError("x")):
        with pytest.raises(type(error)), console.errors_in_words(debug=True):
            raise error


def test_interrupted(capsys):
    with pytest.raises(SystemExit) as end, console.errors_in_words(debug=False):
        raise SystemExit(130)
    assert end.value.code == 130
    assert "same command" in capsys.readouterr().err


def test_progress_for_logs(capsys):
    with console.bar("work") as tell:
        for done in range(101):
            tell(done, 100, "a step")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[0] == "work: 0 of 100 done; now a step"
    with console.spinner("fitting") as tell:
        tell("half way")
    assert capsys.readouterr().err == "fitting\nhalf way\n"
