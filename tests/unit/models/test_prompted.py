"""A causal model asked by prompt is a classifier that says what its language model says."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from peftlab.core.errors import InputRejected, PeftlabError
from peftlab.core.prompt import Prompt
from peftlab.models.load import load_base, load_victim
from peftlab.models.prompted import PROMPT_FILE, read_prompt, save_tokenizer
from peftlab.nn.prompted import prompt_of
from peftlab.nn.text import encode, predict_logits, softmax
from tiny_models import CAUSAL, make_tiny, make_tiny_causal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPT = Prompt(template="the film: {text} and the", words=("no", "was"))
TEXTS = ("a dull story", "with no wit {0}", "x", "", "the service was quick and the food was good",
         "it says </s> in the middle", "<|endoftext|>")  # fmt: skip


@pytest.fixture(scope="module", params=CAUSAL)
def folder(request, tmp_path_factory):
    return make_tiny_causal(request.param, tmp_path_factory.mktemp("prompted") / "lm")


def says(folder, prompt, text):
    """Ask the language model itself, one text at a time, by the stock library alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(prompt.fill(text), return_tensors="pt")
    words = [tokenizer(f" {word}", add_special_tokens=False).input_ids[-1] for word in prompt.words]
    with torch.no_grad():
        return model(input_ids=rows.input_ids).logits[0, -1, words].softmax(-1).numpy()


def test_the_classifier_says_what_the_language_model_says(folder):
    model, tokenizer = load_base(str(folder), 2, prompt=PROMPT)
    found = softmax(predict_logits(model, tokenizer, TEXTS))  # one padded batch
    wanted = np.stack([says(folder, PROMPT, text) for text in TEXTS])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.ptp(wanted[:, 0]) > 0.01  # texts matter, so a wrong position would show


def test_a_long_text_is_cut_and_the_template_is_not(folder):
    model, tokenizer = load_base(str(folder), 2, prompt=PROMPT)
    ends = encode(tokenizer, ["a"], 64)[0][-2:]
    for long in ("no heart " * 200, "\U0001f600" * 99, "é" * 300):
        row = encode(tokenizer, [long], 32)[0]
        assert 24 <= len(row) <= 32
        assert row[-2:] == ends
    assert np.isfinite(predict_logits(model, tokenizer, ["no heart " * 200])).all()


def test_a_saved_model_keeps_its_prompt_and_its_answers(folder, tmp_path):
    model, tokenizer = load_base(str(folder), 2, prompt=PROMPT)
    before = predict_logits(model, tokenizer, TEXTS)
    model.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path)
    again, tokenizer = load_base(str(tmp_path), 2)
    assert prompt_of(tokenizer) == PROMPT
    np.testing.assert_allclose(predict_logits(again, tokenizer, TEXTS), before, atol=1e-5)
    load_base(str(tmp_path), 2, prompt=PROMPT)
    other = Prompt(template=PROMPT.template, words=("was", "no"))
    assert code(load_base, str(tmp_path), 2, prompt=other) == "PROMPT-TWICE"


def test_a_prompt_beside_a_language_model_is_enough(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "lm")
    (place / PROMPT_FILE).write_text(PROMPT.model_dump_json())
    model, tokenizer = load_base(str(place), 2)
    wanted, by_hand = load_base(str(folder), 2, prompt=PROMPT)
    np.testing.assert_array_equal(
        predict_logits(model, tokenizer, TEXTS), predict_logits(wanted, by_hand, TEXTS)
    )


def code(call, *given, **named):
    with pytest.raises(PeftlabError) as caught:
        call(*given, **named)
    assert caught.value.fix
    return caught.value.code


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        ("PROMPT-WORD", {"words": ("no", "extraordinarily")}),
        ("PROMPT-CLASSES", {"words": ("no", "was", "a")}),
        ("PROMPT-LONG", {"template": "{text}" + " no heart" * 40}),
        ("PROMPT-SPECIAL", {"template": "{text} the </s> was"}),
    ],
)
def test_prompts_that_do_not_fit_a_base(wanted, changes, tmp_path):
    base = make_tiny_causal("llama", tmp_path / "lm")
    prompt = Prompt(**{**PROMPT.model_dump(), **changes})
    assert code(load_base, str(base), 2, prompt=prompt) == wanted


def test_a_prompt_needs_a_causal_language_model(tmp_path):
    assert code(load_base, "builtin:encoder", 2, prompt=PROMPT) == "BASE-CAUSAL"
    trained = make_tiny("llama", tmp_path / "trained")
    assert code(load_base, str(trained), 2, prompt=PROMPT) == "BASE-CAUSAL"


@pytest.mark.parametrize("family", ["gemma2", "cohere"])  # capped logits; no classifier
def test_a_family_whose_output_layer_is_not_plain_is_refused(family, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    source = make_tiny_causal("llama", tmp_path / "lm")
    about = json.loads((source / "config.json").read_text())
    same = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
    config = AutoConfig.for_model(
        family, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, initializer_range=0.3,
        **{key: about[key] for key in same},
    )  # fmt: skip
    config.final_logit_softcapping = 0.5
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    assert code(load_base, str(source), 2, prompt=PROMPT) == "PROMPT-MODEL"


@pytest.mark.parametrize(
    "content",
    [
        "[]", "3", "{}", "not json", '{"template": "{text} was", "words": "ab"}',
        '{"template": 3, "words": ["a", "b"]}', '{"template": "{text} was", "words": ["a", 1]}',
        '{"template": "{text} was", "words": ["a", "b"], "more": 1}',
        '{"template": "{text} was {text}", "words": ["a", "b"]}',
        '{"template": "{text} was", "words": ["a", "b"], "words": ["a", "c"]}',
        '{"template": "' + "a" * 300_000 + '{text} was", "words": ["a", "b"]}',
        '{"template": "{text} \\ud800 was", "words": ["a", "b"]}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_prompt_is_refused(content, tmp_path):
    (tmp_path / PROMPT_FILE).write_text(content)
    with pytest.raises(InputRejected) as caught:
        read_prompt(tmp_path)
    assert caught.value.code in {"PROMPT-FILE", "JSON-BAD", "FILE-SIZE"}


def test_no_file_is_no_prompt(tmp_path):
    assert read_prompt(tmp_path) is None


def test_an_adapter_on_a_bare_language_model_brings_its_prompt(tmp_path):
    from peftlab.data.reviews import ReviewOptions, Reviews
    from peftlab.engine.steps import tune

    data = Reviews(ReviewOptions(n_train=20, n_dev=20, n_test=20, n_proxy=0)).load("reviews")
    base = make_tiny_causal("llama", tmp_path / "lm")
    tune(str(base), data, "lora", {"epochs": 1}, tmp_path / "victim", seed=0, prompt=PROMPT)
    model, tokenizer = load_victim(tmp_path / "victim")
    assert prompt_of(tokenizer) == PROMPT
    assert "adapter_model.safetensors" in {path.name for path in (tmp_path / "victim").iterdir()}
    found = predict_logits(model, tokenizer, TEXTS)
    alone = [predict_logits(model, tokenizer, [text])[0] for text in TEXTS]
    np.testing.assert_allclose(found, np.stack(alone), atol=1e-5)
