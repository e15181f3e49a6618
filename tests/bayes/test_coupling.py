"""Pairs of components: against Monte Carlo, the limit of strong ones, and what it is for."""

import math

import pytest
import torch

from lorank.bayes.coupling import log_coupling
from lorank.bayes.spherical import table


def noise(m, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.svdvals(torch.randn(m, n, generator=g, dtype=torch.float64))


def formula(y, n, strong, weak):
    """``log I`` of two components: the product of single ones, and the pair's correction."""
    unit = y[0]
    grid = table(y / unit, (len(y), n), 2, 1e-4)
    c = torch.tensor([[[strong], [weak]]], dtype=torch.float64) * unit
    single, w = grid.at(c)
    present = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    pair = log_coupling(c, w, c[..., 0], w[..., 0], present, y / unit, n)
    assert float(pair[0, 0, 0]) == 0  # the first slot has none before it
    return float((single[0] + c[0] * (y / unit)[:2, None]).sum()), float(pair[0, 1, 0])


def monte_carlo(y, n, strong, weak, draws=200_000):
    """``log E exp(c₁u₁ᵀYv₁ + c₂u₂ᵀYv₂)`` over orthonormal pairs, and its standard error."""
    g = torch.Generator().manual_seed(1)

    def pair(k):
        a = torch.randn(draws, k, 2, generator=g, dtype=torch.float64)
        first = a[..., 0] / a[..., 0].norm(dim=1, keepdim=True)
        rest = a[..., 1] - (first * a[..., 1]).sum(1, keepdim=True) * first
        return first, rest / rest.norm(dim=1, keepdim=True)

    exponent = sum(
        c * (u * y * v[:, : len(y)]).sum(1)
        for c, u, v in zip((strong, weak), pair(len(y)), pair(n), strict=True)
    )
    mean = exponent.logsumexp(0) - math.log(draws)
    return float(mean), float((exponent - mean).exp().std()) / math.sqrt(draws)


@pytest.mark.parametrize(("m", "n"), [(6, 10), (10, 14)])
def test_against_monte_carlo(m, n):
    """The product lacks a quarter; the pair brings back half of it and more. The rest is 1/m."""
    y = noise(m, n)
    exact, spread = monte_carlo(y, n, 2.0, 1.5)
    single, pair = formula(y, n, 2.0, 1.5)
    assert exact - single > 8 * spread
    assert abs(single + pair - exact) < 0.5 * (exact - single) + 2 * spread


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("n", [12, 30])
def test_the_limit_of_strong_components(ratio, n):
    y = torch.cat([torch.tensor([30.0, 20.0], dtype=torch.float64), noise(10, n)])
    _, pair = formula(y, n, 1e4, 1e4 * ratio)
    assert pair == pytest.approx(-0.5 * math.log(1 - ratio**2), rel=1e-2)


@pytest.mark.parametrize("n", [8, 40])
def test_a_component_that_is_not_there_changes_nothing(n):
    y = noise(8, n)
    for strong in (5.0, 1e-3):  # to the interpolation of the table
        assert abs(formula(y, n, strong, 1e-4)[1]) < 1e-5


def test_equal_components_stay_finite():
    y = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)
    for weak in (1.0, 2.0, 3.0):
        assert formula(y, 4, 2.0, weak)[1] <= 1e-9  # no room between them: no gain
    y = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    for weak in (49.999, 50.0, 50.001, 500.0):
        assert 0 < formula(y, 4, 50.0, weak)[1] <= 0.5 * math.log(50 / 2) + 1e-9
