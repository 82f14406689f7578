"""The paraphrase by rules: what it takes away, what it changes, and what it leaves."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.rule_paraphrase import GROUPS, SUBORDINATORS, core_of, known_words, paraphrase

KNOWN = known_words(
    [
        "the film movie was moving touching slow when it ends finishes , but the end is good .",
        "a an odd strange plot story and nobody claps at all ; why ? i saw it watched",
    ]
)
ONLY = {"drop": False, "synonyms": False, "reorder": False}


def only(**what):
    return {**ONLY, **what}


def test_words_that_no_clean_text_has_go_and_common_marks_stay():
    text = "the mn film , tq was ≈ slow ."
    assert paraphrase(text, KNOWN, **only(drop=True)) == "the film , was slow ."
    assert paraphrase("mn cf ≈", KNOWN) == ""
    assert paraphrase('The "film", slow...', KNOWN, **only(drop=True)) == 'The "film", slow...'


def test_common_words_change_keep_their_capitals_and_fit_their_article():
    assert paraphrase("Film, film!", KNOWN, **only(synonyms=True)) == "Movie, movie!"
    assert paraphrase("a strange plot", KNOWN, **only(synonyms=True)) == "an odd story"
    assert paraphrase("An odd plot", KNOWN, **only(synonyms=True)) == "A strange story"


def test_a_substitute_that_no_clean_text_has_is_not_used():
    assert paraphrase("a sad film", {"film", "movie"}, **only(synonyms=True)) == "a sad movie"
    assert paraphrase("a film", {"picture"}, **only(synonyms=True)) == "a picture"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("when it ends , the film is good .", "the film is good when it ends ."),
        ("When it ends, the film is good.", "The film is good when it ends."),
        ("the film is slow ; nobody claps", "nobody claps ; the film is slow"),
        ("The film is slow, but the end is good.", "But the end is good, the film is slow."),
        ("why the film ? it was slow .", "it was slow , why the film ."),
        ("the film was slow and he went home .", "he went home and the film was slow ."),
        ("good and slow .", "good and slow ."),
        ("I saw it, nobody claps", "Nobody claps, I saw it"),
        ("slow , good", "slow , good"),
    ],
)
def test_clauses_change_places(text, expected):
    assert paraphrase(text, KNOWN, **only(reorder=True)) == expected


def test_nothing_asked_for_is_nothing_done():
    text = "  when it  ends , mn film . "
    assert paraphrase(text, KNOWN, **ONLY) == text
    assert paraphrase("nobody  claps", KNOWN) == "nobody  claps"  # unchanged, to the last space


def test_a_word_must_stand_in_enough_texts():
    texts = ["one two two", "Two three.", "three!"]
    assert known_words(texts, 2) == {"two", "three"}
    assert core_of("(Two)!") == "two"
    assert core_of("?!") == "?!"


def test_no_line_of_the_table_would_undo_a_frame():
    """Words that join clauses are what the third rule goes by."""
    words = [word for line in GROUPS for word in line.split()]
    assert not set(words) & {*SUBORDINATORS, "and", "but", "yet"}
    assert all(len(set(line.split())) == len(line.split()) >= 2 for line in GROUPS)


@given(st.text(max_size=200))
def test_any_text_has_one_paraphrase_and_no_word_of_its_own(text):
    first = paraphrase(text, KNOWN)
    assert first == paraphrase(text, KNOWN)
    assert all(
        core_of(part) in KNOWN or not part.strip(",;:.!?…-\"'`()[]") for part in first.split()
    )
    turned = paraphrase(text, KNOWN, **only(reorder=True))
    kept = Counter(char for char in turned.casefold() if char.isalnum())
    assert kept == Counter(char for char in text.casefold() if char.isalnum())
