"""Priors of singular values: densities that integrate to one, weights that do not underflow."""

import numpy as np
import pytest
from scipy import integrate, stats

numpyro = pytest.importorskip("numpyro", reason="the samplers need the extra 'bayes'")
jax = pytest.importorskip("jax")
jnp = jax.numpy

from lorank.bayes.nuts import PARAMETRISATIONS, PRIOR_NAMES  # noqa: E402
from lorank.bayes.prior import Prior  # noqa: E402
from lorank.errors import LorankError  # noqa: E402

PLAIN = Prior(shifted=False, nothing=0.0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def made(name: str, H: int, seed: int = 0, constants: Prior = PLAIN):
    from lorank.bayes.priors import slots

    with numpyro.handlers.seed(rng_seed=seed), numpyro.handlers.trace() as trace:
        found = slots(name, H, constants)
    return found, {key: site["value"] for key, site in trace.items()}


def test_the_names_are_those_of_the_table():
    from lorank.bayes.model import FORMS
    from lorank.bayes.priors import PRIORS

    assert set(PRIORS) == set(PRIOR_NAMES)
    assert set(FORMS) == set(PARAMETRISATIONS)


@pytest.mark.parametrize("name", PRIOR_NAMES)
def test_densities_integrate_to_one(name):
    """x = eʸ; what lies outside e^±40 is below 1e-12 for every prior (Lomax tail 1/x)."""
    slots, _ = made(name, 3)
    y = np.linspace(-40, 40, 4001)[:, None]
    values = np.exp(np.asarray(slots.log_density(jnp.asarray(np.exp(y) * np.ones(3)))) + y)
    np.testing.assert_allclose(integrate.simpson(values, x=y[:, 0], axis=0), 1, atol=1e-6)


def test_the_mixture_is_that_of_its_parts():
    slots, sites = made("csp", 4)
    off = np.cumprod(np.exp(-np.asarray(sites["stick"])))  # 1 − π_h, the slab's weight
    off = np.append(off, 0.0)
    x = np.array([0.01, 0.1, 1.0, 7.0])
    spike = stats.expon(scale=PLAIN.spike).pdf(x)
    slab = stats.lomax(PLAIN.shape, scale=PLAIN.scale).pdf(x)
    want = (1 - off) * spike + off * slab
    np.testing.assert_allclose(np.exp(slots.log_density(jnp.asarray(x))), want, rtol=1e-12)
    odds = np.asarray(slots.log_odds(jnp.asarray(x)))
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), off * slab / want, rtol=1e-12)


def test_weights_survive_where_their_product_underflows():
    from numpyro.handlers import seed, substitute

    from lorank.bayes.priors import csp

    with seed(rng_seed=0), substitute(data={"stick": jnp.full(9, 200.0)}):
        slots = csp(10, PLAIN)
    found = np.asarray(slots.log_density(jnp.full(10, 50.0)))
    assert np.isfinite(found).all()
    assert np.exp(-200.0 * 9) == 0  # the plain product is lost


def test_expected_number_of_slabs():
    """``α(1 − (α/(1+α))^{H−1})``; the count's variance is below H²/4, so five standard errors."""
    H, alpha, draws = 6, 5.0, 4000
    sticks = np.random.default_rng(0).exponential(1 / alpha, size=(draws, H - 1))
    counted = np.exp(-np.cumsum(sticks, 1)).sum(1)
    want = alpha * (1 - (alpha / (1 + alpha)) ** (H - 1))
    assert abs(counted.mean() - want) < 5 * counted.std() / np.sqrt(draws)


def test_the_order_penalty_sees_only_disorder():
    from lorank.bayes.priors import order_penalty

    assert float(order_penalty(jnp.array([3.0, 2.0, 2.0]), 0.05)) == 0
    assert float(order_penalty(jnp.array([2.0, 2.1]), 0.05)) == pytest.approx(-2.0)


@pytest.mark.parametrize("constants", [Prior(), Prior(shifted=False), Prior(nothing=0.0)])
def test_a_prior_with_a_step_is_refused(constants):
    with pytest.raises(LorankError, match="without steps"):
        made("csp", 3, constants=constants)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(LorankError, match="horseshoe"):
        made("horse", 3)
