"""What a model is asked while it is pre-trained: the contract of an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from peftlab.core.types import Ints
from peftlab.models.pretraining.corpus import Tokens
from peftlab.models.pretraining.options import PretrainOptions
from peftlab.models.pretraining.windows import Format

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NOT_ASKED = -100  # torch.nn.functional.cross_entropy ignores it


@dataclass(frozen=True, slots=True)
class Questions:
    """One batch as the model sees it.

    Attributes:
        inputs: (batch, length) token numbers.
        answers: (batch, length) what is asked for at each place, ``NOT_ASKED`` where nothing is.
    """

    inputs: Ints
    answers: Ints

    @property
    def asked(self) -> int:
        """Return at how many places something is asked for."""
        return int((self.answers != NOT_ASKED).sum())

    def tensors(self, model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both arrays on the model's device."""
        import torch

        device = next(model.parameters()).device
        return (
            torch.from_numpy(self.inputs).to(device), torch.from_numpy(self.answers).to(device)
        )  # fmt: skip

    def part(self, rows: slice) -> Questions:
        """Return some of the windows."""
        return Questions(self.inputs[rows], self.answers[rows])


class Objective(Protocol):
    """One way to pre-train. The loop, the checkpoints and the files are the same for all."""

    name: str
    options: type[PretrainOptions]
    task: str

    def train_tokenizer(self, files: Sequence[Path], vocabulary: int) -> Tokenizer:
        """Return a tokenizer trained on the files; the same files give the same one."""

    def wrap_tokenizer(self, tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
        """Return the tokenizer as stock ``transformers`` saves it."""

    def format(self, vocabulary: int) -> Format:
        """Return the special tokens around windows and paragraphs."""

    def build(self, options: PretrainOptions, vocabulary: int) -> torch.nn.Module:
        """Return a randomly initialised model; drawn from the global generator of torch."""

    def warm_start(self, model: Any, tokens: Tokens, seed: int) -> None:
        """Put word vectors made from counts into the embeddings."""

    def continue_from(self, model: Any, folder: Path) -> None:
        """Take over the weights of a folder that ``shipped`` was saved to.

        Raises:
            InputRejected: ``PRETRAIN-FROM``, they are of another shape.
        """

    def questions(
        self, ids: Ints, form: Format, rng: np.random.Generator, options: PretrainOptions
    ) -> Questions:
        """Return what the model is asked in training about windows ``ids`` (batch, length)."""

    def exam(self, ids: Ints, form: Format, rng: np.random.Generator) -> Questions:
        """Return what it is asked when it is measured."""

    def loss(self, model: Any, questions: Questions, asked: int, windows: int) -> torch.Tensor:
        """Return the share of these questions in the loss of the whole step.

        Args:
            model: from ``build``, on its device.
            questions: a part of the step's.
            asked: places asked in the whole step.
            windows: windows in the whole step.
        """

    def exam_loss(self, model: Any, questions: Questions) -> float:
        """Return the summed loss in nats over all places that are asked, in evaluation mode."""

    def shipped(self, model: Any) -> PreTrainedModel:
        """Return the part of the model that is written to the result folder."""
