"""Hypergradients against closed forms: a toy of two numbers, and one with matrices."""

from __future__ import annotations

import doctest

import pytest
import torch

from peftlab.nn import hypergradient
from peftlab.nn.hypergradient import first_order, implicit, slope, unrolled

CURVE, PULL, WANT, COST = 2.0, 1.5, 0.7, 0.3  # of the toy below
RATE = 0.2


def _toy(theta: float = 0.4, delta: float | None = None):
    """L = CURVE/2 (d - PULL t)^2, U = (d - WANT)^2/2 + COST t^2/2, so d*(t) = PULL t."""

    def lower(t, d):
        return CURVE / 2 * (d["d"] - PULL * t["t"]) ** 2

    def upper(t, d):
        return (d["d"] - WANT) ** 2 / 2 + COST * t["t"] ** 2 / 2

    start = PULL * theta if delta is None else delta
    return upper, lower, {"t": _number(theta)}, {"d": _number(start)}


def _number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _analytic(theta: float) -> float:
    """Return dF/dt of F(t) = U(t, PULL t)."""
    return COST * theta + PULL * (PULL * theta - WANT)


def test_examples() -> None:
    assert doctest.testmod(hypergradient).failed == 0


def test_hypergrad_first_order_is_the_slope_at_a_fixed_delta() -> None:
    upper, _, theta, delta = _toy(0.4, delta=0.1)
    found = first_order(upper, theta, delta)
    assert float(found.theta["t"]) == pytest.approx(COST * 0.4, abs=1e-6)
    assert float(found.delta["d"]) == pytest.approx(0.1 - WANT, abs=1e-6)
    assert float(found.loss) == pytest.approx((0.1 - WANT) ** 2 / 2 + COST * 0.08, abs=1e-12)


def test_hypergrad_unrolled_50_steps_is_the_analytic_value() -> None:
    upper, lower, theta, delta = _toy(0.4, delta=-3.0)
    found = unrolled(upper, [lower] * 50, theta, delta, RATE)
    assert float(found.theta["t"]) == pytest.approx(_analytic(0.4), rel=1e-3)
    assert float(found.at["d"]) == pytest.approx(PULL * 0.4, abs=1e-3)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_unrolled_few_steps_by_hand(steps: int) -> None:
    """After k steps d_k = PULL t + q^k (d_0 - PULL t) with q = 1 - RATE CURVE."""
    upper, lower, theta, delta = _toy(0.4, delta=-3.0)
    found = unrolled(upper, [lower] * steps, theta, delta, RATE)
    left = (1 - RATE * CURVE) ** steps
    at = PULL * 0.4 + left * (-3.0 - PULL * 0.4)
    assert float(found.at["d"]) == pytest.approx(at, abs=1e-12)
    assert float(found.delta["d"]) == pytest.approx(at - WANT, abs=1e-12)
    expected = COST * 0.4 + PULL * (1 - left) * (at - WANT)
    assert float(found.theta["t"]) == pytest.approx(expected, abs=1e-12)


def test_hypergrad_implicit_at_the_minimum_is_the_analytic_value() -> None:
    upper, lower, theta, delta = _toy(0.4)
    found = implicit(upper, lower, theta, delta, rate=1 / CURVE)
    assert float(found.theta["t"]) == pytest.approx(_analytic(0.4), rel=1e-3)
    # another rate gives that share of the second term: one term of the series, no more
    other = implicit(upper, lower, theta, delta, rate=0.25 / CURVE)
    expected = COST * 0.4 + 0.25 * PULL * (PULL * 0.4 - WANT)
    assert float(other.theta["t"]) == pytest.approx(expected, rel=1e-3)


def test_implicit_where_delta_does_not_matter() -> None:
    _, lower, theta, delta = _toy(0.4)
    found = implicit(lambda t, d: t["t"] ** 2 + 0 * d["d"], lower, theta, delta, rate=1.0)
    assert float(found.theta["t"]) == pytest.approx(0.8)


def _curved():
    """Two matrices and a vector; losses that are no quadratics."""
    draw = torch.Generator().manual_seed(0)

    def matrix(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x, y = matrix(6, 3), matrix(6, 2)
    theta = {"w": matrix(3, 4), "not used": matrix(2)}
    delta = {"a": matrix(4, 2), "b": matrix(2)}

    def lower(t, d):
        return ((torch.tanh(x @ t["w"]) @ d["a"] + d["b"] - y) ** 2).mean()

    def upper(t, d):
        return torch.log1p((torch.tanh(2 * x @ t["w"]) @ d["a"] ** 2 - y) ** 2).mean()

    return upper, lower, theta, delta


def test_unrolled_against_finite_differences() -> None:
    upper, lower, theta, delta = _curved()
    other = lambda t, d: 2 * lower(t, d) + d["b"].sum()  # noqa: E731  each step has its own loss
    found = unrolled(upper, [lower, other], theta, delta, RATE)

    def value(w: torch.Tensor) -> float:
        moved = {**theta, "w": w}
        at = delta
        for loss in (lower, other):
            at = {
                n: d - RATE * g
                for (n, d), g in zip(at.items(), slope(loss, moved, at)[1], strict=True)
            }
        return float(upper(moved, at))

    step = 1e-6
    for place in ((0, 0), (1, 2), (2, 3)):
        way = torch.zeros_like(theta["w"])
        way[place] = step
        expected = (value(theta["w"] + way) - value(theta["w"] - way)) / (2 * step)
        assert float(found.theta["w"][place]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert float(found.theta["not used"].abs().max()) == 0


def test_implicit_against_the_product_with_the_mixed_derivatives() -> None:
    upper, lower, theta, delta = _curved()
    direct = first_order(upper, theta, delta)
    w = theta["w"].clone().requires_grad_()
    at = {n: d.clone().requires_grad_() for n, d in delta.items()}
    slopes = torch.autograd.grad(lower({**theta, "w": w}, at), list(at.values()), create_graph=True)
    along = sum((s * direct.delta[n]).sum() for n, s in zip(at, slopes, strict=True))
    mixed = torch.autograd.grad(along, w)[0]
    found = implicit(upper, lower, theta, delta, rate=0.3)
    torch.testing.assert_close(
        found.theta["w"], direct.theta["w"] - 0.3 * mixed, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(found.delta, direct.delta)


@pytest.mark.parametrize("mode", ["first_order", "unrolled", "implicit"])
def test_nothing_is_changed_and_no_graph_is_left(mode: str) -> None:
    upper, lower, theta, delta = _curved()
    theta["w"].requires_grad_()
    before = {n: x.detach().clone() for n, x in {**theta, **delta}.items()}
    more = {"first_order": (), "unrolled": (RATE,), "implicit": (RATE,)}[mode]
    losses = {"first_order": (upper,), "unrolled": (upper, [lower]), "implicit": (upper, lower)}
    found = getattr(hypergradient, mode)(*losses[mode], theta, delta, *more)
    for name, x in {**theta, **delta}.items():
        assert torch.equal(x.detach(), before[name])
        assert x.grad is None
    made = [found.loss, *found.theta.values(), *found.delta.values(), *found.at.values()]
    assert not any(x.requires_grad for x in made)
    assert set(found.theta) == set(theta)
    assert set(found.delta) == set(found.at) == set(delta)
