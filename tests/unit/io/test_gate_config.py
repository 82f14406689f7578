"""Steps 4 and 5 of the gate: JSON files and the fields of configs."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.core.findings import Severity
from peftlab.io.artefact import Artefact, open_file
from peftlab.io.gate.config import check_config, judge_adapter, judge_other, templates_of
from peftlab.io.gate.fields import facts
from peftlab.io.gate.hooks import hooks_of, is_stock_mapping
from peftlab.io.gate.json_files import PARSED_LIMIT, check_json, fault, sound_json
from peftlab.io.gate.limits import Limits
from peftlab.io.strict_json import nesting

ROOT = Path(__file__).parents[3]
LIMITS = Limits()
CONFIG = "adapter_config.json"
LORA = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "someone/base",
    "bias": "none", "eva_config": None, "inference_mode": True, "init_lora_weights": True,
    "loftq_config": {}, "lora_alpha": 16, "lora_dropout": 0.05, "megatron_config": None,
    "megatron_core": "megatron.core", "peft_type": "LORA", "peft_version": "0.21.2", "r": 8,
    "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}  # fmt: skip
MAPPING = {"base_model_class": "BertModel", "parent_library": "transformers.models.bert"}


def codes(judged):
    return [found.code for found in judged.findings]


@pytest.fixture
def artefact(tmp_path):
    """Make an artefact of files, given by name as values or as bytes."""
    made = []

    def make(**files):
        opened = Artefact(str(tmp_path), "folder")
        for key, content in files.items():
            name = key.replace("__", ".")
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (tmp_path / name).write_bytes(raw)
            opened.files[name] = open_file(tmp_path / name, name)
        made.append(opened)
        return opened

    yield make
    for opened in made:
        opened.close()


# ------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(("content", "why"), [
    (b'{"a": NaN}', "not a JSON number"),
    (b'{"a": -Infinity}', "not a JSON number"),
    (b'{"a": 1e400}', "too large"),
    (b'{"a": 1, "\\u0061": 2}', "occurs twice"),
    (b'{"a": "\xff"}', "utf-8"),
    (b"\xef\xbb\xbf{}", "BOM"),
    ('{"a": 1}'.encode("utf-16"), "utf-8"),
    (b'{"a": "\\ud800"}', "surrogate"),
    (b'{"\\udfff": 1}', "surrogate"),
    (b'{"a": [2147483649]}', "whole number"),
    (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    (b'{"a": ' + b"[" * 12 + b"]" * 12 + b"}", "nested 13 deep"),
    (b"[" * 200_000, "nested 200000 deep"),
    (b'{"a": "' + b"x" * 2**18 + b'"}', "more than 262144"),
    (b"", "Expecting value"),
    (b"[]", "a list where an object"),
    (b"{}{}", "Extra data"),
])  # fmt: skip
def test_json_that_ends_the_gate(artefact, content, why):
    check = check_json(artefact(adapter_config__json=content), LIMITS)
    assert check.status == "stopped"
    assert [found.code for found in check.findings] == ["GATE-JSON"]
    assert why in check.findings[0].evidence


def test_json_as_libraries_write_it(artefact):
    opened = artefact(
        adapter_config__json=LORA,
        config__json={"rope_theta": 2**40, "layers": [[0, 1], [1, 2]], "name": "é\U0001f600"},
        tokenizer_config__json={"model_max_length": 10**30, "text": "x" * 2**19},
        tokenizer__json={"model": {"vocab": {"word" * 20 + str(n): n for n in range(60_000)}}},
        model__safetensors__index__json={"metadata": {"total_size": 2**40}, "weight_map": {}},
    )
    check = check_json(opened, LIMITS)
    assert check.status == "passed", check.findings
    assert opened.files["tokenizer.json"].size > PARSED_LIMIT
    assert check.not_checked == ("tokenizer.json: beyond encoding and nesting, for it is large",)
    assert sound_json(opened, "tokenizer.json", LIMITS) == {}
    assert sound_json(opened, CONFIG, LIMITS) == LORA


@pytest.mark.parametrize(("content", "why"), [
    (b'{"a": "\xff' + b"x" * PARSED_LIMIT + b'"}', "utf-8"),
    (b"[" + b"1," * PARSED_LIMIT + b"1]", "not an object"),
    (b'{"a":' + b"[" * 13 + b"1," * PARSED_LIMIT, "nested 14 deep"),
])  # fmt: skip
def test_a_large_vocabulary_is_looked_at_without_parsing(content, why):
    assert why in fault(content, "tokenizer.json", LIMITS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text('ab[]{}"\\', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def depth(value):
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth, inner), default=0) if isinstance(value, dict | list) else 0


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_nesting_is_that_of_the_parser(value):
    assert nesting(json.dumps(value, ensure_ascii=False).encode()) == depth(value)


@given(st.binary(max_size=40) | st.text('[]{}"\\,:1a', max_size=40).map(str.encode))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_judged(content):
    why = fault(content, CONFIG, LIMITS)
    assert why or isinstance(json.loads(content), dict)


# ------------------------------------------------------------------------ configs


def test_a_stock_config_passes_whole():
    judged = judge_adapter(LORA)
    assert judged.findings == ()
    assert judged.config == LORA


@pytest.mark.parametrize("change", [
    {"auto_mapping": MAPPING},
    {"auto_mapping": {**MAPPING, "unsloth_fixed": True}},
    {"auto_mapping": {"base_model_class": "Net", "parent_library": "__main__"}},
    {"megatron_core": None}, {"lora_alpha": 0.5}, {"target_modules": "all-linear"},
    {"target_modules": None}, {"layers_to_transform": 3}, {"layers_to_transform": [1, 2]},
    {"eva_config": {"rho": 2.0, "tau": 0.99}}, {"loftq_config": {"loftq_bits": 4}},
    {"corda_config": {"cache_file": None, "covariance_file": None, "corda_method": "ipm"}},
    {"layer_replication": [[0, 16], [8, 24]]}, {"init_lora_weights": "pissa_niter_16"},
    {"trainable_token_indices": {"embed_tokens": [1, 2]}}, {"enable_lora": None},
    {"rank_pattern": {"model.layers.0.attn_class": 4, "my_kernel.q": 2}},
    {"peft_type": "ADALORA", "rank_pattern": {"layer.0.lora_E": [True, False]}},
    {"base_model_name_or_path": ""}, {"base_model_name_or_path": "bert-base-uncased"},
])  # fmt: skip
def test_what_stock_peft_and_trainers_write(change):
    assert codes(judge_adapter({**LORA, **change})) == []


@pytest.mark.parametrize(("change", "place"), [
    ({"auto_mapping": {**MAPPING, "parent_library": "os"}}, "auto_mapping"),
    ({"auto_mapping": {**MAPPING, "parent_library": "transformersx.evil"}}, "auto_mapping"),
    ({"auto_mapping": {**MAPPING, "parent_library": "transformers.x;y"}}, "auto_mapping"),
    ({"auto_mapping": {**MAPPING, "base_model_class": "A.b"}}, "auto_mapping"),
    ({"auto_mapping": {**MAPPING, "more": "text"}}, "auto_mapping"),
    ({"auto_mapping": {"parent_library": "transformers"}}, "auto_mapping"),
    ({"auto_mapping": ["os"]}, "auto_mapping"),
    ({"megatron_core": "os"}, "megatron_core"),
    ({"megatron_config": {"a": 1}}, "megatron_config"),
    ({"megatron_other": "x"}, "megatron_other"),
    ({"model_class": "os.system"}, "model_class"),
    ({"runtime_config": {"ephemeral_gpu_offload": True}}, "runtime_config"),
    ({"trust_remote_code": True}, "trust_remote_code"),
    ({"eva_config": {"x": [{"auto_map": {"A": "b"}}]}}, "eva_config.x.0.auto_map"),
    ({"corda_config": {"cache_file": "/x.pt"}}, "corda_config.cache_file"),
    ({"arrow_config": {"top_k": 1, "repo": "a/b"}}, "arrow_config.repo"),
    ({"attn_implementation": "a/kernel"}, "attn_implementation"),
    ({"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
    ({"tokenizer_name_or_path": "a/b"}, "tokenizer_name_or_path"),
    ({"peft_type": "XLORA", "adapters": {"0": "a/b"}}, "adapters"),
    ({"peft_type": "SHADOW", "shadow_model": "a/b"}, "shadow_model"),
])  # fmt: skip
def test_hooks_are_high_and_taken_out(change, place):
    judged = judge_adapter({**LORA, **change})
    hooks = [found for found in judged.findings if found.code == "GATE-HOOK"]
    assert [found.where for found in hooks] == [f"{CONFIG}#{place}"]
    assert hooks[0].severity is Severity.HIGH
    assert list(hooks_of(judged.config, adapter=True)) == []


def test_the_tokenizer_of_prompts_is_read_in_training_only():
    prompt = {
        "peft_type": "PROMPT_TUNING", "tokenizer_name_or_path": "a/b", "num_virtual_tokens": 4,
        "prompt_tuning_init": "TEXT",
    }  # fmt: skip
    assert codes(judge_adapter({**prompt, "inference_mode": True})) == []
    assert codes(judge_adapter({**prompt, "inference_mode": False})) == ["GATE-HOOK"]


@pytest.mark.parametrize(("change", "code", "severity"), [
    ({"r": "8"}, "GATE-TYPE", Severity.HIGH),
    ({"r": True}, "GATE-TYPE", Severity.HIGH),
    ({"r": 8.5}, "GATE-TYPE", Severity.HIGH),
    ({"r": None}, "GATE-TYPE", Severity.MEDIUM),
    ({"target_modules": [1]}, "GATE-TYPE", Severity.HIGH),
    ({"layer_replication": [["a", 2]]}, "GATE-TYPE", Severity.HIGH),
    ({"eva_config": {"rho": "x"}}, "GATE-TYPE", Severity.HIGH),
    ({"loftq_config": [1]}, "GATE-TYPE", Severity.HIGH),
    ({"peft_type": "EVIL"}, "GATE-TYPE", Severity.HIGH),
    ({"peft_type": ["LORA"]}, "GATE-TYPE", Severity.HIGH),
    ({"peft_type": None}, "GATE-TYPE", Severity.HIGH),
    ({"something": 1}, "GATE-UNKNOWN", Severity.MEDIUM),
    ({"eva_config": {"something": 1}}, "GATE-UNKNOWN", Severity.MEDIUM),
    ({"r": 0}, "GATE-VALUE", Severity.HIGH),
    ({"r": 2000}, "GATE-VALUE", Severity.HIGH),
    ({"lora_alpha": 1e7}, "GATE-VALUE", Severity.HIGH),
    ({"lora_dropout": 1.5}, "GATE-VALUE", Severity.HIGH),
    ({"rank_pattern": {"q": 0.5, "k": -1}}, "GATE-VALUE", Severity.HIGH),
    ({"rank_pattern": {"q": {"x": 1}}}, "GATE-VALUE", Severity.HIGH),
    ({"alpha_pattern": {"q": "x"}}, "GATE-VALUE", Severity.HIGH),
    ({"layer_replication": [[5, 2]]}, "GATE-VALUE", Severity.HIGH),
    ({"layer_replication": [[0, 9999]]}, "GATE-VALUE", Severity.HIGH),
    ({"init_lora_weights": "pissa_niter_999"}, "GATE-VALUE", Severity.HIGH),
])  # fmt: skip
def test_fields_that_do_not_fit(change, code, severity):
    judged = judge_adapter({**LORA, **change})
    assert [(found.code, found.severity) for found in judged.findings] == [(code, severity)]
    assert codes(judge_adapter(judged.config)) in ([], ["GATE-TYPE"])  # the type itself is gone


@pytest.mark.parametrize("name", [
    "/home/someone/models/base", "../base", "C:\\base", "https://example.org/base", "a/b/c",
    "~/base", "base..", "\x1b[31mbase", "<script>", "a" * 300,
])  # fmt: skip
def test_a_base_that_is_no_name(name):
    judged = judge_adapter({**LORA, "base_model_name_or_path": name})
    assert [(found.code, found.severity) for found in judged.findings] == [
        ("GATE-BASE", Severity.LOW)
    ]
    assert "\x1b" not in judged.findings[0].evidence


def test_configs_of_models_and_tokenizers_are_searched_at_any_depth():
    fine = {
        "conv_kernel": [10, 3], "use_mamba_kernels": True, "attn_implementation": "sdpa",
        "auto_map": None, "tokenizer_class": "BertTokenizer", "task_specific": {"a": "b/c"},
    }  # fmt: skip
    assert judge_other(fine, "config.json").findings == ()
    assert judge_other(fine, "config.json").config == fine
    bad = {
        "vision": [{"experts_implementation": {"cuda": "a/kernel"}}],
        "custom_pipelines": {"a": 1},
    }
    judged = judge_other(bad, "config.json")
    assert codes(judged) == ["GATE-HOOK", "GATE-HOOK"]
    assert judged.config == {"vision": [{}]}


@pytest.mark.parametrize(("template", "bad"), [
    ("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}", False),
    ("{{ '__init__' }}{{ raise_exception('no') }}{%- set ns = namespace(a=1) %}", False),
    ("{{ ''.__class__.__mro__ }}", True),
    ("{{ x['__globals__'] }}", True),
    ("{{ x | attr('y') }}", True),
    ("{{ cycler.next }}", True),
    ("{% include 'file' %}", True),
])  # fmt: skip
def test_chat_templates(template, bad):
    for written in (template, [{"name": "default", "template": template}]):
        judged = judge_other({"chat_template": written}, "tokenizer_config.json")
        assert codes(judged) == ["GATE-TEMPLATE"] * bad
    assert templates_of({"chat_template": [1, {"name": "tool", "template": "x"}]}) == {
        "chat_template.tool": "x"
    }


def test_the_step_fills_the_config(artefact):
    opened = artefact(
        adapter_config__json={**LORA, "megatron_core": "os", "r": "8"},
        config__json={"hidden_size": 4},
        tokenizer_config__json={"chat_template": "{{ messages }}"},
    )
    check = check_config(opened, LIMITS)
    assert check.status == "found"
    assert [found.code for found in check.findings] == ["GATE-HOOK", "GATE-TYPE"]
    assert set(LORA) - set(opened.config) == {"megatron_core", "r"}
    assert check.facts["base"] == "someone/base"
    assert check.facts["templates"] == {"tokenizer_config.json#chat_template": "{{ messages }}"}
    assert "config.json" in check.not_checked[0]


def test_findings_are_capped_and_the_worst_stay(artefact):
    many = {f"unknown{number}": 1 for number in range(100)}
    opened = artefact(adapter_config__json={**many, **LORA, "megatron_core": "os"})
    check = check_config(opened, LIMITS)
    assert len(check.findings) == LIMITS.findings
    assert check.findings[0].code == "GATE-HOOK"
    assert check.not_checked == ("51 more findings were not written down",)


def test_tensors_without_a_config(artefact):
    check = check_config(artefact(x__safetensors=b""), LIMITS)
    assert check.status == "not applicable"
    assert check.reason


def test_a_model_without_an_adapter(artefact):
    opened = artefact(config__json={"model_type": "bert", "auto_map": {"A": "b--c.D"}})
    assert [found.code for found in check_config(opened, LIMITS).findings] == ["GATE-HOOK"]
    assert opened.config == {"model_type": "bert"}


@given(
    st.dictionaries(st.sampled_from([*facts()["types"]["LORA"], *facts()["common"], "x"]), VALUES)
)
@settings(max_examples=40, deadline=None)
def test_any_config_is_judged_and_what_is_left_is_clean(config):
    judged = judge_adapter({"peft_type": "LORA", **config})
    again = judge_adapter(judged.config)
    assert {found.code for found in again.findings} <= {"GATE-BASE", "GATE-TYPE"}
    assert again.config == judged.config or "peft_type" not in judged.config
    assert not is_stock_mapping(config.get("x"))


# ------------------------------------------------------------------------ stock peft


@pytest.mark.filterwarnings("ignore")
def test_every_type_of_stock_peft_passes(tmp_path):
    """No default of any type is a finding, and the facts are those of the version they name."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    needed = {"ADALORA": {"total_step": 10}, "CPT": {"task_type": "CAUSAL_LM"}}
    for kind, settings_class in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        settings_class(**needed.get(kind.value, {})).save_pretrained(tmp_path)
        saved = json.loads((tmp_path / CONFIG).read_text())
        judged = judge_adapter(saved)
        assert codes(judged) == [], (kind, judged.findings)
        assert judged.config == saved
    assert facts()["peft"] == peft.__version__
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from peft_fields import facts as fresh

    assert fresh() == facts()
