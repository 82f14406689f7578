"""The tiny language model: two causal layers on the words of a made-up grammar, a stock OPT.

Loss of an example: mean cross-entropy of the next word, over words that are not padding.
See ``backbone.Backbone`` for what its functions are for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  as everybody calls it

from peftlab.audits.size.farm.sentences import (
    END,
    HIDDEN,
    LENGTH,
    PAD,
    START,
    WORDS,
    draw_sentences,
    draw_topic,
)
from peftlab.audits.size.farm.transformer import (
    DEPTH,
    HEADS,
    TOKENS,
    WIDTH,
    Factors,
    Weights,
    run_layers,
)
from peftlab.audits.size.farm.transformer import HIDDEN as HIDDEN_WIDTH

PREFIX = "model.decoder."  # of layer names in an adapter
OFFSET = 2  # OPT's table of positions starts with two rows that it never uses here
SHARE_HIDDEN = 0.1


def draw(seed: int, concept: int, count: int) -> torch.Tensor:
    """Return the first ``count`` sentences of a concept, (count, 16)."""
    return torch.from_numpy(draw_sentences(draw_topic(seed, concept), seed, concept, count))


def chances(numbers: np.random.Generator, batch: int) -> dict[str, np.ndarray]:
    """Return what is random in a step besides the choice of sentences."""
    return {"drop": numbers.random((batch, LENGTH)) < SHARE_HIDDEN}


def augment(codes: torch.Tensor, drawn: Mapping[str, torch.Tensor], kind: str) -> torch.Tensor:
    """Return the sentences; where ``kind`` is drop, the code of a hidden word is negative."""
    if kind != "drop":
        return codes
    return torch.where(drawn["drop"] & (codes > HIDDEN), -codes, codes)


def losses(
    weights: Weights, factors: Factors | None, codes: torch.Tensor,
    drawn: Mapping[str, torch.Tensor],
) -> torch.Tensor:  # fmt: skip
    """Return the loss of each model and example, (M, b).

    Args:
        weights: fused.
        factors: of M models, or None.
        codes: (M, b, 16), negative where a word is hidden from the model but still predicted.
        drawn: nothing that is needed here.
    """
    del drawn
    scores = logits(weights, factors, torch.where(codes < 0, HIDDEN, codes))
    wanted = codes[..., 1:].abs()
    found = F.cross_entropy(scores[..., :-1, :].flatten(0, 2), wanted.flatten(), reduction="none")
    counts = wanted != PAD
    return (found.view(wanted.shape) * counts).sum(-1) / counts.sum(-1)


def logits(weights: Weights, factors: Factors | None, codes: torch.Tensor) -> torch.Tensor:
    """Return scores of the next word, (M, b, T, words)."""
    table = weights["embed_tokens.weight"]
    places = weights["embed_positions.weight"][OFFSET : OFFSET + codes.shape[-1]]
    x = run_layers(F.embedding(codes, table) + places, weights, factors, causal=True)
    return F.linear(x, table)


def shapes() -> dict[str, tuple[int, ...]]:
    """Return name and shape of the weights outside the layers."""
    return {
        "embed_tokens.weight": (len(WORDS), WIDTH),
        "embed_positions.weight": (TOKENS + OFFSET, WIDTH),
    }


def config() -> dict[str, object]:
    """Return the ``config.json`` with which transformers loads the base."""
    return {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": len(WORDS),
        "hidden_size": WIDTH, "word_embed_proj_dim": WIDTH, "ffn_dim": HIDDEN_WIDTH,
        "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "max_position_embeddings": TOKENS, "activation_function": "gelu",
        "do_layer_norm_before": True, "dropout": 0.0, "attention_dropout": 0.0,
        "layerdrop": 0.0, "tie_word_embeddings": True, "pad_token_id": PAD,
        "bos_token_id": START, "eos_token_id": END, "torch_dtype": "float32",
    }  # fmt: skip
