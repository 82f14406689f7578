"""Texts in a prompt, as token rows that end where the answer would come.

A tokenizer carries its prompt, so that whatever encodes texts by it (training, attacks, guards)
puts them into the same template. A text that is too long is cut; the template never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftlab.core.prompt import Prompt


def set_prompt(tokenizer: Any, prompt: Prompt) -> None:
    """Make ``nn.text.encode`` put every text into ``prompt``."""
    tokenizer.peftlab_prompt = prompt


def prompt_of(tokenizer: Any) -> Prompt | None:
    """Return the prompt that a tokenizer carries, or None."""
    found = getattr(tokenizer, "peftlab_prompt", None)
    return found if isinstance(found, Prompt) else None


def encode_prompted(
    tokenizer: Any, prompt: Prompt, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return the token numbers of each text in the prompt, none longer than ``max_length``.

    Rows are those of the whole filled template, so that tokens at the seams are as the model
    learned them. A template that alone is longer than ``max_length`` is kept whole all the same.

    Args:
        tokenizer: of the model.
        prompt: where the texts go.
        texts: n texts; an empty one leaves the template.
        max_length: longest sequence in tokens.
    """
    rows = open_rows(tokenizer, [prompt.fill(text) for text in texts])
    for i, row in enumerate(rows):
        if len(row) > max_length:
            rows[i] = _shortened(tokenizer, prompt, texts[i], len(row), max_length)
    return rows


def answer_tokens(tokenizer: Any, prompt: Prompt) -> list[int | None]:
    """Return the one token that each class's word is after the template; None where it is not."""
    filled = prompt.fill("")
    before = open_rows(tokenizer, [filled])[0]
    found: list[int | None] = []
    for row in open_rows(tokenizer, [filled + answer for answer in prompt.answers()]):
        single = row[:-1] == before and row[-1] != tokenizer.unk_token_id
        found.append(row[-1] if single else None)
    return found


def open_rows(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise whole texts, without the end-of-text mark that some tokenizers put after each.

    It would stand where the answer comes.

    Args:
        tokenizer: of the model.
        texts: n texts; an empty one may give an empty row.
    """
    if not texts:
        return []
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id}
    rows = [list(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    for row in rows:
        while row and row[-1] in ends:
            row.pop()
    return rows


def _shortened(
    tokenizer: Any, prompt: Prompt, text: str, length: int, max_length: int
) -> list[int]:
    """Drop tokens of the text from its end until the filled template fits, or no text is left."""
    kept = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    row: list[int] = []
    while kept and length > max_length:
        kept = kept[: max(len(kept) - (length - max_length), 0)]
        shorter = tokenizer.decode(kept, clean_up_tokenization_spaces=False) if kept else ""
        row = open_rows(tokenizer, [prompt.fill(shorter)])[0]
        length = len(row)
    return row or open_rows(tokenizer, [prompt.fill("")])[0]
