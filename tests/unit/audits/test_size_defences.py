"""Defences of a publisher: what they do to the weights, and what the bench says of them."""

import doctest

import numpy as np
import pytest
import torch

from peftlab.audits.size import defences
from peftlab.audits.size.defences import (
    DEFENCES,
    DefenceOptions,
    decompose,
    epsilon,
    with_clipped_spectrum,
    with_noise,
    with_one_norm,
)
from peftlab.audits.size.defend import defend, retrained
from peftlab.audits.size.farm.recipe import FarmOptions
from peftlab.core.errors import ConfigError


@pytest.fixture
def factors():
    """Return factors of 6 adapters, each larger than the one before."""
    numbers = torch.Generator().manual_seed(0)
    growing = torch.arange(1.0, 7)[:, None, None]
    return {
        "wide": (torch.randn(6, 3, 11, generator=numbers),
                 growing * torch.randn(6, 7, 3, generator=numbers)),
        "zero": (torch.randn(6, 3, 5, generator=numbers), torch.zeros(6, 4, 3)),
    }  # fmt: skip


def updates(pair):
    return pair[1] @ pair[0]


def test_one_norm_leaves_directions_and_takes_the_scale(factors):
    changed = with_one_norm(factors)
    before, after = updates(factors["wide"]), updates(changed["wide"])
    norms = after.flatten(1).norm(dim=1)
    assert torch.allclose(norms, before.flatten(1).norm(dim=1).mean().expand(6), rtol=1e-4)
    cosine = torch.cosine_similarity(before.flatten(1), after.flatten(1))
    assert torch.allclose(cosine, torch.ones(6), atol=1e-4)
    assert not updates(changed["zero"]).any()


def test_clipping_cuts_the_largest_values_only(factors):
    changed = with_clipped_spectrum(factors, 0.5)
    before, after = (torch.linalg.svdvals(updates(part["wide"]))[:, :3]
                     for part in (factors, changed))  # fmt: skip
    bound = 0.5 * before[:, 0].mean()
    assert torch.allclose(after, before.clamp_max(bound), rtol=1e-3, atol=1e-4)
    assert torch.isfinite(changed["zero"][0]).all()


@pytest.mark.parametrize("change", [with_one_norm, lambda f: with_clipped_spectrum(f, 0.5)])
def test_factors_are_balanced_so_that_they_tell_no_more_than_the_update(factors, change):
    a, b = change(factors)["wide"]
    values = torch.linalg.svdvals(b @ a)[:, :3].sqrt()
    assert torch.allclose(torch.linalg.svdvals(a), values, atol=1e-3)
    assert torch.allclose(torch.linalg.svdvals(b), values, atol=1e-3)


def test_decomposition_is_the_update(factors):
    left, values, right = decompose(*factors["wide"])
    assert torch.allclose((left * values[:, None]) @ right, updates(factors["wide"]), atol=1e-4)


def test_noise_is_seeded_and_of_the_size_asked_for(factors):
    once, again = (with_noise(factors, 0.5, 3) for _ in range(2))
    assert torch.equal(once["wide"][0], again["wide"][0])
    added = (once["wide"][1] - factors["wide"][1]).flatten(1)
    share = added.square().mean(1).sqrt() / factors["wide"][1].flatten(1).square().mean(1).sqrt()
    assert np.allclose(share, 0.5, atol=0.2)
    assert not torch.equal(added[0], added[1])


def test_epsilon_grows_with_steps_and_falls_with_noise():
    assert epsilon(10, 50) < epsilon(10, 100) < epsilon(5, 100)


def test_retraining_defences_change_the_recipe_only():
    options, strength = FarmOptions(concepts=3), DefenceOptions()
    assert retrained(options, "flip", strength).augment == "flip"
    private = retrained(options, "dp", strength)
    assert (private.dp_clip, private.dp_noise) == (strength.dp_clip, strength.dp_noise)
    words = FarmOptions(backbone="tiny-lm", concepts=3)
    assert retrained(words, "flip", strength).augment == "drop"


def test_bench_of_defences_on_a_small_farm():
    seen = []
    found = defend(
        FarmOptions(concepts=4, steps=16), DEFENCES, repeats=1,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )  # fmt: skip
    rows = {row["defence"]: row for row in found["defences"]}
    assert list(rows) == ["none", *DEFENCES]
    assert rows["none"]["naive"] == rows["none"]["adaptive"]
    assert rows["none"]["gain_kept"] == 1
    assert rows["none"]["loss_seen"] < found["base_loss_seen"]
    assert rows["noise"]["gain_kept"] < 1
    assert rows["rescale"]["naive"] != rows["rescale"]["adaptive"]
    assert rows["dp"]["setting"]["epsilon_6"] > 0
    assert found["chance"]["best_constant_mae"] == 1.5
    assert [each[:2] for each in seen] == sorted(each[:2] for each in seen)
    assert seen[-1][0] == seen[-1][1]


def test_unknown_defences_are_named():
    with pytest.raises(ConfigError, match="SIZE-DEFENCE"):
        defend(FarmOptions(concepts=2), ["flp"])


def test_examples_of_the_docs():
    assert doctest.testmod(defences).failed == 0
