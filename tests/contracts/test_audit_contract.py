"""Every audit: looks only, says the same twice, writes plain values, knows when it cannot look."""

import dataclasses
import json
import math

import pytest
import torch
from contract_tools import enrolled, well_behaved

from artefacts import (
    blocks,
    context_of,
    low_rank,
    opened,
    shapes_only,
    write_adapter,
    write_model,
    write_tensors,
)
from peftlab.core.findings import RULES, Severity
from peftlab.core.printable import printable

every = pytest.mark.parametrize("entry", enrolled("audit"))
KINDS = ("lora", "lora-against", "ia3", "prompt", "diffusers", "kohya", "model", "model-against",
         "shapes", "empty", "extra-only", "broken")  # fmt: skip


def _base():
    draw = torch.Generator().manual_seed(0)
    shapes = {f"{layer}.weight": shape for layer, shape in blocks(2).items()}
    shapes |= {"model.embed_tokens.weight": (64, 32), "model.norm.weight": (32,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    root = tmp_path_factory.mktemp("audits")
    head = {"base_model.model.score.weight": torch.ones(2, 32)}
    lora = opened(write_adapter(root / "lora", {**low_rank(blocks(9)), **head},
                                task_type="SEQ_CLS"))  # fmt: skip
    base = opened(write_model(root / "base", _base()))
    other = opened(write_model(root / "other", {n: x + 0.1 for n, x in _base().items()}))
    ia3 = {"base_model.model.layers.0.fc.ia3_l": torch.ones(32, 1)}
    pair = list(low_rank({"fc": (8, 8)}).values())
    spelled = {
        "diffusers": ("unet.fc.lora.down.weight", "unet.fc.lora.up.weight"),
        "kohya": ("lora_unet_fc.lora_down.weight", "lora_unet_fc.lora_up.weight"),
    }
    files = {
        kind: opened(
            write_tensors(root / f"{kind}.safetensors", dict(zip(names, pair, strict=True)))
        )
        for kind, names in spelled.items()
    }
    lost = {name: tensor for name, tensor in low_rank(blocks(1)).items() if "lora_A" in name}
    return {
        "lora": context_of(lora),
        "lora-against": context_of(lora, base),
        "ia3": context_of(opened(write_adapter(root / "ia3", ia3, peft_type="IA3"))),
        "prompt": context_of(opened(write_adapter(
            root / "prompt", {"prompt_embeddings": torch.ones(4, 32)}, peft_type="PROMPT_TUNING"
        ))),
        **{kind: context_of(artefact) for kind, artefact in files.items()},
        "model": context_of(base),
        "model-against": context_of(other, base),
        "shapes": context_of(
            shapes_only({"unet:0:down": (4, 64), "unet:0:up": (64, 4)}),
            shapes_only({"unet.0.weight": (64, 64)}),
        ),
        "empty": context_of(shapes_only({}), shapes_only({})),
        "extra-only": context_of(opened(write_adapter(root / "extra", head))),
        "broken": context_of(opened(write_adapter(root / "broken", lost))),
    }  # fmt: skip


def _plain(result):
    """Return a result as strict JSON text."""
    return json.dumps(dataclasses.asdict(result), allow_nan=False, sort_keys=True, default=vars)


@every
@pytest.mark.parametrize("kind", KINDS)
def test_looks_and_leaves_no_trace(entry, kind, contexts):
    context = contexts[kind]
    method = entry.build()
    with well_behaved():
        reason = method.why_not(context)
    assert isinstance(reason, str)
    assert reason == printable(reason)
    if reason:
        return
    method.run(context)  # what is imported on first use is not at stake
    before = (dict(context.artefact.config), list(context.artefact.tensors))
    with well_behaved():
        result = method.run(context)
    assert before == (dict(context.artefact.config), list(context.artefact.tensors))
    again = entry.build().run(context)
    assert _plain(result) == _plain(again)


@every
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_complete(entry, kind, contexts):
    context = contexts[kind]
    method = entry.build()
    if method.why_not(context):
        return
    result = method.run(context)
    for finding in result.findings:
        assert finding.code in RULES
        assert isinstance(finding.severity, Severity)
        assert finding.where
        assert finding.evidence == printable(finding.evidence)
    for table in result.tables:
        assert table.title
        assert {len(row) for row in table.rows} <= {len(table.header)}
        cells = [cell for row in table.rows for cell in row]
        assert all(cell is None or isinstance(cell, str | int | float) for cell in cells)
    for chart in result.charts:
        assert chart.title
        assert chart.lines
        heights = [y for line in chart.lines.values() for _, y in line]
        assert all(type(y) in {float, int} and math.isfinite(y) for y in heights)
    assert all(words and words == printable(words) for words in result.not_checked)


@every
def test_an_empty_artefact_is_refused_or_described(entry, contexts):
    """Nothing can be found where nothing is, but for what is missing."""
    method = entry.build()
    if not method.why_not(contexts["empty"]):
        found = method.run(contexts["empty"]).findings
        assert all(finding.severity <= Severity.LOW for finding in found)


@every
def test_honest_artefacts_raise_nothing_high(entry, contexts):
    method = entry.build()
    for kind in ("lora", "lora-against", "ia3", "prompt", "diffusers", "kohya", "model"):
        if not method.why_not(contexts[kind]):
            found = method.run(contexts[kind]).findings
            assert all(finding.severity <= Severity.MEDIUM for finding in found), kind


def test_every_kind_of_artefact_has_an_audit(contexts):
    for kind in KINDS:
        if kind != "empty":
            names = [p.values[0].name for p in enrolled("audit")
                     if not p.values[0].build().why_not(contexts[kind])]  # fmt: skip
            assert "structure" in names, kind
