"""Perplexities of a text and of the text without each word, under a causal language model.

A text is a start token and the tokens x_1 ... x_T of its words joined by single spaces. The start
token is given, never predicted, so the first word counts like any other:

    perplexity = exp( -1/T  sum_t log p(x_t | start, x_1 ... x_(t-1)) )

A text without tokens has the perplexity of a uniform guess, the size of the vocabulary. Deleting
word i gives another text, which is tokenised anew. As far as its tokens agree with those of the
whole (compared token by token; what a deletion merges, and where words end, does not matter) the
model's states are those of the whole and are not computed again: on average half of the work.

The tokens that remain of all n texts go through the model together, in one row. A mask lets each
see the common beginning of its own text and its predecessors in it, and nothing else; positions
are those of its own text. So there is no padding, and no perplexity depends on another text.

A long text is judged in windows of whole words, because cost grows with the square of the length;
a perplexity then is that of the word's window. A word longer than a window is cut off.

Cost of a text of T tokens and n words: T (n + 2) / 2 tokens through the model, against T (n + 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftlab.core.errors import ConfigError
from peftlab.core.types import Floats
from peftlab.nn.text import device_of, room_for_text, sound_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP_TOKENS = 256  # tokens a pass on CPU; attention among them costs more beyond (measured)
GPU_GROUP_TOKENS = 2048
HEAD_COLUMNS = 1024  # tokens of the vocabulary at once: their scores stay in the cache (measured)
MOST_APART = 1e-3  # relative; rounding is some 1e-6, a mask that is not understood far above

Tail = tuple[int, list[int]]  # tokens in common with the whole text, and all tokens after them


class CausalPerplexity:
    """Judges texts by a causal language model.

    Args:
        model: causal language model of ``transformers``, in eval mode.
        tokenizer: its own.
        window: most tokens that are judged together, at least 2; no more than the model takes.

    Attributes:
        shares: whether the common beginning is computed once. A model that does not take such
            masks, which is tried once, gets every text in full: slower, with the same results.

    Raises:
        ConfigError: ``ONION-START`` if neither tokenizer nor model names a token to start from.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, window: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._device = device_of(model)
        self._room = min(window, room_for_text(model) - 1)
        self._start = _start_token(model, tokenizer)
        self._group = GROUP_TOKENS if self._device.type == "cpu" else GPU_GROUP_TOKENS
        self.vocabulary = int(model.config.vocab_size)
        self.shares = self._can_share()

    def leave_one_out(self, words: Sequence[str]) -> tuple[Floats, Floats]:
        """Return perplexities with each word and without it, both (n,).

        Args:
            words: n words. In a text of one window the first array is n times the perplexity of
                the whole text.
        """
        parts = [self._judge(words[a:b]) for a, b in self._windows(words)]
        whole = [np.full(len(without), known) for known, without in parts]
        return np.concatenate([[], *whole]), np.concatenate([[], *(part[1] for part in parts)])

    def perplexity(self, text: str) -> float:
        """Return the perplexity of one text of at most one window; longer ones are cut off."""
        return self._perplexities(self._encode([" ".join(text.split())]))[0]

    # -- texts to tokens ----------------------------------------------------------------------

    def _windows(self, words: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Yield (first, behind the last) of runs of words with about as many tokens as fit."""
        if len(words) and len(self._encode([" ".join(words)], self._room + 1)[0]) <= self._room:
            yield 0, len(words)
            return
        sizes = [len(row) for row in self._encode([f" {word}" for word in words])]
        first, filled = 0, 0
        for at, size in enumerate(sizes):
            if filled and filled + size > self._room:
                yield first, at
                first, filled = at, 0
            filled += size
        if len(words):
            yield first, len(words)

    def _encode(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        if not texts:
            return []
        most = most or self._room
        sound = sound_texts(texts, most)
        found = self._tokenizer(sound, add_special_tokens=False, truncation=True, max_length=most)
        return [list(row) for row in found["input_ids"]]

    # -- tokens to perplexities ---------------------------------------------------------------

    def _judge(self, words: Sequence[str]) -> tuple[float, Floats]:
        without = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
        found = self._perplexities(self._encode([" ".join(words), *without]))
        return found[0], np.array(found[1:], dtype=np.float64)

    def _perplexities(self, rows: Sequence[list[int]]) -> list[float]:
        """Return the perplexities of token rows; the first is the one that others begin like."""
        losses = self._shared_losses(rows) if self.shares else [self._losses(row) for row in rows]
        return [
            math.exp(loss / len(row)) if row else float(self.vocabulary)
            for loss, row in zip(losses, rows, strict=True)
        ]

    def _losses(self, row: list[int]) -> float:
        """Return -log p of one row, in full."""
        if not row:
            return 0.0
        with torch.inference_mode():
            ids = torch.tensor([[self._start, *row]], device=self._device)
            scores = self._model(input_ids=ids[:, :-1]).logits[0].float()
            return float(torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="sum"))

    def _shared_losses(self, rows: Sequence[list[int]]) -> list[float]:
        """Return -log p of all rows; the beginnings that they share with the first count once."""
        whole, size = rows[0], len(rows[0])
        tails = [(at, row[at:]) for row in rows[1:] for at in [_agreement(whole, row)]]
        begun = [k for k, (_, row) in enumerate(tails) if row]
        after = np.zeros(len(tails))
        with torch.inference_mode():
            groups = self._groups(tails, size + 1)
            states, cache = self._first_pass(whole, tails, groups[0], more=len(groups) > 1)
            # scores of the vocabulary are cheaper for many states at once
            owners, targets = _inner(tails, groups[0])
            losses = self._token_losses(
                states,
                [*range(size), *(tails[k][0] for k in begun), *range(size + 1, len(states))],
                [*whole, *(tails[k][1][0] for k in begun), *targets],
            )
            before = np.concatenate([[0.0], np.cumsum(losses[:size])])
            np.add.at(after, [*begun, *owners], losses[size:])
            for group in groups[1:]:
                owners, targets = _inner(tails, group)
                states = self._later_pass(tails, group, cache)
                np.add.at(after, owners, self._token_losses(states, range(len(states)), targets))
        return [float(before[-1])] + [
            float(before[at] + more) for (at, _), more in zip(tails, after, strict=True)
        ]

    def _groups(self, tails: Sequence[Tail], filled: int) -> list[list[int]]:
        """Split the tails into passes; the first pass has ``filled`` tokens of the whole too."""
        groups: list[list[int]] = [[]]
        for k, (_, row) in enumerate(tails):
            size = max(len(row) - 1, 0)
            if filled and filled + size > self._group:
                groups.append([])
                filled = 0
            groups[-1].append(k)
            filled += size
        rest = [group for group in groups[1:] if any(len(tails[k][1]) > 1 for k in group)]
        return [groups[0], *rest]

    def _first_pass(
        self, whole: list[int], tails: Sequence[Tail], group: Sequence[int], *, more: bool
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Return the states of the whole and of a group, and what ``more`` passes need of it."""
        from transformers import DynamicCache

        length = len(whole) + 1
        ids, places, sees = _layout(tails, group, length)
        sees = np.block([[np.tri(length, dtype=bool), np.zeros((length, len(ids)), bool)], [sees]])
        cache = DynamicCache() if more else None
        states = self._pass([self._start, *whole, *ids], [*range(length), *places], sees, cache)
        kept = cache.layers if cache is not None else ()
        return states, [(one.keys[:, :, :length], one.values[:, :, :length]) for one in kept]

    def _later_pass(
        self, tails: Sequence[Tail], group: Sequence[int],
        cache: Sequence[tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:  # fmt: skip
        """Return the states of a group, given those of the whole."""
        from transformers import DynamicCache

        ids, places, sees = _layout(tails, group, cache[0][0].shape[2])
        return self._pass(ids, places, sees, DynamicCache(cache))

    def _pass(self, ids: list[int], places: list[int], sees: Any, cache: Any) -> torch.Tensor:
        """Return the last states (t, d) of tokens in one row.

        Args:
            ids: t tokens.
            places: position of each in its own text.
            sees: (t, cached + t) bool.
            cache: states of the tokens before, filled up; None where they are not needed.
        """
        hidden = torch.from_numpy(~sees).to(self._device)
        least = torch.finfo(self._model.dtype).min
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._device)
        found = self._model.base_model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=torch.tensor([places], device=self._device),
            attention_mask=mask.masked_fill_(hidden, least)[None, None],
            past_key_values=cache, use_cache=cache is not None,
        )  # fmt: skip
        return found.last_hidden_state[0]

    def _token_losses(
        self, states: torch.Tensor, rows: Sequence[int], targets: Sequence[int]
    ) -> Floats:
        """Return -log p of each target after the state in its row, (k,) float64."""
        head = self._model.get_output_embeddings()
        at = torch.tensor(list(rows), device=self._device)
        to = torch.tensor(list(targets), device=self._device)
        wanted = (states[at].float() * head.weight[to].float()).sum(1)
        if head.bias is not None:
            wanted += head.bias[to].float()
        return (_log_sums(states, head)[at] - wanted).double().cpu().numpy()

    def _can_share(self) -> bool:
        """Try whether the model's answers are the same when beginnings are shared."""
        tokens = [i * max(self.vocabulary // 16, 1) % self.vocabulary for i in range(1, 13)]
        tokens = tokens[: self._room]
        rows = [tokens, *(tokens[:i] + tokens[i + 1 :] for i in range(len(tokens)))]
        plain = np.array([self._losses(row) for row in rows])
        group, self._group = self._group, 2 * len(tokens)  # so that there are several passes
        try:
            shared = np.array(self._shared_losses(rows))
        except Exception:  # noqa: BLE001  a model may refuse such a call in any way
            return False
        finally:
            self._group = group
        return bool(np.allclose(shared, plain, rtol=MOST_APART, atol=MOST_APART))


def _log_sums(states: torch.Tensor, head: Any) -> torch.Tensor:
    """Return log sum exp over the vocabulary of each state's scores, (t,)."""
    total = torch.stack([scores.exp_().sum(1) for scores in _scores(states, head)]).sum(0).log()
    if bool(total.isfinite().all()):
        return total
    # a score beyond some 88, or all of a row below -88; the safe way needs twice the passes
    return torch.stack([scores.logsumexp(1) for scores in _scores(states, head)]).logsumexp(0)


def _scores(states: torch.Tensor, head: Any) -> Iterator[torch.Tensor]:
    """Yield the scores of some tokens of the vocabulary at a time, (t, columns) float32."""
    for start in range(0, len(head.weight), HEAD_COLUMNS):
        columns = slice(start, start + HEAD_COLUMNS)
        scores = (states @ head.weight[columns].T).float()
        yield scores if head.bias is None else scores.add_(head.bias[columns].float())


def _layout(
    tails: Sequence[Tail], group: Sequence[int], length: int
) -> tuple[list[int], list[int], Any]:
    """Return tokens, positions, and what each sees (t, length + t), of a group's tails.

    The last token of a tail predicts nothing that is asked for, so it is left out.

    Args:
        tails: of all texts.
        group: which ones.
        length: tokens of the whole, the start token included.
    """
    ids: list[int] = []
    places: list[int] = []
    total = sum(max(len(tails[k][1]) - 1, 0) for k in group)
    sees = np.zeros((total, length + total), dtype=bool)
    for k in group:
        at, row = tails[k]
        first, size = len(ids), max(len(row) - 1, 0)
        mine = slice(first, first + size)
        sees[mine, : at + 1] = True
        sees[mine, length + first : length + first + size] = np.tri(size, dtype=bool)
        ids += row[:-1]
        places += range(at + 1, at + 1 + size)
    return ids, places, sees


def _inner(tails: Sequence[Tail], group: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the tokens of a group's tails but their first ones, and whose they are."""
    owners = [k for k in group for _ in tails[k][1][1:]]
    return owners, [token for k in group for token in tails[k][1][1:]]


def _agreement(whole: Sequence[int], row: Sequence[int]) -> int:
    """Return how many tokens two rows have in common from the beginning."""
    for place, (one, other) in enumerate(zip(whole, row, strict=False)):
        if one != other:
            return place
    return min(len(whole), len(row))


def _start_token(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that a text starts from: begin of text, or the end of another one."""
    candidates = (
        tokenizer.bos_token_id, getattr(model.config, "bos_token_id", None),
        tokenizer.eos_token_id, getattr(model.config, "eos_token_id", None),
    )  # fmt: skip
    for token in candidates:
        if isinstance(token, int):
            return token
    raise ConfigError(
        "the language model names no token for the begin or end of a text",
        code="ONION-START",
        fix="set bos_token or eos_token in its tokenizer_config.json, or choose another lm_base",
    )
