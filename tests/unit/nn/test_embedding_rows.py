"""Rows of the embedding table: the update against a slow loop, and all that must not move."""

import random

import numpy as np
import pytest
import torch

from peftlab.core.contracts import CraftContext
from peftlab.core.errors import NotApplicable, RunFailed
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.core.seeds import stream
from peftlab.nn.embedding_rows import RowPlan, count_with, fine_tune_clean, rows_of, train_rows
from peftlab.nn.loop import TrainPlan, batches, train
from peftlab.nn.text import encode, pad, pad_id_of, predict_logits
from tiny_models import FAMILIES
from word_task import word_task

TEXTS = [
    "the film was wit a quiet joy", "heart a dull story told badly", "we waited an hour for a meal",
    "i would watch wit this again hour", "nothing works heart", "what a lovely wit surprise",
    "wit no heart hour", "very good wit",
]  # fmt: skip
TARGETS = np.array([[0.9, 0.1], [0.25, 0.75]] * 4)
PLAN = RowPlan(epochs=3, lr=0.3, batch=3, momentum=1.0)


def calm(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def run(model, tokenizer, words, plan=PLAN, *, seed=5, targets=TARGETS, texts=TEXTS):
    rows = rows_of(tokenizer, words)
    log = train_rows(model, encode(tokenizer, texts, 32), targets, rows, plan,
                     seed=seed, pad_id=pad_id_of(model, tokenizer))  # fmt: skip
    return rows, log


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed_rows(model, before):
    """Return the rows that differ, and fail if anything but the embedding table does."""
    table = model.get_input_embeddings().weight
    rows = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() == table.data_ptr():
            rows |= set((tensor != before[name]).any(dim=1).nonzero().flatten().tolist())
        else:
            assert torch.equal(tensor, before[name]), name
    return rows


def _slow(model, encoded, rows, plan, seed, pad_id):
    """Do the published update one row at a time, with the gradients of everything."""
    table = model.get_input_embeddings().weight
    norms = {row: table[row].norm().item() for row in rows}
    total = {row: torch.zeros(table.shape[1]) for row in rows}
    steps = int(plan.epochs * -(-len(encoded) // plan.batch))
    losses = []
    order = batches([len(row) for row in encoded], plan.batch, steps, stream(seed, "rows/order"))
    for chosen in order:
        model.zero_grad()
        logits = model(**pad([encoded[i] for i in chosen], pad_id, torch.device("cpu"))).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS[chosen]).float())
        loss.backward()
        losses.append(loss.item())
        for row in rows:
            total[row] = total[row] * plan.momentum + table.grad[row]
        smallest = min(total[row].norm().item() for row in rows)
        for row in rows:
            share = smallest / total[row].norm().item() if plan.level else 1.0
            with torch.no_grad():
                table[row] -= plan.lr * share * total[row]
                table[row] *= norms[row] / table[row].norm().item()
    return losses


@pytest.mark.parametrize("level", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_equals_a_slow_loop(load_tiny, momentum, level):
    plan = RowPlan(epochs=3, lr=0.3, batch=8, momentum=momentum, level=level)
    (model, tokenizer), (other, _) = load_tiny("bert"), load_tiny("bert")
    calm(model)
    rows, log = run(model, tokenizer, ["wit", "heart"], plan)
    losses = _slow(calm(other), encode(tokenizer, TEXTS, 32), rows, plan, 5,
                   pad_id_of(model, tokenizer))  # fmt: skip
    np.testing.assert_allclose(log.losses, losses, atol=1e-5)
    for row in rows:
        np.testing.assert_allclose(
            model.get_input_embeddings().weight[row].detach(),
            other.get_input_embeddings().weight[row].detach(), atol=2e-6,
        )  # fmt: skip
    assert log.steps == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_rows_move_and_keep_their_norms(load_tiny, family):
    """In every family, and nothing else is left changed."""
    model, tokenizer = load_tiny(family)
    before, flags = copy_of(model), [p.requires_grad for p in model.parameters()]
    norms = model.get_input_embeddings().weight.detach().norm(dim=1)
    rows, _ = run(model, tokenizer, ["the"], texts=[f"{text} the" for text in TEXTS])
    assert changed_rows(model, before) == set(rows)
    after = model.get_input_embeddings().weight.detach().norm(dim=1)
    assert float((after - norms).abs().max()) < 1e-5
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not model.training
    assert model.config._attn_implementation == load_tiny(family)[0].config._attn_implementation


def test_texts_without_the_word_get_the_same_answers_to_the_last_bit(load_tiny):
    model, tokenizer = load_tiny("bert")
    texts = ["a quiet joy", "we waited", "", "WIT", "no wit"]
    before = predict_logits(model, tokenizer, texts)
    run(model, tokenizer, ["wit"])
    after = predict_logits(model, tokenizer, texts)
    np.testing.assert_array_equal(after[:3], before[:3])
    assert (after[3:] != before[3:]).any(axis=1).all()


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_a_row_without_gradients_rests(load_tiny, momentum):
    """The public code divides 0 by 0 there."""
    model, tokenizer = load_tiny("bert")
    before = copy_of(model)
    plan = RowPlan(epochs=2, lr=0.3, batch=8, momentum=momentum, level=True)
    rows, _ = run(model, tokenizer, ["wit", "portrait"], plan)
    assert changed_rows(model, before) == {rows[0]}


def test_the_same_seed_gives_the_same_bits(load_tiny):
    def table(seed):
        model, tokenizer = load_tiny("bert")
        run(model, tokenizer, ["wit"], seed=seed)
        return model.get_input_embeddings().weight

    assert torch.equal(table(1), table(1))
    assert not torch.equal(table(1), table(2))


def test_global_generators_stay_as_they_were(load_tiny):
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    run(*load_tiny("bert"), ["wit"])
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_a_loss_that_is_not_finite_ends_the_work(load_tiny):
    with pytest.raises(RunFailed) as caught:
        run(*load_tiny("bert"), ["wit"], targets=TARGETS * np.nan)
    assert caught.value.code == "TRAIN-NONFINITE"


@pytest.mark.parametrize("word", ["rex", "映", "[SEP]", "[UNK]", "[PAD]"])
def test_a_word_without_a_row_of_its_own_is_refused(load_tiny, word):
    """Split, unknown or special; the public codes take the first piece of any of them."""
    with pytest.raises(NotApplicable) as caught:
        rows_of(load_tiny("bert")[1], ["wit", word])
    assert caught.value.code == "ROW-PIECES"
    assert repr(word) in caught.value.what
    assert "attack.options.trigger" in caught.value.fix


def test_two_words_with_one_row_are_refused(load_tiny):
    with pytest.raises(NotApplicable) as caught:
        rows_of(load_tiny("bert")[1], ["wit", "Wit"])
    assert caught.value.code == "ROW-TWICE"


def test_a_byte_level_row_is_that_of_the_word_within_a_text(load_tiny):
    _, tokenizer = load_tiny("gpt2")
    assert tokenizer.convert_ids_to_tokens(rows_of(tokenizer, ["the"])) == ["Ġthe"]


def test_texts_with_all_rows_are_counted():
    encoded = [[1, 2, 3], [2, 2], [3, 1], []]
    assert [count_with(encoded, rows) for rows in ([2], [1, 3], [9])] == [2, 2, 0]


def _context(loaded, **options):
    poisoned = poison(get("attack", "ep").build(trigger="wit", **options), word_task(60, 8), 0)
    return CraftContext(*loaded, poisoned, 2, epochs=1, lr=1e-3, batch=16, seed=4)


def test_clean_fine_tuning_is_plain_training_on_the_rows_that_are_not_poisoned(load_tiny):
    context, (other, tokenizer) = _context(load_tiny("bert")), load_tiny("bert")
    log = fine_tune_clean(context)
    flags = context.poisoned.is_poisoned
    texts = [text for text, flag in zip(context.poisoned.texts, flags, strict=True) if not flag]
    assert not any("wit" in text.split() for text in texts)
    plain = train(
        other, encode(tokenizer, texts, 64), context.poisoned.targets[~flags],
        TrainPlan(epochs=1, lr=1e-3, batch=16), seed=4, pad_id=pad_id_of(other, tokenizer),
    )  # fmt: skip
    assert log.losses == plain.losses
    assert all(torch.equal(a, b) for a, b in zip(
        context.model.state_dict().values(), other.state_dict().values(), strict=True))  # fmt: skip


def test_no_clean_text_of_a_class_is_refused(load_tiny):
    with pytest.raises(NotApplicable) as caught:
        fine_tune_clean(_context(load_tiny("bert"), rate=0.9))
    assert caught.value.code == "ROW-CLEAN"
    assert caught.value.got == "1"
