"""The n-gram baseline reads what pre-training reads, and says what a language model must beat."""

import importlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftlab.core.seeds import stream
from peftlab.models.load import load_tokenizer
from peftlab.models.pretraining.causal import Causal, CausalOptions
from peftlab.models.pretraining.pretrain import pretrain

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
language_model = importlib.import_module("language_model")

TEXT = "the film was good\n\nthe plot was bad\n\nthe film was bad and the plot was good\n\n"


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "one.txt").write_text(TEXT * 20)
    (folder / "held.jsonl").write_text(json.dumps({"text": "the plot was good\n\nwas it"}) + "\n")
    return folder


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_measures_on_held_out_text_alone(tiny, texts, tmp_path, family, capsys):
    held = texts / "held.jsonl"
    base = str(tiny(family))
    arguments = ["--base", base, "--text", str(texts), "--held-out", str(held), "--order", "3"]
    assert language_model.main(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    (name, judged) = found["held_out"]["n-gram"].popitem()
    assert found["held_out"]["network"] == {}
    assert found["samples"] == {}
    assert name == "books/held.jsonl"
    assert judged["bytes"] == len("the plot was goodwas it") + 2 * 2
    assert judged["perplexity"] == pytest.approx(math.exp(judged["nats_per_token"]))
    whole = judged["nats_per_token"] * judged["tokens"]
    assert judged["nats_per_byte"] * judged["bytes"] == pytest.approx(whole)
    assert judged["perplexity"] < found["vocabulary"] / 4
    assert found["order"] == 3
    assert len(found["ngrams"]) == 2
    assert str(tmp_path) not in printed
    assert base not in printed


def test_paragraphs_end_in_the_end_token_where_there_is_one(tiny, texts, tmp_path):
    counts = {}
    for family in ("bert", "llama"):
        found = language_model.measure(
            str(tiny(family)), [texts / "one.txt"], [texts / "held.jsonl"], 2, tmp_path / family
        )
        counts[family] = found["tokens"]
    for family, ends in (("bert", 0), ("llama", 60)):
        backend = load_tokenizer(tiny(family)).backend_tokenizer
        parts = [part for part in (TEXT * 20).split("\n\n") if part]
        plain = sum(len(backend.encode(part, add_special_tokens=False).ids) for part in parts)
        assert counts[family] == plain + ends


def test_a_network_predicts_every_token_once():
    """Against the definition, token by token; the windows overlap by half."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    network = LlamaForCausalLM(config).eval()
    network.lm_head.weight.data *= 20
    window = 8
    for n in (1, 3, 4, 5, 8, 9, 12, 13, 29):
        tokens = stream(0, "text", n).integers(3, 40, n)
        total = 0.0
        for i in range(n):
            begin = 0 if i < window else (i // 4 - 1) * 4
            seen = torch.tensor([[1, *tokens[begin:i]]])
            with torch.no_grad():
                logits = network(seen).logits[0, -1]
            total -= float(torch.log_softmax(logits, 0)[tokens[i]])
        found = language_model.network_loss(network, tokens, 1, window, batch=2)
        assert found == pytest.approx(total / n, rel=1e-4)


def test_samples_are_drawn_alike_each_time(toy_lm):
    network, tokenizer = language_model.load_network(str(toy_lm)), load_tokenizer(toy_lm)
    plain, careful = (
        [language_model.draw_samples(network, tokenizer, 3, 5, how) for _ in range(2)]
        for how in (language_model.PLAIN, language_model.CAREFUL)
    )
    assert len(plain[0]) == 3
    assert plain[0] == plain[1]
    assert careful[0] == careful[1] != plain[0]


def test_paragraphs_are_gone_on_with(toy_lm):
    network, tokenizer = language_model.load_network(str(toy_lm)), load_tokenizer(toy_lm)
    end = tokenizer.eos_token_id
    long, short = list(range(40, 52)), [60, 61]
    tokens = np.array([*short, end, *long, end, *short, end, *long[::-1], end])
    found = language_model.continue_texts(network, tokenizer, tokens, 2, 4, 6)
    heads = [tokenizer.decode(part[:4]).strip() for part in (long, long[::-1])]
    assert [each["given"] for each in found] == [" ".join(head.split()) for head in heads]
    assert language_model.continue_texts(network, tokenizer, tokens, 2, 4, 60) == []


@pytest.fixture
def toy_lm(texts, tmp_path):
    options = CausalOptions(
        vocabulary=280, layers=1, width=16, heads=2, feed_forward=16, length=8, batch=4, steps=2,
        positions=16, precision="fp32", device="cpu",
    )  # fmt: skip
    pretrain(Causal(), options, text=[texts], held_out=[], work=tmp_path / "w", out=tmp_path / "lm")
    return tmp_path / "lm"


def test_network_and_ngrams_are_measured_on_the_same_text(toy_lm, texts, tmp_path):
    found = language_model.measure(
        str(toy_lm), [texts / "one.txt"], [texts / "held.jsonl"], 3, tmp_path / "cache"
    )
    judged = [found["held_out"][kind]["books/held.jsonl"] for kind in ("n-gram", "network")]
    assert judged[0]["tokens"] == judged[1]["tokens"]
    assert judged[0]["nats_per_byte"] < judged[1]["nats_per_byte"]
    assert {name: len(each) for name, each in found["samples"].items()} == {
        "plain": 10, "careful": 10
    }  # fmt: skip


def test_without_data_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PEFTLAB_DATA", str(tmp_path))
    assert language_model.main(["--base", "builtin:encoder"]) == 0
    assert "SKIPPED" in capsys.readouterr().err


def test_an_unknown_base_is_an_error(texts, capsys):
    arguments = ["--base", "builtin:nothing", "--text", str(texts / "one.txt")]
    assert language_model.main([*arguments, "--held-out", str(texts / "held.jsonl")]) == 2
    assert "BASE-BUILTIN" in capsys.readouterr().err
