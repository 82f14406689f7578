"""Spectra: equal to the dense singular values, untouched by a change of basis, read from files."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from peftlab.audits.size.errors import BankMismatch
from peftlab.audits.size.features import (
    Shape,
    canonical,
    differences,
    factor_spectra,
    fit_to,
    read_spectra,
)
from peftlab.core.errors import InputRejected

DATA = Path(os.environ.get("PEFTLAB_DATA", Path(__file__).parents[4] / "shared" / "data"))


def write_adapter(folder, *, rank=4, layers=2, seed=0, scale=1.0, config=None, magnitude=False):
    """Write a peft LoRA folder; return its factors."""
    rng = torch.Generator().manual_seed(seed)
    tensors, factors = {}, {}
    for n in range(layers):
        a = torch.randn(rank, 16, generator=rng)
        b = scale * torch.randn(24, rank, generator=rng)
        stem = f"base_model.model.layers.{n}.q_proj"
        tensors |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        if magnitude:
            tensors[f"{stem}.lora_magnitude_vector.weight"] = torch.rand(24, generator=rng) + 1
        factors[f"layers.{n}.q_proj"] = (a, b)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"],
        **(config or {}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return factors


@settings(max_examples=100)
@given(
    rank=st.integers(1, 12), d_in=st.integers(1, 40), d_out=st.integers(1, 40),
    zero=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_update_spectrum_equals_the_dense_one(rank, d_in, d_out, zero, seed):
    if rank > max(d_in, d_out):
        rank = max(d_in, d_out)  # above it is refused, see nn.lora_spectra
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank))
    b = np.zeros_like(b) if zero else b
    found = factor_spectra(a[None], b[None], 0.5)
    for kind, matrix in (("A", a), ("B", b), ("BA", 0.5 * b @ a)):
        dense = np.linalg.svd(matrix, compute_uv=False)[:rank]
        wanted = np.zeros(rank)
        wanted[: len(dense)] = dense
        assert np.allclose(found[kind][0], wanted, rtol=1e-5, atol=1e-9 * (1 + wanted[0])), kind


@settings(max_examples=25)
@given(rank=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_a_change_of_basis_inside_a_layer_changes_nothing(rank, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, 20)), rng.normal(size=(30, rank))
    turn, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    before = factor_spectra(a[None], b[None])
    after = factor_spectra((turn @ a)[None], (b @ turn.T)[None])
    for kind, values in before.items():
        assert np.abs(values - after[kind]).max() < 1e-6


def test_adapter_of_peft_with_its_scale(tmp_path):
    factors = write_adapter(tmp_path / "a")
    found = read_spectra(tmp_path / "a")
    assert set(found.shapes.values()) == {Shape(4, 16, 24)}
    for layer, (a, b) in factors.items():
        dense = np.linalg.svd((2 * b @ a).double().numpy(), compute_uv=False)[:4]
        assert np.allclose(found.matrices[f"{layer}/BA"], dense, rtol=1e-5)
        assert f"{layer}/M" not in found.matrices


def test_rank_stabilised_scale_and_magnitudes(tmp_path):
    plain = write_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", magnitude=True, config={"use_rslora": True, "use_dora": True})
    first, second = read_spectra(tmp_path / "a"), read_spectra(tmp_path / "b")
    layer = next(iter(plain))
    ratio = second.matrices[f"{layer}/BA"] / first.matrices[f"{layer}/BA"]
    assert second.matrices[f"{layer}/M"].shape == (24,)
    # the magnitudes come from the same generator, so only the first layer has the same factors
    assert np.allclose(ratio, np.sqrt(4), rtol=1e-5)


@pytest.mark.parametrize("name", ["analog_svd_rank4", "lora_disney"])
def test_published_adapters_are_read(name):
    path = DATA / "sd_lora_examples" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no published adapters at {path}")
    found = read_spectra(path)
    assert len(found.shapes) == 192
    assert len({canonical(layer) for layer in found.shapes}) == 192
    assert {shape.rank for shape in found.shapes.values()} == {1 if "disney" in name else 4}
    assert all(np.isfinite(values).all() for values in found.matrices.values())


@pytest.mark.parametrize("name", ["adapter.bin", "ADAPTER.PT", "x.pkl"])
def test_pickles_are_never_opened(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(InputRejected) as caught:
        read_spectra(path)
    assert caught.value.code == "SIZE-PICKLE"
    assert "convert --sandbox" in caught.value.fix


def test_what_the_gate_stops_is_refused(tmp_path):
    write_adapter(tmp_path / "a")
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputRejected) as caught:
        read_spectra(tmp_path / "a")
    assert caught.value.code == "SIZE-ADAPTER"
    assert "gate-headers" in caught.value.what


def test_folder_with_a_pickle_only_is_refused(tmp_path):
    folder = tmp_path / "a"
    write_adapter(folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputRejected) as caught:
        read_spectra(folder)
    assert caught.value.exit_code == 3


def test_layers_are_matched_by_name_in_all_formats():
    assert canonical("base_model.model.unet.mid.to_q") == canonical("lora_unet_mid_to_q")
    assert canonical("text_encoder:0") != canonical("unet:0")


def test_differences_are_named():
    bank = {"l.0": Shape(8, 16, 24), "l.1": Shape(8, 16, 24)}
    assert differences(bank, bank) == ""
    assert "rank 4 (bank: 8)" in differences({**bank, "l.0": Shape(4, 16, 24)}, bank)
    assert "of the bank only: l.1" in differences({"l.0": bank["l.0"]}, bank)
    assert "of the adapter only: l.2" in differences({**bank, "l.2": bank["l.0"]}, bank)


def test_names_that_are_alike_in_canonical_form_are_kept_apart():
    shape = Shape(4, 16, 24)
    alike = {"a.b": shape, "a_b": shape}
    assert differences(alike, alike) == ""
    assert "of the adapter only: a.b" in differences(alike, {"lora_a_b": shape})
    assert differences({"lora_a_b": shape}, {"a.b": shape}) == ""


def test_shapes_that_differ_have_an_exit_code_of_their_own(tmp_path):
    write_adapter(tmp_path / "a", rank=4)
    bank = {f"layers.{n}.q_proj": Shape(8, 16, 24) for n in range(2)}
    with pytest.raises(BankMismatch) as caught:
        fit_to(read_spectra(tmp_path / "a"), bank, ["layers.0.q_proj/A"])
    assert caught.value.exit_code == 4
    assert "rank 4 (bank: 8)" in caught.value.got
