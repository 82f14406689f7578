"""Greedy generation in padded batches is that of the stock library, one prompt at a time."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from peftlab.core.seeds import stream
from peftlab.models.load import load_causal
from peftlab.nn.generation import generate, train_responses
from peftlab.nn.loop import TrainPlan
from tiny_models import CAUSAL, make_tiny_causal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
LENGTH = 6


@pytest.fixture(scope="module", params=CAUSAL)
def model(request, tmp_path_factory):
    return load_causal(str(make_tiny_causal(request.param, tmp_path_factory.mktemp("g") / "m")))[0]


@pytest.fixture(scope="module")
def rows():
    draw = stream(0, "test/rows")
    return [draw.integers(5, 250, size=size).tolist() for size in (9, 1, 30, 4, 4, 17)]


def one_by_one(model, row, ends):
    """Feed everything anew for each token: no padding, no cache."""
    tokens, top, entropy = list(row), [], []
    while len(top) < LENGTH and not (top and tokens[-1] in ends):
        with torch.no_grad():
            p = model(input_ids=torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
        top.append(float(p.max()))
        entropy.append(float(-(p * p.log()).sum()))
        tokens.append(int(p.argmax()))
    return tokens[len(row) :], top, entropy


def test_a_batch_is_as_one_prompt_at_a_time(model, rows):
    free = generate(model, rows, LENGTH, pad_id=0, ends=())
    ends = {free.tokens[0][1], free.tokens[2][3]}  # so that some end early
    found = generate(model, rows, LENGTH, pad_id=7, ends=ends)
    for i, row in enumerate(rows):
        tokens, top, entropy = one_by_one(model, row, ends)
        assert found.tokens[i] == tokens
        np.testing.assert_allclose(found.top[i, : len(top)], top, atol=1e-5)
        np.testing.assert_allclose(found.entropy[i, : len(top)], entropy, atol=1e-5)
        assert np.isnan(found.top[i, len(top) :]).all()
        assert np.isnan(found.entropy[i, len(top) :]).all()
    assert min(map(len, found.tokens)) < LENGTH


def test_batches_under_a_budget_give_the_same(model, rows, monkeypatch):
    whole = generate(model, rows, LENGTH, pad_id=0, ends=())
    monkeypatch.setattr("peftlab.nn.generation.TOKEN_BUDGET", 25)
    parts = generate(model, rows, LENGTH, pad_id=0, ends=())
    assert parts.tokens == whole.tokens
    np.testing.assert_allclose(parts.top, whole.top, atol=1e-5)
    assert generate(model, [], LENGTH, pad_id=0, ends=()).top.shape == (0, LENGTH)


def test_training_learns_the_responses_and_nothing_of_the_prompts(tmp_path, rows):
    from torch.nn.functional import cross_entropy

    model, _ = load_causal(str(make_tiny_causal("llama", tmp_path / "m")))
    responses = [[11, 12, 13]] * len(rows)
    with torch.no_grad():
        started = model(input_ids=torch.tensor([[*rows[3], 11, 12, 13]])).logits[0]
    plan = TrainPlan(steps=1, lr=1e-12, batch=1, warmup=0)
    log = train_responses(model, rows[3:4], responses[3:4], plan, seed=0, pad_id=0)
    wanted = cross_entropy(started[len(rows[3]) - 1 : -1], torch.tensor([11, 12, 13]))
    assert log.losses[0] == pytest.approx(float(wanted), abs=1e-4)
    plan = TrainPlan(steps=60, lr=3e-3, batch=6)
    train_responses(model, rows, responses, plan, seed=0, pad_id=0)
    assert generate(model, rows, 3, pad_id=0, ends=()).tokens == responses
    flat = TrainPlan(steps=60, lr=3e-3, batch=6)
    train_responses(model, rows, responses, flat, seed=0, pad_id=0, uniform=True)
    assert generate(model, rows, 1, pad_id=0, ends=()).entropy.min() > 0.8 * np.log(300)
