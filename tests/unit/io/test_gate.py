"""The gate: which model and adapter folders are let in."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from peftlab.core.errors import InputRejected
from peftlab.io.gate import ADAPTER_WEIGHTS, INDEX, MODEL_WEIGHTS, check_adapter, check_model

LORA = {
    "peft_type": "LORA", "megatron_core": "megatron.core", "loftq_config": {}, "r": 8,
    "auto_mapping": None, "target_modules": ["query", "value"], "rank_pattern": {},
}  # fmt: skip


def tensors(path):
    save_file({"w": np.zeros(2, dtype=np.float32)}, path)


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    tensors(folder / MODEL_WEIGHTS)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors(folder / ADAPTER_WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    return folder


def refusal(check, folder):
    with pytest.raises(InputRejected) as caught:
        check(folder)
    assert caught.value.fix
    return caught.value.code


def test_plain_folders_pass(model, adapter):
    assert check_model(model) is False
    assert check_adapter(adapter) is False


def test_no_config(model):
    (model / "config.json").unlink()
    assert refusal(check_model, model) == "BASE-CONFIG"


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_a_config_that_is_no_object(model, content):
    (model / "config.json").write_text(content)
    assert refusal(check_model, model) == "BASE-CONFIG"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt", "x.pkl"])
def test_pickle_alone_is_refused_unopened(model, name):
    (model / MODEL_WEIGHTS).unlink()
    (model / name).write_bytes(b"\x80\x04never read")
    assert refusal(check_model, model) == "BASE-PICKLE"


def test_other_safetensors_do_not_open_the_way_to_a_pickle(model, adapter):
    (model / MODEL_WEIGHTS).rename(model / "other.safetensors")
    assert refusal(check_model, model) == "BASE-WEIGHTS"
    (model / "pytorch_model.bin").touch()
    assert refusal(check_model, model) == "BASE-PICKLE"
    (adapter / ADAPTER_WEIGHTS).rename(adapter / "other.safetensors")
    (adapter / "adapter_model.bin").touch()
    assert refusal(check_adapter, adapter) == "BASE-PICKLE"


def test_an_index_names_safetensors_of_its_own_folder_only(model):
    (model / MODEL_WEIGHTS).rename(model / "model-00001-of-00001.safetensors")
    for listed in ("../x.safetensors", "/etc/passwd", "evil.bin", "gone.safetensors", 3, None):
        (model / INDEX).write_text(json.dumps({"weight_map": {"w": listed}}))
        assert refusal(check_model, model) == "BASE-WEIGHTS"
    for content in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": []}'):
        (model / INDEX).write_text(content)
        assert refusal(check_model, model) == "BASE-WEIGHTS"
    (model / INDEX).write_text('{"weight_map": {"w": "model-00001-of-00001.safetensors"}}')
    assert check_model(model) is False


def test_an_adapter_is_not_a_base(model):
    """The library would follow it to a base that nobody has checked."""
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/repository"}')
    assert refusal(check_model, model) == "BASE-ADAPTER"


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoConfig": "evil.Config"}},
        {"text_config": {"auto_map": {"AutoModel": "evil.Model"}}},
        {"parts": [{"trust_remote_code": True}]},
        {"custom_pipelines": {"a": 1}},
        {"_attn_implementation_internal": "evil/kernel"},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": {"text": "evil/kernel:forward"}},
    ],
)
def test_code_hooks(model, config):
    (model / "config.json").write_text(json.dumps(config))
    assert refusal(check_model, model) == "BASE-CODE"


def test_code_hooks_of_the_tokenizer(model):
    (model / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'
    )
    assert refusal(check_model, model) == "BASE-CODE"


def test_a_plain_attention_name_passes(model):
    (model / "config.json").write_text('{"_attn_implementation": "sdpa", "auto_map": null}')
    assert check_model(model) is False


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"megatron_core": "os"}, "BASE-CODE"),
        ({"megatron_config": {"a": 1}}, "BASE-CODE"),
        ({"auto_mapping": {"parent_library": "os", "base_model_class": "x"}}, "BASE-CODE"),
        ({"corda_config": {"cache_file": "evil.pt"}}, "BASE-CODE"),
        ({"lora_ga_config": {"cache_file": "evil.pt"}}, "BASE-CODE"),
        ({"tokenizer_name_or_path": "evil/tokenizer"}, "BASE-CODE"),
        ({"peft_type": "XLORA", "adapters": {"0": "evil/adapter"}}, "ADAPTER-TYPE"),
        ({"peft_type": None}, "ADAPTER-TYPE"),
        ({"peft_type": ["LORA"]}, "ADAPTER-TYPE"),
        ({"target_modules": "([a-z.0-9]+)+!"}, "ADAPTER-PATTERN"),
        ({"target_modules": ["query", "(a+)+"]}, "ADAPTER-PATTERN"),
        ({"exclude_modules": "(a+)+"}, "ADAPTER-PATTERN"),
        ({"layers_pattern": ["(a+)+"]}, "ADAPTER-PATTERN"),
        ({"rank_pattern": {"(a+)+": 4}}, "ADAPTER-PATTERN"),
        ({"target_modules": [3]}, "ADAPTER-PATTERN"),
    ],
)
def test_hooks_of_an_adapter(adapter, change, code):
    (adapter / "adapter_config.json").write_text(json.dumps({**LORA, **change}))
    assert refusal(check_adapter, adapter) == code


def test_every_shard_is_checked(model):
    (model / "extra.safetensors").write_bytes(b"rubbish, but long enough")
    assert refusal(check_model, model) == "TENSORS-HEADER"
