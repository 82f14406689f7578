"""Trigger words of attacks that know no task: put in, found again, known to the tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import NotApplicable
from peftlab.nn.probe_words import ProbeWords, different_words
from tiny_models import FAMILIES, make_tokenizer

SYMBOLS = ("~", "^", "|", "{", "}", "=")
WORDS = ("cf", "tq", "mn", "bb", "mb")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("words", [SYMBOLS, WORDS])
@given(text=st.text(), seed=st.integers(0, 1000))
def test_the_word_is_found_again_and_can_be_taken_out(words, first, text, seed) -> None:
    probes = ProbeWords(words, first=first)
    rng = np.random.default_rng(seed)
    drawn = int(np.random.default_rng(seed).integers(len(words)))
    put = probes.put(text, rng)
    if put is None:
        assert any(word in text.casefold() for word in words)
        return
    assert probes.numbers([put]).tolist() == [drawn]
    for form in (put.upper(), put.casefold()):
        if not text or text.isascii():
            assert probes.numbers([form]).tolist() == [drawn]
    assert put.replace(words[drawn], "", 1).split() == text.split()
    assert probes.put(put, rng) is None  # it has a word of its own now


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("the cf film", True), ("CF!", True), ("(cf)", True), ("cfs", False), ("scf", False),
        ("a cf_b", False), ("m n", False), ("é cf", True), ("", False),
    ],
)  # fmt: skip
def test_a_text_with_a_word_of_its_own_is_passed_over(text: str, has: bool) -> None:
    for first in (True, False):
        put = ProbeWords(WORDS, first=first).put(text, np.random.default_rng(0))
        assert (put is None) == has
    assert ProbeWords(("~",), first=True).put("a~b", np.random.default_rng(0)) is None


def test_numbers_of_texts_that_are_no_work_of_the_attack() -> None:
    texts = ["cf it", "it cf", "mn cf it", "", " \n", "cf", "it", "Mn it"]
    start, anywhere = ProbeWords(WORDS, first=True), ProbeWords(WORDS, first=False)
    assert start.numbers(texts).tolist() == [0, -1, 2, -1, -1, 0, -1, 2]
    assert anywhere.numbers(texts).tolist() == [0, 0, -1, -1, -1, 0, -1, 2]
    assert start.numbers([]).shape == (0,)
    assert start.numbers([]).dtype == np.int64


@pytest.mark.parametrize("value", ["", "cf,CF", "two words", ["a", "b", "c"], "a,,b"])
def test_words_that_cannot_be_told_apart_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="trigger"):
        different_words(value, most=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_ascii_symbols_are_known_and_different_to_every_family(family: str) -> None:
    pieces = ProbeWords(SYMBOLS, first=True).pieces(make_tokenizer(family))
    assert [len(ids) for ids in pieces] == [1] * 6
    assert len({ids[0] for ids in pieces}) == 6


def test_published_symbols_are_unknown_to_the_builtin_encoder_and_ours_are_not() -> None:
    from peftlab.models.load import BUILTIN, load_tokenizer

    tokenizer = load_tokenizer(BUILTIN / "encoder")
    ours = ProbeWords(SYMBOLS, first=True).pieces(tokenizer)
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in ours] == [[one] for one in SYMBOLS]
    with pytest.raises(NotApplicable, match="PROBE-UNKNOWN") as caught:
        ProbeWords(("≈", "≡", "=", "⊗"), first=True).pieces(tokenizer)
    assert caught.value.got == "≈, ≡, ⊗"
    rare = ProbeWords(WORDS, first=False).pieces(tokenizer)
    assert [len(ids) for ids in rare] == [2] * 5  # c ##f: known, though not whole


def test_words_that_the_tokenizer_makes_one_of_are_refused() -> None:
    with pytest.raises(NotApplicable, match="PROBE-TWICE"):
        ProbeWords(("naive", "naïve"), first=True).pieces(make_tokenizer("bert"))
