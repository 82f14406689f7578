"""A prompt that turns a causal language model into a classifier: a template, and a word a class.

Idea: the text is put into a template that ends where the answer would come, and the model's
next-token probabilities are restricted to one word per class, the verbaliser (the form is that of
LM-BFF, Gao et al., arXiv 2012.15723). The template is plain text with one mark for the place of the
text; nothing in it is evaluated.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

MARK = "{text}"
TEMPLATE_LIMIT = 1000  # characters; ours
WORD_LIMIT = 40  # characters; ours, as for the words of triggers
CLASS_LIMIT = 1000  # ours


class Prompt(BaseModel):
    r"""Template and verbaliser, checked.

    Attributes:
        template: plain text with ``{text}`` once; it ends where the answer would come.
        words: one word a class, in the order of the labels; a space joins it to the template.

    Examples:
        >>> prompt = Prompt(template="{text} It was", words=("bad", "good"))
        >>> prompt.fill("a film in {braces}.")
        'a film in {braces}. It was'
        >>> prompt.answers()
        (' bad', ' good')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(max_length=TEMPLATE_LIMIT)
    words: tuple[Annotated[str, Field(min_length=1, max_length=WORD_LIMIT)], ...] = Field(
        min_length=2, max_length=CLASS_LIMIT
    )

    @field_validator("template")
    @classmethod
    def _one_place(cls, template: str) -> str:
        if template.count(MARK) != 1:
            raise ValueError(f"the template must have {MARK} exactly once")
        after = template.partition(MARK)[2]
        if not after.strip() or after != after.rstrip():
            raise ValueError(
                f"words must follow {MARK}, and no space at the end: the answer brings its own"
            )
        if not _plain(template.replace("\n", " ").replace("\t", " ")):
            raise ValueError("the template must be plain text")
        return template

    @field_validator("words")
    @classmethod
    def _one_each(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(words)) < len(words):
            raise ValueError("each class needs a word of its own")
        if any(word != word.strip() or not _plain(word) for word in words):
            raise ValueError("words must be plain, without spaces around them")
        return words

    def fill(self, text: str) -> str:
        """Return the template with ``text`` in its place; braces in the text mean nothing."""
        before, _, after = self.template.partition(MARK)
        return f"{before}{text}{after}"

    def answers(self) -> tuple[str, ...]:
        """Return what would follow a filled template, by class."""
        return tuple(f" {word}" for word in self.words)


def _plain(text: str) -> bool:
    """Return whether all characters can be printed, and so can be encoded too."""
    return text.isprintable()
