"""An exact Gibbs sampler of the same posterior, column by column: a check that shares no code."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorank.bayes.checks import check_counts, check_seed, check_widths
from lorank.bayes.posterior import Draws, Posterior, posterior
from lorank.bayes.prior import Prior
from lorank.bayes.problem import Problem, prepare
from lorank.bayes.vmf import beside
from lorank.errors import LorankError

Array = NDArray[np.float64]

POINTS = 640
REACH = 9.0
DEEPEST = -14.0
"""Points of the grid for one value, its reach in units of σ, and its lowest log(d/σ)."""


@dataclass
class State:
    """One state of B chains: ``U (B, m, H)``, ``V (B, n, H)``, ``s = d/σ (B, H)``, sticks, σ.

    Chains may be of different data ``Y (B, m, n)``.
    """

    Y: Array
    U: Array
    V: Array
    s: Array
    sigma: Array
    log_slab: Array

    @property
    def edge(self) -> float:
        """``(mn)^¼``."""
        return (self.Y.shape[-2] * self.Y.shape[-1]) ** 0.25

    def cores(self) -> Array:
        """``M = σ·U·diag(s)·Vᵀ``, ``(B, m, n)``."""
        scaled = self.U * (self.sigma[:, None] * self.s)[:, None, :]
        return scaled @ np.swapaxes(self.V, -1, -2)


def gibbs(
    data: Any,
    mask: Any = None,
    *,
    truncation: int | None = None,
    constants: Prior | None = None,
    order: float = 0.05,
    noise: tuple[float, float] = (0.0, 0.0),
    chains: int = 2,
    warmup: int = 500,
    draws: int = 2000,
    thin: int = 1,
    seed: int = 0,
) -> Posterior:
    """Sample the CSP posterior exactly, without gradients and without tuning.

    ``u_h`` and ``v_h`` are von Mises-Fisher beside the other columns; ``d_h`` is drawn from its
    one-dimensional conditional on a fine grid with the indicator summed out; indicators and
    sticks are those of the process; σ by a slice; missing entries are filled by their conditional.

    Slots exchange slowly: it is a check of :func:`lorank.bayes.nuts.sample`, not its rival.

    Args:
        data: as :func:`lorank.bayes.nuts.sample`.
        mask: true where an entry was observed.
        truncation: H.
        constants: constants of the prior.
        order: width of the soft order over the edge; 0 leaves the slots unordered.
        noise: ``(a, b)`` of the inverse-gamma prior of σ².
        chains: run side by side.
        warmup: sweeps that are thrown away.
        draws: kept ones a chain.
        thin: sweeps a draw.
        seed: of all random numbers.

    Returns:
        The posterior.

    Raises:
        LorankError: as :func:`lorank.bayes.problem.prepare`; or if a number is out of range.

    Cost: ``O(mn·H)`` a sweep. Source: Hoff, Model averaging and dimension selection for the
    singular value decomposition, 2007, for the directions; Legramanti, Durante and Dunson, 2020,
    for the sticks.

    Example:
        >>> data = np.random.default_rng(0).normal(size=(5, 4))
        >>> gibbs(data, truncation=2, warmup=5, draws=5).d.shape
        (2, 5, 2)
    """
    check_counts(chains=chains, draws=draws, thin=thin)
    check_counts(0, warmup=warmup)
    check_widths(order, noise)
    seed = check_seed(seed)
    if constants is not None and not isinstance(constants, Prior):
        raise LorankError(f"constants are a lorank.bayes.Prior, found {constants!r}")
    constants = constants or Prior(shifted=False, nothing=0.0)
    if constants.shifted or constants.nothing:
        raise LorankError("samplers need Prior(shifted=False, nothing=0.0)")
    problem = prepare(data, mask, truncation)
    generator = np.random.default_rng(seed)
    state = _begin(problem, chains, constants)
    scaled = problem.noise_prior(noise)
    kept: list[tuple[Array, ...]] = []
    for turn in range(warmup + draws * thin):
        if problem.observed is not None:
            _fill(state, problem.observed, generator)
        sweep(state, constants, order, scaled, generator)
        if turn >= warmup and (turn - warmup) % thin == thin - 1:
            slab = slab_probability(state, constants)
            kept.append(
                (
                    state.s * state.sigma[:, None],
                    state.sigma.copy(),
                    state.U.copy(),
                    state.V.copy(),
                    slab,
                )
            )
    d, sigma, U, V, slab = (np.stack(each, axis=1) for each in zip(*kept, strict=True))
    if problem.observed is not None:
        U, V = problem.left.T @ U, problem.right.T @ V
    return posterior(problem, Draws(d, sigma, U, V, slab, {}))


def _begin(problem: Problem, chains: int, constants: Prior) -> State:
    H = problem.truncation
    rotated = problem.observed is None  # the data themselves lie in their singular basis
    U, V = (np.eye(len(B), H) if rotated else B[:, :H] for B in (problem.left, problem.right))

    def copies(array: Array) -> Array:
        return np.repeat(array[None], chains, axis=0)

    # All slots start on, at the observed values: a dead component is born slowly.
    cross = np.einsum("mh,mn,nh->h", U, problem.matrix, V)
    strength = np.maximum(np.abs(cross), problem.noise) / problem.noise
    V = V * np.where(cross < 0, -1.0, 1.0)
    log_slab = -np.arange(1, H) / constants.alpha
    Y, U, V, s = (copies(array) for array in (problem.matrix, U, V, strength))
    return State(Y, U, V, s, np.full(chains, problem.noise), copies(log_slab))


def _fill(state: State, observed: NDArray[np.bool_], generator: np.random.Generator) -> None:
    noise = state.sigma[:, None, None] * generator.standard_normal(state.Y.shape)
    state.Y = np.where(observed, state.Y, state.cores() + noise)


def sweep(
    state: State,
    prior: Prior,
    order: float,
    noise: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    """Draw every unknown once, in place.

    Args:
        state: of B chains.
        prior: constants of the CSP prior.
        order: width of the soft order over the edge; 0 for none.
        noise: ``(a, b)`` of the inverse-gamma prior of σ².
        generator: source of random numbers.

    Cost: ``O(B·mn·H)``.

    Example:
        >>> eye = np.eye(4)[None, :, :2]
        >>> one = np.ones((1, 1))
        >>> state = State(np.ones((1, 4, 4)), eye, eye, np.ones((1, 2)), one[0], -one)
        >>> plain = Prior(shifted=False, nothing=0.0)
        >>> sweep(state, plain, 0.05, (1.0, 1.0), np.random.default_rng(0))
        >>> bool(abs(state.U[0].T @ state.U[0] - np.eye(2)).max() < 1e-12)
        True
    """
    H = state.s.shape[-1]
    for h in range(H):
        others = np.delete(np.arange(H), h)
        strength = (state.s[:, h] / state.sigma)[:, None]
        f = strength * (state.Y @ state.V[:, :, h, None])[..., 0]
        state.U[:, :, h] = beside(f, state.U[:, :, others], generator)
        across = (np.swapaxes(state.Y, -1, -2) @ state.U[:, :, h, None])[..., 0]
        state.V[:, :, h] = beside(strength * across, state.V[:, :, others], generator)
        cross = (across * state.V[:, :, h]).sum(-1) / state.sigma
        state.s[:, h] = _value(state, h, cross, prior, order, generator)
    _exchange(state, prior, order, generator)
    _sticks(state, prior, generator)
    _sigma(state, noise, generator)


def log_mixture(x: Array, log_slab: Array, prior: Prior) -> tuple[Array, Array]:
    """Log of weight times density at ``x = d/edge``, for spike and slab.

    Args:
        x: any shape.
        log_slab: ``log(1 − π)``, broadcast against x; −∞ for a slot that is never a slab.
        prior: the constants.

    Example:
        >>> spike, slab = log_mixture(np.zeros(1), np.log(np.full(1, 0.5)), Prior())
        >>> round(float(np.exp(spike)[0]), 12)
        10.0
    """
    with np.errstate(divide="ignore"):
        log_spike = np.log(-np.expm1(log_slab))
    a, b = prior.shape, prior.scale
    spike = log_spike - x / prior.spike - np.log(prior.spike)
    slab = log_slab + np.log(a) + a * np.log(b) - (a + 1) * np.log(b + x)
    return spike, slab


def slab_probability(state: State, prior: Prior) -> Array:
    """``P(slab | d)`` of every slot, ``(B, H)``.

    Example:
        >>> eye = np.eye(4)[None, :, :2]
        >>> one = np.ones((1, 1))
        >>> state = State(np.ones((1, 4, 4)), eye, eye, np.ones((1, 2)), one[0], -one)
        >>> float(slab_probability(state, Prior())[0, 1])
        0.0
    """
    spike, slab = log_mixture(state.s / state.edge, _all_slots(state.log_slab), prior)
    return np.exp(slab - np.logaddexp(spike, slab))


def _all_slots(log_slab: Array) -> Array:
    return np.concatenate([log_slab, np.full((len(log_slab), 1), -np.inf)], axis=1)


def _penalty(low: Array | float, high: Array | float, order: float, edge: float) -> Array:
    """Soft order of one pair: ``high`` should not exceed ``low``."""
    return -0.5 * (np.maximum(high - low, 0) / (order * edge)) ** 2  # pyright: ignore


def _value(
    state: State, h: int, cross: Array, prior: Prior, order: float, generator: np.random.Generator
) -> Array:
    """Draw ``s_h`` with the indicator summed out, on a grid of ``t = log(eˢ − 1)``."""
    low = np.maximum(DEEPEST, cross - REACH)
    high = np.maximum(cross, 0) + REACH
    t = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, POINTS)
    s = np.logaddexp(t, 0)
    weights = _all_slots(state.log_slab)[:, h, None]
    log_p = np.logaddexp(*log_mixture(s / state.edge, weights, prior))
    log_p += -np.logaddexp(0, -t) - 0.5 * (s - cross[:, None]) ** 2
    if order and h > 0:
        log_p += _penalty(state.s[:, h - 1, None], s, order, state.edge)
    if order and h + 1 < state.s.shape[1]:
        log_p += _penalty(s, state.s[:, h + 1, None], order, state.edge)
    return np.logaddexp(_inverse(t, log_p, generator), 0)


def _inverse(t: Array, log_p: Array, generator: np.random.Generator) -> Array:
    """Draw from the density that is linear between grid points."""
    p = np.exp(log_p - log_p.max(-1, keepdims=True))
    step = t[:, 1] - t[:, 0]
    mass = np.cumsum((p[:, 1:] + p[:, :-1]) / 2, axis=-1)
    goal = generator.random(len(t)) * mass[:, -1]
    cell = np.minimum((mass < goal[:, None]).sum(-1), mass.shape[1] - 1)
    row = np.arange(len(t))
    before = np.where(cell > 0, mass[row, cell - 1], 0.0)
    left, right = p[row, cell], p[row, cell + 1]
    # left·f + (right − left)·f²/2 = goal − before, in the form without cancellation
    rest = goal - before
    root = np.sqrt(np.maximum(left**2 + 2 * (right - left) * rest, 0))
    fraction = np.clip(2 * rest / np.maximum(left + root, 1e-300), 0, 1)
    return t[row, cell] + fraction * step


def _exchange(state: State, prior: Prior, order: float, generator: np.random.Generator) -> None:
    """Offer each pair of neighbours to exchange components; the likelihood does not change."""
    weights = _all_slots(state.log_slab)

    def density(s: Array) -> Array:
        each = np.logaddexp(*log_mixture(s / state.edge, weights, prior)).sum(-1)
        if order:
            each += _penalty(s[:, :-1], s[:, 1:], order, state.edge).sum(-1)
        return each

    now = density(state.s)
    for h in range(state.s.shape[1] - 1):
        swapped = state.s.copy()
        swapped[:, [h, h + 1]] = swapped[:, [h + 1, h]]
        then = density(swapped)
        taken = np.log1p(-generator.random(len(now))) <= then - now
        for array in (state.s[:, None, :], state.U, state.V):
            pair = array[taken][..., [h + 1, h]]
            array[taken, :, h : h + 2] = pair
        now = np.where(taken, then, now)


def _sticks(state: State, prior: Prior, generator: np.random.Generator) -> None:
    """Draw the stick z_h on which each slot lies, then the sticks; slot h is a spike if z_h ≤ h."""
    B, H = state.s.shape
    log_rest = np.concatenate([np.zeros((B, 1)), state.log_slab], axis=1)
    log_next = _all_slots(state.log_slab)
    with np.errstate(divide="ignore"):
        log_w = log_rest + np.log(-np.expm1(np.minimum(log_next - log_rest, 0.0)))
    x = state.s / state.edge
    a, b = prior.shape, prior.scale
    spike = -x / prior.spike - np.log(prior.spike)
    slab = np.log(a) + a * np.log(b) - (a + 1) * np.log(b + x)
    is_spike = np.arange(H)[None, :] <= np.arange(H)[:, None]
    log_p = log_w[:, None, :] + np.where(is_spike, spike[..., None], slab[..., None])
    noise = -np.log(-np.log1p(-generator.random(log_p.shape)))
    z = (log_p + noise).argmax(-1)
    here = (z[:, :, None] == np.arange(H - 1)).sum(1)
    later = (z[:, :, None] > np.arange(H - 1)).sum(1)
    v = generator.beta(1 + here, prior.alpha + later)
    state.log_slab = np.cumsum(np.log1p(-np.minimum(v, 1 - 1e-16)), axis=1)


def _sigma(state: State, noise: tuple[float, float], generator: np.random.Generator) -> None:
    """Draw log σ with d/σ held, by a slice that shrinks."""
    a, b = noise
    count = state.Y[0].size
    square = (state.Y**2).sum((-1, -2))
    carried = np.einsum("bmh,bmn,bnh,bh->b", state.U, state.Y, state.V, state.s, optimize=True)

    def density(log_sigma: Array) -> Array:
        inverse = np.exp(-log_sigma)
        return -(count + 2 * a) * log_sigma - (square / 2 + b) * inverse**2 + carried * inverse

    now = np.log(state.sigma)
    level = density(now) + np.log1p(-generator.random(len(now)))
    # The conditional's width is about 1/√(2·count); an interval that is too wide costs only tries.
    width = 10 / np.sqrt(2 * count)
    low = now - width * generator.random(len(now))
    high = low + width
    waiting = np.ones(len(now), bool)
    new = now.copy()
    while waiting.any():
        tried = low + (high - low) * generator.random(len(now))
        inside = density(tried) > level
        new = np.where(waiting & inside, tried, new)
        waiting &= ~inside
        low = np.where(waiting & (tried < now), tried, low)
        high = np.where(waiting & (tried >= now), tried, high)
    state.sigma = np.exp(new)
