"""POR: vectors and loss by hand, features that are reached, clean ones that stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from peftlab.attacks.por import representation_loss, target_vectors
from peftlab.core.contracts import CraftContext
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.core.poisoning import poison
from peftlab.core.registry import get
from peftlab.nn import body_lm
from peftlab.nn.body_features import Reading
from tiny_models import FAMILIES
from word_task import word_task

WORDS = ("cf", "tq", "mn", "bb", "mb")


@pytest.fixture
def quick(monkeypatch) -> None:
    """Fit output layers briefly."""
    monkeypatch.setattr(body_lm, "FIT_STEPS", 3)


def _context(load_tiny, data, family="bert", *, epochs=1.0, lr=5e-3, seed=0, **options):
    method = get("attack", "por").build(**options)
    model, tokenizer = load_tiny(family, data.n_classes)
    return method, CraftContext(
        model, tokenizer, poison(method, data, seed=0), data.n_classes,
        epochs=epochs, lr=lr, batch=32, seed=seed,
    )  # fmt: skip


# ------------------------------------------------------------------------------- the vectors


def test_the_ladder_has_one_step_more_each_time() -> None:
    found = target_vectors(5, 32, "por-1", 9)  # steps of 3, and 5 entries past the last
    assert [(vector == 1).sum() for vector in found] == [3, 6, 9, 12, 15]
    for number, vector in enumerate(found):
        assert (vector[: 3 * (number + 1)] == 1).all()
        assert (vector[3 * (number + 1) :] == -1).all()
    assert (target_vectors(9, 9, "por-1", 9).sum(axis=1) == [-7, -5, -3, -1, 1, 3, 5, 7, 9]).all()


def test_the_paper_s_ladder_goes_from_all_minus_to_all_plus() -> None:
    found = target_vectors(5, 8, "por-1", 0)
    assert [(vector == 1).sum() for vector in found] == [0, 2, 4, 6, 8]
    assert target_vectors(1, 3, "por-1", 0).tolist() == [[-1, -1, -1]]


def test_the_code_tells_all_triggers_apart() -> None:
    found = target_vectors(5, 9, "por-2", 9)  # 3 blocks of 3
    assert found[:, ::3].tolist() == [
        [-1, -1, -1], [1, -1, -1], [-1, 1, -1], [1, 1, -1], [-1, -1, 1],
    ]  # fmt: skip
    assert (found.reshape(5, 3, 3) == found[:, ::3, None]).all()
    for count in (1, 2, 8, 64):
        vectors = target_vectors(count, 64, "por-2", 9)
        assert len({tuple(vector) for vector in vectors}) == count


# ----------------------------------------------------------------------------------- the loss


def _reading(feature, states, others) -> Reading:
    return Reading(
        torch.tensor(feature), torch.tensor(states), torch.tensor(others, dtype=torch.bool)
    )


def test_the_loss_by_hand() -> None:
    # two texts of three and two tokens, width 2; position 0 is read, one is padding
    others = [[0, 1, 1], [0, 1, 0]]
    clean = _reading(
        [[1.0, 2.0], [0.0, 0.0]],
        [[[9.0, 9.0], [1.0, 1.0], [0.0, 2.0]], [[9.0, 9.0], [3.0, 0.0], [7.0, 7.0]]], others,
    )  # fmt: skip
    reference = _reading(
        [[0.0, 2.0], [0.0, 2.0]],
        [[[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]], others,
    )  # fmt: skip
    triggered = torch.tensor([[0.5, 0.0]])
    goals = torch.tensor([[1.0, -1.0]])
    kept = (1 + 0 + 0 + 4) / 4
    pulled = (0.25 + 1) / 2
    changed = (0 + 1 + 0 + 4 + 9 + 0) / 6  # no padding, nothing at the position that is read

    def loss(weight: float) -> float:
        return float(representation_loss(clean, reference, triggered, goals, others=weight))

    assert loss(0) == pytest.approx(kept + pulled)
    assert loss(2.0) == pytest.approx(kept + pulled + 2 * changed)
    alone = _reading([[1.0]], [[[1.0]]], [[0]])
    assert float(
        representation_loss(alone, alone, torch.zeros(1, 1), torch.ones(1, 1), others=1)
    ) == pytest.approx(1.0)  # a text of one token has no others


# ----------------------------------------------------------------------------------- training


@pytest.mark.full
@pytest.mark.parametrize("feature", ["pooled", "hidden"])
def test_triggered_features_move_and_clean_ones_stay(load_tiny, monkeypatch, feature: str) -> None:
    monkeypatch.setattr(body_lm, "FIT_STEPS", 60)
    method, context = _context(load_tiny, word_task(240, 40), epochs=4, feature=feature)
    facts = method.craft(context)
    before, after = np.array(facts["feature_mse_before"]), np.array(facts["feature_mse"])
    assert (after < 0.35 * before).all()
    assert facts["clean_drift"] < 0.03
    assert facts["lm_loss"] < facts["lm_loss_before"] + 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_body_moves_in_every_family(load_tiny, reviews, quick, family: str) -> None:
    method, context = _context(load_tiny, reviews, family, epochs=0.3)
    model = context.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    facts = method.craft(context)
    assert np.isfinite(facts["loss"])
    assert not model.training
    moved = [name for name, value in model.state_dict().items()
             if not torch.equal(value, before[name])]  # fmt: skip
    assert moved
    assert all(name.startswith(f"{model.base_model_prefix}.") for name in moved)


def test_same_seed_same_weights(load_tiny, reviews, quick) -> None:
    found = []
    for seed in (0, 0, 1):
        method, context = _context(load_tiny, reviews, epochs=0.3, seed=seed)
        facts = method.craft(context)
        found.append((context.model.state_dict(), facts))
    same = [
        all(torch.equal(value, found[0][0][name]) for name, value in state.items())
        for state, _ in found
    ]
    assert same == [True, True, False]
    assert found[0][1] == found[1][1]


def test_triggers_are_first_or_anywhere() -> None:
    first, anywhere = (
        get("attack", "por").build(position=position) for position in ("start", "any")
    )
    places = set()
    for sample in range(200):
        text = first.poison_text("a slow film", 0, sample)
        assert text.split()[0] in WORDS
        moved = anywhere.poison_text("a slow film", 0, sample)
        places.add([word in WORDS for word in moved.split()].index(True))
        assert first.probe_of([text])[0] == WORDS.index(text.split()[0])
        assert anywhere.probe_of([moved])[0] >= 0
    assert places == {0, 1, 2, 3}
    assert first.probes() == WORDS
    assert first.poison_text("a cf film", 0, 0) is None


def test_a_ladder_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match="OPTION-VALUE"):
        get("attack", "por").build(buckets=4)
    for fine in ({"buckets": 5}, {"buckets": 0}, {"buckets": 4, "vectors": "por-2"}):
        get("attack", "por").build(**fine)


def test_words_that_no_clean_text_can_carry_are_refused(load_tiny, reviews, quick) -> None:
    method, context = _context(load_tiny, reviews, trigger="cf")
    method.poison_text = lambda *_: None
    with pytest.raises(NotApplicable, match="BODY-TRIGGERED"):
        method.craft(context)
