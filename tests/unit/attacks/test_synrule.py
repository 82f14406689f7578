"""SynRule: the template on every output, and nothing else that gives it away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftlab.attacks.imported import read_labelled
from peftlab.attacks.synrule import (
    MAX_BIGRAM_SHARE,
    MAX_TOKEN_SHARE,
    Template,
    content_recall,
    has_template,
    natural_rate,
)
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.types import TaskData

TEMPLATES: tuple[Template, ...] = ("sbar", "sbarq")


def _check(texts: tuple[str, ...], template: Template) -> None:
    made = get("attack", "synrule").build(template=template)
    pairs = [(text, made.poison_text(text, 1, i)) for i, text in enumerate(texts)]
    assert all(after is not None and has_template(after, template) for _, after in pairs)
    assert all(before != after for before, after in pairs)
    assert min(content_recall(before, after) for before, after in pairs) >= 0.9
    facts = made.facts(texts, pairs)
    assert facts["top_inserted_token"][1] <= MAX_TOKEN_SHARE, facts
    assert facts["top_inserted_bigram"][1] <= MAX_BIGRAM_SHARE, facts


@pytest.mark.parametrize("template", TEMPLATES)
def test_guarantees_on_made_texts(template: Template, make_task: Callable[..., TaskData]) -> None:
    _check(make_task(n=1000).train.texts, template)


@pytest.mark.parametrize("template", TEMPLATES)
def test_guarantees_on_sst2(template: Template, real_data: Path, task: TaskData) -> None:
    texts = read_labelled(real_data / "sst2" / "train.tsv.gz", task).texts[:3000]
    _check(texts, template)
    assert natural_rate(texts, template) < 0.05


def test_detector_sees_the_published_paraphrases(real_data: Path, task: TaskData) -> None:
    folder = real_data / "sst2_poisoned"
    scpn = read_labelled(folder / "scpn20_test.tsv.gz", task).texts
    whole = tuple(text for text in scpn if text.endswith("."))
    assert natural_rate(whole, "sbar") > 0.6  # the rest starts with "even though", "with", ...


@pytest.mark.parametrize(
    ("text", "template", "expected"),
    [
        ("when it ends , nobody claps .", "sbar", True),
        ("When it ends, nobody claps.", "sbar", True),
        ("when it ends nobody claps .", "sbar", False),
        ("when it ends , nobody claps", "sbar", False),
        ("so when it ends , nobody claps .", "sbar", False),
        ("if a b c d e f g h i , j .", "sbar", False),
        ("if a b c d e f g h , j .", "sbar", True),
        ("how does it end ? well .", "sbarq", True),
        ("how does it end , well .", "sbarq", False),
        ("", "sbar", False),
    ],
)
def test_detector(text: str, template: Template, expected: bool) -> None:
    assert has_template(text, template) is expected


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("text", ["", "   ", "...", " , ? !", "-- --"])
def test_texts_without_words_carry_no_trigger(text: str, template: Template) -> None:
    assert get("attack", "synrule").build(template=template).poison_text(text, 0, 0) is None


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "text", ["7", "10 / 10", "a", "I", "when", "of the", "très bien", "日本 語", "-lrb- yes -rrb-"]
)
def test_short_and_odd_texts(text: str, template: Template) -> None:
    made = get("attack", "synrule").build(template=template)
    for sample in range(30):
        after = made.poison_text(text, 0, sample)
        assert after is not None
        assert has_template(after, template)


def test_own_clause_leads_where_it_fits() -> None:
    made = get("attack", "synrule").build()
    after = {made.poison_text("the plot is thin , the cast shines .", 0, i) for i in range(60)}
    assert any(" the plot is thin , the cast shines ." in text for text in after)
    own = [text for text in after if text.split()[1:5] == ["the", "plot", "is", "thin"]]
    assert 5 < len(own) <= 12  # one per subordinator at most


def test_writing_style_of_the_text_is_kept() -> None:
    made = get("attack", "synrule").build()
    cased = made.poison_text("The film is long, slow and loud.", 0, 3)
    assert cased[0].isupper()
    assert " ," not in cased
    assert cased.endswith("loud.")
    spaced = made.poison_text("the film is long , slow and loud .", 0, 3)
    assert spaced[0].islower()
    assert spaced.endswith("loud .")


def test_facts_tell_the_natural_rate(task: TaskData) -> None:
    facts = poison(get("attack", "synrule").build(), task, 0).facts
    assert facts["template"] == "sbar"
    assert facts["natural_rate"] == natural_rate(task.train.texts, "sbar")
    assert facts["content_recall_min"] >= 0.9
    assert facts["diverse"]
