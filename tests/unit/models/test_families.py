"""The tiny models of the usual families are what stock transformers takes them for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_models import CAUSAL, FAMILIES, NO_PAD, make_tiny

TEXTS = ["a lovely film", "we waited an hour for a cold and tasteless meal, and more"]


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return request.param, make_tiny(request.param, folder, n_classes=3)


def test_loads_in_stock_transformers(tiny):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    family, folder = tiny
    assert not any(path.suffix in {".bin", ".pt", ".pkl"} for path in folder.iterdir())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.model_type == family
    assert (tokenizer.pad_token is None) == (family in NO_PAD)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    model.eval()
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits
        assert logits.shape == (1, 3)
        assert logits.isfinite().all()


def test_a_batch_gives_what_single_texts_give(tiny):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    family, folder = tiny
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    if family in NO_PAD:
        with pytest.raises(ValueError, match="pad"):
            tokenizer(TEXTS, padding=True)
        return
    with torch.no_grad():
        together = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        alone = torch.cat([model(**tokenizer(t, return_tensors="pt")).logits for t in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_text_survives_the_tokenizer(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny[1])
    ids = tokenizer("the film was good")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the film was good"
    assert tokenizer.is_fast
    assert tokenizer.model_max_length == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_the_weights(tmp_path, family):
    def weights(name: str, seed: int) -> bytes:
        return (make_tiny(family, tmp_path / name, seed=seed) / "model.safetensors").read_bytes()

    assert weights("a", 1) == weights("b", 1)
    assert weights("a", 1) != weights("c", 2)


def test_the_lists_agree():
    assert set(CAUSAL) < set(FAMILIES)
    assert set(NO_PAD) <= set(CAUSAL)
