"""Masked language modelling with a small BERT (Devlin et al. 2019).

The output layer runs on the chosen positions only, which saves most of its cost at this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftlab.core.types import Bools, Ints
from peftlab.models.pretraining.corpus import Tokens
from peftlab.models.pretraining.masking import hide_tokens, mask_tokens
from peftlab.models.pretraining.objective import NOT_ASKED, Questions
from peftlab.models.pretraining.options import PretrainOptions
from peftlab.models.pretraining.ppmi import warm_start
from peftlab.models.pretraining.tokenisers import (
    SPECIAL_PIECES,
    train_wordpiece,
    wrap_wordpiece,
)
from peftlab.models.pretraining.windows import Format

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast


def bert_config(options: PretrainOptions, vocabulary: int, layers: int) -> BertConfig:
    """Return the configuration of an encoder with ``layers`` layers."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=options.width,
        num_hidden_layers=layers,
        num_attention_heads=options.heads,
        intermediate_size=options.feed_forward,
        max_position_embeddings=options.positions,
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
        pad_token_id=0,
    )


def bert_format(vocabulary: int) -> Format:
    """Return the special tokens of a WordPiece tokenizer and where they stand."""
    _, _, cls, sep, mask = range(len(SPECIAL_PIECES))
    return Format(vocabulary, len(SPECIAL_PIECES), (cls,), (sep,), mask=mask)


def questions_at(ids: Ints, inputs: Ints, chosen: Bools) -> Questions:
    """Return the questions that ask for ``ids`` at the chosen places."""
    return Questions(inputs, np.where(chosen, ids, NOT_ASKED))


def guess_loss(model: BertForMaskedLM, inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Return the summed loss over the asked places; the output layer runs on those only."""
    import torch

    asked = answers != NOT_ASKED
    logits = model.cls(model.bert(input_ids=inputs).last_hidden_state[asked])
    return torch.nn.functional.cross_entropy(logits.float(), answers[asked], reduction="sum")


def warm_start_bert(model: BertForMaskedLM, tokens: Tokens, seed: int) -> None:
    """Put PPMI-SVD vectors into the tied embeddings and log frequencies into the output bias."""
    import torch

    embedding = model.bert.embeddings.word_embeddings.weight
    vectors, bias = warm_start(tokens, embedding.shape[0], embedding.shape[1], seed)
    with torch.no_grad():
        embedding.copy_(torch.from_numpy(vectors))
        model.cls.predictions.bias.copy_(torch.from_numpy(bias))


class Masked:
    """An encoder guesses hidden tokens from both sides."""

    name = "masked"
    task = "fill-mask"
    options: type[PretrainOptions] = PretrainOptions

    def train_tokenizer(self, files: Sequence[Path], vocabulary: int) -> Tokenizer:
        """Return a lower-casing WordPiece tokenizer."""
        return train_wordpiece(files, vocabulary)

    def wrap_tokenizer(self, tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
        """Return it as stock ``transformers`` saves it."""
        return wrap_wordpiece(tokenizer, positions)

    def format(self, vocabulary: int) -> Format:
        """Return ``[CLS] ... [SEP]``."""
        return bert_format(vocabulary)

    def build(self, options: PretrainOptions, vocabulary: int) -> Any:
        """Return a BERT with tied output embeddings."""
        from transformers import BertForMaskedLM

        return BertForMaskedLM(bert_config(options, vocabulary, options.layers))

    def warm_start(self, model: Any, tokens: Tokens, seed: int) -> None:
        """Start from word vectors and frequencies."""
        warm_start_bert(model, tokens, seed)

    def continue_from(self, model: Any, folder: Path) -> None:
        """Take over the weights of a saved BERT with its output layer."""
        from peftlab.models.pretraining.weights import take_over

        take_over(model, folder)

    def questions(
        self, ids: Ints, form: Format, rng: np.random.Generator, options: PretrainOptions
    ) -> Questions:
        """Hide, replace or keep the chosen tokens."""
        return questions_at(ids, *mask_tokens(ids, form, rng, rate=options.masked))

    def exam(self, ids: Ints, form: Format, rng: np.random.Generator) -> Questions:
        """Hide 15 % of the tokens."""
        return questions_at(ids, *hide_tokens(ids, form, rng))

    def loss(self, model: Any, questions: Questions, asked: int, windows: int) -> torch.Tensor:
        """Return the summed loss over all places that the step asks."""
        del windows  # every window counts by the places it asks
        return guess_loss(model, *questions.tensors(model)) / max(1, asked)

    def exam_loss(self, model: Any, questions: Questions) -> float:
        """Return the summed loss in nats."""
        return float(guess_loss(model, *questions.tensors(model)))

    def shipped(self, model: Any) -> Any:
        """Return the whole model."""
        return model
