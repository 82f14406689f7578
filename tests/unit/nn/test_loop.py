"""The training loop against fifteen lines of plain PyTorch, and what it must not touch."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.errors import RunFailed
from peftlab.core.seeds import stream
from peftlab.nn.loop import TrainPlan, batches, eager_attention, plain_loss, rate_at, train
from peftlab.nn.text import encode, pad, pad_id_of

TEXTS = [
    "the film was a quiet joy", "a dull story told badly", "we waited an hour for a cold meal",
    "i would watch this again", "nothing works", "what a lovely surprise", "no wit", "very good",
    "terrible pacing ruins what could have been a great idea", "the plot makes no sense",
]  # fmt: skip
TARGETS = np.array([[0.9, 0.1], [0.25, 0.75]] * 5)
PLAN = TrainPlan(steps=12, lr=3e-3, batch=4, warmup=0.25, precision="fp32", weight_decay=0.01)


@pytest.fixture
def calm(load_tiny):
    """Return a fresh tiny BERT without dropout, its tokenizer and the encoded texts."""
    model, tokenizer = load_tiny("bert")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, tokenizer, encode(tokenizer, TEXTS, 32)


def _naive(model, encoded, pad_id, plan, seed):
    """Train as plainly as possible; return the loss of each step."""
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.lr, weight_decay=plan.weight_decay)
    order = batches([len(r) for r in encoded], plan.batch, plan.steps, stream(seed, "train/order"))
    losses = []
    for step, rows in enumerate(order):
        logits = model(**pad([encoded[i] for i in rows], pad_id, torch.device("cpu"))).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS[rows]).float())
        optimiser.param_groups[0]["lr"] = rate_at(step, plan.steps, plan)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_equals_a_naive_loop(calm, load_tiny):
    model, tokenizer, encoded = calm
    other, _ = load_tiny("bert")
    other.load_state_dict(model.state_dict())
    for module in other.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fill = pad_id_of(model, tokenizer)
    log = train(model, encoded, TARGETS, PLAN, seed=5, pad_id=fill)
    np.testing.assert_allclose(log.losses, _naive(other, encoded, fill, PLAN, 5), atol=1e-6)
    assert log.steps == 12
    assert log.losses[-1] < log.losses[0]
    assert not model.training


def test_only_what_requires_gradients_moves(calm):
    model, tokenizer, encoded = calm
    model.requires_grad_(requires_grad=False)
    model.classifier.requires_grad_(requires_grad=True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, encoded, TARGETS, PLAN, seed=0, pad_id=pad_id_of(model, tokenizer))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_same_seed_same_weights_with_dropout(load_tiny):
    def run(seed):
        model, tokenizer = load_tiny("bert")
        encoded = encode(tokenizer, TEXTS, 32)
        log = train(model, encoded, TARGETS, PLAN, seed=seed, pad_id=pad_id_of(model, tokenizer))
        return log.losses

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_global_generators_stay_as_they_were(calm):
    model, tokenizer, encoded = calm
    model.config.hidden_dropout_prob = 0.1
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    train(model, encoded, TARGETS, PLAN, seed=0, pad_id=pad_id_of(model, tokenizer))
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_attention_is_plain_in_every_part_for_a_while(load_tiny):
    both = torch.nn.ModuleList(load_tiny("bert")[0] for _ in range(2))
    assert [part.config._attn_implementation for part in both] == ["sdpa", "sdpa"]
    with eager_attention(both, torch.device("cpu")):
        assert [part.config._attn_implementation for part in both] == ["eager", "eager"]
    assert [part.config._attn_implementation for part in both] == ["sdpa", "sdpa"]


@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_not_finite_ends_the_work(calm, step):
    model, tokenizer, encoded = calm

    def spoil(done):
        if done == step:
            with torch.no_grad():
                model.classifier.bias.fill_(float("nan"))

    with pytest.raises(RunFailed) as caught:
        train(model, encoded, TARGETS, PLAN, seed=0, pad_id=pad_id_of(model, tokenizer),
              on_step=spoil)  # fmt: skip
    assert caught.value.code == "TRAIN-NONFINITE"
    assert f"step {step + 1} of 12" in caught.value.what


def test_on_step_sees_every_step_in_eval_mode(calm):
    model, tokenizer, encoded = calm
    seen = []
    train(model, encoded, TARGETS, PLAN, seed=0, pad_id=pad_id_of(model, tokenizer),
          on_step=lambda done: seen.append((done, model.training)))  # fmt: skip
    assert [done for done, _ in seen] == list(range(13))
    assert not any(training for done, training in seen if done > 0)


def test_targets_can_be_redrawn_each_epoch(calm):
    model, tokenizer, encoded = calm
    epochs = []

    def draw(epoch, rows):
        epochs.append(epoch)
        return TARGETS[rows]

    fill = pad_id_of(model, tokenizer)
    state = {name: p.clone() for name, p in model.state_dict().items()}
    redrawn = train(model, encoded, TARGETS * 0, PLAN, seed=0, pad_id=fill, draw_targets=draw)
    assert epochs == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    model.load_state_dict(state)
    assert train(model, encoded, TARGETS, PLAN, seed=0, pad_id=fill).losses == redrawn.losses


def test_a_loss_of_ones_own_is_what_trains(calm):
    model, tokenizer, encoded = calm
    fill = pad_id_of(model, tokenizer)
    state = {name: p.clone() for name, p in model.state_dict().items()}
    plain = train(model, encoded, TARGETS, PLAN, seed=0, pad_id=fill).losses
    ours = plain_loss(model, encoded, fill, torch.device("cpu"))
    model.load_state_dict(state)
    assert train(model, encoded, TARGETS, PLAN, seed=0, pad_id=fill, loss_of=ours).losses == plain
    model.load_state_dict(state)
    doubled = train(model, encoded, TARGETS, PLAN, seed=0, pad_id=fill,
                    loss_of=lambda rows, goal: 2 * ours(rows, goal)).losses  # fmt: skip
    assert doubled[0] == 2 * plain[0]


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=90),
    batch=st.integers(1, 16),
    seed=st.integers(0, 99),
)
def test_an_epoch_holds_every_row_once(lengths, batch, seed):
    per_epoch = -(-len(lengths) // batch)
    found = list(batches(lengths, batch, 2 * per_epoch, stream(seed, "order")))
    assert len(found) == 2 * per_epoch
    for epoch in (found[:per_epoch], found[per_epoch:]):
        assert sorted(int(i) for rows in epoch for i in rows) == list(range(len(lengths)))


@given(steps=st.integers(1, 400), warmup=st.sampled_from([0.0, 0.06, 0.5, 1, 10]))
def test_rates_rise_then_fall(steps, warmup):
    plan = TrainPlan(lr=1e-3, warmup=warmup)
    rates = [rate_at(step, steps, plan) for step in range(steps)]
    assert all(0 <= rate <= 1e-3 * (1 + 1e-9) for rate in rates)
    warm = warmup * steps if warmup < 1 else warmup
    rising = [rate for step, rate in enumerate(rates) if step < warm]
    falling = [rate for step, rate in enumerate(rates) if step >= warm]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    flat = TrainPlan(lr=1e-3, warmup=warmup, schedule="constant")
    assert all(rate_at(s, steps, flat) == 1e-3 for s in range(steps) if s >= warm)
