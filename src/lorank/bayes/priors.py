"""Priors of the singular values, in units of the detection edge, as NumPyro sites."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from lorank.bayes.prior import Prior
from lorank.errors import LorankError, unknown


class Slots(NamedTuple):
    """``log_density(x) (H,)`` at ``x = d/edge``, and ``log_odds(x)`` of slab over spike."""

    log_density: Callable[[Array], Array]
    log_odds: Callable[[Array], Array] | None = None


def csp(H: int, prior: Prior) -> Slots:
    """Cumulative shrinkage: a mixture of spike and slab with the indicator summed out.

    ``p(x) = π_h·e^{−x/κ₀}/κ₀ + (1 − π_h)·a·κᵃ/(κ + x)^{a+1}``, with ``log(1 − π_h) = −S_h`` and S
    the running sum of H − 1 draws of Exp(α); the last slot is a spike. Weights stay in log space:
    their products underflow.

    Source: Legramanti, Durante and Dunson, Biometrika, 2020, for the process; the exponential
    form of the sticks is our own.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots = csp(3, Prior(shifted=False, nothing=0.0))
        >>> slots.log_density(jnp.ones(3)).shape
        (3,)
    """
    if prior.shifted or prior.nothing:
        raise LorankError(
            "samplers need a density without steps and a cumulative prior alone: "
            "Prior(shifted=False, nothing=0.0)"
        )
    sticks = numpyro.sample("stick", dist.Exponential(prior.alpha).expand([H - 1]))
    S = jnp.cumsum(sticks)
    log_slab = jnp.append(-S, -jnp.inf)
    log_spike = jnp.append(jnp.log(-jnp.expm1(-S)), 0.0)

    def spike(x: Array) -> Array:
        return log_spike - x / prior.spike - jnp.log(prior.spike)

    def slab(x: Array) -> Array:
        a, b = prior.shape, prior.scale
        return log_slab + jnp.log(a) + a * jnp.log(b) - (a + 1) * jnp.log(b + x)

    return Slots(lambda x: jnp.logaddexp(spike(x), slab(x)), lambda x: slab(x) - spike(x))


def exponential(H: int, prior: Prior) -> Slots:
    """``x_h ~ Exp(mean τ)`` for all h, ``τ ~`` half-Cauchy(1): the Bayesian nuclear norm.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots = exponential(3, Prior())
        >>> slots.log_density(jnp.ones(3)).shape
        (3,)
    """
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    return Slots(lambda x: -x / tau - jnp.log(tau))


def half_normal(H: int, prior: Prior) -> Slots:
    """``x_h ~ |N(0, τ²)|`` for all h, ``τ ~`` half-Cauchy(1): the Bayesian ridge.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots = half_normal(3, Prior())
        >>> slots.log_density(jnp.ones(3)).shape
        (3,)
    """
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    return Slots(lambda x: _log_half_normal(x, tau))


def horseshoe(H: int, prior: Prior) -> Slots:
    """``x_h ~ |N(0, τ²λ_h²)|`` with ``τ, λ_h ~`` half-Cauchy(1).

    Source: Carvalho, Polson and Scott, The horseshoe estimator for sparse signals, 2010.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots = horseshoe(3, Prior())
        >>> slots.log_density(jnp.ones(3)).shape
        (3,)
    """
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    own = numpyro.sample("lambda", dist.HalfCauchy(1.0).expand([H]))
    return Slots(lambda x: _log_half_normal(x, tau * own))


def multiplicative_gamma(H: int, prior: Prior) -> Slots:
    """``x_h ~ |N(0, 1/τ_h)|``, ``τ_h = g_1⋯g_h``, ``g_1 ~ Ga(2.1, 1)``, later ones ``Ga(3.1, 1)``.

    Source: Bhattacharya and Dunson, Sparse Bayesian infinite factor models, 2011.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots = multiplicative_gamma(3, Prior())
        >>> slots.log_density(jnp.ones(3)).shape
        (3,)
    """
    shapes = jnp.append(2.1, jnp.full(H - 1, 3.1))
    g = numpyro.sample("gamma", dist.Gamma(shapes, 1.0))
    return Slots(lambda x: _log_half_normal(x, jnp.exp(-0.5 * jnp.cumsum(jnp.log(g)))))


def _log_half_normal(x: Array, sd: Any) -> Array:
    return 0.5 * jnp.log(2 / jnp.pi) - jnp.log(sd) - 0.5 * (x / sd) ** 2


PRIORS: dict[str, Callable[[int, Prior], Slots]] = {
    "csp": csp,
    "exponential": exponential,
    "half_normal": half_normal,
    "horseshoe": horseshoe,
    "multiplicative_gamma": multiplicative_gamma,
}


def slots(name: str, H: int, prior: Prior) -> Slots:
    """Sample the hyperparameters of a prior by its name.

    Raises:
        LorankError: if no prior has the name.

    Example:
        >>> with numpyro.handlers.seed(rng_seed=0):
        ...     slots("horseshoe", 2, Prior()).log_odds is None
        True
    """
    if name not in PRIORS:
        raise unknown("prior", name, PRIORS)
    return PRIORS[name](H, prior)


def order_penalty(x: Array, width: float) -> Array:
    """``−½·Σ_h max(0, x_{h+1} − x_h)² / width²``: keeps slots in falling order, softly.

    Without it slots exchange their labels, and the weights of the first ones say nothing.

    Example:
        >>> float(order_penalty(jnp.array([2.0, 1.0]), 0.05))
        -0.0
    """
    return -0.5 * jnp.sum((jax.nn.relu(jnp.diff(x)) / width) ** 2)
