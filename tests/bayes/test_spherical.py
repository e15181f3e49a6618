"""Spherical integrals: against Monte Carlo, and against the saddle point found by bisection."""

import math

import pytest
import torch

from lorank.bayes.spherical import table, weights


def noise(m, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.svdvals(torch.randn(m, n, generator=g, dtype=torch.float64))


def log_i(y, n, c, slots=1):
    """``log I`` of the first slot at strengths c, in the units of y."""
    unit = y[0]
    values, _ = table(y / unit, (len(y), n), slots, 1e-3).at((c * unit).expand(slots, -1))
    return values[0] + c * unit


def bessel(y, n, c, draws=400_000):
    """``E exp(c·r·v₁)`` over v in closed form (a Bessel function), Monte Carlo over ``r = |Yᵀu|``.

    ``E exp(x·v₁)`` on the sphere of n dimensions is ``₀F₁(n/2; x²/4)``: its series, in logs.
    """
    g = torch.Generator().manual_seed(1)
    u = torch.randn(draws, len(y), generator=g, dtype=torch.float64)
    r = (u / u.norm(dim=1, keepdim=True) * y).norm(dim=1)
    x = (c * r)[:, None]
    found = []
    for block in x.split(20_000):
        k = torch.arange(0, 400, dtype=torch.float64)
        series = 2 * k * (block / 2).log() - torch.lgamma(k + 1)
        series += math.lgamma(n / 2) - torch.lgamma(n / 2 + k)
        found.append(series.logsumexp(1))
    logs = torch.cat(found)
    mean = logs.logsumexp(0) - math.log(draws)
    spread = float((logs - mean).exp().std()) / math.sqrt(draws)
    return float(mean), spread


@pytest.mark.parametrize("c", [0.5, 2.0, 4.0, 8.0])
def test_against_monte_carlo(c):
    y = noise(6, 10)
    exact, spread = bessel(y, 10, c, draws=60_000)
    found = float(log_i(y, 10, torch.tensor([c], dtype=torch.float64)))
    # The expansion leaves out terms of order 1/6 of a bounded constant: measured below 0.06.
    assert found == pytest.approx(exact, abs=0.06 + 4 * spread)
    if c >= 2:  # negative control: without the determinant it would be off by far more
        assert abs(float(log_i(y, 12, torch.tensor([c], dtype=torch.float64))) - exact) > 0.1


def by_bisection(y, n, c):
    """The textbook way: the root μ above the branch point, then Laplace's formula."""
    m, gap = len(y), n - len(y)
    low = (-gap + math.sqrt(gap**2 + 4 * float(c * y[0]) ** 2)) / 2
    high = low + 10 * (n + float(c * y[0]))

    def terms(mu):
        nu = mu + gap
        return nu, mu * nu - (c * y).square()

    for _ in range(200):
        mu = (low + high) / 2
        nu, q = terms(mu)
        low, high = (mu, high) if float((mu * nu / q).sum()) > mu else (low, mu)
    nu, q = terms(mu)
    first = 0.5 * (nu**2 / q.square()).sum()
    second = 0.5 * gap / nu**2 + 0.5 * (mu**2 / q.square()).sum()
    mixed = 0.5 * ((c * y).square() / q.square()).sum()
    value = (mu + nu) / 2 - gap / 2 * math.log(nu) - 0.5 * q.log().sum()
    at_zero = (m + n) / 2 - gap / 2 * math.log(n) - m / 2 * math.log(m * n)
    return float(value - at_zero - 0.5 * (4 * m * n * (first * second - mixed**2)).log())


@pytest.mark.parametrize(("m", "n"), [(6, 10), (20, 20), (5, 300), (120, 150)])
@pytest.mark.parametrize("c", [0.02, 0.3, 1.0, 2.5, 20.0])
def test_the_table_against_bisection(m, n, c):
    y = noise(m, n, seed=3)
    found = float(log_i(y, n, torch.tensor([c], dtype=torch.float64)))
    expected = by_bisection(y, n, torch.tensor(c, dtype=torch.float64))
    # Sixth-order interpolation: below 1e-6; below c·σ = 0.01 a square, to a relative 1e-4.
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_no_strength_has_weight_one():
    y = noise(8, 9)
    values = log_i(y, 9, torch.tensor([0.0, 1e-9, 1e-6], dtype=torch.float64))
    assert values.abs().max() < 1e-10
    quadratic = log_i(y, 9, torch.tensor([1e-3], dtype=torch.float64))
    expected = 1e-6 * float(y.square().sum()) / (2 * 8 * 9)
    assert float(quadratic) == pytest.approx(expected, rel=1e-4)


def test_a_later_slot_is_the_first_of_the_deflated_matrix():
    y = noise(10, 14)
    unit = y[0]
    c = torch.linspace(0.1, 5, 7, dtype=torch.float64)
    both, _ = table(y / unit, (10, 14), 3, 1e-3).at((c * unit).expand(3, -1))
    alone = log_i(y[2:], 12, c)
    assert torch.allclose(both[2] + c * y[2], alone, atol=1e-6)


def test_the_weights_of_tweedie_are_the_gradient():
    """``∂ log I/∂y_i = c·E[u_i v_i]``; the leading term alone, as m grows."""
    y, n, c = noise(150, 170), 170, torch.tensor([2.0], dtype=torch.float64)
    unit = y[0]
    _, w = table(y / unit, (150, n), 1, 1e-3).at((c * unit).expand(1, -1))
    own = weights(y, w[0] * unit**2, 0)[0]
    step = 1e-3
    for i in (0, 5, 100):
        moved = [y.clone(), y.clone()]
        moved[0][i] += step
        moved[1][i] -= step
        # y₀ may lead by less than the step elsewhere: the order need not hold for a derivative.
        up, down = (by_bisection(each, n, c) for each in moved)
        assert float(own[i]) == pytest.approx((up - down) / (2 * step), rel=0.05, abs=0.02)
