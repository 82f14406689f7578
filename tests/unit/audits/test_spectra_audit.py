"""Spectra of adapters: what stands out, what does not, and what is said when nothing can be."""

import doctest

import numpy as np
import pytest
import torch

from artefacts import blocks, codes, context_of, low_rank, opened, shapes_only, write_adapter
from peftlab.audits import spectra
from peftlab.audits.spectra import SpectraAudit, SpectraOptions, limit
from peftlab.core.findings import Severity
from peftlab.core.seeds import stream


def _run(folder, **options):
    return SpectraAudit(SpectraOptions(**options)).run(context_of(opened(folder)))


def _depths(count=12, width=48, seed=0):
    """Return factors whose size grows along the model, with a spectrum as training leaves it."""
    tensors = low_rank(blocks(count, width), seed=seed)
    for name in tensors:
        if "lora_B" in name:
            depth = int(name.split(".")[4])
            tensors[name] *= (1 + depth / count) * torch.tensor([1, 0.5, 0.3, 0.2])
    return tensors


def test_examples():
    assert doctest.testmod(spectra).failed == 0


@pytest.mark.parametrize("layers", [8, 12, 32])
@pytest.mark.parametrize("alarms", [0.01, 0.001])
def test_the_limit_keeps_its_promise_on_normal_samples(layers, alarms):
    rng = stream(0, "test/limit", layers)
    values = rng.normal(size=(40_000, layers))
    away = np.abs(values - np.median(values, axis=1, keepdims=True))
    scores = away.max(axis=1) / (1.4826 * np.median(away, axis=1))
    share = float((scores > limit(layers, alarms)).mean())
    assert alarms / 20 < share <= alarms


def test_ordinary_adapters_raise_no_alarm(tmp_path):
    quiet = 0
    for seed in range(10):
        found = _run(write_adapter(tmp_path / str(seed), _depths(seed=seed)))
        quiet += not found.findings
    assert quiet == 10


def test_an_edited_layer_stands_out(tmp_path):
    tensors = _depths()
    edited = "base_model.model.model.layers.4.self_attn.v_proj.lora_B.weight"
    tensors[edited] *= 50
    (finding,) = _run(write_adapter(tmp_path, tensors)).findings
    assert (finding.code, finding.severity) == ("SPECTRA-LAYER", Severity.LOW)
    assert finding.where == "model.layers.4.self_attn.v_proj"
    assert "frobenius" in finding.evidence


def test_a_row_and_a_column_that_hold_all_stand_out(tmp_path):
    tensors = low_rank(blocks(2, 64))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][7] *= 100
    tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"][:, 9] *= 100
    found = _run(write_adapter(tmp_path, tensors)).findings
    assert codes(found) == ["SPECTRA-ROW", "SPECTRA-ROW"]
    assert found[0].evidence.startswith("row 7 of 64")
    assert found[1].evidence.startswith("column 9 of 64")
    assert _run(tmp_path, narrowest=65).findings == ()


def test_words_of_an_embedding_may_move_alone(tmp_path):
    tensors = low_rank({"model.embed_tokens": (32, 500)})
    tensors["base_model.model.model.embed_tokens.lora_A.weight"][:, 5:] = 0
    assert _run(write_adapter(tmp_path, tensors)).findings == ()


def test_numbers_beyond_all_bounds(tmp_path):
    tensors = low_rank(blocks(2))
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"][0, 0] = float("nan")
    found = _run(write_adapter(tmp_path, tensors))
    assert codes(found.findings) == ["SPECTRA-NONFINITE"]
    assert found.facts["measured"] == 3


def test_facts_tables_and_charts(tmp_path):
    found = _run(write_adapter(tmp_path, _depths()))
    assert found.facts["layers"] == found.facts["measured"] == 24
    assert 1 <= found.facts["stable_rank"]["min"] <= found.facts["stable_rank"]["max"] <= 4
    (table,) = found.tables
    assert len(table.rows) == 24
    assert len(table.header) == len(table.rows[0])
    spectrum, sizes = found.charts
    assert set(spectrum.lines) == {"model.layers.#.self_attn.q_proj",
                                   "model.layers.#.self_attn.v_proj"}  # fmt: skip
    values = [y for _, y in spectrum.lines["model.layers.#.self_attn.q_proj"]]
    assert values == sorted(values, reverse=True)
    assert len(sizes.lines["model.layers.#.self_attn.q_proj"]) == 12


def test_what_was_left_out_is_said(tmp_path):
    found = _run(write_adapter(tmp_path, low_rank(blocks(2))), kurtosis_cost=0)
    assert "4 of 4 layers: less than 8" in found.not_checked[0]
    assert found.not_checked[1].startswith("kurtosis")
    assert "kurtosis" not in found.facts


def test_why_not(tmp_path):
    audit = SpectraAudit(SpectraOptions())
    folder = write_adapter(
        tmp_path, {"base_model.model.a.0.ia3_l": torch.ones(32, 1)}, peft_type="IA3"
    )
    assert "IA3 has no low-rank updates" in audit.why_not(context_of(opened(folder)))
    pair = {"unet:0:down": (1, 8), "unet:0:up": (8, 1)}
    assert "no values" in audit.why_not(context_of(shapes_only(pair)))
