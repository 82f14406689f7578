"""Stock peft loads what passed the gate: keys in full, onto a base that is never filled."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from peftlab.core.findings import Severity
from peftlab.io.cage import Caged, has_cage
from peftlab.io.gate import inspect, open_artefact
from peftlab.models import caged_load, load_child
from peftlab.models.caged_load import check_cage, check_load

pytestmark = [
    pytest.mark.skipif(not has_cage(), reason="needs POSIX"),
    pytest.mark.filterwarnings("ignore"),
]
WEIGHTS = "adapter_model.safetensors"
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 96,
}  # fmt: skip
SEVEN = {
    **LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96,
}  # fmt: skip
LORA = {
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
    "base_model_name_or_path": "someone/base", "task_type": "CAUSAL_LM", "inference_mode": True,
}  # fmt: skip


def lora(base=LLAMA, rank=4, targets=("q_proj", "v_proj"), stem="base_model.model.model.layers"):
    width, draw = base["hidden_size"], np.random.default_rng(0)
    shapes = {"A": (rank, width), "B": (width, rank)}
    return {
        f"{stem}.{layer}.self_attn.{target}.lora_{side}.weight":
        draw.normal(size=shape).astype("f4")
        for layer in range(base["num_hidden_layers"]) for target in targets
        for side, shape in shapes.items()
    }  # fmt: skip


@pytest.fixture
def adapter(tmp_path):
    """Write an adapter and its base; return the opened and inspected adapter and the base."""
    opened = []

    def make(config=LORA, tensors=None, base=LLAMA):
        for name, content in (("adapter/adapter_config", config), ("base/config", base)):
            path = tmp_path / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        save_file(lora() if tensors is None else tensors, tmp_path / "adapter" / WEIGHTS)
        artefact, _ = open_artefact(str(tmp_path / "adapter"))
        inspect(artefact)
        opened.append(artefact)
        return artefact, tmp_path / "base"

    yield make
    for artefact in opened:
        artefact.close()


@pytest.fixture
def uncaged(monkeypatch, tmp_path):
    """Run the child's work in this process: each cage imports peft anew, for ten seconds."""

    def run(*_, folder, **__):
        monkeypatch.chdir(folder)
        (folder / WEIGHTS).unlink()
        os.link(tmp_path / "adapter" / WEIGHTS, folder / WEIGHTS)
        answer = json.dumps(load_child._loaded()).encode()
        monkeypatch.chdir(tmp_path)
        return Caged(0, answer, b"", isolated=True)

    monkeypatch.setattr(caged_load, "run_caged", run)


def outcome(check):
    return [(found.code, found.severity) for found in check.findings]


def test_a_clean_adapter_in_a_real_cage(adapter, tmp_path):
    artefact, base = adapter({**LORA, "megatron_core": "os"})  # refused by the gate: not loaded
    save_file({}, tmp_path / "adapter" / WEIGHTS)  # changed after the gate: not what is loaded
    check = check_load(artefact, base)
    assert check.status == "passed", check
    assert check.facts["class"] == "AutoModelForCausalLM"
    assert check.facts["device"] == "meta"
    cage = check_cage(check)
    assert cage.status == "passed"
    assert cage.facts["peak_bytes"] < 2**30


@pytest.mark.full
def test_a_7b_base_costs_nothing(adapter):
    check = check_load(*adapter(LORA, lora(SEVEN), SEVEN))
    assert check.status == "passed"
    assert check.facts["parameters"] > 6e9
    assert check.facts["cage"]["peak_bytes"] < 2**30


@pytest.mark.full
def test_a_hostile_size_in_a_real_cage(adapter):
    config = {
        "peft_type": "P_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 60_000,
        "token_dim": 200_000, "num_layers": 2, "num_attention_heads": 4, "encoder_hidden_size": 8,
        "num_transformer_submodules": 1, "inference_mode": True,
    }  # fmt: skip
    check = check_load(*adapter(config, {"prompt_embeddings": np.zeros((4, 32), "f4")}))
    assert outcome(check) == [("GATE-LOAD-COST", Severity.HIGH)]


def head(tensors, rows=3):
    return {**tensors, "base_model.model.score.weight": np.zeros((rows, 32), "f4")}


BERT_NAMES = {
    name.replace("self_attn.q_proj", "attention.self.query"): value
    for name, value in lora(
        BERT, targets=("q_proj",), stem="base_model.model.encoder.layer"
    ).items()
}


@pytest.mark.parametrize(("config", "tensors", "base", "chosen"), [
    (LORA, lora(), LLAMA, "AutoModelForCausalLM"),
    ({**LORA, "task_type": None}, lora(), LLAMA, "LlamaForCausalLM"),
    ({**LORA, "task_type": "SEQ_CLS", "modules_to_save": ["score"]}, head(lora()), LLAMA,
     "AutoModelForSequenceClassification"),
    ({**LORA, "task_type": None, "target_modules": ["query"]}, BERT_NAMES, BERT, "AutoModel"),
    ({**LORA, "use_dora": True}, {**lora(), **{
        f"base_model.model.model.layers.{layer}.self_attn.{name}.lora_magnitude_vector":
        np.ones(32, "f4") for layer in range(2) for name in ("q_proj", "v_proj")}}, LLAMA,
     "AutoModelForCausalLM"),
    ({**LORA, "auto_mapping": {"base_model_class": "X", "parent_library": "transformers.x"}},
     lora(), {**LLAMA, "quantization_config": {"quant_method": "bitsandbytes"}},
     "AutoModelForCausalLM"),
    ({"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4,
      "token_dim": 32, "num_layers": 2, "num_attention_heads": 4, "inference_mode": True,
      "num_transformer_submodules": 1, "prompt_tuning_init": "TEXT",
      "prompt_tuning_init_text": "a", "tokenizer_name_or_path": "a/b"},
     {"prompt_embeddings": np.zeros((4, 32), "f4")}, LLAMA, "AutoModelForCausalLM"),
])  # fmt: skip
def test_the_class_of_the_base_is_found(adapter, uncaged, config, tensors, base, chosen):
    check = check_load(*adapter(config, tensors, base))
    assert (check.status, check.facts["class"]) == ("passed", chosen), check.findings


def without_one(tensors):
    return {
        name: value for name, value in tensors.items() if "1.self_attn.v_proj.lora_B" not in name
    }


@pytest.mark.parametrize(("config", "tensors", "found"), [
    (LORA, without_one(lora()), [("GATE-LOAD-KEYS", Severity.HIGH)]),
    (LORA, {**lora(), "base_model.model.more": np.zeros(3, "f4")},
     [("GATE-LOAD-KEYS", Severity.MEDIUM)]),
    ({**LORA, "r": 8}, lora(), [("GATE-LOAD", Severity.HIGH)]),
    ({**LORA, "target_modules": ["c_attn"]}, lora(), [("GATE-LOAD", Severity.HIGH)]),
    ({**LORA, "modules_to_save": ["lm_head"]}, lora(), [("GATE-LOAD", Severity.HIGH)]),
    (LORA, head(lora()), [("GATE-LOAD-KEYS", Severity.MEDIUM)]),
])  # fmt: skip
def test_what_does_not_fit(adapter, uncaged, config, tensors, found):
    check = check_load(*adapter(config, tensors))
    assert outcome(check) == found, check.findings
    assert check.facts["class"] == "AutoModelForCausalLM"
    assert all(finding.evidence for finding in check.findings)


def test_methods_that_compute_with_the_base(adapter, uncaged, monkeypatch):
    """They get random weights if the base is small; else nobody says that they loaded."""
    import torch
    from peft import ShiraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA))
    model = get_peft_model(base, ShiraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    artefact, place = adapter()
    model.save_pretrained(place.parent / "adapter")
    config = json.loads((place.parent / "adapter" / "adapter_config.json").read_text())
    artefact, place = adapter(config, load_file(place.parent / "adapter" / WEIGHTS))
    check = check_load(artefact, place)
    assert (check.status, check.facts["device"]) == ("passed", "cpu")
    monkeypatch.setattr(load_child, "MOST_PARAMETERS", 10)
    large = check_load(artefact, place)
    assert large.status == "not checked"
    assert "too large to fill" in large.reason


@pytest.mark.parametrize(("config", "base", "reason"), [
    ({**LORA, "peft_type": "EVIL"}, LLAMA, "no type of peft"),
    ({"peft_type": "XLORA", "hidden_size": 32}, LLAMA, "reads other adapters"),
    (LORA, {"_class_name": "UNet2DConditionModel"}, "no config.json of transformers"),
])  # fmt: skip
def test_what_is_not_loaded_says_why(adapter, monkeypatch, config, base, reason):
    monkeypatch.delattr(caged_load, "run_caged")
    check = check_load(*adapter(config, base=base))
    assert check.status == "not checked"
    assert reason in check.reason
    assert check_cage(check).status == "not checked"


def test_no_base_no_adapter(adapter, tmp_path):
    artefact, base = adapter()
    assert "--against" in check_load(artefact, None).reason
    save_file(lora(), tmp_path / "alone.safetensors")
    alone, _ = open_artefact(str(tmp_path / "alone.safetensors"))
    with alone:
        assert check_load(alone, base).status == "not applicable"


@pytest.mark.parametrize(("caged", "code"), [
    (Caged(-9, b"", b"", killed="cpu time"), "GATE-LOAD-COST"),
    (Caged(1, b"", b"Traceback\nValueError: no"), "GATE-LOAD"),
    (Caged(-11, b"[1]", b""), "GATE-LOAD"),
])  # fmt: skip
def test_how_the_child_may_end(adapter, monkeypatch, caged, code):
    monkeypatch.setattr(caged_load, "run_caged", lambda *_, **__: caged)
    check = check_load(*adapter())
    assert outcome(check) == [(code, Severity.HIGH)]
    assert "guard in Python" in check_cage(check).not_checked[0]
