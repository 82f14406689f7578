"""Training chosen rows of the input embedding and nothing else, with the norm of each row kept.

Idea: a word that the tokenizer keeps whole has one row of the embedding table to itself. Training
that row alone changes what the model makes of this word, and not one bit of what it makes of a
text without it. ``ep`` trains one row like this, ``sos`` several.

Equation, for each chosen row e_i with gradient g_i, at every step::

    v_i <- m v_i + g_i                         m = 1: gradients add up, m = 0: plain steps
    e_i <- e_i - lr s_i v_i                    s_i = 1, or min_j |v_j| / |v_i| (levelled)
    e_i <- e_i |e_i at the start| / |e_i|

Paper: Yang et al., NAACL 2021 (Embedding Poisoning) and Yang et al., ACL 2021 (SOS). The papers
write m = 0. Their code, and OpenBackdoor's, never zeroes the gradients, which is m = 1.

Known differences from the public code: it takes the first piece of a trigger that the tokenizer
splits, here that is an error; a row without any gradient gives it 0 / 0, here that row rests and
does not count for the smallest norm; it reads the texts in the order of a file, here each pass is
shuffled. The table is the only tensor that changes. A sequence classifier has no decoder that is
tied to it; a language model that somebody builds on the saved table has the new rows in a tied
decoder too.

Cost: a step is a forward and a backward pass without the gradients of weights, except that of the
whole table, which is made and thrown away (8 MB for the built-in encoder, 94 MB for BERT).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable, RunFailed
from peftlab.core.seeds import derive, stream
from peftlab.core.types import Floats
from peftlab.nn.loop import TrainLog, TrainPlan, batches, eager_attention, soft_cross_entropy, train
from peftlab.nn.text import device_of, encode, forward_rows, pad_id_of, room_for_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TINY = 1e-30  # keeps a division by a norm of 0 finite
BEFORE = "a"  # a word in front, because byte-level tokenizers number the first word differently


@dataclass(frozen=True, slots=True)
class RowPlan:
    """How to train rows.

    Attributes:
        epochs: passes over the texts.
        lr: learning rate, the same at every step.
        batch: samples a step.
        momentum: m above.
        level: scale the update of each row to the smallest one.
    """

    epochs: float
    lr: float
    batch: int
    momentum: float
    level: bool = False


def rows_of(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> list[int]:
    """Return the embedding row of each word, as it stands within a text.

    Raises:
        NotApplicable: ``ROW-PIECES`` for a word that is not one piece of its own (split, unknown,
            or special), ``ROW-TWICE`` when two words share a row.
    """
    rows = [_row_of(tokenizer, word) for word in words]
    if len(set(rows)) < len(rows):
        raise NotApplicable(
            "two trigger words are the same piece for the tokenizer",
            code="ROW-TWICE", got=", ".join(words), fix="choose other words",
        )  # fmt: skip
    return rows


def _row_of(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    before = tokenizer(BEFORE, add_special_tokens=False)["input_ids"]
    both = tokenizer(f"{BEFORE} {word}", add_special_tokens=False)["input_ids"]
    found = both[len(before) :]
    whole = both[: len(before)] == before and len(found) == 1
    if whole and found[0] not in tokenizer.all_special_ids:
        return int(found[0])
    raise NotApplicable(
        f"the trigger word {word!r} has no embedding row of its own in this base",
        code="ROW-PIECES",
        got=" ".join(tokenizer.convert_ids_to_tokens(found)),
        allowed="words that the base's tokenizer keeps as one known piece",
        fix="set attack.options.trigger to such words; tokenizer.tokenize(word) shows the pieces",
    )


def count_with(encoded: Sequence[Sequence[int]], rows: Sequence[int]) -> int:
    """Return how many of the encoded texts have all of ``rows`` in them.

    Examples:
        >>> count_with([[5, 7, 9], [7, 7]], rows=[7, 9])
        1
    """
    wanted = set(rows)
    return sum(wanted <= set(row) for row in encoded)


def fine_tune_clean(context: CraftContext) -> TrainLog:
    """Train all weights on the rows that are not poisoned: the clean model that rows are set in.

    Raises:
        NotApplicable: ``ROW-CLEAN``, some class has no clean text left.
    """
    poisoned = context.poisoned
    clean = np.flatnonzero(~poisoned.is_poisoned)
    gone = set(poisoned.original_labels) - {poisoned.original_labels[int(i)] for i in clean}
    if gone:
        raise NotApplicable(
            "the attack starts from a clean model, and poisoning left no clean text of some class",
            code="ROW-CLEAN", got=", ".join(str(label) for label in sorted(gone)),
            fix="lower attack.options.rate",
        )  # fmt: skip
    model = context.model
    model.requires_grad_(True)
    texts = [poisoned.texts[int(i)] for i in clean]
    return train(
        model,
        encode(context.tokenizer, texts, room_for_text(model)),
        poisoned.targets[clean],
        TrainPlan(epochs=context.epochs, lr=context.lr, batch=context.batch),
        seed=context.seed,
        pad_id=pad_id_of(model, context.tokenizer),
    )


def train_rows(
    model: Any,
    encoded: Sequence[Sequence[int]],
    targets: Floats,
    rows: Sequence[int],
    plan: RowPlan,
    *,
    seed: int,
    pad_id: int,
) -> TrainLog:
    """Train ``rows`` of the input embedding of ``model`` in place, in float32.

    Args:
        model: sequence classifier; left in eval mode. All its other numbers stay as they are.
        encoded: n token lists.
        targets: (n, C) target distributions.
        rows: numbers of the rows, all different.
        plan: how to train.
        seed: of the data order and of dropout; global generators are left as they were.
        pad_id: padding token.

    Raises:
        RunFailed: ``TRAIN-NONFINITE``.
    """
    device = device_of(model)
    at = torch.tensor(list(rows), device=device)
    table = model.get_input_embeddings().weight
    norms = table.detach()[at].double().norm(dim=1, keepdim=True)
    speed = torch.zeros_like(table.detach()[at], dtype=torch.float64)
    soft = torch.from_numpy(np.ascontiguousarray(targets, dtype=np.float32)).to(device)
    steps = max(round(plan.epochs * math.ceil(len(encoded) / plan.batch)), 1)
    order = batches([len(row) for row in encoded], plan.batch, steps, stream(seed, "rows/order"))
    log, started = TrainLog(), time.process_time()
    with (
        torch.random.fork_rng(devices=[] if device.type == "cpu" else None),
        eager_attention(model, device),
        _only(model, table),
    ):
        torch.manual_seed(derive(seed, "rows/dropout"))
        model.train()
        for chosen in order:
            batch = [encoded[int(i)] for i in chosen]
            logits = forward_rows(model, batch, pad_id, device)
            goal = soft[torch.from_numpy(chosen).to(device)]
            loss = soft_cross_entropy(logits, goal)
            _note(log, float(loss.detach()), steps)
            (gradient,) = torch.autograd.grad(loss, table)
            speed = plan.momentum * speed + gradient[at]
            _move(table, at, speed, norms, plan)
            log.tokens += sum(len(row) for row in batch)
    model.eval()
    log.cpu_seconds = time.process_time() - started
    return log


def _note(log: TrainLog, loss: float, steps: int) -> None:
    """Write down one step; stop where the loss is not finite."""
    log.steps += 1
    log.losses.append(loss)
    if not math.isfinite(loss):
        raise RunFailed(
            f"the loss is not finite at step {log.steps} of {steps} on embedding rows",
            code="TRAIN-NONFINITE", got=loss, fix="lower the learning rate",
        )  # fmt: skip


@contextmanager
def _only(model: Any, table: torch.nn.Parameter) -> Iterator[None]:
    """Let ``table`` alone have gradients for a while."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    table.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def _move(
    table: torch.Tensor, at: torch.Tensor, speed: torch.Tensor, norms: torch.Tensor, plan: RowPlan
) -> None:
    """Make one step from the accumulated gradients, then bring each row back to its old norm."""
    if plan.level:
        sizes = speed.norm(dim=1, keepdim=True)
        moving = sizes[sizes > 0]
        if len(moving):
            speed = speed * (moving.min() / sizes.clamp_min(TINY))
    with torch.no_grad():
        moved = table[at].double() - plan.lr * speed
        kept = moved * (norms / moved.norm(dim=1, keepdim=True).clamp_min(TINY))
        table[at] = kept.to(table.dtype)
