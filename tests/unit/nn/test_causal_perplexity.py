"""Perplexities with shared beginnings are those of each text alone, whatever the tokenizer does."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from peftlab.core.errors import ConfigError
from peftlab.models.load import load_causal
from peftlab.nn import causal_perplexity
from peftlab.nn.causal_perplexity import CausalPerplexity, _agreement, _log_sums
from tiny_models import CAUSAL, TEXTS, make_tiny_causal

ODD = (
    "film",
    "a film",
    "mn",
    "  the\tfilm was  \n good ",
    "the the the the",
    "é 映画 🎬 \udc80 ok",
)


def alone(model, tokenizer, text, start):
    """Return a text's perplexity by definition: one pass, nothing shared, float64 at the end."""
    sound = text.encode("utf-8", "replace").decode()
    ids = tokenizer(sound, add_special_tokens=False)["input_ids"]
    if not ids:
        return float(model.config.vocab_size)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[start, *ids]])).logits[0, :-1].double()
    losses = -torch.log_softmax(logits, 1)[torch.arange(len(ids)), torch.tensor(ids)]
    return math.exp(losses.mean())


def slow(model, tokenizer, words, start):
    """Return what ``leave_one_out`` should, by n + 1 texts of their own."""
    whole = alone(model, tokenizer, " ".join(words), start)
    without = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
    return np.full(len(words), whole), np.array(
        [alone(model, tokenizer, text, start) for text in without]
    )


def agree(judge, model, tokenizer, text, tolerance=1e-5):
    found = judge.leave_one_out(text.split())
    expected = slow(model, tokenizer, text.split(), judge._start)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=tolerance)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Return (judge, model, tokenizer) by family."""
    made = {}
    for family in CAUSAL:
        folder = make_tiny_causal(family, tmp_path_factory.mktemp(family))
        model, tokenizer = load_causal(str(folder))
        made[family] = (CausalPerplexity(model, tokenizer, 128), model, tokenizer)
    return made


@pytest.mark.parametrize("family", CAUSAL)
def test_equals_n_plus_1_texts_of_their_own(judges, family):
    judge, model, tokenizer = judges[family]
    assert judge.shares
    for text in (*TEXTS, *ODD):
        agree(judge, model, tokenizer, text)


@pytest.mark.parametrize("group", [1, 20, 45, 10_000])
def test_any_number_of_passes_gives_the_same(judges, monkeypatch, group):
    judge, model, tokenizer = judges["llama"]
    monkeypatch.setattr(judge, "_group", group)
    for text in TEXTS[:4]:
        agree(judge, model, tokenizer, text)


def test_the_start_token_is_given_and_the_first_word_counts(judges):
    starts = {family: judge._tokenizer.convert_ids_to_tokens(judge._start)
              for family, (judge, _, _) in judges.items()}  # fmt: skip
    assert starts == {"gpt2": "<|endoftext|>", "opt": "</s>", "llama": "<s>", "qwen2": "<|im_end|>"}
    judge, model, tokenizer = judges["llama"]
    whole, without = judge.leave_one_out(["film"])
    ids = tokenizer("film", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        first = torch.log_softmax(model(torch.tensor([[judge._start]])).logits[0, -1], 0)
    assert len(ids) > 1 or whole[0] == pytest.approx(math.exp(-first[ids[0]]), rel=1e-5)
    assert without.tolist() == [judge.vocabulary]  # nothing is left: a uniform guess
    assert whole[0] == pytest.approx(judge.perplexity(" film "))


def test_a_model_without_any_start_is_a_clear_error(judges):
    _, model, tokenizer = judges["llama"]
    nameless = SimpleNamespace(bos_token_id=None, eos_token_id=None)
    bare = SimpleNamespace(
        config=SimpleNamespace(vocab_size=9, max_position_embeddings=64),
        parameters=model.parameters,
    )
    with pytest.raises(ConfigError) as caught:
        CausalPerplexity(bare, nameless, 32)
    assert caught.value.code == "ONION-START"
    assert tokenizer.bos_token_id is not None


def test_a_tokenizer_that_merges_across_words(judges):
    """Deleting a word changes tokens before it too; only what really agrees is shared."""
    from tokenizers import Tokenizer, models, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="?"))
    core.train_from_iterator(
        [text for text in TEXTS for _ in range(3)],
        trainers.BpeTrainer(vocab_size=280, special_tokens=["<s>", "?"], show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="?")
    _, model, _ = judges["llama"]
    judge = CausalPerplexity(model, tokenizer, 128)
    assert judge.shares
    earlier = 0
    for text in (*TEXTS, "the film was the film was"):
        agree(judge, model, tokenizer, text)
        words = text.split()
        whole = judge._encode([text])[0]
        for i in range(1, len(words)):
            row = judge._encode([" ".join(words[:i] + words[i + 1 :])])[0]
            before = judge._encode([" ".join(words[:i])])[0]
            earlier += _agreement(whole, row) < len(before)
    assert earlier > 0


def test_long_texts_are_judged_in_windows_of_whole_words(judges):
    judge, model, tokenizer = judges["gpt2"]
    assert judge._room == 63  # the model's 64 positions, less the start
    words = " ".join(TEXTS).split()
    windows = list(judge._windows(words))
    assert len(windows) > 2
    assert [first for first, _ in windows] == [0, *(last for _, last in windows[:-1])]
    assert windows[-1][1] == len(words)
    found = judge.leave_one_out(words)
    for first, last in windows:
        part = words[first:last]
        assert len(judge._encode([" ".join(part)], 1000)[0]) <= judge._room + 1
        expected = slow(model, tokenizer, part, judge._start)
        if len(tokenizer(" ".join(part))["input_ids"]) <= judge._room:
            np.testing.assert_allclose(found[0][first:last], expected[0], rtol=1e-5)
            np.testing.assert_allclose(found[1][first:last], expected[1], rtol=1e-5)


def test_no_words_and_endless_words(judges):
    judge = judges["gpt2"][0]
    assert [array.shape for array in judge.leave_one_out([])] == [(0,), (0,)]
    for words in (["x" * 10_000], ["a", "y" * 5_000, "b"], ["film"] * 300):
        whole, without = judge.leave_one_out(words)
        assert len(whole) == len(without) == len(words)
        assert np.isfinite(whole).all()
        assert np.isfinite(without).all()


def test_a_model_whose_states_cannot_be_shared_is_asked_in_full(judges):
    _, model, tokenizer = judges["llama"]

    class Capped:
        """As Gemma does: what the head says is not what the model says."""

        def __init__(self):
            self.config, self.dtype, self.base_model = model.config, model.dtype, model.base_model
            self.parameters = model.parameters
            self.get_output_embeddings = model.get_output_embeddings

        def __call__(self, input_ids):
            return SimpleNamespace(logits=2 * torch.tanh(model(input_ids=input_ids).logits / 2))

    capped = Capped()
    judge = CausalPerplexity(capped, tokenizer, 128)
    assert not judge.shares
    agree(judge, capped, tokenizer, TEXTS[0])


def test_large_scores_do_not_overflow():
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    states[1] *= 300
    states[3] = 0
    head = torch.nn.Linear(8, 3000)
    with torch.inference_mode():
        exact = head.double()(states.double()).logsumexp(1)
        found = _log_sums(states, head.float())
        low = head.bias.data.fill_(-500.0)  # every score underflows
        assert _log_sums(states[3:4], head)[0] == pytest.approx(-500 + math.log(3000), rel=1e-5)
    assert low is not None
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=1e-5)


def test_passes_do_half_of_the_work(judges, monkeypatch):
    judge, model, _ = judges["llama"]
    seen = []
    real = model.base_model.forward

    def counted(*args, **named):
        seen.append(named["input_ids"].numel())
        return real(*args, **named)

    monkeypatch.setattr(model.base_model, "forward", counted)
    words = TEXTS[6].split()
    rows = judge._encode([" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))])
    judge.leave_one_out(words)
    full = sum(len(row) for row in rows)
    assert sum(seen) < min(0.65 * full, causal_perplexity.GROUP_TOKENS)
    assert len(seen) == 1
