"""The language-model loss through the body of a classifier, which has no output layer for it.

    logits = W_e (D h) + b        D: dense, GELU and LayerNorm, as BERT's own output layer

W_e is the body's input embedding (tied), h its last hidden state. D starts as drawn, b as the log
frequencies of the corpus; ``fit`` trains both against the body as it is, so that what a loss means
before and after a change of the body is the same. They are thrown away in the end.

A base with a mask token guesses hidden tokens (Devlin et al. 2019, 3.1: 15 % are chosen; of those
80 % are masked, 10 % replaced by a random token, 10 % kept). A decoder guesses the next token at
15 % of the places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, gelu

from peftlab.core.errors import NotApplicable
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Bools, Ints
from peftlab.nn.body_features import is_decoder
from peftlab.nn.loop import TrainLog, TrainPlan, train
from peftlab.nn.text import TOKEN_BUDGET, budget_batches, device_of, pad, pad_id_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARE = 0.15  # of the tokens that are asked for
NOT_ASKED = -100
FIT_LR = 2e-3  # of the output layer alone; ours, measured on the built-in encoder
FIT_BATCH = 8
FIT_STEPS = 150


@dataclass(frozen=True)
class Words:
    """The tokens of a tokenizer.

    Attributes:
        pad: padding token.
        mask: the token that hides another, or None for next-token guesses.
        ordinary: all tokens that are not special.
        special: the others.
    """

    pad: int
    mask: int | None
    ordinary: Ints
    special: Ints


@dataclass(frozen=True)
class Questions:
    """A padded batch with the places that are asked.

    Attributes:
        inputs: (b, t) tokens as the body sees them.
        attended: (b, t) 1 for tokens, 0 for padding.
        answers: (b, t) what is asked for; ``NOT_ASKED`` elsewhere.
    """

    inputs: Ints
    attended: Ints
    answers: Ints


def words_of(model: Any, tokenizer: PreTrainedTokenizerBase) -> Words:
    """Return the tokens by which a base is asked.

    Raises:
        NotApplicable: ``LM-MASK``, an encoder whose tokenizer has no mask token.
    """
    known = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
    mask = None if is_decoder(model) else tokenizer.mask_token_id
    if mask is None and not is_decoder(model):
        raise NotApplicable(
            f"{type(model).__name__} comes with a tokenizer that has no mask token",
            code="LM-MASK",
            allowed="masked-language-model encoders, and decoders",
            fix="choose another base",
        )
    ordinary = np.setdiff1d(np.arange(known), special)
    return Words(pad_id_of(model, tokenizer), mask, ordinary, special)


def ask(
    rows: Sequence[Sequence[int]], words: Words, rng: np.random.Generator, *, noise: bool = False
) -> Questions:
    """Choose places of token rows and ask for them.

    Args:
        rows: b token lists.
        words: from ``words_of``.
        rng: draws the places, what hides them, and noise.
        noise: ask for random ordinary tokens instead of the true ones.

    Returns:
        The questions. At least one place is asked where any row has an ordinary token (for a
        decoder: two tokens).
    """
    batch = pad(rows, words.pad, torch.device("cpu"))
    ids, attended = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    true, possible = _possible(ids, attended.astype(bool), words)
    chosen = _some(possible, rng)
    if noise:
        true = rng.choice(words.ordinary, size=ids.shape)
    inputs = ids if words.mask is None else _hide(ids, chosen, words.mask, words.ordinary, rng)
    return Questions(inputs, attended, np.where(chosen, true, NOT_ASKED))


def _possible(ids: Ints, real: Bools, words: Words) -> tuple[Ints, Bools]:
    """Return what is true at each place, and the places that can be asked."""
    if words.mask is not None:
        return ids, real & ~np.isin(ids, words.special)
    after = np.concatenate([ids[:, 1:], ids[:, :1]], axis=1)
    there = np.concatenate([real[:, 1:], np.zeros_like(real[:, :1])], axis=1)
    return after, there


def _some(possible: Bools, rng: np.random.Generator) -> Bools:
    chosen: Bools = possible & (rng.random(possible.shape) < SHARE)
    if not chosen.any() and possible.any():
        places = np.flatnonzero(possible)
        chosen.reshape(-1)[places[int(rng.integers(len(places)))]] = True
    return chosen


def _hide(ids: Ints, chosen: Bools, mask: int, ordinary: Ints, rng: np.random.Generator) -> Ints:
    way = rng.random(ids.shape)
    others = rng.choice(ordinary, size=ids.shape)
    inputs = np.where(chosen & (way < 0.8), mask, ids)
    return np.where(chosen & (way >= 0.8) & (way < 0.9), others, inputs)


class BodyLM(torch.nn.Module):
    """The body of a classifier with an output layer of its own; the body is shared, not copied.

    Args:
        model: sequence classifier.
        tokenizer: of the model.
        rows: corpus as token lists, for the start of the output bias.
        seed: of the output layer's start.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Sequence[int]],
        seed: int,
    ) -> None:
        super().__init__()
        self.words = words_of(model, tokenizer)
        self.body = model.base_model
        table, device = model.get_input_embeddings(), device_of(model)
        with torch.no_grad():  # what configs say of the width differs by family
            tried = self.body(**pad(rows[:1], self.words.pad, device)).last_hidden_state
        width = int(tried.shape[-1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "body-lm"))
            self.dense = torch.nn.Linear(width, table.embedding_dim).to(device)
        self.norm = torch.nn.LayerNorm(table.embedding_dim).to(device)
        counts = np.bincount(
            np.concatenate([np.asarray(row) for row in rows]), minlength=table.num_embeddings
        )
        start = np.log((counts + 1.0) / (counts + 1.0).sum())
        self.bias = torch.nn.Parameter(torch.from_numpy(start).float().to(device))

    def loss(self, questions: Questions) -> torch.Tensor:
        """Return the mean loss in nats over the places asked; 0 where none is."""
        device = self.bias.device
        states = self.body(
            input_ids=torch.from_numpy(questions.inputs).to(device),
            attention_mask=torch.from_numpy(questions.attended).to(device),
        ).last_hidden_state
        answers = torch.from_numpy(questions.answers).to(device)
        asked = answers != NOT_ASKED
        table = self.body.get_input_embeddings().weight
        hidden = self.norm(gelu(self.dense(states[asked])))
        logits = (hidden @ table.T + self.bias).float()
        total = cross_entropy(logits, answers[asked], reduction="sum")
        return total / max(int(asked.sum()), 1)

    def fit(self, rows: Sequence[Sequence[int]], seed: int) -> TrainLog:
        """Train the output layer against the body as it is."""
        wanted = {weight: weight.requires_grad for weight in self.body.parameters()}
        self.body.requires_grad_(False)
        rng = stream(seed, "body-lm/fit")
        try:
            return train(
                self, rows, np.zeros((len(rows), 1)),
                TrainPlan(steps=FIT_STEPS, lr=FIT_LR, batch=FIT_BATCH),
                seed=derive(seed, "body-lm/fit"), pad_id=self.words.pad,
                loss_of=lambda chosen, _: self.loss(
                    ask([rows[int(i)] for i in chosen], self.words, rng)
                ),
            )  # fmt: skip
        finally:
            for weight, was in wanted.items():
                weight.requires_grad_(was)

    def measure(self, rows: Sequence[Sequence[int]], seed: int) -> float:
        """Return the mean loss in nats a place, the same places of a row every time."""
        self.eval()
        total, places = 0.0, 0
        rng = stream(seed, "body-lm/measure")
        with torch.no_grad():
            for batch in budget_batches([len(row) for row in rows], TOKEN_BUDGET):
                questions = ask([rows[int(i)] for i in batch], self.words, rng)
                asked = int((questions.answers != NOT_ASKED).sum())
                total += float(self.loss(questions)) * asked
                places += asked
        return total / max(places, 1)
