"""The head of each family is found, redrawn and frozen; nothing else is."""

import pytest
import torch

from peftlab.core.errors import NotApplicable
from peftlab.nn.heads import default_rate, freeze_head, head_of, prepare_head, reinit_head
from tiny_models import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_head_is_redrawn(family, load_tiny):
    model, _ = load_tiny(family, 3)
    head = {id(p) for p in head_of(model).parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prepare_head(model, "inherit", 1)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    prepare_head(model, "reinit", 1)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (id(p) not in head or not p.any()), name
        if id(p) in head and p.dim() > 1:
            assert 0.005 < float(p.std()) < 0.05
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    reinit_head(model, 1)
    assert all(torch.equal(p, first[name]) for name, p in model.named_parameters())
    reinit_head(model, 2)
    assert any(not torch.equal(p, first[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_head_is_frozen(family, load_tiny):
    model, _ = load_tiny(family)
    model.requires_grad_(requires_grad=True)
    freeze_head(model)
    head = {id(p) for p in head_of(model).parameters()}
    if family == "distilbert":  # its head is in two halves
        head |= {id(p) for p in model.pre_classifier.parameters()}
    assert all(p.requires_grad == (id(p) not in head) for p in model.parameters())


def test_redrawing_leaves_global_generators_alone(load_tiny):
    model, _ = load_tiny()
    before = torch.get_rng_state()
    reinit_head(model, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_no_head():
    with pytest.raises(NotApplicable) as caught:
        head_of(torch.nn.Linear(2, 2))
    assert caught.value.code == "HEAD-NONE"


@pytest.mark.parametrize(("family", "expected"), [("bert", 2e-4), ("distilbert", 2e-4)])
def test_small_models_take_the_small_rate(family, expected, load_tiny):
    model, _ = load_tiny(family)
    assert default_rate(model, small=2e-4, large=2e-5) == expected
    model.config.hidden_size = 768
    if family == "bert":
        assert default_rate(model, small=2e-4, large=2e-5) == 2e-5
