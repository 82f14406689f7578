"""Prompts are plain text with one place for the text, and nothing in them is evaluated."""

import pytest
from pydantic import ValidationError

from peftlab.core.prompt import Prompt

WORDS = ("bad", "good")


@pytest.mark.parametrize(
    "template",
    [
        "It was",
        "{text} and {text} was",
        "It was {text}",
        "{text}",
        "{text} It was ",
        "{text} It was\n",
        "{text} \x00 was",
        "{text} \x1b[31m was",
        "{text} \ud800 was",
        "{text}" + "a" * 1000,
        "{0} {text!r} was",
    ],
)
def test_a_template_that_is_none_is_refused(template):
    with pytest.raises(ValidationError):
        Prompt(template=template, words=WORDS)


@pytest.mark.parametrize(
    "words",
    [("good",), (), ("good", "good"), ("", "good"), (" bad", "good"), ("a" * 41, "good"),
     ("b\nad", "good"), tuple(f"w{i}" for i in range(1001)), ("bad", 3)],
)  # fmt: skip
def test_words_that_are_none_are_refused(words):
    with pytest.raises(ValidationError):
        Prompt(template="{text} It was", words=words)


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError):
        Prompt.model_validate({"template": "{text} was", "words": WORDS, "code": "x"})


@pytest.mark.parametrize("text", ["{text}", "{0.__class__}", "%s {x!r}", "", "{text} It was"])
def test_a_text_is_put_in_as_it_is(text):
    prompt = Prompt(template="{0} %s\n{text} It {was} it", words=WORDS)
    assert prompt.fill(text) == "{0} %s\n" + text + " It {was} it"
