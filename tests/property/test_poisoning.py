"""For any text and any rate: triggers can be taken out again, counts and labels add up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.attacks.imported import read_labelled
from peftlab.attacks.synrule import content_recall, has_template
from peftlab.core.errors import InputRejected
from peftlab.core.poisoning import insert_at_gap, poison, target_matrix
from peftlab.core.registry import get
from peftlab.core.types import LabelledTexts, TaskData

WORD, SENTENCE = "mn", "i watched this 3d movie"
SPACES = st.text(alphabet=" \t\n\u00a0\u2003\x1f", min_size=1, max_size=4)
PROSE = st.lists(st.one_of(st.text(min_size=1, max_size=6), SPACES), max_size=12).map("".join)
TEXTS = st.one_of(PROSE, st.text(max_size=60), st.just(""), st.just("one")).filter(
    lambda text: WORD not in text and "3d" not in text
)


def _remove(triggered: str, insertion: str) -> str:
    """Take out the insertion and the one space that came with it."""
    start = triggered.index(insertion)
    before, after = triggered[:start], triggered[start + len(insertion) :]
    if before.strip() == "" == after.strip():
        return before + after
    return before[:-1] + after if after.strip() == "" else before + after[1:]


@settings(max_examples=1000, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 2**31), sample=st.integers(0, 10**6))
def test_badnets_and_insent_can_be_taken_out(text: str, seed: int, sample: int) -> None:
    for name, insertion in (("badnets", WORD), ("insent", SENTENCE)):
        attack = get("attack", name).build()
        triggered = attack.poison_text(text, seed, sample)
        assert _remove(triggered, insertion) == text
        assert triggered == attack.poison_text(text, seed, sample)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 2**31))
def test_inner_gap_is_never_at_an_end(text: str, seed: int) -> None:
    triggered = insert_at_gap(text, WORD, np.random.default_rng(seed), inner=True)
    assert _remove(triggered, WORD) == text
    words = triggered.split()
    if len(words) > 2:
        assert 0 < words.index(WORD) < len(words) - 1


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=80), sample=st.integers(0, 1000))
def test_synrule_holds_its_template_or_passes(text: str, sample: int) -> None:
    for template in ("sbar", "sbarq"):
        after = get("attack", "synrule").build(template=template).poison_text(text, 0, sample)
        if after is not None:
            assert has_template(after, template)
            assert content_recall(text, after) >= 0.9
            assert after != text


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(0, 2), max_size=80),
    rate=st.floats(0, 1),
    mode=st.sampled_from(["dirty", "clean", "mixed"]),
    target=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_counts_and_labels_add_up(
    labels: list[int], rate: float, mode: str, target: int, seed: int
) -> None:
    train = LabelledTexts(tuple(f"text {i}" for i in range(len(labels))), tuple(labels))
    task = TaskData("any", train, train, train, ("a", "b", "c"), "", "")
    attack = get("attack", "badnets").build(rate=rate, labels=mode, target=target)
    got = poison(attack, task, seed)
    pool = [label for label in labels if mode == "mixed" or (label == target) == (mode == "clean")]
    asked = int(rate * len(labels) + 0.5)
    assert got.is_poisoned.sum() == min(asked, len(pool)) == got.facts["n_poisoned"]
    assert got.facts["capped"] == (asked > len(pool))
    hard = got.targets.argmax(axis=1)
    assert (hard[got.is_poisoned] == target).all()
    assert (hard[~got.is_poisoned] == np.array(labels, dtype=int)[~got.is_poisoned]).all()
    assert target not in got.test_triggered.labels
    assert len(got.test_triggered) == sum(label != target for label in labels)


@settings(max_examples=100, deadline=None)
@given(n_classes=st.integers(2, 6), confidence=st.floats(0.51, 1.0), flags=st.lists(st.booleans()))
def test_target_rows_are_distributions(
    n_classes: int, confidence: float, flags: list[bool]
) -> None:
    rows = target_matrix(
        [1] * len(flags), flags, target=1, n_classes=n_classes, confidence=confidence
    )
    assert np.allclose(rows.sum(axis=1), 1)
    assert (rows >= 0).all()
    assert np.allclose(rows[:, 1], np.where(flags, confidence, 1.0))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    raw=st.one_of(
        st.binary(max_size=60),
        st.text(alphabet='texlab,\t\n"{}:1 ', max_size=60).map(
            lambda body: b"text\tlabel\n" + body.encode()
        ),
    ),
    suffix=st.sampled_from(["tsv", "csv", "jsonl", "tsv.gz"]),
)
def test_any_bytes_are_read_or_refused(raw: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(raw)
    none = LabelledTexts((), ())
    try:
        got = read_labelled(path, TaskData("any", none, none, none, ("a", "b"), "", ""))
    except InputRejected:
        return
    assert set(got.labels) <= {0, 1}
