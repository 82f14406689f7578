"""Causal language modelling with a small Llama (Touvron et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from peftlab.core.options import option
from peftlab.core.types import Ints
from peftlab.models.pretraining.corpus import Tokens
from peftlab.models.pretraining.objective import NOT_ASKED, Questions
from peftlab.models.pretraining.options import PretrainOptions
from peftlab.models.pretraining.ppmi import warm_start
from peftlab.models.pretraining.tokenisers import SPECIAL_BYTES, train_bytes, wrap_bytes
from peftlab.models.pretraining.windows import Format

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_OURS = "ours: ``builtin:lm``"


class CausalOptions(PretrainOptions):
    """How a language model is made; the defaults are those of ``builtin:lm``."""

    feed_forward: int = option(688, "width inside the feed-forward part", source=_OURS, ge=8)
    positions: int = option(512, "longest input", source=_OURS, ge=8, le=65_536)
    length: int = option(128, "tokens a window, at most positions", source=_OURS, ge=4)
    batch: int = option(32, "windows a step, over all processes", source=_OURS, ge=1)
    steps: int = option(1_700, "optimiser steps", source=_OURS, ge=1)
    optimiser: Literal["adamw", "muon"] = option(
        "muon", "muon: for the weight matrices of the layers, AdamW for the rest", source=_OURS
    )
    rate: float = option(2e-3, "peak learning rate", source=_OURS, gt=0)
    warm_up: int = option(60, "steps of linear warm-up", source=_OURS, ge=0)
    decay: float = option(0.1, "weight decay", source="Touvron et al. 2023, 2.3", ge=0)


def next_tokens(ids: Ints) -> Questions:
    """Return the questions that ask at each place for the token after it."""
    answers = np.full_like(ids, NOT_ASKED)
    answers[:, :-1] = ids[:, 1:]
    return Questions(ids, answers)


class Causal:
    """A decoder guesses each token from those before it."""

    name = "causal"
    task = "text-generation"
    options: type[PretrainOptions] = CausalOptions

    def train_tokenizer(self, files: Sequence[Path], vocabulary: int) -> Tokenizer:
        """Return a byte-level BPE tokenizer."""
        return train_bytes(files, vocabulary)

    def wrap_tokenizer(self, tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
        """Return it as stock ``transformers`` saves it."""
        return wrap_bytes(tokenizer, positions)

    def format(self, vocabulary: int) -> Format:
        """Return ``<s> ...``, with ``</s>`` at the end of each paragraph."""
        _, start, end = range(len(SPECIAL_BYTES))
        return Format(vocabulary, len(SPECIAL_BYTES), (start,), (), paragraph=end)

    def build(self, options: PretrainOptions, vocabulary: int) -> Any:
        """Return a Llama with tied embeddings."""
        from transformers import LlamaConfig, LlamaForCausalLM

        pad, start, end = range(len(SPECIAL_BYTES))
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=options.width,
                intermediate_size=options.feed_forward,
                num_hidden_layers=options.layers,
                num_attention_heads=options.heads,
                max_position_embeddings=options.positions,
                attention_dropout=options.dropout,
                tie_word_embeddings=True,
                pad_token_id=pad,
                bos_token_id=start,
                eos_token_id=end,
            )
        )

    def warm_start(self, model: Any, tokens: Tokens, seed: int) -> None:
        """Start the tied embeddings from word vectors."""
        import torch

        embedding = model.model.embed_tokens.weight
        vectors, _ = warm_start(tokens, embedding.shape[0], embedding.shape[1], seed)
        with torch.no_grad():
            embedding.copy_(torch.from_numpy(vectors))

    def continue_from(self, model: Any, folder: Path) -> None:
        """Take over the weights of a saved Llama."""
        from peftlab.models.pretraining.weights import take_over

        take_over(model, folder)

    def questions(
        self, ids: Ints, form: Format, rng: np.random.Generator, options: PretrainOptions
    ) -> Questions:
        """Ask for every next token."""
        del form, rng, options
        return next_tokens(ids)

    def exam(self, ids: Ints, form: Format, rng: np.random.Generator) -> Questions:
        """Ask for every next token."""
        del form, rng
        return next_tokens(ids)

    def loss(self, model: Any, questions: Questions, asked: int, windows: int) -> torch.Tensor:
        """Return the summed loss over all places that the step asks."""
        del windows
        return self._sum(model, questions) / max(1, asked)

    def exam_loss(self, model: Any, questions: Questions) -> float:
        """Return the summed loss in nats."""
        return float(self._sum(model, questions))

    def _sum(self, model: Any, questions: Questions) -> torch.Tensor:
        import torch

        inputs, answers = questions.tensors(model)
        logits = model(input_ids=inputs[:, :-1]).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), answers[:, :-1].flatten(), reduction="sum"
        )

    def shipped(self, model: Any) -> Any:
        """Return the whole model."""
        return model
