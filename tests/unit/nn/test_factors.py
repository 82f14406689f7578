"""Tensors over mapped bytes, and the maths of updates and changes from factors alone."""

import doctest
import tracemalloc
import warnings

import numpy as np
import pytest
import torch

from artefacts import blocks, low_rank, opened, shapes_only, write_adapter, write_tensors
from peftlab.core.errors import InputRejected
from peftlab.io.adapter_layout import read_layout
from peftlab.nn import threads, update_norms, weight_change
from peftlab.nn.factors import DTYPES, factors_of, tensor_of
from peftlab.nn.layer_spectra import measure
from peftlab.nn.lora_spectra import spectral_statistics
from peftlab.nn.update_norms import update_norm
from peftlab.nn.weight_change import norm_of, rank_of_change
from peftlab.nn.weight_change import weight_change as change_of


@pytest.mark.parametrize("module", [threads, update_norms, weight_change])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "U8"])
def test_every_type_comes_back(tmp_path, dtype):
    wanted = torch.arange(24).reshape(2, 3, 4).to(DTYPES[dtype])
    path = write_tensors(tmp_path / "x.safetensors", {"x": wanted, "unet:0:up": torch.ones(2, 1)})
    artefact = opened(path)
    found = tensor_of(artefact, "x")
    assert found.dtype == wanted.dtype
    assert torch.equal(found.double(), wanted.double())


def test_no_copy_and_no_warning(tmp_path):
    tensors = low_rank(blocks(1, 512), rank=64)
    artefact = opened(write_adapter(tmp_path, tensors, r=64))
    name = next(iter(tensors))
    tensor_of(artefact, name)
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, two = tensor_of(artefact, name), tensor_of(artefact, name)
    assert one.data_ptr() == two.data_ptr()
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()


def test_unaligned_and_empty_tensors():
    import struct

    from peftlab.io.artefact import Artefact, OpenFile, TensorInfo

    content = b"x" + struct.pack("<3f", 1, 2, 3)
    file = OpenFile("x", len(content), "", -1, memoryview(content))
    artefact = Artefact("x", "file", files={"x": file})
    artefact.tensors = {"t": TensorInfo("x", "F32", (3,), 1, 13),
                        "none": TensorInfo("x", "F32", (0, 4), 1, 1)}  # fmt: skip
    assert tensor_of(artefact, "t").tolist() == [1, 2, 3]
    assert tensor_of(artefact, "none").shape == (0, 4)


def test_shapes_alone_have_no_values():
    with pytest.raises(InputRejected) as caught:
        tensor_of(shapes_only({"x": (2, 2)}), "x")
    assert caught.value.code == "TENSOR-BYTES"


def test_factors_are_flat_and_adalora_has_its_diagonal(tmp_path):
    conv = {"base_model.model.c.lora_A.weight": torch.randn(4, 3, 5, 5),
            "base_model.model.c.lora_B.weight": torch.randn(8, 4, 1, 1)}  # fmt: skip
    artefact = opened(write_adapter(tmp_path / "conv", conv))
    a, b = factors_of(artefact, read_layout(artefact).pairs[0])
    assert (a.shape, b.shape) == ((4, 75), (8, 4))
    stem = "base_model.model.q"
    ada = {f"{stem}.lora_A": torch.ones(2, 5), f"{stem}.lora_B": torch.ones(6, 2),
           f"{stem}.lora_E": torch.tensor([[3.0], [0.0]])}  # fmt: skip
    artefact = opened(write_adapter(tmp_path / "ada", ada, peft_type="ADALORA", init_r=2))
    a, _ = factors_of(artefact, read_layout(artefact).pairs[0])
    assert a.sum(dim=1).tolist() == [15, 0]


@pytest.mark.parametrize(("rank", "d_out", "d_in"), [(1, 1, 7), (4, 30, 20), (9, 5, 6)])
def test_the_norm_is_that_of_the_product(rank, d_out, d_in):
    draw = torch.Generator().manual_seed(rank)
    a = torch.randn(rank, d_in, generator=draw, dtype=torch.float64)
    b = torch.randn(d_out, rank, generator=draw, dtype=torch.float64)
    assert update_norm(a, b, -3) == pytest.approx(float((3 * b @ a).norm()), rel=1e-12)
    assert update_norm(a, 0 * b) == 0


def test_measured_layers_agree_with_one_at_a_time(tmp_path):
    tensors = low_rank({**blocks(3), "model.x": (48, 24), "model.layers.9.q": (32, 32)})
    tensors["base_model.model.model.x.lora_B.weight"].zero_()
    bad = "base_model.model.model.layers.9.q.lora_B.weight"
    tensors[bad][0, 0] = float("inf")
    artefact = opened(write_adapter(tmp_path, tensors))
    pairs = read_layout(artefact).pairs
    found = measure(artefact, pairs, kurtosis_cost=10**9)
    assert list(found.skipped) == ["model.layers.9.q"]
    for i, pair in enumerate(pairs):
        if pair.layer in found.skipped:
            assert len(found.values[i]) == 0
            continue
        a, b = factors_of(artefact, pair)
        np.testing.assert_allclose(
            found.statistics[i], spectral_statistics(a, b, pair.scale).row(), rtol=1e-6
        )
        energy = (b.double() @ a.double()).numpy() ** 2
        for heaviest, axis in ((found.rows[i], 1), (found.columns[i], 0)):
            line = energy.sum(axis=axis)
            share = line.max() / max(line.sum(), 1e-300)
            np.testing.assert_allclose(heaviest, [line.argmax(), share], rtol=1e-5)
    assert np.isnan(measure(artefact, pairs).statistics[0, 4])


def test_changes_are_found_bit_for_bit():
    old = torch.randn(100, 40, generator=torch.Generator().manual_seed(0))
    new = old.clone()
    new[7] += 1
    new[11] *= -1
    found = change_of(new, old)
    assert np.flatnonzero(found.changed).tolist() == [7, 11]
    assert found.kept == 0.5
    assert found.relative == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-6)
    assert not change_of(old.half(), old).changed.any()  # saved in half precision: no change
    assert change_of(old, old.half()).changed.any()
    new[3, 3] = float("nan")
    assert change_of(new, new).changed.sum() == 0


@pytest.mark.parametrize("rank", [1, 7, 64, 100])
def test_rank_of_a_change(rank):
    draw = torch.Generator().manual_seed(rank)
    old = torch.randn(300, 200, generator=draw)
    change = torch.randn(300, rank, generator=draw) @ torch.randn(rank, 200, generator=draw)
    energy = torch.linalg.svdvals(change).double() ** 2
    wanted = int((energy.cumsum(0) / energy.sum() < 0.99).sum()) + 1
    state = torch.get_rng_state()
    found = rank_of_change(old + 0.1 * change, old, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert found == (wanted if wanted <= 64 else None)
    assert rank_of_change(old, old, seed=0) == 0


def test_changes_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr(weight_change, "BLOCK", 500)
    old = torch.zeros(90, 100)
    new = old.clone()
    new[5, 5] = 1
    for table in (new, new.reshape(1, -1), new.reshape(-1), new.reshape(90, 10, 10)):
        parts = list(weight_change._rows(table))
        assert max(part.numel() for part in parts) <= 500
        assert sum(part.numel() for part in parts) == 9000
        found = change_of(table, old.reshape(table.shape))
        assert (norm_of(table), found.change, found.changed.sum()) == (1, 1, 1)
