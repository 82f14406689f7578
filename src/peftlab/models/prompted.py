"""A causal language model as a classifier by prompt, and the file that tells its prompt.

Restricting the next-token probabilities after a prompt to one token a class is what the library's
sequence classifier of the same family computes, if its head is the rows of the output embedding of
those tokens: it reads the last real token. So the model stays a stock classifier,
and attacks, tuners and guards need to know nothing. ``prompt.json`` lies beside whatever was made
with a prompt: a model, an adapter, a guard.
Known difference from prompting the model itself: the head's rows train apart from the embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftlab.core.errors import ConfigError, InputRejected, NotApplicable
from peftlab.core.options import parse_options
from peftlab.core.prompt import Prompt
from peftlab.io.files import read_json, write_json

PROMPT_FILE = "prompt.json"
FILE_LIMIT = 256 * 1024  # bytes; ours, room for a thousand words of 40 characters
OFF = 1e-3  # logits; ours, many times the rounding of float32 and far below any other reading


def read_prompt(folder: Path) -> Prompt | None:
    """Return the prompt beside a model, an adapter or a guard; None where there is none.

    Raises:
        InputRejected: ``PROMPT-FILE``, or the codes of reading JSON.
    """
    place = folder / PROMPT_FILE
    if not place.is_file():
        return None
    about: Any = read_json(place, limit_bytes=FILE_LIMIT)
    try:
        # anything but an object lacks both keys
        return parse_options(Prompt, about if isinstance(about, dict) else {}, "prompt")
    except ConfigError as error:
        raise InputRejected(
            f"{place} is not a prompt",
            code="PROMPT-FILE", got=error.what[:200],
            allowed="template, a text with {text} once, and words, one for each class",
            fix="restore the file, or make the model again",
        ) from error  # fmt: skip


def write_prompt(folder: Path, prompt: Prompt | None) -> None:
    """Write the prompt, if there is one, into a folder of which it becomes a part."""
    if prompt is not None:
        write_json(folder / PROMPT_FILE, prompt.model_dump(mode="json"))


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer, and the prompt that it carries."""
    from peftlab.nn.prompted import prompt_of

    tokenizer.save_pretrained(folder)
    write_prompt(folder, prompt_of(tokenizer))


def agreed_prompt(own: Prompt | None, given: Prompt | None) -> Prompt | None:
    """Return the prompt of a base: its own, or the one that is asked for.

    Raises:
        ConfigError: ``PROMPT-TWICE`` if they differ.
    """
    if own is not None and given is not None and own != given:
        raise ConfigError(
            "the base was made with another prompt",
            code="PROMPT-TWICE", got=f"{given.template!r}, {', '.join(given.words)}",
            allowed=f"{own.template!r}, {', '.join(own.words)}",
            fix="leave the prompt out: the one beside the base is used",
        )  # fmt: skip
    return own or given


def apply_prompt(tokenizer: Any, prompt: Prompt, n_classes: int, room: int) -> list[int]:
    """Make a tokenizer put texts into a prompt; return the token of each class's word.

    Args:
        tokenizer: of the base; carries the prompt from now on.
        prompt: template and words.
        n_classes: C.
        room: longest sequence that the model takes, in tokens.

    Raises:
        ConfigError: ``PROMPT-CLASSES`` for another number of words than classes, ``PROMPT-WORD``
            for a word that is not one token, ``PROMPT-LONG`` for a template that leaves less than
            half of the room to the text, ``PROMPT-SPECIAL`` for one with special tokens.
    """
    from peftlab.nn.prompted import answer_tokens, encode_prompted, set_prompt

    if len(prompt.words) != n_classes:
        raise ConfigError(
            f"the prompt has words for {len(prompt.words)} classes, the data has {n_classes}",
            code="PROMPT-CLASSES", fix="give one word for each class, in the order of the labels",
        )  # fmt: skip
    _check_template(tokenizer, prompt)
    length = len(encode_prompted(tokenizer, prompt, [""], room)[0])
    if 2 * length > room:
        raise ConfigError(
            "the template leaves too little room for a text",
            code="PROMPT-LONG", got=f"{length} tokens",
            allowed=f"at most half of the {room} that the model takes", fix="shorten the template",
        )  # fmt: skip
    tokens = answer_tokens(tokenizer, prompt)
    chosen = [token for token in tokens if token is not None]
    if len(set(chosen)) < len(tokens):
        odd = [word for word, one in zip(prompt.words, tokens, strict=True) if one is None]
        raise ConfigError(
            "a word of the prompt is not one token of this base's tokenizer",
            code="PROMPT-WORD", got=", ".join(odd or prompt.words),
            fix="choose shorter or more common words",
        )  # fmt: skip
    set_prompt(tokenizer, prompt)
    return chosen


def _check_template(tokenizer: Any, prompt: Prompt) -> None:
    """Refuse special tokens: as the last one the classifier would take it for padding."""
    inside = tokenizer(prompt.fill(""), add_special_tokens=False)["input_ids"]
    special = sorted(set(inside) & set(tokenizer.all_special_ids))
    if special:
        raise ConfigError(
            "the template has special tokens of this base's tokenizer",
            code="PROMPT-SPECIAL", got=", ".join(tokenizer.convert_ids_to_tokens(special)),
            fix="write the template in plain words",
        )  # fmt: skip


def as_classifier(causal: Any, rows: list[list[int]], tokens: list[int], pad_id: int | None) -> Any:
    """Return the sequence classifier that computes what a language model says of its next token.

    Args:
        causal: language model; its body becomes the classifier's.
        rows: some texts in the prompt, to check the claim on.
        tokens: of the classes' words.
        pad_id: padding token, for a model that names none.

    Raises:
        NotApplicable: ``PROMPT-MODEL`` for a family whose classifier computes something else.
    """
    import torch

    with torch.inference_mode():
        wanted = [causal(torch.tensor([row])).logits[0, -1, tokens] for row in rows]
    model = _with_rows(causal, tokens, pad_id)
    if model is not None:
        with torch.inference_mode():
            found = [model(torch.tensor([row])).logits[0] for row in rows]
        if all(torch.allclose(a, b, atol=OFF) for a, b in zip(found, wanted, strict=True)):
            return model
    raise NotApplicable(
        f"a classifier of the family {causal.config.model_type} does not compute what its language "
        "model says of the next word",
        code="PROMPT-MODEL",
        allowed="Llama, Qwen2, GPT-2, OPT and others whose output layer is plain",
        fix="use such a base, or leave the prompt out",
    )


def _with_rows(causal: Any, tokens: list[int], pad_id: int | None) -> Any:
    """Return a classifier around the body whose head is some output rows; None where it cannot."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config, output = causal.config, causal.get_output_embeddings()
    config.num_labels = len(tokens)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_id
    try:
        with torch.device("meta"):  # the body is there already; nothing is drawn
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError:  # the library has no classifier of this family
        return None
    if not isinstance(getattr(model, "score", None), torch.nn.Linear) or output.bias is not None:
        return None
    setattr(model, model.base_model_prefix, causal.base_model)
    model.score = torch.nn.Linear(output.in_features, len(tokens), bias=False)
    model.score.weight.data.copy_(output.weight[tokens])
    return model.eval()
