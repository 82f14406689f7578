"""Each tuner on each family: what trains, how much of it, and what is refused."""

import math

import numpy as np
import pytest

from peftlab.core import registry
from peftlab.core.errors import ConfigError, NotApplicable
from peftlab.nn.loop import TrainPlan, train
from peftlab.nn.text import encode, pad_id_of, predict_logits, room_for_text
from tiny_models import FAMILIES, HEADS, LAYERS, WIDTH

TUNERS = ("full", "lora", "prefix", "prompt", "ptuning")
UNFIT = {("prefix", "distilbert"), ("prefix", "deberta-v2")}  # no past keys and values
TEXTS = ["a lovely surprise", "terrible pacing ruins it", "we waited an hour", "very good"]


def _adapter_size(wrapped):
    """Count trainable numbers outside the head."""
    return sum(
        p.numel() for name, p in wrapped.named_parameters()
        if p.requires_grad and "modules_to_save" not in name
    )  # fmt: skip


def test_all_are_here():
    assert set(TUNERS) <= {entry.name for entry in registry.entries("tuner")}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tuner", TUNERS)
def test_every_family_trains_or_is_refused(tuner, family, load_tiny):
    model, tokenizer = load_tiny(family)
    method = registry.get("tuner", tuner).build()
    if (tuner, family) in UNFIT:
        with pytest.raises(NotApplicable) as caught:
            method.wrap(model, 0)
        assert caught.value.code == "TUNER-MODEL"
        assert caught.value.fix
        return
    wrapped = method.wrap(model, 0)
    before = predict_logits(wrapped, tokenizer, TEXTS)
    log = train(
        wrapped, encode(tokenizer, TEXTS, room_for_text(wrapped)), np.eye(2)[[1, 0, 0, 1]],
        TrainPlan(steps=4, lr=2e-2, batch=4, warmup=0, precision="fp32"),
        seed=0, pad_id=pad_id_of(model, tokenizer),
    )  # fmt: skip
    assert all(math.isfinite(loss) for loss in log.losses)
    after = predict_logits(wrapped, tokenizer, TEXTS)
    assert np.isfinite(after).all()
    assert (after != before).any()


@pytest.mark.parametrize("rank", [1, 8])
def test_lora_is_two_thin_matrices_on_query_and_value(rank, load_tiny):
    wrapped = registry.get("tuner", "lora").build(rank=rank).wrap(load_tiny()[0], 0)
    assert _adapter_size(wrapped) == LAYERS * 2 * (2 * WIDTH * rank)
    config = wrapped.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (rank, 16, 0.1)


def test_lora_starts_as_the_base(load_tiny):
    model, tokenizer = load_tiny()
    expected = predict_logits(model, tokenizer, TEXTS)
    wrapped = registry.get("tuner", "lora").build().wrap(model, 3)
    np.testing.assert_array_equal(predict_logits(wrapped, tokenizer, TEXTS), expected)


def test_lora_targets_by_name(load_tiny):
    wrapped = registry.get("tuner", "lora").build(targets="key, dense").wrap(load_tiny()[0], 0)
    touched = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n, _ in wrapped.named_parameters()
               if "lora_" in n}  # fmt: skip
    assert touched == {"key", "dense"}
    with pytest.raises(NotApplicable) as caught:
        registry.get("tuner", "lora").build(targets="nothing_of_the_kind").wrap(load_tiny()[0], 0)
    assert caught.value.code == "TUNER-MODEL"


@pytest.mark.parametrize("tokens", [1, 7])
def test_prompt_types_have_the_stated_size(tokens, load_tiny):
    sizes = {
        name: _adapter_size(
            registry.get("tuner", name).build(virtual_tokens=tokens).wrap(load_tiny()[0], 0)
        )
        for name in ("prompt", "prefix")
    }
    assert sizes["prompt"] == tokens * WIDTH
    assert sizes["prefix"] == tokens * LAYERS * 2 * WIDTH
    assert WIDTH % HEADS == 0


def test_ptuning_has_an_encoder_of_the_stated_width(load_tiny):
    wrapped = registry.get("tuner", "ptuning").build(hidden=16).wrap(load_tiny()[0], 0)
    config = wrapped.peft_config["default"]
    assert config.peft_type.value == "P_TUNING"
    assert config.encoder_hidden_size == 16


def test_full_trains_everything(load_tiny):
    wrapped = registry.get("tuner", "full").build().wrap(load_tiny()[0], 0)
    assert all(p.requires_grad for p in wrapped.parameters())


def test_a_typo_is_helped():
    with pytest.raises(ConfigError, match="did you mean lora"):
        registry.get("tuner", "lorra")
