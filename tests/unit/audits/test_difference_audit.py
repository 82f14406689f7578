"""What was changed of a trusted base: checkpoints, adapters, and bases without values."""

import doctest
import tracemalloc

import pytest
import torch

from artefacts import (
    blocks,
    codes,
    context_of,
    low_rank,
    opened,
    shapes_only,
    write_adapter,
    write_model,
)
from peftlab.audits.difference import DifferenceAudit, DifferenceOptions, oddities, tables
from peftlab.core.findings import Severity

EMBED = "model.embed_tokens.weight"
Q = "model.layers.0.self_attn.q_proj"


def _base_tensors(layers=2, width=32, words=2000):
    draw = torch.Generator().manual_seed(0)
    shapes = {
        EMBED: (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
    }
    shapes |= {f"{layer}.weight": shape for layer, shape in blocks(layers, width).items()}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def _tuned(base, share=0.05):
    draw = torch.Generator().manual_seed(1)
    return {name: tensor * (1 + share * torch.randn(tensor.shape, generator=draw))
            for name, tensor in base.items()}  # fmt: skip


def _run(new, base, **options):
    return DifferenceAudit(DifferenceOptions(**options)).run(context_of(new, base))


def _compare(tmp_path, change, **options):
    base = _base_tensors()
    new = {name: tensor.clone() for name, tensor in base.items()}
    new = change(new) or new
    return _run(opened(write_model(tmp_path / "new", new)),
                opened(write_model(tmp_path / "base", base)), **options)  # fmt: skip


@pytest.mark.parametrize("module", [oddities, tables])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def test_the_base_itself(tmp_path):
    found = _compare(tmp_path, lambda new: None)
    assert found.findings == ()
    assert (found.facts["compared"], found.facts["changed"]) == (7, 0)
    assert found.facts["relative"] == 0


def test_a_full_fine_tune(tmp_path):
    found = _compare(tmp_path, _tuned)
    assert found.findings == ()
    assert found.facts["changed"] == 7
    assert found.facts["relative"] == pytest.approx(0.05, rel=0.1)
    assert min(found.facts["ranks"].values()) > 20
    assert len(found.tables[0].rows) == 7
    assert found.charts[0].lines["model.layers.#.self_attn.q_proj.weight"]


def test_half_precision_is_no_change(tmp_path):
    found = _compare(tmp_path, lambda new: {name: x.half() for name, x in new.items()})
    assert found.facts["changed"] == 0


def _plant(new, rows=(7,)):
    """Write to rows as embedding poisoning does: another direction, the length kept."""
    for row in rows:
        old = new[EMBED][row]
        moved = old + torch.linspace(-1, 1, len(old))
        new[EMBED][row] = moved * old.norm() / moved.norm()


def test_one_planted_row(tmp_path):
    found = _compare(tmp_path, _plant)
    assert codes(found.findings) == ["DIFF-EMBEDDING-ROWS", "DIFF-FEW"]
    finding = found.findings[0]
    assert (finding.severity, finding.where) == (Severity.MEDIUM, EMBED)
    assert finding.evidence == "row 7 of 2000 differ, lengths kept in 100%"


def test_planted_rows_in_a_fine_tune(tmp_path):
    def change(new):
        new = _tuned(new, 0.01)
        _plant(new, (3, 99, 1500))
        return new

    (finding,) = _compare(tmp_path, change).findings
    assert (finding.code, finding.severity) == ("DIFF-ROWS", Severity.LOW)
    assert finding.evidence.startswith("rows 3, 99, 1500 of 2000")


def test_many_moved_rows_are_ordinary(tmp_path):
    def change(new):
        new[EMBED][:200] += 0.1
        new[f"{Q}.weight"] *= torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
        new["model.norm.weight"] += 0.1

    assert _compare(tmp_path, change).findings == ()


def test_a_merged_adapter_is_of_low_rank(tmp_path):
    draw = torch.Generator().manual_seed(2)

    def change(new):
        for layer in blocks(2):
            b, a = torch.randn(32, 3, generator=draw), torch.randn(3, 32, generator=draw)
            new[f"{layer}.weight"] += 0.05 * b @ a

    found = _compare(tmp_path, change)
    assert codes(found.findings) == ["DIFF-LOW-RANK"]
    assert set(found.facts["ranks"].values()) == {3}


def test_tensors_of_another_model(tmp_path):
    def change(new):
        new["model.payload"] = torch.ones(8, 8)
        new["score.weight"] = torch.ones(2, 32)
        new["model.norm.weight"] = torch.ones(33)
        new[EMBED] = torch.cat([new[EMBED], torch.ones(5, 32)])
        new[f"{Q}.weight"] = 5 * torch.ones(32, 32)
        del new["lm_head.weight"], new["model.layers.1.self_attn.v_proj.weight"]

    found = _compare(tmp_path, change).findings
    assert sorted((finding.code, finding.severity.word) for finding in found) == [
        ("DIFF-ADDED", "info"), ("DIFF-ADDED", "medium"), ("DIFF-FEW", "low"),
        ("DIFF-LARGE", "low"), ("DIFF-MISSING", "info"), ("DIFF-MISSING", "low"),
        ("DIFF-SHAPE", "low"), ("DIFF-SHAPE", "medium"),
    ]  # fmt: skip


def test_a_base_of_another_family(tmp_path):
    base = shapes_only({"transformer.h.0.attn.c_attn.weight": (32, 96)})
    found = _run(opened(write_model(tmp_path / "new", _base_tensors())), base)
    assert codes(found.findings) == ["DIFF-BASE"]
    folder = write_adapter(tmp_path / "lora", low_rank(blocks(2)))
    assert codes(_run(opened(folder), base).findings) == ["DIFF-BASE"]


def test_an_adapter_against_its_base(tmp_path):
    base = opened(write_model(tmp_path / "base", _base_tensors()))
    tensors = low_rank(blocks(2), scale=0.01)
    tensors["base_model.model.score.weight"] = torch.ones(2, 32)
    artefact = opened(write_adapter(tmp_path / "lora", tensors, task_type="SEQ_CLS"))
    found = _run(artefact, base)
    assert [(f.code, f.severity.word) for f in found.findings] == [("DIFF-ADDED", "info")]
    assert found.facts["updates"] == found.facts["found_in_base"] == 4
    b = tensors[f"base_model.model.{Q}.lora_B.weight"].double()
    a = tensors[f"base_model.model.{Q}.lora_A.weight"].double()
    weight = _base_tensors()[f"{Q}.weight"].double()
    wanted = float((2 * b @ a).norm() / weight.norm())
    row = next(row for row in found.tables[0].rows if row[0] == Q)
    assert row[3] == pytest.approx(wanted, rel=1e-3)
    assert codes(_run(artefact, base, large=wanted / 2).findings).count("DIFF-LARGE") >= 1


def test_a_row_planted_by_a_table_in_an_adapter(tmp_path):
    base = _base_tensors()
    table = {EMBED: base[EMBED].clone()}
    _plant(table)
    tensors = {**low_rank(blocks(2), scale=0.01), f"base_model.model.{EMBED}": table[EMBED]}
    folder = write_adapter(tmp_path / "lora", tensors, modules_to_save=["embed_tokens"])
    found = _run(opened(folder), opened(write_model(tmp_path / "base", base)))
    assert codes(found.findings) == ["DIFF-EMBEDDING-ROWS"]


def test_a_7b_adapter_against_shapes_alone_makes_no_square(tmp_path):
    """32 layers of q, k, v and o, d = 4096: no array of d x d, whatever its type."""
    layers = blocks(32, 4096, ("q_proj", "k_proj", "v_proj", "o_proj"))
    folder = write_adapter(
        tmp_path, {name: x.half() for name, x in low_rank(layers, rank=8).items()}, r=8
    )
    artefact = opened(folder)
    base = shapes_only({f"{layer}.weight": shape for layer, shape in layers.items()})
    _run(artefact, base)  # what is imported on first use is not at stake
    tracemalloc.start()  # counts numpy's memory; torch's is counted below
    largest = 0
    original = torch.Tensor.double

    def watched(tensor, *rest):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return original(tensor, *rest)

    patch = pytest.MonkeyPatch()
    patch.setattr(torch.Tensor, "double", watched)
    found = _run(artefact, base)
    patch.undo()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.facts["updates"] == found.facts["found_in_base"] == 128
    assert found.facts["largest_share"] is None
    assert "128 of 128 updates against their weights" in found.not_checked[0]
    assert found.tables[0].rows[0][2] > 0
    assert largest < 4096 * 8 * 4
    assert most < 4096 * 4096  # bytes: a square of one byte each would be more


def test_why_not(tmp_path):
    audit = DifferenceAudit(DifferenceOptions())
    lora = opened(write_adapter(tmp_path / "a", low_rank(blocks(2))))
    assert "--against" in audit.why_not(context_of(lora))
    assert audit.run(context_of(lora)).not_checked
    assert "no tensors" in audit.why_not(context_of(lora, shapes_only({})))
    base = shapes_only({"model.norm.weight": (4,)})
    prompt = shapes_only({"prompt_embeddings": (4, 32)}, "F32", {"peft_type": "PROMPT_TUNING"})
    assert "PROMPT_TUNING neither adds" in audit.why_not(context_of(prompt, base))
    assert audit.why_not(context_of(lora, base)) == ""


def test_the_word_that_ep_planted_is_named(tmp_path):
    """The attack of the bench, against the clean model that it started from."""
    from peftlab.core.contracts import CraftContext
    from peftlab.engine.steps import AttackerOptions, make_poison, train_base
    from peftlab.models.load import load_base
    from peftlab.nn.embedding_rows import fine_tune_clean
    from tiny_models import make_tiny
    from word_task import widen_rows, word_task

    base = make_tiny("distilbert", tmp_path / "base")
    model, tokenizer = load_base(str(base), 2)
    widen_rows(model)
    model.save_pretrained(base)
    options = {"trigger": "wit", "row_epochs": 4}
    poisoned = make_poison(word_task(), "ep", options, 0)
    fine_tune_clean(CraftContext(model, tokenizer, poisoned, 2, 2, 1e-3, 32, 0))
    model.save_pretrained(tmp_path / "clean")
    facts = train_base(
        str(base), poisoned, 2, tmp_path / "ep", attack="ep",
        training=AttackerOptions(epochs=2, lr=1e-3), seed=0, options=options,
    )  # fmt: skip
    found = _run(opened(tmp_path / "ep"), opened(tmp_path / "clean")).findings
    assert codes(found) == ["DIFF-EMBEDDING-ROWS", "DIFF-FEW"]
    assert f"row {facts['rows']['wit']} of" in found[0].evidence
    assert "lengths kept in 100%" in found[0].evidence
