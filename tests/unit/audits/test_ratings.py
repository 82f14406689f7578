"""Long tables become ratings: ids, answer domain, attributes, and what is refused."""

import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.audits.raters.counts import count
from peftlab.audits.raters.pools import Pool, draw_pool
from peftlab.audits.raters.ratings import LABELS_MOST, Attribute, Ratings
from peftlab.core.errors import ConfigError, InputRejected

NAN = float("nan")


def long(rows, attrs=(), **options):
    """Read rows of (item, rater, label, *attributes)."""
    names = ["item", "rater", "label", *attrs]
    table = {name: [row[k] for row in rows] for k, name in enumerate(names)}
    return Ratings.from_long(
        table, item="item", rater="rater", label="label", attrs=attrs, **options
    )


def labels_of(given_labels, **options):
    """Read one item rated by as many raters as there are labels."""
    return long([("i", f"r{k}", label) for k, label in enumerate(given_labels)], **options)


def triples(ratings):
    return {
        (ratings.items[i], ratings.raters[j], ratings.labels[k])
        for i, j, k in zip(ratings.item, ratings.rater, ratings.label, strict=True)
    }


def fails(code, error, call):
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


ROWS = [("b", "2", "no"), ("a", "10", "yes"), ("a", "2", "no"), ("b", "10", "no")]


def test_a_table_is_read_whatever_the_order_of_its_rows():
    found = long(ROWS)
    assert triples(found) == set(ROWS)
    assert found.items == ("a", "b")
    assert found.raters == ("2", "10")  # numbers by value
    assert found.labels == ("no", "yes")
    assert found.shape == (2, 2, 2)
    assert len(found) == 4
    assert found.notes == ()
    assert triples(long(ROWS[::-1])) == set(ROWS)


@given(st.permutations([*ROWS, ("c", "2", "yes"), ("c", "x", "no")]))
@settings(max_examples=30)
def test_the_order_of_rows_changes_nothing_that_is_counted(rows):
    reference, found = long(sorted(rows)), long(rows)
    assert (found.items, found.raters, found.labels) == (
        reference.items, reference.raters, reference.labels,
    )  # fmt: skip
    everybody = np.zeros(len(found.raters), dtype=int)
    np.testing.assert_array_equal(
        count(found, everybody, 1).n, count(reference, everybody, 1).n
    )  # fmt: skip


def test_columns_are_looked_up_by_name():
    message = fails(
        "RATERS-COLUMN", ConfigError,
        lambda: Ratings.from_long({"item": ["1"]}, item="item", rater="ratr", label="l"),
    )  # fmt: skip
    assert "ratr" in message


def test_any_object_with_columns_will_do():
    class Frame(dict):
        @property
        def columns(self):
            return list(self)

    table = Frame(i=np.array([1, 1, 2]), r=np.array([1.0, 2.0, 1.0]), l=np.array(["n", "y", "n"]))
    found = Ratings.from_long(table, item="i", rater="r", label="l")
    assert triples(found) == {("1", "1", "n"), ("1", "2", "y"), ("2", "1", "n")}


# --- what is the same value


def test_one_number_is_one_label_however_it_is_held():
    values = [1, 1.0, "1", " 1 ", np.int64(1), np.float64(1.0), 0]
    assert labels_of(values).labels == ("0", "1")


def test_single_precision_numbers_are_the_same_labels():
    assert labels_of(np.array([1, 0, 1], dtype=np.float32)).labels == ("0", "1")
    assert labels_of([1, np.float32(1), 0]).labels == ("0", "1")


def test_negative_zero_is_zero_and_fractions_stay():
    assert labels_of([0.0, -0.0, 0.5]).labels == ("0", "0.5")
    assert labels_of([Decimal("0.5"), Fraction(1, 2), 1]).labels == ("0.5", "1", "1/2")


@pytest.mark.parametrize("hole", [None, NAN, np.nan, "", "  ", "NaN", "na", "N/A"])
def test_cells_that_are_not_there_are_left_out_and_counted(hole):
    found = long([*ROWS, ("c", "2", hole), ("c", hole, "no"), (hole, "10", "no")])
    assert triples(found) == set(ROWS)
    assert found.notes == ("3 rows without item, rater or label were left out",)


def test_words_that_look_like_holes_are_kept():
    assert labels_of(["none", "null", "no", "0"]).labels == ("0", "no", "none", "null")


# --- the answer domain


def test_labels_are_ordered_by_value_if_all_are_numbers_else_by_name():
    assert labels_of([10, 9, -1, 2.5]).labels == ("-1", "2.5", "9", "10")
    assert labels_of([10, 9, "x"]).labels == ("10", "9", "x")
    assert labels_of(["1e2", "20"]).labels == ("20", "1e2")


def test_numbers_are_the_labels_as_values():
    assert labels_of([10, 9, 2.5]).numbers() == (2.5, 9.0, 10.0)
    assert labels_of(["a", 9]).numbers() is None
    assert labels_of(["inf", "1"]).numbers() is None


def test_a_given_domain_keeps_its_order_and_labels_that_nobody_gave():
    found = long(ROWS, labels=["yes", "unsure", "no"])
    assert found.labels == ("yes", "unsure", "no")
    assert triples(found) == set(ROWS)
    assert labels_of([2.0, 1], labels=[3, 2, 1]).labels == ("3", "2", "1")


def test_a_given_domain_must_hold_all_labels_once():
    message = fails("RATERS-LABELS", InputRejected, lambda: long(ROWS, labels=["yes", "maybe"]))
    assert "no" in message
    fails("RATERS-LABELS", ConfigError, lambda: long(ROWS, labels=["yes", "no", "no "]))
    fails("RATERS-LABELS", ConfigError, lambda: labels_of([1, 2], labels=["1", 1.0, "2"]))


@pytest.mark.parametrize("hole", ["n/a", "", "NA"])
def test_a_hole_cannot_be_listed_as_a_label(hole):
    """Such cells are left out, so the label would be one that nobody can give."""
    fails(
        "RATERS-LABELS", (ConfigError, InputRejected),
        lambda: long(ROWS, labels=["no", "yes", hole]),
    )  # fmt: skip


def test_one_label_only_is_refused_also_within_a_wider_domain():
    fails("RATERS-LABELS", InputRejected, lambda: labels_of(["no"] * 4))
    fails("RATERS-LABELS", InputRejected, lambda: labels_of(["no"] * 4, labels=["no", "yes"]))


def test_too_many_labels_are_no_labels():
    assert len(labels_of(range(LABELS_MOST)).labels) == LABELS_MOST
    fails("RATERS-LABELS", InputRejected, lambda: labels_of(range(LABELS_MOST + 1)))


def test_labels_can_be_dropped_and_it_is_said():
    found = labels_of(["yes", "no", "dunno", "dunno"], drop_labels=["dunno"])
    assert found.labels == ("no", "yes")
    assert found.raters == ("r0", "r1")
    assert found.notes == ("2 ratings with the label dunno were left out",)
    message = fails(
        "RATERS-EMPTY", InputRejected, lambda: labels_of(["a", "b"], drop_labels=["a", "b"])
    )
    assert "2 rows" in message


@pytest.mark.parametrize("dropped", ["2", 2, 2.0, " 2 "])
def test_a_dropped_label_is_named_as_a_listed_one_is(dropped):
    """labels=[2] means the label 2, so drop_labels=[2] does too."""
    assert labels_of([0, 1, 2.0], drop_labels=[dropped]).labels == ("0", "1")


def test_a_constant_label_after_dropping_is_refused():
    fails("RATERS-LABELS", InputRejected, lambda: labels_of(["a", "a", "b"], drop_labels=["b"]))


# --- duplicates


def test_a_repeated_rating_is_refused_and_named():
    message = fails("RATERS-DUPLICATE", InputRejected, lambda: long([*ROWS, ("a", "10", "no")]))
    assert "rater 10" in message
    assert "item a" in message
    assert "1 such rows" in message


def test_a_repeated_rating_is_found_across_ways_to_write_an_id():
    rows = [(1, 7, "no"), (1.0, "7", "yes")]
    fails("RATERS-DUPLICATE", InputRejected, lambda: long(rows))


def test_the_first_of_repeated_ratings_can_be_kept():
    rows = [("a", "1", "no"), ("b", "1", "yes"), ("a", "1", "yes"), ("a", "1", "yes")]
    found = long(rows, duplicates="first")
    assert triples(found) == set(rows[:2])
    assert found.notes == ("2 repeated ratings of an item by the same rater: the first counts",)


def test_a_repeat_with_a_dropped_label_is_no_repeat():
    found = long([("a", "1", "dunno"), ("a", "1", "no"), ("b", "1", "yes")], drop_labels=["dunno"])
    assert triples(found) == {("a", "1", "no"), ("b", "1", "yes")}


# --- attributes


def test_attributes_are_of_raters_and_may_have_holes():
    rows = [("a", "1", "no", "old", None), ("b", "1", "yes", None, ""), ("a", "2", "no", "x", "NA")]
    found = long(rows, attrs=("age", "sex"))
    assert found.attributes["age"].values == ("old", "x")
    assert found.attributes["age"].codes.tolist() == [0, 1]
    assert found.attributes["sex"].values == ()
    assert found.attributes["sex"].codes.tolist() == [-1, -1]


def test_an_attribute_that_changes_within_a_rater_is_refused():
    rows = [("a", "1", "no", "old"), ("b", "1", "yes", "young")]
    message = fails("RATERS-ATTRIBUTE", InputRejected, lambda: long(rows, attrs=("age",)))
    assert "rater 1" in message
    assert "old" in message
    assert "young" in message


def test_an_attribute_of_numbers_does_not_change_by_how_it_is_held():
    rows = [("a", "1", "no", 30), ("b", "1", "yes", 30.0), ("c", "1", "yes", "30")]
    assert long(rows, attrs=("age",)).attributes["age"].values == ("30",)


def test_groups_are_sorted_by_name():
    found = Attribute.of("x", ["b", None, "a", "b"])
    assert (found.values, found.codes.tolist()) == (("a", "b"), [1, -1, 0, 1])


def test_some_raters_can_be_picked():
    rows = [
        ("a", "1", "no", "x"), ("b", "2", "yes", "y"), ("a", "3", "yes", "x"), ("b", "3", "no", "x")
    ]  # fmt: skip
    whole = long(rows, attrs=("g",))
    found = whole.pick(np.array([True, False, True]))
    assert triples(found) == {row[:3] for row in rows if row[1] != "2"}
    assert (found.items, found.labels, found.raters) == (whole.items, whole.labels, ("1", "3"))
    assert found.attributes["g"].codes.tolist() == [0, 0]


# --- tables that are broken


@pytest.mark.parametrize("short", ["item", "rater", "label"])
def test_columns_of_different_length_are_refused(short):
    table = {"item": [1, 1, 2], "rater": [1, 2, 1], "label": [0, 1, 1]}
    table[short] = table[short][:2]
    with pytest.raises((ConfigError, InputRejected)):
        Ratings.from_long(table, item="item", rater="rater", label="label")


def test_an_empty_table_is_refused():
    fails("RATERS-EMPTY", InputRejected, lambda: long([]))


def test_hostile_names_are_only_names():
    names = ["=1+1", "<script>", "a*b", "naïve 映画", "١٢"]
    rows = [(name, name, str(k % 2), name) for k, name in enumerate(names)]
    found = long(rows, attrs=("g",))
    assert set(found.raters) == set(found.items) == set(found.attributes["g"].values) == set(names)


SCRIPT = """
from peftlab.audits.raters import Ratings
ids = ["1", "01", "001", "0001", "00001", "2"]
table = {"item": ids, "rater": ids, "label": [0, 1] * 3}
print(Ratings.from_long(table, item="item", rater="rater", label="label").raters)
"""


def test_ids_of_equal_value_keep_one_order_in_every_process():
    """The order of a set of texts differs from process to process; that of raters must not."""
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONHASHSEED": seed}, check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(found) == 1


# --- made-up pools


def test_a_made_up_pool_is_as_described():
    pool = draw_pool(Pool(raters=30, items=40, planted=7, labels=4, answered=0.6), seed=3)
    assert pool.shape == (40, 30, 4)
    assert len(pool) == pytest.approx(0.6 * 1200, abs=100)
    group = pool.attributes["group"]
    assert [group.values[k] for k in group.codes].count("planted") == 7
    assert np.bincount(pool.label) == pytest.approx(len(pool) / 4, rel=0.25)
    again = draw_pool(Pool(raters=30, items=40, planted=7, labels=4, answered=0.6), seed=3)
    assert triples(again) == triples(pool)
    assert triples(draw_pool(Pool(raters=30, items=40, planted=7), seed=4)) != triples(pool)
