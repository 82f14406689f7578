"""Replaced-token detection with a small BERT (ELECTRA, Clark et al. 2020).

A generator of one layer guesses hidden tokens; a token is drawn from its guess; the encoder says of
*every* token whether it stood there. So all places teach, not 15 % of them. Generator and encoder
share their embeddings; only the encoder is kept. Known difference from the paper: the generator is
as wide as the encoder and shallower (theirs is narrower), so that sharing needs no projection.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftlab.core.options import option
from peftlab.core.types import Ints
from peftlab.models.pretraining.corpus import Tokens
from peftlab.models.pretraining.masked import (
    Masked,
    bert_config,
    guess_loss,
    questions_at,
    warm_start_bert,
)
from peftlab.models.pretraining.masking import hide_tokens
from peftlab.models.pretraining.objective import NOT_ASKED, Questions
from peftlab.models.pretraining.options import PretrainOptions
from peftlab.models.pretraining.windows import Format

if TYPE_CHECKING:
    from transformers import BertModel


class ReplacedOptions(PretrainOptions):
    """Options of replaced-token detection."""

    generator_layers: int = option(1, "layers of the generator", source="ours", ge=1, le=48)
    detection: float = option(
        50.0, "weight of the detection loss", source="Clark et al. 2020, 3.2", gt=0
    )


def draw_tokens(logits: torch.Tensor) -> torch.Tensor:
    """Return one token for each row of (n, tokens) logits, drawn from its softmax.

    One uniform number a row is looked up in the running sum. ``torch.multinomial`` draws a number
    for every token instead, which took a tenth of a training step on CPU.
    """
    running = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    point = torch.rand(len(logits), 1, device=logits.device) * running[:, -1:]
    drawn = torch.searchsorted(running, point, right=True).squeeze(-1)
    return drawn.clamp(max=logits.shape[1] - 1)  # rounding may put the point at the very end


class Detector(torch.nn.Module):
    """The generator, the encoder and the head that tells replaced tokens from true ones."""

    def __init__(self, options: ReplacedOptions, vocabulary: int) -> None:
        from transformers import BertForMaskedLM, BertModel

        super().__init__()
        self.weight = options.detection
        self.generator = BertForMaskedLM(bert_config(options, vocabulary, options.generator_layers))
        self.encoder: BertModel = BertModel(
            bert_config(options, vocabulary, options.layers), add_pooling_layer=False
        )
        self.encoder.embeddings = self.generator.bert.embeddings
        self.head = torch.nn.Sequential(
            torch.nn.Linear(options.width, options.width),
            torch.nn.GELU(),
            torch.nn.Linear(options.width, 1),
        )

    def draw(
        self, inputs: torch.Tensor, answers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed guessing loss, and the inputs with every hidden token drawn."""
        asked = answers != NOT_ASKED
        logits = self.generator.cls(
            self.generator.bert(input_ids=inputs).last_hidden_state[asked]
        ).float()
        loss = torch.nn.functional.cross_entropy(logits, answers[asked], reduction="sum")
        drawn = draw_tokens(logits.detach())
        filled = inputs.clone()
        filled[asked] = drawn
        return loss, filled

    def detect(self, filled: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, over all tokens, of telling which were replaced."""
        hidden = self.encoder(input_ids=filled).last_hidden_state
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.head(hidden).squeeze(-1).float(), (filled != true).float()
        )


class Replaced(Masked):
    """An encoder tells replaced tokens from true ones."""

    name = "replaced"
    task = "feature-extraction"
    options: type[PretrainOptions] = ReplacedOptions

    def build(self, options: PretrainOptions, vocabulary: int) -> Any:
        """Return generator, encoder and head."""
        assert isinstance(options, ReplacedOptions)
        return Detector(options, vocabulary)

    def warm_start(self, model: Any, tokens: Tokens, seed: int) -> None:
        """Start the shared embeddings from word vectors."""
        warm_start_bert(model.generator, tokens, seed)

    def continue_from(self, model: Any, folder: Path) -> None:
        """Take over the weights of a saved encoder; the generator starts anew."""
        from peftlab.models.pretraining.weights import take_over

        take_over(model.encoder, folder)

    def questions(
        self, ids: Ints, form: Format, rng: np.random.Generator, options: PretrainOptions
    ) -> Questions:
        """Hide the chosen tokens."""
        return questions_at(ids, *hide_tokens(ids, form, rng, rate=options.masked))

    def loss(self, model: Any, questions: Questions, asked: int, windows: int) -> torch.Tensor:
        """Return the generator's and the detection loss."""
        inputs, answers = questions.tensors(model)
        guessing, filled = model.draw(inputs, answers)
        true = torch.where(answers == NOT_ASKED, inputs, answers)
        share = len(inputs) / windows
        return guessing / max(1, asked) + model.weight * share * model.detect(filled, true)

    def exam_loss(self, model: Any, questions: Questions) -> float:
        """Return the summed loss of the *generator* in nats; the encoder guesses no tokens."""
        return float(guess_loss(model.generator, *questions.tensors(model)))

    def shipped(self, model: Any) -> BertModel:
        """Return the encoder."""
        encoder: BertModel = model.encoder
        return encoder
