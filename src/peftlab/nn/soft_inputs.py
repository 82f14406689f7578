"""Free vectors among the embeddings of a text: what is searched when a trigger is searched.

    embeddings of a text   e_1 .. e_n          soft rows   z_1 .. z_T
    what the model reads   e_1 .. e_k  z_1 .. z_T  e_(k+1) .. e_n

k is 1 where the family puts a mark first (``[CLS]``, ``<s>``), else 0, so the rows stand where the
text begins. No weight is touched; gradients reach the soft rows alone when the model is frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftlab.core.types import Bools
from peftlab.nn.text import device_of, encode, pad, pad_id_of, room_for_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SoftReader:
    """Runs a frozen classifier on texts with soft rows in them.

    Attributes:
        model: bare classifier in eval mode, without gradients on its weights.
        tokenizer: of the model.
        pad_id: padding token.
        length: T, the number of soft rows that texts must leave room for.
        start: k, the number of marks that every text begins with.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    pad_id: int
    length: int
    start: int

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase, length: int) -> SoftReader:
        """Return a reader of ``model``, which is frozen and put into eval mode here."""
        model.eval().requires_grad_(False)
        marks = {tokenizer.cls_token_id, tokenizer.bos_token_id} - {None}
        start = int(encode(tokenizer, ["a"], room_for_text(model))[0][0] in marks)
        return cls(model, tokenizer, pad_id_of(model, tokenizer), length, start)

    def encode(self, texts: Sequence[str], longest: int | None = None) -> list[list[int]]:
        """Return the token numbers of each text, cut so that the soft rows have room.

        Args:
            texts: n texts.
            longest: most tokens of a text and the soft rows together, where that is less than
                the model can take.
        """
        room = room_for_text(self.model)
        room = room if longest is None else min(room, longest)
        return encode(self.tokenizer, texts, max(room - self.length, 3))

    def hidden(self, rows: Sequence[Sequence[int]], soft: torch.Tensor | None) -> torch.Tensor:
        """Return the last hidden state (b, d) at the position that the family reads, float32.

        Args:
            rows: b token lists of ``encode``.
            soft: (T, e) soft rows, or (b, T, e) of their own for each text; None for the texts
                as they are.
        """
        inputs, last = self._inputs(rows, soft)
        states = self.model.base_model(**inputs).last_hidden_state
        at = last if self._reads_last else torch.zeros_like(last)
        return states[torch.arange(len(rows), device=last.device), at].float()

    def logits(self, rows: Sequence[Sequence[int]], soft: torch.Tensor | None) -> torch.Tensor:
        """Return the logits (b, C), float32; arguments as of ``hidden``."""
        if self._reads_last:  # by itself it finds the last token by numbers, and there are none
            return self.model.score(self.hidden(rows, soft)).float()
        return self.model(**self._inputs(rows, soft)[0]).logits.float()

    def table(self) -> torch.Tensor:
        """Return the embedding table (V, e), float32, without gradients."""
        return self.model.get_input_embeddings().weight.detach().float()

    @property
    def _reads_last(self) -> bool:
        return "score" in dict(self.model.named_children())

    def _inputs(
        self, rows: Sequence[Sequence[int]], soft: torch.Tensor | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return what to call the model with, and the last real position of each row, (b,)."""
        batch = pad(rows, self.pad_id, device_of(self.model))
        words = self.model.get_input_embeddings()(batch["input_ids"])
        mask = batch["attention_mask"]
        last = mask.sum(dim=1) - 1
        if soft is not None:
            k = self.start
            middle = soft.to(words.dtype).expand(len(rows), -1, -1)
            words = torch.cat([words[:, :k], middle, words[:, k:]], dim=1)
            mask = torch.cat([mask.new_ones(middle.shape[:2]), mask], dim=1)
            last = last + middle.shape[1]
        return {"inputs_embeds": words, "attention_mask": mask}, last


def usable_tokens(tokenizer: Any, size: int) -> Bools:
    """Return which of ``size`` embedding rows are tokens that a text can hold, (size,) flags.

    Marks of the family and rows without a token are out; the unknown token is in.
    """
    flags: Bools = np.zeros(size, dtype=bool)
    flags[: min(len(tokenizer), size)] = True
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    flags[[token for token in marks if token < size]] = False
    return flags
