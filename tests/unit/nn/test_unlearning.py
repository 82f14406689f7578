"""Reset labels, snapshots and what un-learning may change."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peftlab.core.seeds import stream
from peftlab.core.types import LabelledTexts
from peftlab.nn.text import predict_logits
from peftlab.nn.unlearning import (
    Identifier,
    _redraw,
    attach,
    flatten,
    reset_labels,
    reset_targets,
    restore,
    unflatten,
    unlearn,
)

FAMILIES = ("lora", "lora-top", "all", "prompt", "ptuning", "prefix")
TEXTS = LabelledTexts(
    tuple(f"the film was {word} and {i} long" for i in range(6) for word in ("good", "bad", "odd")),
    (1, 0, 0) * 6,
)


def how(**changes):
    values = {
        "name": "x", "family": "lora", "labels": "uniform", "head": "freeze", "lr": 1e-2,
        "checkpoints": (2, 5), "batch": 4, "rank": 4, "virtual_tokens": 3, "seed": 0,
    }  # fmt: skip
    return Identifier(**{**values, **changes})


@pytest.mark.parametrize("n_classes", [2, 4, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reset_labels_are_uniform_and_blind(n_classes, seed):
    """Item 1."""
    from scipy.stats import chisquare

    n = 6000
    true = stream(9, "test/true", seed).integers(0, n_classes, size=n)
    labels = reset_labels(n, n_classes, seed)
    assert chisquare(np.bincount(labels, minlength=n_classes)).pvalue > 0.001
    assert abs((labels == true).mean() - 1 / n_classes) <= 0.02
    np.testing.assert_array_equal(labels, reset_labels(n, n_classes, seed))
    assert (labels != reset_labels(n, n_classes, seed + 1)).mean() > 0.3


def test_inputs_stay_untouched(load_tiny):
    """Item 1: the texts and true labels are the same objects with the same bytes after."""
    before = TEXTS.digest()
    unlearn(how(), *load_tiny(), TEXTS, 2)
    assert TEXTS.digest() == before


def test_true_labels_have_no_influence(load_tiny):
    """Item 1: reset, not flipped."""
    other = LabelledTexts(TEXTS.texts, (0,) * len(TEXTS))
    for labels in ("uniform", "random"):
        (_, first, _), (_, second, _) = (
            unlearn(how(labels=labels), *load_tiny(), texts, 2) for texts in (TEXTS, other)
        )
        assert all(torch.equal(first[-1][name], second[-1][name]) for name in first[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_path_does_not_depend_on_where_it_ends(family, load_tiny):
    """So a guard with few looks is the one that was measured on a long path."""
    short, long = (
        unlearn(how(family=family, checkpoints=steps, lr=1e-3), *load_tiny(), TEXTS, 2)[1]
        for steps in ((2, 4), (2, 4, 25))
    )
    for one, other in zip(short, long, strict=False):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_redraw():
    """Item 2: a draw an epoch differs by epoch, and comes back the same; a fixed draw does not."""
    rows = np.arange(200)
    draw = _redraw(how(labels="random-each-epoch"), 200, 3)
    assert (draw(0, rows) != draw(1, rows)).any(axis=1).mean() > 0.5
    np.testing.assert_array_equal(draw(1, rows), draw(1, rows))
    np.testing.assert_array_equal(draw(0, rows)[5:9], draw(0, rows[5:9]))
    np.testing.assert_array_equal(reset_targets("random", 200, 3, 0), draw(0, rows))


@given(st.integers(2, 20))
def test_uniform_loss_at_the_uniform_output_is_log_c(n_classes):
    """Item 2."""
    targets = reset_targets("uniform", 3, n_classes, 0)
    loss = -(targets * np.log(1 / n_classes)).sum(axis=1)
    np.testing.assert_allclose(loss, math.log(n_classes), atol=1e-6)


@given(st.integers(2, 8), st.integers(0, 1000))
def test_expectation_identity(n_classes, seed):
    """Item 3: the mean cross-entropy over all C labels is that to the uniform target."""
    logits = torch.tensor(stream(seed, "test/logits").normal(size=(5, n_classes)) * 4)
    entropy = torch.nn.functional.cross_entropy
    labels = [torch.full((5,), c) for c in range(n_classes)]
    mean = torch.stack([entropy(logits, label) for label in labels]).mean()
    uniform = torch.tensor(reset_targets("uniform", 5, n_classes, 0))
    assert abs(float(mean - entropy(logits, uniform))) < 1e-6


@pytest.mark.parametrize("head", ["freeze", "inherit"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "all"])
def test_base_is_frozen(family, head, load_tiny):
    """Item 4: outside the adapter (and head) no weight changes, bit for bit."""
    model, tokenizer = load_tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped, states, _ = unlearn(how(family=family, head=head), model, tokenizer, TEXTS, 2)
    after = {
        name.replace(".base_layer", "").replace(".original_module", ""): tensor
        for name, tensor in wrapped.get_base_model().state_dict().items()
    }
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    trained = {name for name in states[-1] if "classifier" in name}
    assert bool(trained) == (head == "inherit")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiny_family", ["bert", "llama"])
def test_snapshots_come_back(family, tiny_family, load_tiny):
    wrapped, states, steps = unlearn(how(family=family), *load_tiny(tiny_family), TEXTS, 2)
    assert steps == [2, 5]
    assert len(states) == 2
    _, tokenizer = load_tiny(tiny_family)
    live = predict_logits(wrapped, tokenizer, TEXTS.texts)
    again = unflatten(flatten(states), 2)
    fresh, base = attach(how(family=family), load_tiny(tiny_family)[0])
    found = []
    for state in (*again, again[0]):
        restore(fresh, base, state)
        found.append(predict_logits(fresh, tokenizer, TEXTS.texts))
    # all weights: half-precision differences, rounded before anything is scored
    np.testing.assert_allclose(found[1], live, atol=2e-2 if family == "all" else 1e-6)
    assert (found[1] != found[0]).any()
    np.testing.assert_array_equal(found[2], found[0])


def test_uniform_targets_lower_confidence(learned):
    from peftlab.models.load import load_base
    from peftlab.nn.text import softmax

    for family in ("lora", "all"):
        model, tokenizer = load_base(str(learned), 2, allow_poisoned=True)
        before = softmax(predict_logits(model, tokenizer, TEXTS.texts)).max(axis=1).mean()
        wrapped, _, _ = unlearn(
            how(family=family, checkpoints=(40,), lr=3e-3), model, tokenizer, TEXTS, 2
        )
        after = softmax(predict_logits(wrapped, tokenizer, TEXTS.texts)).max(axis=1).mean()
        assert after < before
        assert after < 0.65


def test_official_is_one_epoch(load_tiny):
    _, states, steps = unlearn(
        how(family="ptuning", official=True, checkpoints=(1,)), *load_tiny(), TEXTS, 2
    )
    assert steps == [math.ceil(len(TEXTS) / 4)]
    assert len(states) == 1


@pytest.mark.parametrize("key", ["weight", "7.weight", "x.weight", "-1.weight", ""])
def test_foreign_snapshots_are_refused(key):
    with pytest.raises(ValueError, match=f"^{re.escape(key)}$|invalid"):
        unflatten({key: torch.zeros(1)}, 2)
