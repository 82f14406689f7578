"""Spectra from factors against the dense product, NumPy's SVD and SciPy's moments."""

import doctest
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from peftlab.core.errors import InputRejected, ResourceLimit
from peftlab.core.seeds import stream
from peftlab.nn import lora_spectra
from peftlab.nn.lora_spectra import (
    singular_values,
    spectral_statistics,
    stacked_singular_values,
)

SHAPES = [  # r, d_in, d_out
    (1, 1, 1), (1, 7, 3), (1, 64, 200), (2, 5, 5), (3, 3, 40), (4, 64, 64), (4, 300, 100),
    (5, 4, 30), (6, 50, 3), (8, 96, 96), (8, 8, 8), (9, 256, 31), (16, 40, 17), (16, 128, 192),
    (12, 9, 14), (32, 64, 48), (33, 70, 70),
]  # fmt: skip
KINDS = ["normal", "graded", "tied", "dependent", "zero column", "offset"]


def _factors(kind, rank, d_in, d_out, seed=0):
    """Return float64 arrays A and B of one kind of adapter."""
    rng = stream(seed, "test/lora", kind, rank, d_in, d_out)
    a, b = rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank)) / 10
    if kind == "graded":
        b *= np.logspace(0, -4, rank)
    if kind == "tied" and rank <= min(d_in, d_out):
        a, b = np.linalg.qr(a.T)[0].T, 2 * np.linalg.qr(b)[0]
    if kind == "dependent":
        a[-1] = a[0]
        b[:, -1] = b[:, 0] * (1 + 1e-7)
    if kind == "zero column":
        b[:, rank // 2] = 0
    if kind == "offset":
        a += 3
        b += 1
    return a, b


def _tensors(a, b, dtype=torch.float32):
    return torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)


def _dense(a, b):
    return b.double().numpy() @ a.double().numpy()


def _dense_values(a, b):
    """Return r values from the product, zeros after the last one."""
    found = np.linalg.svd(_dense(a, b), compute_uv=False)[: a.shape[0]]
    return np.pad(found, (0, a.shape[0] - len(found)))


def _dense_statistics(product):
    from scipy.stats import kurtosis

    values = np.linalg.svd(product, compute_uv=False)
    share = values**2 / (values**2).sum()
    entropy = -sum(p * np.log(p) for p in share if p > 1e-25)
    frobenius = np.sqrt((product**2).sum())
    tails = kurtosis(product, axis=None, fisher=False)
    return np.array([values[0], frobenius, (frobenius / values[0]) ** 2, entropy, tails])


def _assert_values(found, expected):
    """Relative to 1e-6 down to 1e-4 of the largest; below, absolutely."""
    assert found.dtype == np.float64
    assert (np.diff(found) <= 0).all()
    large = expected >= 1e-4 * expected[0]
    np.testing.assert_allclose(found[large], expected[large], rtol=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-9 * expected[0])


adapters = pytest.mark.parametrize(
    ("kind", "shape"),
    [(kind, shape) for number, shape in enumerate(SHAPES) for kind in KINDS[number % 2 :: 2]],
)


@adapters  # 51 of them
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_singular_values_equal_those_of_the_dense_product(kind, shape, dtype):
    a, b = _tensors(*_factors(kind, *shape), dtype)
    _assert_values(singular_values(a, b, 2.0), 2 * _dense_values(a, b))


@adapters
def test_statistics_equal_those_of_the_dense_product(kind, shape):
    a, b = _tensors(*_factors(kind, *shape))
    product = -0.5 * _dense(a, b)
    found = spectral_statistics(a, b, -0.5).row()
    if not product.any():
        assert not found.any()
        return
    if product.size == 1:
        assert found[-1] == 0  # one entry has no tails
        np.testing.assert_allclose(found[:-1], [abs(product.item())] * 2 + [1, 0], rtol=1e-12)
        return
    np.testing.assert_allclose(found, _dense_statistics(product), rtol=1e-5, atol=1e-9)


@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(12, 40), st.integers(1, 40),
    st.sampled_from(KINDS),
)  # fmt: skip
def test_any_shape_and_kind(seed, rank, d_in, d_out, kind):
    a, b = _tensors(*_factors(kind, rank, d_in, d_out, seed))
    _assert_values(singular_values(a, b), _dense_values(a, b))
    _assert_values(singular_values(b.T, a.T), _dense_values(a, b))


@pytest.mark.parametrize("spread", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("kind", ["normal", "graded", "tied"])
def test_invariant_when_the_factors_turn(kind, spread):
    """(B Q, Q^-1 A) is the same update, whatever the condition number of Q."""
    a, b = _factors(kind, 8, 90, 60)
    rng = stream(1, "test/turn")
    left, right = (np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(2))
    turn = left * np.logspace(0, -np.log10(spread), 8) @ right
    plain = _tensors(a, b, torch.float64)
    turned = _tensors(np.linalg.solve(turn, a), b @ turn, torch.float64)
    # the turn itself moves the update by about eps times the spread of its largest value
    np.testing.assert_allclose(
        singular_values(*turned), singular_values(*plain), rtol=1e-11 * spread
    )
    np.testing.assert_allclose(
        spectral_statistics(*turned).row(), spectral_statistics(*plain).row(), rtol=1e-9
    )


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, 6, 7, 8])
def test_both_routes_keep_small_values_of_nearly_dependent_columns(exponent):
    """Either side of the switch to QR: 60-digit arithmetic is the judge."""
    from mpmath import matrix, mp, svd_r

    rng = stream(0, "test/near", exponent)
    a, b = rng.normal(size=(3, 20)), rng.normal(size=(15, 3))
    b[:, 2] = b[:, 1] + 10.0**-exponent * b[:, 2]
    with mp.workdps(60):
        product = matrix(b.tolist()) * matrix(a.tolist())
        exact = sorted((float(v) for v in svd_r(product, compute_uv=False)), reverse=True)[:3]
    found = singular_values(*_tensors(a, b, torch.float64))
    np.testing.assert_allclose(found[:2], exact[:2], rtol=1e-12)
    assert found[2] == pytest.approx(exact[2], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_equals_its_layers(kind, monkeypatch):
    pairs = [_tensors(*_factors(kind, 8, 40, 56, seed)) for seed in range(10)]
    pairs[4] = (pairs[4][0], torch.zeros(56, 8))  # another route, and no update at all
    a, b = (torch.stack(factors) for factors in zip(*pairs, strict=True))
    scales = stream(0, "test/scales").uniform(0.1, 4, size=10)
    single = np.stack([singular_values(*pair, s) for pair, s in zip(pairs, scales, strict=True)])
    stacked = stacked_singular_values(a, b, scales)
    np.testing.assert_allclose(stacked, single, rtol=1e-12, atol=1e-14)
    assert not stacked[4].any()
    monkeypatch.setattr(lora_spectra, "BLOCK", 3 * 8 * 96)  # blocks of three layers
    np.testing.assert_array_equal(stacked_singular_values(a, b, scales), stacked)


def test_the_common_case_goes_by_gram_matrices(monkeypatch):
    monkeypatch.setattr(lora_spectra, "_values_by_qr", None)
    for shape in ((1, 7, 3), (8, 96, 96), (16, 768, 768), (64, 512, 1024)):
        assert singular_values(*_tensors(*_factors("normal", *shape)))[-1] > 0


def test_no_layers_and_non_contiguous_factors():
    assert stacked_singular_values(torch.zeros(0, 4, 8), torch.zeros(0, 8, 4)).shape == (0, 4)
    a, b = _tensors(*_factors("normal", 4, 30, 20))
    wide = torch.zeros(60, 8)
    wide[::2, ::2] = a.T
    np.testing.assert_allclose(
        singular_values(wide[::2, ::2].T, b.requires_grad_()),
        singular_values(a, b),
        rtol=1e-12,
    )


@pytest.mark.parametrize(("rank", "d_in", "d_out"), [(1, 3, 4), (8, 64, 64), (4, 3, 9)])
def test_an_untrained_adapter_is_all_zeros(rank, d_in, d_out):
    a = torch.ones(rank, d_in)
    assert not spectral_statistics(a, torch.zeros(d_out, rank)).row().any()
    assert not spectral_statistics(a, torch.ones(d_out, rank), 0.0).row().any()


def test_bounds_of_the_statistics():
    flat = spectral_statistics(*_tensors(*_factors("tied", 8, 96, 96)))
    assert flat.stable_rank == pytest.approx(8)
    assert flat.entropy == pytest.approx(np.log(8))
    one = spectral_statistics(*_tensors(*_factors("normal", 1, 96, 96)))
    assert (one.stable_rank, one.entropy) == (1.0, 0.0)
    equal = spectral_statistics(torch.full((2, 9), 0.1), torch.full((5, 2), 0.7))
    assert equal.kurtosis == 0  # all entries equal: no spread, no tails
    spike_a, spike_b = torch.zeros(1, 50), torch.zeros(50, 1)
    spike_a[0, 3] = spike_b[7, 0] = 1
    n = 2500
    spike = spectral_statistics(spike_a, spike_b).kurtosis
    assert spike == pytest.approx((n * n - 3 * n + 3) / (n - 1), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 10), st.integers(1, 40), st.integers(1, 40))
def test_both_ways_to_the_fourth_moment_agree(seed, rank, m, n):
    rng = stream(seed, "test/fourth", rank, m, n)
    left, right = rng.normal(size=(m, rank)), rng.normal(size=(n, rank))
    expected = ((left @ right.T) ** 4).sum()
    for way in (lora_spectra._fourth_by_pairs, lora_spectra._fourth_by_blocks):
        assert way(left, right) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("way", ["_fourth_by_pairs", "_fourth_by_blocks"])
def test_blocks_of_rows_change_nothing(way, monkeypatch):
    rng = stream(0, "test/blocks")
    left, right = rng.normal(size=(50, 3)), rng.normal(size=(41, 3))
    whole = getattr(lora_spectra, way)(left, right)
    monkeypatch.setattr(lora_spectra, "ENTRIES", 130)
    assert getattr(lora_spectra, way)(left, right) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("size", [1e-200, 1e-150, 1e-30, 1e30, 1e140, 1e200])
def test_extreme_numbers_neither_overflow_nor_vanish(size):
    a, b = _factors("normal", 4, 30, 20)
    plain = spectral_statistics(*_tensors(a, b, torch.float64)).row()
    found = spectral_statistics(*_tensors(a / size, b * size, torch.float64)).row()
    np.testing.assert_allclose(found, plain, rtol=1e-9)


# ------------------------------------------------------------------ memory


class _Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor) and not func.is_view:
                self.bytes = max(self.bytes, each.numel() * each.element_size())
        return out


@pytest.mark.parametrize("update", ["trained", "none"])
def test_a_7b_adapter_takes_little_memory(update):
    """64 layers, d = 4096, r = 8: one dense product alone would be 134 MB in float64."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 8, 4096, generator=generator, dtype=torch.float16)
    b = torch.randn(64, 4096, 8, generator=generator, dtype=torch.float16)
    if update == "none":
        b.zero_()
    with _Largest():
        singular_values(a[0], b[0])  # the hook imports much at its first use
    tracemalloc.start()
    try:
        with _Largest() as largest:
            values = stacked_singular_values(a, b, 2.0)
            last = spectral_statistics(a[63], b[63], 2.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last.largest == pytest.approx(values[63, 0], rel=1e-12)
    assert largest.bytes <= 9e6  # a block of factors in float64
    assert peak <= 6e6


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        (torch.ones(2, 5), torch.ones(5, 3), "LORA-SHAPE"),
        (torch.ones(5), torch.ones(5, 1), "LORA-SHAPE"),
        (torch.ones(1, 2, 5), torch.ones(1, 5, 2), "LORA-SHAPE"),
        (torch.ones(0, 5), torch.ones(5, 0), "LORA-SHAPE"),
        (torch.ones(2, 0), torch.ones(5, 2), "LORA-SHAPE"),
        (torch.ones(2, 5, dtype=torch.int8), torch.ones(5, 2), "LORA-DTYPE"),
        (torch.ones(2, 5), torch.ones(5, 2, dtype=torch.complex64), "LORA-DTYPE"),
        (torch.ones(2, 5, device="meta"), torch.ones(5, 2), "LORA-DTYPE"),
        (torch.ones(768, 16), torch.ones(16, 768), "LORA-RANK"),  # swapped, or both transposed
        (torch.ones(2000, 2000), torch.ones(2000, 2000), "LORA-RANK"),
    ],
)
def test_factors_that_are_no_pair(a, b, code):
    for work in (singular_values, spectral_statistics):
        with pytest.raises(InputRejected) as caught:
            work(a, b)
        assert caught.value.code == code


def test_a_stack_needs_as_many_layers_and_scales():
    a, b = torch.ones(3, 2, 5), torch.ones(3, 5, 2)
    for pair in ((a[:2], b), (a[0], b[0])):
        with pytest.raises(InputRejected, match="LORA-SHAPE"):
            stacked_singular_values(*pair)
    with pytest.raises(InputRejected, match="LORA-SHAPE"):
        stacked_singular_values(a, b, np.ones(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["a", "b"])
@pytest.mark.parametrize("rank", [1, 4])
def test_numbers_that_are_not_finite(bad, place, rank):
    pair = dict(zip("ab", _tensors(*_factors("normal", rank, 9, 12)), strict=True))
    pair[place][0, 0] = bad
    with pytest.raises(InputRejected, match="LORA-NONFINITE"):
        spectral_statistics(**pair)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite(scale):
    with pytest.raises(InputRejected, match="LORA-NONFINITE"):
        singular_values(torch.ones(1, 3), torch.ones(3, 1), scale)
    with pytest.raises(InputRejected, match="LORA-NONFINITE"):
        singular_values(torch.ones(1, 3), torch.zeros(3, 1), scale)


def test_a_product_that_overflows():
    huge = torch.full((1, 3), 1e200, dtype=torch.float64)
    with pytest.raises(InputRejected, match="LORA-NONFINITE"):
        singular_values(huge, huge.T)


def test_a_pair_that_is_too_large():
    a, b = torch.ones(1, 1).expand(1024, 2**17), torch.ones(1, 1).expand(4, 1024)
    with pytest.raises(ResourceLimit, match="LORA-SIZE"):
        singular_values(a, b)


def test_the_examples_hold():
    assert doctest.testmod(lora_spectra).failed == 0
