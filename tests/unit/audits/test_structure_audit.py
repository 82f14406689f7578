"""What the structure audit lists, and what it calls odd."""

import doctest

import pytest
import torch

from artefacts import blocks, codes, context_of, low_rank, opened, shapes_only, write_adapter
from peftlab.audits import structure
from peftlab.audits.structure import StructureAudit, StructureOptions
from peftlab.core.findings import Severity


def _run(folder, against=None, **options):
    artefact = opened(folder)
    return StructureAudit(StructureOptions(**options)).run(context_of(artefact, against))


def test_examples():
    assert doctest.testmod(structure).failed == 0


def test_a_plain_lora_is_listed(tmp_path):
    tensors = low_rank(blocks(3))
    tensors["base_model.model.score.weight"] = torch.ones(2, 32)
    base = shapes_only({"model.embed_tokens.weight": (1000, 32)})
    found = _run(write_adapter(tmp_path, tensors, task_type="SEQ_CLS"), base)
    assert found.findings == ()
    assert found.not_checked == ()
    facts = dict(found.facts)
    assert facts["ranks"] == {"4": 6}
    assert facts["scales"] == {"2.0": 6}
    assert facts["targets"] == {"q_proj": 3, "v_proj": 3}
    assert facts["blocks"] == "0-2"
    assert facts["parameters"] == 6 * 2 * 4 * 32
    assert facts["whole_parameters"] == 64
    assert facts["base_share"] == 6 * 2 * 4 * 32 / 32_000
    targets, whole = found.tables
    assert targets.rows[0] == ("q_proj", "32 x 32", 3, "4", "2", 768, "F32")
    assert whole.rows == (("base_model.model.score.weight", "head", "2 x 32", "F32", 64),)


def test_oddities(tmp_path):
    tensors = low_rank(
        {"model.layers.5.self_attn.q_proj": (32, 32), "model.embed_tokens": (32, 99)}
    )
    copy = tensors["base_model.model.model.layers.5.self_attn.q_proj.lora_A.weight"]
    tensors |= low_rank({"model.layers.5.self_attn.v_proj": (32, 32)}, rank=4)
    tensors["base_model.model.model.layers.5.self_attn.v_proj.lora_A.weight"] = copy
    found = _run(write_adapter(tmp_path, tensors, lora_alpha=300))
    assert sorted(codes(found.findings)) == ["STRUCT-SCALE", "STRUCT-TARGET", "STRUCT-TWIN"]
    assert max(finding.severity for finding in found.findings) == Severity.MEDIUM
    assert codes(_run(tmp_path, scale=100).findings) == ["STRUCT-TARGET", "STRUCT-TWIN"]


def test_one_block_alone(tmp_path):
    found = _run(write_adapter(tmp_path / "a", low_rank(blocks(1))))
    assert codes(found.findings) == ["STRUCT-ONE-LAYER"]
    folder = write_adapter(tmp_path / "b", low_rank(blocks(1)), layers_to_transform=[0])
    assert _run(folder).findings == ()


def test_zero_updates_of_either_sign(tmp_path):
    tensors = low_rank(blocks(2))
    names = [name for name in tensors if "lora_B" in name]
    tensors[names[0]].zero_()
    tensors[names[1]].fill_(-0.0)
    (finding,) = _run(write_adapter(tmp_path / "a", tensors)).findings
    assert (finding.code, finding.severity) == ("STRUCT-ZERO", Severity.INFO)
    assert finding.evidence.startswith("2 of 4")
    for name in names:
        tensors[name].zero_()
    (finding,) = _run(write_adapter(tmp_path / "b", tensors)).findings
    assert finding.severity == Severity.LOW


def test_ranks_and_types_that_differ(tmp_path):
    tensors = low_rank({"a.q_proj": (32, 32)}, rank=2) | low_rank({"a.v_proj": (32, 32)}, rank=8)
    tensors["base_model.model.a.v_proj.lora_A.weight"] = (
        tensors["base_model.model.a.v_proj.lora_A.weight"].half()
    )  # fmt: skip
    folder = write_adapter(tmp_path / "a", tensors, rank_pattern={"q_proj": 2, "v_proj": 8})
    assert codes(_run(folder).findings) == ["STRUCT-DTYPES"]
    folder = write_adapter(tmp_path / "b", tensors)
    assert codes(_run(folder).findings) == ["STRUCT-RANKS", "STRUCT-DTYPES"]
    assert max(finding.severity for finding in _run(folder).findings) == Severity.INFO


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_equal_values_are_no_copies(tmp_path, dtype):
    tensors = {name: torch.full_like(t, 0.25).to(dtype) for name, t in low_rank(blocks(2)).items()}
    assert _run(write_adapter(tmp_path, tensors)).findings == ()


def test_shapes_alone_are_enough():
    shapes = {name: tensor.shape for name, tensor in low_rank(blocks(2)).items()}
    artefact = shapes_only(shapes, "F32", {"peft_type": "LORA", "r": 4})
    found = StructureAudit(StructureOptions()).run(context_of(artefact))
    assert found.findings == ()
    assert "there are no values" in found.not_checked[0]


def test_other_methods_and_checkpoints_have_a_table(tmp_path):
    folder = write_adapter(
        tmp_path, {"base_model.model.a.0.ia3_l": torch.ones(32, 1)}, peft_type="IA3"
    )
    found = _run(folder)
    assert found.tables[0].rows == (("0.ia3_l", "32 x 1", 1, "", "", 32, "F32"),)
    artefact = shapes_only({"model.embed_tokens.weight": (9, 4), "model.norm.weight": (4,)})
    found = StructureAudit(StructureOptions()).run(context_of(artefact))
    assert {row[0] for row in found.tables[0].rows} == {"embedding", "norm"}
    assert StructureAudit(StructureOptions()).why_not(context_of(shapes_only({})))
