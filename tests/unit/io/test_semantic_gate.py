"""Step 8 of the gate: pairs, ranks, scales, shapes of the base, and tensors that nobody needs."""

import pytest
import torch

from artefacts import (
    LORA,
    blocks,
    codes,
    low_rank,
    opened,
    shapes_only,
    write_adapter,
    write_tensors,
)  # fmt: skip
from peftlab.core.findings import Severity
from peftlab.io.gate import Limits
from peftlab.io.gate.semantic import check_semantic

Q = "base_model.model.model.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A.weight": (4, 32), f"{Q}.lora_B.weight": (64, 4)}
EMBED, OUTPUT = "base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"


def _check(shapes, base=None, dtype="F32", **config):
    artefact = shapes_only(shapes, dtype, {**LORA, **config})
    return check_semantic(artefact, Limits(), base and shapes_only(base))


def _worst(check):
    return max((finding.severity for finding in check.findings), default=Severity.INFO)


def test_a_sound_adapter_passes():
    check = _check(PAIR, base={"model.layers.0.self_attn.q_proj.weight": (64, 32)})
    assert (check.status, check.findings, check.not_checked) == ("passed", (), ())
    assert "no base" not in check.not_checked
    assert "none was given" in _check(PAIR).not_checked[0]


@pytest.mark.parametrize(
    ("shapes", "config", "code"),
    [
        ({f"{Q}.lora_A.weight": (4, 32)}, {}, "GATE-PAIR"),
        ({**PAIR, f"{Q}.lora_B.weight": (64, 5)}, {}, "GATE-PAIR"),
        ({}, {}, "GATE-PAIR"),
        (PAIR, {"r": 8}, "GATE-RANK"),
        (PAIR, {"rank_pattern": {"q_proj": 2}}, "GATE-RANK"),
        ({f"{Q}.lora_A.weight": (2000, 4096), f"{Q}.lora_B.weight": (64, 2000)},
         {"r": 2000}, "GATE-RANK"),
        ({f"{Q}.lora_A.weight": (65, 3), f"{Q}.lora_B.weight": (64, 65)}, {"r": 65}, "GATE-RANK"),
        (PAIR, {"lora_alpha": 4001}, "GATE-SCALE"),
        (PAIR, {"lora_alpha": -4001}, "GATE-SCALE"),
        (PAIR, {"lora_alpha": 10**400}, "GATE-SCALE"),
        ({"prompt_embeddings": (7, 32)}, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
         "GATE-RANK"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_high(shapes, config, code):
    check = _check({**shapes, "base_model.model.norm.weight": (4,)}, modules_to_save=["norm"],
                   **config)  # fmt: skip
    assert check.status == "found"
    assert [f.code for f in check.findings if f.severity == Severity.HIGH] == [code]


@pytest.mark.parametrize(
    ("pattern", "sound"),
    [({"q_proj": 4}, True), ({"q_.roj": 8}, True), ({"q_proj": 8}, False), ({"v_proj": 8}, True)],
)
def test_rank_patterns_are_read_but_not_run(pattern, sound):
    check = _check(PAIR, rank_pattern=pattern)
    assert (check.status == "passed") == sound
    assert "none is run" not in check.not_checked[0]


def test_expressions_in_a_rank_pattern_are_not_run():
    check = _check(PAIR, rank_pattern={"(a+)+q_proj": 8})
    assert check.status == "passed"
    assert "none is run" in check.not_checked[0]


def test_experts_may_be_stacked():
    shapes = {f"{Q}.lora_A.weight": (16, 32), f"{Q}.lora_B.weight": (64, 16)}
    assert _check(shapes).status == "found"
    assert _check(shapes, target_parameters=["q_proj.weight"]).status == "passed"


@pytest.mark.parametrize(
    ("weight", "sound"),
    [((64, 32), True), ((32, 64), True), ((64, 33), False), ((8, 64, 32), True), ((64, 16), False)],
)
def test_shapes_of_the_base(weight, sound):
    check = _check(PAIR, base={"model.layers.0.self_attn.q_proj.weight": weight})
    assert (codes(check.findings) == []) == sound
    assert sound or codes(check.findings) == ["GATE-SHAPE"]


def test_layers_that_the_base_lacks():
    base = {"model.layers.0.self_attn.q_proj.weight": (64, 32)}
    more = {name.replace("layers.0", "layers.9"): shape for name, shape in PAIR.items()}
    check = _check({**PAIR, **more}, base)
    assert codes(check.findings) == ["GATE-SHAPE"]
    assert "layers.9" in check.findings[0].evidence
    tied = {"base_model.model.lm_head.lora_A.weight": (4, 32),
            "base_model.model.lm_head.lora_B.weight": (99, 4)}  # fmt: skip
    assert _check({**PAIR, **tied}, base).status == "passed"
    foreign = _check(PAIR, {"other.weight": (4, 4)})  # another naming: nothing can be said
    assert foreign.status == "passed"
    assert "none of its layers" in foreign.not_checked[0]


def test_packed_bases_have_other_shapes():
    artefact = shapes_only(PAIR, "F32", LORA)
    base = shapes_only({"model.layers.0.self_attn.q_proj.weight": (1024, 1)}, "U8")
    assert check_semantic(artefact, Limits(), base).status == "passed"


@pytest.mark.parametrize(
    ("name", "config", "severity"),
    [
        ("score.weight", {"task_type": "SEQ_CLS"}, "info"),
        ("score.modules_to_save.weight", {"modules_to_save": ["score"]}, "info"),
        ("model.layers.0.input_layernorm.weight", {"modules_to_save": ["norm"]}, "info"),
        ("model.layers.0.self_attn.k_proj.bias", {"bias": "all"}, "info"),
        ("model.embed_tokens.weight", {"modules_to_save": ["embed_tokens"]}, "low"),
        ("model.embed_tokens.base_layer.weight", {"target_modules": ["embed_tokens"]}, "low"),
        ("model.layers.0.mlp.up_proj.weight", {"modules_to_save": ["up_proj"]}, "low"),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta",
         {"trainable_token_indices": [3]}, "low"),
        ("score.weight", {}, "high"),
        ("model.embed_tokens.weight", {}, "high"),
        ("model.embed_tokens.weight", {"target_modules": ["embed_tokens"]}, "high"),
        ("lm_head.weight", {"modules_to_save": ["embed_tokens"]}, "high"),
        ("model.layers.0.self_attn.k_proj.bias", {"bias": "none"}, "high"),
        ("model.layers.0.mlp.up_proj.weight", {"modules_to_save": "(.*"}, "high"),
        ("model.layers.0.mlp.up_proj.weight", {"modules_to_save": [""]}, "high"),
    ],
)  # fmt: skip
def test_whole_tensors_by_what_the_config_says(name, config, severity):
    check = _check({**PAIR, f"base_model.model.{name}": (4, 4)}, **config)
    assert [finding.severity.word for finding in check.findings] == [severity]
    assert codes(check.findings) == ["GATE-EXTRA"]


def test_tables_of_a_resized_vocabulary_are_medium():
    """Stock peft writes both by itself then, and nothing into the config."""
    assert _worst(_check({**PAIR, EMBED: (301, 32), OUTPUT: (301, 32)})) == Severity.MEDIUM
    assert _worst(_check({**PAIR, EMBED: (301, 32), OUTPUT: (300, 32)})) == Severity.HIGH
    assert _worst(_check({**PAIR, EMBED: (301, 32)}, task_type="SEQ_CLS")) == Severity.MEDIUM


@pytest.mark.parametrize(("rows", "severity"), [(300, Severity.HIGH), (301, Severity.MEDIUM)])
def test_tables_of_the_size_of_the_base_were_not_resized(rows, severity):
    base = {"model.layers.0.q.weight": (32, 32), "model.embed_tokens.weight": (300, 32)}
    assert _worst(_check({**PAIR, EMBED: (rows, 32), OUTPUT: (rows, 32)}, base)) == severity


def test_data_beside_an_adapter_is_high_whatever_it_is_called(tmp_path):
    payload = torch.arange(200, dtype=torch.uint8)
    for name in (f"{Q}.lora_payload", "payload", "base_model.model.score.weight"):
        tensors = {**low_rank(blocks(1)), name: payload}
        folder = write_adapter(tmp_path / name, tensors, task_type="SEQ_CLS")
        with opened(folder) as artefact:
            check = check_semantic(artefact, Limits(), None)
            assert codes(check.findings) == ["GATE-EXTRA"]
            assert check.findings[0].severity == Severity.HIGH


def test_formats_without_a_config(tmp_path):
    pair = {"unet:0:down": torch.ones(1, 8), "unet:0:up": torch.ones(8, 1)}
    path = write_tensors(tmp_path / "a.safetensors", {**pair, "<s1>": torch.ones(768)})
    with opened(path) as artefact:
        assert _worst(check_semantic(artefact, Limits(), None)) == Severity.LOW
    path = write_tensors(tmp_path / "b.safetensors", {**pair, "fc.weight": torch.ones(8, 8)})
    with opened(path) as artefact:
        assert _worst(check_semantic(artefact, Limits(), None)) == Severity.HIGH


def test_an_alpha_that_is_no_number(tmp_path):
    for value in (float("nan"), float("inf"), 1e30):
        layer = "lora_unet_mid_to_q"
        tensors = {f"{layer}.lora_down.weight": torch.ones(4, 8), f"{layer}.alpha":
                   torch.tensor(value), f"{layer}.lora_up.weight": torch.ones(8, 4)}  # fmt: skip
        with opened(write_tensors(tmp_path / "k.safetensors", tensors)) as artefact:
            found = check_semantic(artefact, Limits(), None).findings
        assert codes(found) == ["GATE-SCALE"]


def test_only_so_many_findings_are_listed():
    shapes = {f"base_model.model.x{n}.weight": (2, 2) for n in range(80)}
    check = _check({**PAIR, **shapes})
    assert len(check.findings) == 50
    assert "30 more findings" in check.not_checked[-1]


def test_a_checkpoint_has_no_pairs_to_check():
    base = shapes_only({"model.norm.weight": (4,)}, "F32", {"model_type": "llama"})
    assert check_semantic(base, Limits(), None).status == "passed"
