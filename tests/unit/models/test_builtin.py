"""The models that ship: small enough, what their cards say, and loadable by stock libraries."""

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
)

from peftlab.io.files import sha256_file
from peftlab.models.load import BUILTIN, load_base
from peftlab.models.vision.load import load_vision

MIB = 2**20
LIMITS = {"encoder": 16 * MIB, "lm": 16 * MIB, "vision": 8 * MIB, "vision-resnet": 8 * MIB}


def test_nothing_else_ships_and_the_wheel_stays_small():
    shipped = {path.parent.name for path in BUILTIN.glob("*/config.json")}
    assert shipped == set(LIMITS)
    files = [path for path in BUILTIN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 43 * MIB


@pytest.mark.parametrize("name", LIMITS)
def test_a_card_tells_of_these_weights(name):
    folder = BUILTIN / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMITS[name]
    card = (folder / "README.md").read_text()
    assert sha256_file(folder / "model.safetensors") in card
    assert "licen" in card.lower()
    assert "seed" in card


def test_the_language_model_writes_words():
    model = AutoModelForCausalLM.from_pretrained(BUILTIN / "lm", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN / "lm")
    losses = []
    for text in ("The king and the queen of England", "England queen of the and king The the"):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(float(model(ids, labels=ids).loss))
    assert losses[0] < losses[1] - 0.5


@pytest.mark.parametrize("twin", ["builtin:lm", "builtin:lm-random"])
def test_the_language_model_takes_the_way_of_a_base(twin):
    model, tokenizer = load_base(twin, 2)
    assert model.config.num_labels == 2
    assert tokenizer.pad_token_id is not None


@pytest.mark.parametrize("name", ["vision", "vision-resnet"])
def test_the_image_models_load_in_stock_transformers(name):
    model = AutoModelForImageClassification.from_pretrained(BUILTIN / name)
    assert len(model.config.id2label) > 30
    AutoImageProcessor.from_pretrained(BUILTIN / name)
    assert load_vision(f"builtin:{name}", 3)[0].config.num_labels == 3
