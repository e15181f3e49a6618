"""Truths drawn from the prior and data drawn from them, to check samplers against themselves."""

import numpy as np
from numpy.typing import NDArray

from lorank.bayes.gibbs import State, sweep
from lorank.bayes.prior import Prior

Array = NDArray[np.float64]


def simulate(
    count: int,
    shape: tuple[int, int],
    truncation: int,
    prior: Prior,
    order: float,
    noise: tuple[float, float],
    generator: np.random.Generator,
) -> State:
    """Draw truths from the prior and data from each.

    The soft order is kept by rejection, so the draws are exact.

    Args:
        count: B, how many.
        shape: ``(m, n)``, ``m ≤ n``.
        truncation: H.
        prior: constants of the CSP prior.
        order: width of the soft order over the edge; 0 for none.
        noise: ``(a, b)``, both positive, of ``σ² ~ IG(a, b)``.
        generator: source of random numbers.

    Returns:
        The truths as a state with their data.

    Example:
        >>> truth = simulate(3, (4, 5), 2, Prior(shifted=False, nothing=0.0), 0.05, (3.0, 2.0),
        ...                  np.random.default_rng(0))
        >>> truth.Y.shape
        (3, 4, 5)
    """
    (m, n), edge = shape, (shape[0] * shape[1]) ** 0.25
    sticks, x = _values(count, truncation, prior, order, generator)
    sigma = 1 / np.sqrt(generator.gamma(noise[0], 1 / noise[1], count))
    U, V = (_uniform(count, k, truncation, generator) for k in (m, n))
    state = State(np.zeros((count, m, n)), U, V, x * edge, sigma, -np.cumsum(sticks, axis=1))
    state.Y = state.cores() + sigma[:, None, None] * generator.standard_normal((count, m, n))
    return state


def _values(
    count: int, H: int, prior: Prior, order: float, generator: np.random.Generator
) -> tuple[Array, Array]:
    """Sticks ``(B, H − 1)`` and ``d/edge (B, H)``; what is out of order is mostly rejected."""
    sticks, values, have = [], [], 0
    while have < count:
        e = generator.exponential(1 / prior.alpha, (4 * count, H - 1))
        slab = generator.random((4 * count, H)) < np.pad(np.exp(-np.cumsum(e, 1)), ((0, 0), (0, 1)))
        lomax = prior.scale * generator.pareto(prior.shape, slab.shape)
        x = np.where(slab, lomax, generator.exponential(prior.spike, slab.shape))
        if order:
            disorder = (np.maximum(np.diff(x, axis=1), 0) ** 2).sum(1) / order**2
            kept = generator.random(len(x)) < np.exp(-disorder / 2)
            e, x = e[kept], x[kept]
        sticks.append(e)
        values.append(x)
        have += len(x)
    return np.concatenate(sticks)[:count], np.concatenate(values)[:count]


def _uniform(count: int, k: int, H: int, generator: np.random.Generator) -> Array:
    Q, R = np.linalg.qr(generator.standard_normal((count, k, H)))
    return Q * np.sign(np.diagonal(R, axis1=-2, axis2=-1))[:, None, :]


def quantities(state: State) -> dict[str, Array]:
    """Identified quantities of every chain, ``(B,)`` each: σ, d₁, Σd², one entry of the matrix.

    Example:
        >>> truth = simulate(3, (4, 5), 2, Prior(shifted=False, nothing=0.0), 0.05, (3.0, 2.0),
        ...                  np.random.default_rng(0))
        >>> sorted(quantities(truth))
        ['energy', 'entry', 'largest', 'sigma', 'slabs']
    """
    d = state.sigma[:, None] * state.s
    return {
        "sigma": state.sigma.copy(),
        "largest": d.max(1),
        "energy": (d**2).sum(1),
        "entry": state.cores()[:, 0, 0],
        "slabs": np.exp(state.log_slab).sum(1),
    }


def gibbs_ranks(
    truth: State,
    prior: Prior,
    order: float,
    noise: tuple[float, float],
    generator: np.random.Generator,
    *,
    warmup: int,
    draws: int,
    thin: int,
) -> dict[str, NDArray[np.int64]]:
    """Rank of each truth among draws of its own posterior: uniform on 0 … draws if all is right.

    Args:
        truth: of :func:`simulate`.
        prior: constants of the CSP prior.
        order: width of the soft order over the edge.
        noise: ``(a, b)`` of the prior of σ².
        generator: source of random numbers.
        warmup: sweeps that are thrown away.
        draws: kept ones.
        thin: sweeps a draw; ranks are uniform only where draws are nearly independent.

    Returns:
        Quantity → ``(B,)`` ranks.

    Source: Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference
    algorithms with simulation-based calibration, 2018.

    Example:
        >>> plain, rng = Prior(shifted=False, nothing=0.0), np.random.default_rng(0)
        >>> truth = simulate(3, (4, 5), 2, plain, 0.05, (3.0, 2.0), rng)
        >>> ranks = gibbs_ranks(truth, plain, 0.05, (3.0, 2.0), rng, warmup=2, draws=5, thin=1)
        >>> bool((ranks["sigma"] <= 5).all())
        True
    """
    true, state = quantities(truth), _from_data(truth.Y, truth.s.shape[1], prior)
    ranks = {name: np.zeros(len(values), np.int64) for name, values in true.items()}
    for turn in range(warmup + draws * thin):
        sweep(state, prior, order, noise, generator)
        if turn >= warmup and (turn - warmup) % thin == thin - 1:
            for name, values in quantities(state).items():
                ranks[name] += values < true[name]
    return ranks


def _from_data(Y: Array, H: int, prior: Prior) -> State:
    U, y, Vh = np.linalg.svd(Y, full_matrices=False)
    sigma = np.sqrt((y[:, H:] ** 2).mean(1) / Y.shape[2])
    V = np.swapaxes(Vh, -1, -2)[:, :, :H].copy()
    log_slab = np.repeat(-np.arange(1, H)[None] / prior.alpha, len(Y), axis=0)
    return State(Y, U[:, :, :H].copy(), V, y[:, :H] / sigma[:, None], sigma, log_slab)
