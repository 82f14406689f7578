"""Texts in, logits out: encode once, batch by length under a token budget, keep the order.

Scores never depend on batch mates beyond rounding: padding is masked, and every row is computed
from its own tokens. Cost of scoring n texts: one forward pass each, about
``2 * non-embedding parameters * tokens`` FLOP.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from peftlab.core.types import Floats, Ints
from peftlab.nn.prompted import encode_prompted, prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Precision = Literal["fp32", "bf16"]
MAX_TOKENS = 512  # no text is encoded longer than this, whatever the model would take
TOKEN_BUDGET = 4096  # padded tokens a batch on CPU; 16384 halves the speed (measured)
GPU_TOKEN_BUDGET = 65536
CLOSE_CALL = 0.25  # logits; bf16 moved a gap by 0.03 at most on the SST-2 test texts
CHARACTERS_PER_TOKEN = 24  # a bound: text past MAX_TOKENS * this can be cut before tokenising


@cache
def has_fast_bf16(device: str | None = None) -> bool:
    """Return whether bf16 matrix products run in hardware on ``device`` (None: where models go)."""
    if torch.cuda.is_available() and device != "cpu":
        return torch.cuda.is_bf16_supported()
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="ignore") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context in which a model runs at ``precision``."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def device_of(model: torch.nn.Module) -> torch.device:
    """Return where the model's parameters are."""
    return next(model.parameters()).device


def virtual_tokens(model: Any) -> int:
    """Return how many positions a prompt-type adapter takes from the text."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return 0
    return max((int(getattr(c, "num_virtual_tokens", 0) or 0) for c in configs.values()), default=0)


def room_for_text(model: Any) -> int:
    """Return the longest text in tokens that the model can take, virtual tokens set aside."""
    positions = int(getattr(model.config, "max_position_embeddings", 0) or MAX_TOKENS)
    if getattr(model.config, "model_type", "") in {"roberta", "xlm-roberta", "camembert"}:
        positions -= 2  # their position numbers start after the padding index
    return max(min(positions, MAX_TOKENS) - virtual_tokens(model), 8)


def sound_texts(texts: Sequence[str], max_length: int) -> list[str]:
    """Return texts that every tokenizer takes, and quickly, if only ``max_length`` tokens count.

    Lone surrogates are replaced; what lies far behind the last token that counts is cut off.

    Examples:
        >>> sound_texts(["a" + chr(0xD800) + "b"], 8)
        ['a?b']
    """
    cut = max_length * CHARACTERS_PER_TOKEN
    return [text[:cut].encode("utf-8", "replace").decode("utf-8") for text in texts]


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return the token numbers of each text, cut to ``max_length``; an empty text keeps >= 1.

    Args:
        tokenizer: of the model; if it carries a prompt, each text is put into that first.
        texts: n texts.
        max_length: longest sequence in tokens.
    """
    if not texts:
        return []
    sound = sound_texts(texts, max_length)
    prompt = prompt_of(tokenizer)
    if prompt is not None:
        return encode_prompted(tokenizer, prompt, sound, max_length)
    rows = tokenizer(sound, truncation=True, max_length=max_length)
    spare = next(
        token
        for token in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, 0)
        if token is not None
    )
    return [ids or [spare] for ids in rows["input_ids"]]


def budget_batches(lengths: Sequence[int], budget: int) -> list[Ints]:
    """Group rows of similar length so that a padded batch holds at most ``budget`` tokens.

    Returns index arrays, longest rows first, that together hold every row once. A row longer than
    the budget gets a batch of its own.

    Examples:
        >>> [batch.tolist() for batch in budget_batches([3, 9, 4, 2], budget=9)]
        [[1], [2, 0], [3]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[Ints] = []
    start = 0
    while start < len(order):
        size = max(budget // max(int(lengths[int(order[start])]), 1), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return ``input_ids`` and ``attention_mask``, both (b, t), padded on the right."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }


def needs_equal_lengths(model: Any) -> bool:
    """Return whether rows of different length may not share a batch.

    A decoder pools at its last real token and finds it by the token numbers; prompt-type adapters
    feed embeddings instead, so ``transformers`` would pool at the padding.
    """
    configs = getattr(model, "peft_config", {})
    kinds = {c.peft_type.value for c in configs.values()} if isinstance(configs, dict) else set()
    return bool(kinds & {"PROMPT_TUNING", "P_TUNING"}) and "score" in dict(
        model.get_base_model().named_children()
    )


def forward_rows(
    model: Any, rows: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> torch.Tensor:
    """Return the logits (b, C) of token rows, in order."""
    if not needs_equal_lengths(model):
        return model(**pad(rows, pad_id, device)).logits
    lengths = np.asarray([len(row) for row in rows])
    parts, order = [], []
    for length in np.unique(lengths):
        at = np.flatnonzero(lengths == length)
        parts.append(model(**pad([rows[int(i)] for i in at], pad_id, device)).logits)
        order.append(at)
    back = torch.from_numpy(np.argsort(np.concatenate(order)))
    return torch.cat(parts)[back.to(device)]


def pad_id_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token; decoder families pool at the last token that is not it."""
    for candidate in (getattr(model.config, "pad_token_id", None), tokenizer.pad_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def predict_logits(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    precision: Precision = "fp32",
    encoded: Sequence[Sequence[int]] | None = None,
) -> Floats:
    """Return the logits of each text, in input order.

    Args:
        model: sequence classifier; put into eval mode here, so that no dropout is active.
        tokenizer: of the model.
        texts: n texts; empty texts and n = 0 are allowed.
        precision: bf16 is faster where ``has_fast_bf16()``; its logits are off by about 1 %.
        encoded: result of ``encode``, to tokenise once for many models.

    Returns:
        (n, C) float64.
    """
    rows = encode(tokenizer, texts, room_for_text(model)) if encoded is None else encoded
    out = np.zeros((len(rows), int(model.config.num_labels)), dtype=np.float64)
    fill = pad_id_of(model, tokenizer)
    device = device_of(model)
    model.eval()
    with torch.inference_mode():
        for batch in budget_batches([len(row) for row in rows], _budget(device)):
            with autocast(device, precision):
                logits = forward_rows(model, [rows[int(i)] for i in batch], fill, device)
            out[batch] = logits.float().cpu().numpy()
    return out


def predict_classes(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
) -> Ints:
    """Return the predicted class of each text, fast: bf16, and float32 again for close calls.

    A call is close when the two largest logits are within ``CLOSE_CALL`` of each other, many times
    the rounding of bf16, so the classes are those of float32.
    """
    rows = encode(tokenizer, texts, room_for_text(model))
    precision: Precision = "bf16" if has_fast_bf16() else "fp32"
    logits = predict_logits(model, tokenizer, texts, encoded=rows, precision=precision)
    if precision == "bf16" and len(rows):
        ordered = np.sort(logits, axis=1)
        close = np.flatnonzero(ordered[:, -1] - ordered[:, -2] < CLOSE_CALL)
        again = [rows[int(i)] for i in close]
        logits[close] = predict_logits(model, tokenizer, texts, encoded=again)
    return logits.argmax(axis=1) if len(rows) else np.zeros(0, dtype=np.int64)


def predict_hidden(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    *,
    precision: Precision = "fp32",
) -> tuple[Floats, Floats]:
    """Return logits (n, C) and penultimate hidden states (n, d) of a bare model in one pass.

    The hidden state is that of the position at which the family pools: the first token for
    encoders, the last real one for decoders.
    """
    out = np.zeros((len(rows), int(model.config.num_labels)), dtype=np.float64)
    hidden: Floats | None = None
    fill, device = pad_id_of(model, tokenizer), device_of(model)
    decoder = "score" in dict(model.named_children())
    model.eval()
    with torch.inference_mode():
        for batch in budget_batches([len(row) for row in rows], _budget(device)):
            chosen = [rows[int(i)] for i in batch]
            with autocast(device, precision):
                found = model(**pad(chosen, fill, device), output_hidden_states=True)
            at = [len(row) - 1 if decoder else 0 for row in chosen]
            states = found.hidden_states[-2][torch.arange(len(at)), torch.tensor(at)].float()
            if hidden is None:
                hidden = np.zeros((len(rows), states.shape[1]), dtype=np.float64)
            out[batch], hidden[batch] = found.logits.float().cpu().numpy(), states.cpu().numpy()
    return out, np.zeros((0, 1)) if hidden is None else hidden


def _budget(device: torch.device) -> int:
    return TOKEN_BUDGET if device.type == "cpu" else GPU_TOKEN_BUDGET


def softmax(logits: Floats) -> Floats:
    """Return softmax over the last axis, in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    grown = np.exp(shifted)
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))
