"""Hygiene: every oddity is counted, and nothing is said about clean data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core import registry
from peftlab.core.hygiene import Finding, check, normalise
from peftlab.core.types import LabelledTexts, TaskData

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared" / "data"))


def texts(name: str, n: int = 10) -> LabelledTexts:
    return LabelledTexts(
        tuple(f"{name} text {i}" for i in range(n)), tuple(i % 2 for i in range(n))
    )


CLEAN = TaskData("t", texts("a"), texts("b"), texts("c"), ("neg", "pos"), "", "")


def found(data: TaskData) -> dict[str, Finding]:
    return {finding.code: finding for finding in check(data)}


def test_clean_data_gives_nothing():
    assert check(CLEAN) == []
    assert check(replace(CLEAN, proxy=texts("d"))) == []


def test_duplicates_empty_oneword_and_long():
    train = LabelledTexts(("A  b c", "a b C ", "", "  ", "one", "w " * 513), (0, 1, 0, 1, 0, 1))
    findings = found(replace(CLEAN, train=train))
    assert {code: finding.count for code, finding in findings.items()} == {
        "HYGIENE-EMPTY-TRAIN": 2,
        "HYGIENE-ONEWORD-TRAIN": 1,
        "HYGIENE-LONG-TRAIN": 1,
        "HYGIENE-DUPLICATE-TRAIN": 2,
    }
    assert findings["HYGIENE-EMPTY-TRAIN"].severity == "warning"
    assert findings["HYGIENE-LONG-TRAIN"].severity == "info"


def test_leaks_between_splits():
    test = LabelledTexts(("A TEXT  3", "c text 1", "b text 0", "a text 3"), (0, 1, 0, 1))
    findings = found(replace(CLEAN, test=test))
    assert findings["HYGIENE-LEAK-TEST-TRAIN"].count == 2
    assert findings["HYGIENE-LEAK-TEST-TRAIN"].severity == "warning"
    assert "50.0%" in findings["HYGIENE-LEAK-TEST-TRAIN"].message
    assert findings["HYGIENE-LEAK-TEST-DEV"].count == 1
    assert found(replace(CLEAN, proxy=CLEAN.train))["HYGIENE-LEAK-PROXY-TRAIN"].count == 10


def test_small_leak_is_a_remark():
    big = texts("c", 1000)
    test = LabelledTexts(("a text 3", *big.texts[1:]), big.labels)
    assert found(replace(CLEAN, test=test))["HYGIENE-LEAK-TEST-TRAIN"].severity == "info"


def test_balance():
    train = LabelledTexts(CLEAN.train.texts, (1,) * 9 + (0,))
    test = LabelledTexts(CLEAN.test.texts, (1,) * 10)
    findings = found(replace(CLEAN, train=train, test=test))
    assert set(findings) == {
        "HYGIENE-BALANCE-TRAIN", "HYGIENE-BALANCE-TEST", "HYGIENE-ABSENT-TEST",
    }  # fmt: skip
    assert "'pos'" in findings["HYGIENE-BALANCE-TRAIN"].message


@given(st.text(max_size=40))
def test_white_space_and_case_do_not_matter(text):
    assert normalise("\t" + text.replace(" ", " \n ") + " ") == normalise(text)
    assert normalise(text.casefold()) == normalise(text)


@given(
    st.lists(st.tuples(st.sampled_from(["a b", "A  b", "c", ""]), st.integers(0, 1)), max_size=8)
)
def test_counts_agree_with_a_naive_count(rows):
    train = LabelledTexts(tuple(text for text, _ in rows), tuple(label for _, label in rows))
    findings = found(replace(CLEAN, train=train))
    keys = [" ".join(text.lower().split()) for text, _ in rows]
    naive = sum(key in keys[:i] for i, key in enumerate(keys))
    duplicate = findings.get("HYGIENE-DUPLICATE-TRAIN")
    assert (duplicate.count if duplicate else 0) == naive


@pytest.mark.skipif(not (DATA / "sst2").is_dir(), reason=f"no SST-2 in {DATA} (PEFTLAB_DATA)")
def test_sst2_leaks_two_test_texts():
    data = registry.get("dataset", "folder").build().load(str(DATA / "sst2"))
    assert found(data)["HYGIENE-LEAK-TEST-TRAIN"].count == 2
