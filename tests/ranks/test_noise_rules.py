"""The statistical rules: their constants, and planted ranks that they must find."""

import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.linalg.shrinkage import marchenko_pastur_median
from lorank.ranks import csp, energy, evbmf, gavish_donoho, optimal_shrinkage
from lorank.ranks.noise import hard_threshold
from lorank.ranks.variational import detection_threshold, free_energy, noise_variance

ASPECTS = [0.001, 0.05, 0.25, 0.5, 0.8, 1.0]


def omega(beta):
    return hard_threshold(beta) / math.sqrt(marchenko_pastur_median(beta))


@pytest.mark.parametrize("beta", ASPECTS)
def test_the_median_halves_the_law(beta):
    """Oracle: the density itself, by the midpoint rule in θ, where it has no singularity."""
    a, b = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    theta = (torch.arange(200_000, dtype=torch.float64) + 0.5) * math.pi / 200_000
    t = (a + b) / 2 - (b - a) / 2 * theta.cos()
    density = ((b - t) * (t - a)).clamp_min(0).sqrt() / (2 * math.pi * beta * t)
    mass = density * (b - a) / 2 * theta.sin() * math.pi / 200_000
    assert float(mass.sum()) == pytest.approx(1, abs=1e-8)
    below = float(mass[t < marchenko_pastur_median(beta)].sum())
    assert below == pytest.approx(0.5, abs=1e-5)


def test_published_coefficients():
    assert hard_threshold(1.0) == pytest.approx(4 / math.sqrt(3))
    assert omega(1.0) == pytest.approx(2.858, abs=1e-3)
    assert omega(0.5) == pytest.approx(2.1711, abs=5e-4)


@pytest.mark.parametrize("beta", [b / 20 for b in range(1, 21)])
def test_the_paper_s_polynomial_is_near(beta):
    """The paper's equation 5 approximates ω, to 0.02 by its own account."""
    polynomial = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    assert abs(omega(beta) - polynomial) < 0.02


def test_the_median_of_a_noise_matrix():
    g = torch.Generator().manual_seed(0)
    s = torch.linalg.svdvals(torch.randn(200, 500, generator=g, dtype=torch.float64))
    assert float(s.median()) ** 2 / 500 == pytest.approx(marchenko_pastur_median(0.4), rel=0.02)


RULES = [gavish_donoho, optimal_shrinkage, evbmf, csp]
PLANTED = [(60, 60, 4), (40, 120, 7), (120, 40, 7), (16, 400, 3), (200, 200, 15)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("m", "n", "rank"), PLANTED)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_rank_is_found(planted, rule, m, n, rank, seed):
    assert rule({"w": planted(m, n, rank, signal=4.0, seed=seed)}) == {"w": rank}


@pytest.mark.parametrize("rule", [gavish_donoho, optimal_shrinkage, csp])
@pytest.mark.parametrize(("m", "n", "rank"), PLANTED)
def test_a_planted_rank_is_found_with_the_noise_known(planted, rule, m, n, rank):
    layer = planted(m, n, rank, signal=4.0 * 0.3, noise=0.3)
    assert rule({"w": layer}, noise=0.3) == {"w": rank}
    # Negative control: with a noise level that is wrong by far, the answer is wrong.
    assert rule({"w": layer}, noise=0.03) != {"w": rank}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("m", "n"), [(60, 60), (40, 120), (20, 400), (150, 200)])
def test_noise_alone_has_no_rank(planted, rule, m, n):
    assert rule({"w": planted(m, n, 1, signal=0.0)}) == {"w": 1}


@pytest.mark.parametrize("rule", RULES)
def test_a_signal_below_the_noise_is_not_found(planted, rule):
    """Negative control: under the detection limit of random matrix theory nobody can see it."""
    assert rule({"w": planted(100, 100, 8, signal=0.5)}) == {"w": 1}
    assert energy({"w": planted(100, 100, 8, signal=0.5)})["w"] > 8


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rank", [1, 5, 9])
def test_an_exactly_low_rank_matrix(make, rule, rank):
    s = torch.cat([torch.linspace(3, 1, rank), torch.zeros(20 - rank)])
    assert rule({"w": make(s, n=30)}) == {"w": rank}


@pytest.mark.parametrize("rule", RULES)
def test_the_group_with_most_signal_decides(planted, make, rule):
    low, high = planted(40, 60, 2, signal=4.0), planted(40, 60, 6, signal=4.0)
    both = make(torch.stack([low.values, high.values]), m=40, n=60)
    assert rule({"w": both}) == {"w": 6}


@pytest.mark.parametrize("rule", [gavish_donoho, optimal_shrinkage, csp])
@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf, "a", True, [1.0], 1j])
def test_a_noise_level_is_positive(make, rule, noise):
    with pytest.raises(LorankError, match="standard deviation"):
        rule({"w": make([1.0])}, noise=noise)


@pytest.mark.parametrize("alpha", ASPECTS)
def test_the_detection_threshold_is_where_a_component_pays(alpha):
    tau, x = detection_threshold(alpha)
    phi = [math.log1p(z) / z - 0.5 for z in (tau, tau / alpha)]
    assert sum(phi) == pytest.approx(0, abs=1e-12)
    # There the free energy with and without the component is the same: ψ₁(x̲) = 0.
    psi = math.log1p(tau) + alpha * math.log1p(tau / alpha) - tau
    assert psi == pytest.approx(0, abs=1e-12)
    # It lies above the edge of the noise, and τ is the x it came from.
    assert x > (1 + math.sqrt(alpha)) ** 2
    y = x - (1 + alpha)
    assert (y + math.sqrt(y * y - 4 * alpha)) / 2 == pytest.approx(tau)


def test_the_approximate_root_of_the_paper():
    assert detection_threshold(1.0)[0] == pytest.approx(2.5129, abs=1e-4)
    assert detection_threshold(0.5)[0] == pytest.approx(2.5129 * math.sqrt(0.5), rel=0.01)


def scalar_free_energy(variance, s, alpha, M):
    """The paper's formula, one number after the other."""
    threshold = detection_threshold(alpha)[1]
    total = 0.0
    for value in s.tolist():
        x = value * value / (M * variance)
        total += x - math.log(x) + 2 * math.log(value)  # up to a constant: log(M σ²)
        if x > threshold:
            y = x - (1 + alpha)
            tau = (y + math.sqrt(y * y - 4 * alpha)) / 2
            total += math.log(tau + 1) + alpha * math.log(tau / alpha + 1) - tau
    return total - len(s) * math.log(M)


@pytest.mark.parametrize("variance", [1e-4, 0.01, 0.3])
def test_free_energy_against_the_formula(variance):
    s = torch.linspace(1, 0.05, 9, dtype=torch.float64)
    fast = float(free_energy(torch.tensor([variance], dtype=torch.float64), s, 9 / 14, 14))
    assert fast == pytest.approx(scalar_free_energy(variance, s, 9 / 14, 14), rel=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_noise_variance_is_the_global_minimum(seed):
    """Spectra with several minima: a scan of 40 000 points finds nothing lower."""
    g = torch.Generator().manual_seed(seed)
    L = int(torch.randint(3, 30, (1,), generator=g))
    M = L + int(torch.randint(0, 40, (1,), generator=g))
    power = float(torch.rand(1, generator=g)) * 12 + 0.2
    s = torch.rand(L, generator=g, dtype=torch.float64).pow(power).sort(descending=True).values
    s = s / s[0]
    found = noise_variance(s, L, M)
    high = float(s.square().mean()) / M
    grid = torch.logspace(math.log10(high) - 12, math.log10(high), 40_000, dtype=torch.float64)
    h = math.ceil(L / (1 + L / M)) - 1
    tail = s[h:].square()
    low = max(float(tail.mean()), float(tail[0]) / detection_threshold(L / M)[1]) / M
    grid = grid[grid >= low * (1 - 1e-9)]
    best = float(free_energy(grid, s, L / M, M).min())
    at = float(free_energy(torch.tensor([found], dtype=torch.float64), s, L / M, M))
    assert at <= best + 1e-7 * abs(best)


def test_the_noise_variance_of_noise(planted):
    layer = planted(100, 300, 5, signal=6.0)
    assert noise_variance(layer.values, 100, 300) == pytest.approx(1.0, rel=0.05)


def test_a_noise_far_from_the_values(make):
    layer = {"w": make([3.0, 2.0, 1.0])}
    assert optimal_shrinkage(layer, noise=1e300) == gavish_donoho(layer, noise=1e300) == {"w": 1}
    assert optimal_shrinkage(layer, noise=1e-300) == {"w": 3}
    with pytest.raises(LorankError, match="order of magnitude"):
        csp(layer, noise=1e300)
