"""The exact Gibbs sampler: its laws against closed forms and quadrature, and its calibration."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from lorank.bayes.gibbs import State, _inverse, _value, gibbs, log_mixture, sweep
from lorank.bayes.prior import Prior
from lorank.bayes.simulate import gibbs_ranks, quantities, simulate
from lorank.bayes.vmf import beside, cosine
from lorank.errors import LorankError

PLAIN = Prior(shifted=False, nothing=0.0)
NOISE = (5.0, 4.0)


def matrix(rows=8, columns=6, strength=12.0, seed=0):
    generator = np.random.default_rng(seed)
    u, v = generator.normal(size=rows), generator.normal(size=columns)
    M = strength * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    return M, M + generator.normal(size=(rows, columns))


@pytest.mark.parametrize("kappa", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("size", [2, 3, 20])
def test_mean_cosine_is_a_ratio_of_bessel_functions(kappa, size):
    """``E w = I_{p/2}(κ)/I_{p/2−1}(κ)`` and ``Var w ≤ 1``; five standard errors."""
    draws = 20_000
    w = cosine(np.full(draws, kappa), size, np.random.default_rng(0))
    want = special.ive(size / 2, kappa) / special.ive(size / 2 - 1, kappa) if kappa else 0.0
    assert abs(w.mean() - want) < 5 * w.std() / math.sqrt(draws)
    assert np.abs(w).max() <= 1


def test_directions_stay_beside_the_others():
    generator = np.random.default_rng(0)
    others = np.linalg.qr(generator.normal(size=(50, 7, 3)))[0]
    x = beside(generator.normal(size=(50, 7)) * 20, others, generator)
    assert np.abs(np.linalg.norm(x, axis=1) - 1).max() < 1e-14
    assert np.abs(np.einsum("bkc,bk->bc", others, x)).max() < 1e-14


def test_the_grid_draws_its_density():
    """Draws of a normal law: Kolmogorov and Smirnov at one in ten thousand."""
    t = np.repeat(np.linspace(-9, 9, 640)[None], 5_000, axis=0)
    drawn = _inverse(t, -0.5 * t**2, np.random.default_rng(0))
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    assert stats.kstest(drawn, "norm", args=(0.2, 1)).pvalue < 1e-4


@pytest.mark.parametrize("cross", [0.5, 5.0, 60.0])
def test_a_value_is_drawn_from_its_conditional(cross):
    """Against quadrature of prior × likelihood over d; mean within five standard errors."""
    B = 5_000
    one = np.ones((B, 1, 1))
    log_slab = np.log(np.full((B, 1), 0.6))
    state = State(np.zeros((B, 9, 9)), one, one, np.zeros((B, 2)), np.ones(B), log_slab)
    drawn = _value(state, 0, np.full(B, cross), PLAIN, 0.0, np.random.default_rng(0))

    def density(s):
        return np.exp(
            np.logaddexp(*log_mixture(np.asarray(s / 3.0), np.log(np.asarray(0.6)), PLAIN))
            - 0.5 * (s - cross) ** 2
        )

    grid = np.concatenate([np.linspace(0, 2, 20_001)[:-1], np.linspace(2, cross + 12, 20_001)])
    mass = integrate.trapezoid(density(grid), grid)
    mean = integrate.trapezoid(grid * density(grid), grid) / mass
    assert abs(drawn.mean() - mean) < 5 * drawn.std() / math.sqrt(B)


def test_columns_stay_orthonormal():
    truth = simulate(4, (5, 7), 3, PLAIN, 0.05, NOISE, np.random.default_rng(0))
    for _ in range(50):
        sweep(truth, PLAIN, 0.05, NOISE, np.random.default_rng(1))
    for Q in (truth.U, truth.V):
        assert np.abs(np.swapaxes(Q, 1, 2) @ Q - np.eye(3)).max() < 1e-12


def calibrated(ranks: np.ndarray, draws: int, bins: int = 10) -> float:
    """p-value of the χ² test that ranks are uniform on 0 … draws."""
    counts = np.bincount(ranks * bins // (draws + 1), minlength=bins)
    return float(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("order", [0.0, 0.05])
def test_joint_law_is_kept(order):
    """Geweke: truths from the prior, moved by sweeps on their data, are still from the prior.

    Each moved truth is one independent draw, so two samples are compared by Kolmogorov and
    Smirnov, five quantities at one in ten thousand.
    """
    generator = np.random.default_rng(3)
    arguments = (1000, (4, 5), 3, PLAIN, order, NOISE, generator)
    moved, fresh = simulate(*arguments), quantities(simulate(*arguments))
    for _ in range(3):
        sweep(moved, PLAIN, order, NOISE, generator)
    for name, values in quantities(moved).items():
        assert stats.ks_2samp(values, fresh[name]).pvalue > 1e-4, name


def test_the_joint_law_tells_a_wrong_prior():
    """The negative control: sweeps with another prior of σ move the truths away."""
    generator = np.random.default_rng(3)
    arguments = (1000, (4, 5), 3, PLAIN, 0.05, NOISE, generator)
    moved, fresh = simulate(*arguments), quantities(simulate(*arguments))
    for _ in range(3):
        sweep(moved, PLAIN, 0.05, (NOISE[0], 2 * NOISE[1]), generator)
    assert stats.ks_2samp(quantities(moved)["sigma"], fresh["sigma"]).pvalue < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes alone, many more beside others
def test_simulation_based_calibration():
    """12×8 lying down, H = 4, 200 fits at once: ranks are uniform, five quantities."""
    generator = np.random.default_rng(0)
    truth = simulate(200, (8, 12), 4, PLAIN, 0.05, NOISE, generator)
    ranks = gibbs_ranks(truth, PLAIN, 0.05, NOISE, generator, warmup=300, draws=99, thin=20)
    for name, found in ranks.items():
        assert calibrated(found, 99) > 1e-3, name


def test_signal_is_found_and_scaled():
    M, Y = matrix()
    found = gibbs(Y, truncation=3, warmup=50, draws=80)
    assert found.rank() == 1
    assert np.linalg.norm(found.mean - M) < np.linalg.norm(Y - M)
    times = gibbs(8 * Y, truncation=3, warmup=50, draws=80)
    np.testing.assert_allclose(times.d, 8 * found.d, rtol=1e-9)


def test_missing_entries_are_filled():
    M, Y = matrix(strength=30.0)
    mask = np.random.default_rng(1).random(Y.shape) > 0.15
    found = gibbs(np.where(mask, Y, np.nan), mask, truncation=2, warmup=80, draws=100)
    away = np.linalg.norm((found.mean - M)[~mask])
    assert away < 0.5 * np.linalg.norm(M[~mask])


def test_counts_are_checked():
    with pytest.raises(LorankError, match="draws is a positive whole number, found 0"):
        gibbs(np.eye(4), draws=0)
    for choice, sentence in (
        ({"chains": "2"}, "chains is a positive whole number"),
        ({"warmup": None}, "warmup is a whole number of at least 0"),
        ({"noise": 3}, "two numbers"),
        ({"order": "x"}, "order is a number"),
        ({"seed": "x"}, "seed is a whole number"),
        ({"constants": 3}, "lorank.bayes.Prior, found 3"),
    ):
        with pytest.raises(LorankError, match=sentence):
            gibbs(matrix()[1], **choice)
    with pytest.raises(LorankError, match="shifted=False"):
        gibbs(matrix()[1], constants=Prior())
