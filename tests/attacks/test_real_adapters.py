"""Honest adapters, in every format that is common, pass gate and audits with nothing high."""

import json
import os
from pathlib import Path

import pytest

from artefacts import context_of, shapes_only
from peftlab.core import registry
from peftlab.core.findings import Severity
from peftlab.io.gate import inspect, open_artefact
from real_adapters import _configs, by_other_tools, by_peft

PEFT = [*_configs(), "lora-bf16", "lora-fp16", "lora-resized", "lora-quantised-base"]
OTHERS = ["diffusers-lora", "diffusers-attn-procs", "diffusers-peft", "kohya-lora", "kohya-dora",
          "lycoris"]  # fmt: skip
LOW_RANK = {"LORA": 2, "ADALORA": 4}  # pairs that each must have at least
MEDIUM = {"lora-resized": {"GATE-EXTRA"}}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    return {**by_peft(root), **by_other_tools(root)}


def _look(path, against=None):
    """Return all checks of the gate, and all findings of all audits that apply."""
    artefact, checks = open_artefact(str(path), offline=True)
    assert artefact is not None, checks
    checks += inspect(artefact, against=against)
    assert {check.status for check in checks} <= {"passed", "found", "not applicable"}, checks
    context = context_of(artefact, against)
    assert context.layout.format != "model"
    assert not context.layout.broken
    findings = [finding for check in checks for finding in check.findings]
    ran = set()
    for entry in registry.entries("audit"):
        method = entry.build()
        if not method.why_not(context):
            result = method.run(context)
            json.dumps(dict(result.facts), allow_nan=False)
            findings += result.findings
            ran.add(entry.name)
    return artefact, context, findings, ran


def _base(name, adapters):
    """Return the base of an adapter of stock peft through the gate, if it is a folder here."""
    config = json.loads((adapters[name] / "adapter_config.json").read_text())
    folder = Path(str(config["base_model_name_or_path"]))
    if not (folder / "config.json").is_file():
        return None
    artefact, _ = open_artefact(str(folder), offline=True)
    inspect(artefact)
    return artefact


def test_there_are_enough():
    assert len(PEFT) + len(OTHERS) >= 20


@pytest.mark.parametrize("name", [*PEFT, *OTHERS])
def test_an_honest_adapter_passes(adapters, name):
    _, context, findings, ran = _look(adapters[name])
    assert {"structure", "card"} <= ran
    loud = [finding for finding in findings if finding.severity >= Severity.MEDIUM]
    assert {finding.code for finding in loud} <= MEDIUM.get(name, set()), loud
    assert all(finding.severity <= Severity.MEDIUM for finding in findings)
    wanted = LOW_RANK.get(context.layout.peft_type, 0)
    assert len(context.layout.pairs) >= (wanted if name in PEFT else 0)


@pytest.mark.parametrize("name", PEFT)
def test_an_honest_adapter_fits_its_base(adapters, name):
    base = _base(name, adapters)
    if base is None:
        assert name == "lora-quantised-base"
        return
    _, _, findings, _ = _look(adapters[name], base)
    # a table that was moved in all rows is no planted word
    assert not [f for f in findings if f.severity >= Severity.HIGH]
    assert "DIFF-EMBEDDING-ROWS" not in {finding.code for finding in findings}


def test_a_packed_base_fits_too(adapters):
    """Shapes of a 4-bit checkpoint as bitsandbytes saves it: packed rows and their constants."""
    shapes = {}
    for n in range(2):
        for part, size in (("q_proj", 1024), ("k_proj", 512), ("v_proj", 512), ("o_proj", 1024)):
            stem = f"model.layers.{n}.self_attn.{part}.weight"
            shapes |= {stem: (size // 2, 1), f"{stem}.absmax": (size // 64,),
                       f"{stem}.quant_map": (16,),
                       f"{stem}.quant_state.bitsandbytes__nf4": (80,)}  # fmt: skip
        for part in ("gate_proj", "up_proj", "down_proj"):
            shapes[f"model.layers.{n}.mlp.{part}.weight"] = (1024, 1)
    base = shapes_only(shapes, "U8", {"model_type": "llama"})
    _, _, findings, _ = _look(adapters["lora-quantised-base"], base)
    assert not [f for f in findings if f.severity >= Severity.MEDIUM]


@pytest.mark.parametrize("name", ["analog_svd_rank4", "lora_disney"])
def test_published_adapters_pass(name):
    data = Path(os.environ.get("PEFTLAB_DATA", "../shared/data")) / "sd_lora_examples"
    if not data.is_dir():
        pytest.skip(f"no {data}: set PEFTLAB_DATA to the folder of shared data")
    _, context, findings, ran = _look(data / f"{name}.safetensors")
    assert context.layout.format == "cloneofsimo"
    assert len(context.layout.pairs) == 192
    assert ran >= {"structure", "spectra", "card"}
    assert not [f for f in findings if f.severity >= Severity.MEDIUM]
    assert "SPECTRA-LAYER" not in {finding.code for finding in findings}
