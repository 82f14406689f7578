"""Step 6 of the gate: patterns that a library would run on every module name."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.io.artefact import Artefact, open_file
from peftlab.io.gate import patterns
from peftlab.io.gate.limits import Limits
from peftlab.io.gate.pattern_form import refusal
from peftlab.io.gate.patterns import NAMES, check_patterns, patterns_in, refused_patterns

CONFIG = "adapter_config.json"
BOMB = "([a-z.0-9]+)+!"
PARTS = "self_attn|attention|attn|mlp|feed_forward|ffn|dense"
LAYERS = "k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj|qkv|proj"
VISION = (
    f"(?:.*?(?:vision|image|visual|language).*?(?:{PARTS}).*?(?:{LAYERS}).*?)|"
    rf"(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{PARTS})\.(?:(?:{LAYERS})))"
)
# as trainers in wide use write them
SAFE = [
    "all-linear", "q_proj", r".*\.(q_proj|v_proj)", r".*(q_proj|k_proj|v_proj|o_proj).*$",
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", r"h\.(\d+)\.attn\.c_attn",
    r"model\.layers\.\d+\.self_attn\.(?:q_proj|v_proj)", r".*double_blocks.\d+.(img|txt)_attn.qkv",
]  # fmt: skip
TRIED = [
    VISION,
    rf"^(?!.*(?:visual|lm_head)).*(?:{LAYERS}).*",
    r"^(language_model|aligner)(?=\.).*\.(o_proj|down_proj|v_proj)$",
    r".*layers\.(1[0-9]|2[0-3])\.mlp\..*", r"transformer_blocks\.\d+\.attn\.to_[qkv]",
    r"(?:model\.)?language_model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj", r"(?i).*Q_PROJ",
    "q_proj|" * 60 + "v_proj",
]  # fmt: skip
REFUSED = [
    BOMB, "(a|a|[a-z]|.)*!", ".*" * 24 + "!", "(.*)" * 9 + "!", "(?:[a-z.]{1,40}){1,40}!",
    "(?=((?:[a-z._0-9]+)+!))x", r"(.*)(.*)\1\2!", "(?P<a>.*)(?P=a)", "(q_proj", "a)|(b", "[a",
    "(?:(?:(?:a{999}){999}){999}){999}", r"\w?" * 40 + "!", "(.|.)" * 40, "(m|M)" * 40 + "!",
    "(?i)" + "(m|M)" * 40 + "!", "(?x)(a+ ) +", "(?#c)(a+)+", "(?>a+)+", "(?i:a+)+", r"[\]](b+)+",
    "[(](a+)+", "(a+)++", "a**", "*", "|+", r"\8", "(?:a?){30}a{30}", "((a*)*)*", "q" * 3000,
    r"model\.layers\.\d\." + r"\w?" * 16 + ".*" * 6 + "!", "(" * 500 + ")" * 500, "a\x00b", "\xe9+",
    "a\n", 3, None, ["a"], {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("text", SAFE)
def test_let_through_by_form(text, monkeypatch):
    monkeypatch.delattr(patterns, "run_caged")  # no engine is needed
    assert refused_patterns({"target_modules": text, "exclude_modules": text}) == []


def test_let_through_after_a_trial():
    assert [refusal(text) for text in TRIED] == [None] * len(TRIED)
    keys = dict.fromkeys(TRIED[2:4], 4)
    assert refused_patterns({"target_modules": TRIED, "rank_pattern": keys}) == []


@pytest.mark.parametrize("text", REFUSED)
def test_refused_by_form(text, monkeypatch):
    monkeypatch.delattr(patterns, "run_caged")
    start = time.process_time()
    assert refusal(text)
    assert refused_patterns({"modules_to_save": [text]})[0][0] == ("modules_to_save", 0)
    assert time.process_time() - start < 0.2


def test_the_time_bomb_is_a_time_bomb():
    """On a short name, so that it ends; each two characters more take four times as long."""
    start = time.process_time()
    re.fullmatch(BOMB, "model.layers.0.self_at")
    took = time.process_time() - start
    assert took > 0.02
    start = time.process_time()
    assert refused_patterns({"target_modules": BOMB})
    assert time.process_time() - start < 0.02


def test_a_trial_names_what_does_not_end(monkeypatch):
    """What the form does not catch, the cage does."""
    monkeypatch.setattr(patterns, "refusal", lambda text, *, inside: None)
    config = {"target_modules": "q_proj", "exclude_modules": BOMB, "layers_pattern": ["h", "(h"]}
    found = dict(refused_patterns(config))
    assert found == {
        ("exclude_modules",): "did not end within 1 s of computing time",
        ("layers_pattern", 0): "was not reached in time",
        ("layers_pattern", 1): "was not reached in time",
    }
    broken = refused_patterns({"layers_pattern": ["h", "(h"], "alpha_pattern": {"a)|(b": 1}})
    assert [place for place, _ in broken] == [("layers_pattern", 1), ("alpha_pattern", "a)|(b")]
    assert all(why.startswith("broken") for _, why in broken)


def test_without_a_cage_there_is_no_trial(monkeypatch):
    monkeypatch.setattr(patterns, "has_cage", lambda: False)
    assert refused_patterns({"target_modules": TRIED[-1]}) == [
        (("target_modules",), "cannot be tried on this system")
    ]


def test_every_field_that_peft_reads_as_a_pattern():
    config = {
        "target_modules": "a", "exclude_modules": ["b"], "feedforward_modules": "c",
        "layers_pattern": "d", "modules_to_save": ["e", "f"], "rank_pattern": {"g": 1},
        "n_frequency_pattern": {"h": 1}, "alpha_pattern": None, "target_parameters": ["(x+)+"],
    }  # fmt: skip
    assert [each.text for each in patterns_in(config)] == list("abcdefgh")


def test_more_patterns_than_python_remembers():
    config = {"rank_pattern": {f"layer.{number}.q": 4 for number in range(3000)}}
    assert [place for place, _ in refused_patterns(config)] == [("rank_pattern",)]


@pytest.mark.parametrize(("change", "left"), [
    ({"target_modules": BOMB}, {"exclude_modules": ["k"], "rank_pattern": {"q": 4}}),
    ({"exclude_modules": ["k", BOMB]}, {"exclude_modules": ["k"], "rank_pattern": {"q": 4}}),
    ({"rank_pattern": {"q": 4, BOMB: 8}}, {"exclude_modules": ["k"], "rank_pattern": {"q": 4}}),
])  # fmt: skip
def test_the_step_takes_out_what_it_refuses(tmp_path, change, left):
    (tmp_path / CONFIG).write_text(json.dumps({}))
    with Artefact("x", "folder", files={CONFIG: open_file(tmp_path / CONFIG, CONFIG)}) as artefact:
        artefact.config = {"exclude_modules": ["k"], "rank_pattern": {"q": 4}, **change}
        check = check_patterns(artefact, Limits())
        assert check.status == "found"
        assert [found.code for found in check.findings] == ["GATE-PATTERN"]
        assert artefact.config == left
        assert check_patterns(artefact, Limits()).status == "passed"


def test_names_are_long_and_of_many_families():
    assert len(set(NAMES)) == len(NAMES) > 60
    assert max(map(len, NAMES)) > 150


PIECES = st.sampled_from([
    "a", "b", "ab", ".", r"\.", r"\d", r"\w", "(", "(?:", ")", "|", "*", "+", "?", ".*", ".*?",
    "[ab]", "a?", "(a|ab)", "(a|a)", "(?=", "{2,}", "{0,3}", "^", "$", "!", "(?i)", "(a+)+", r"\1",
])  # fmt: skip
LONG = ("a" * 128, "ab" * 64, "a." * 64, "1" * 128)


@given(st.lists(PIECES, max_size=24).map("".join))
@settings(max_examples=200, deadline=None)
def test_what_is_not_refused_by_form_ends_soon(text):
    why = refusal(text)
    if why:
        return
    try:
        pattern = re.compile(text)
    except re.error:
        assert why is None, "let through without a trial, and yet broken"
        return
    start = time.process_time()
    for name in LONG:
        pattern.fullmatch(name)
        pattern.match(name)
    assert time.process_time() - start < 5
