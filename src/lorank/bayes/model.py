"""The posterior of a low-rank matrix in noise as a NumPyro model: polar, QR or relaxed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from lorank.bayes.prior import Prior
from lorank.bayes.priors import order_penalty, slots
from lorank.bayes.problem import Problem
from lorank.bayes.stiefel import polar, qr

FORMS = {"polar": polar, "qr": qr, "relaxed": None}
"""How U and V are made orthonormal: by a map, or by a penalty alone."""


@dataclass(frozen=True)
class Choices:
    """What a user chooses of the model.

    Attributes:
        prior: a key of ``PRIORS``.
        constants: constants of the CSP prior.
        form: a key of ``FORMS``.
        order: width of the soft order over the edge; 0 leaves the slots unordered.
        epsilon: width ε of the relaxed constraint.
        corrected: add ``−½(k − H − 1)·log|UᵀU|``, which takes away the relaxation's leading bias.
        noise: ``(a, b)`` of the inverse-gamma prior of σ² in the data's unit; ``(0, 0)`` is the
            scale-free ``p(σ) ∝ 1/σ``.
    """

    prior: str = "csp"
    constants: Prior = Prior(shifted=False, nothing=0.0)  # noqa: RUF009  (frozen)
    form: str = "polar"
    order: float = 0.05
    epsilon: float = 1e-3
    corrected: bool = False
    noise: tuple[float, float] = (0.0, 0.0)


def low_rank(problem: Problem, choices: Choices) -> Callable[[], None]:
    """Model of ``Y = U·diag(d)·Vᵀ + σE`` with ``d_h = σ·softplus(t_h)``.

    Sampled are t, log σ, and free matrices behind U and V. Sites to read: ``d``, ``sigma``,
    ``U (m, H)`` and ``V (m or n, H)``, and for CSP ``slab``, P(slab | d). U and V are in the
    singular basis of the data, of filled data where entries are missing.

    t makes the two scales of d one: below σ it is log d, where a spike is one unit wide; above it
    is d/σ, where the likelihood is. So a slot that is switched on or off meets no narrow place.

    With complete data the likelihood reads ``U`` and ``V`` by ``Σ_i y_i·U_ih·V_ih`` alone, and
    the rows of V that belong to no singular value enter by their Gram matrix, whose Bartlett
    factor is sampled in their place.

    Args:
        problem: the data.
        choices: prior and form.

    Returns:
        A NumPyro model without arguments.

    Cost: a gradient takes ``O((m + n)·H²)``, with missing entries ``O(mn·H)``.
    Source: Tanaka, Bayesian singular value regularization via a cumulative shrinkage process,
    2020, for the relaxed form; Jauch, Hoff and Dunson, 2019, for the polar one.

    Example:
        >>> from lorank.bayes.problem import prepare
        >>> problem, choices = prepare(np.random.default_rng(0).normal(size=(4, 6))), Choices()
        >>> with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.substitute(
        ...     data={"log_sigma": jnp.zeros(()), "t": jnp.zeros(3)}
        ... ):
        ...     low_rank(problem, choices)()
    """
    (m, n), H = problem.shape, problem.truncation
    Y, observed = jnp.asarray(problem.matrix), problem.observed
    y = jnp.diagonal(Y)
    square, count = float(np.sum(problem.matrix**2)), m * n if observed is None else observed.sum()
    left, right = jnp.asarray(problem.left), jnp.asarray(problem.right)
    a, b = problem.noise_prior(choices.noise)

    def model() -> None:
        U, V, norm = _directions(problem, choices)
        log_sigma = _free("log_sigma", ())
        t = _free("t", (H,))
        sigma, strength = jnp.exp(log_sigma), jax.nn.softplus(t)
        x = strength / problem.edge
        slot = slots(choices.prior, H, choices.constants)
        numpyro.factor("values", jnp.sum(slot.log_density(x) + jax.nn.log_sigmoid(t)))
        if choices.order:
            numpyro.factor("order", order_penalty(x, choices.order))
        if observed is not None:
            fit = (left @ (U * strength)) @ (right @ V).T
            misfit = jnp.sum(jnp.where(observed, Y / sigma - fit, 0.0) ** 2)
        else:
            cross = jnp.sum(y[:, None] * U * V[:m], 0) @ strength
            square_fit = jnp.sum(norm * jnp.outer(strength, strength))
            misfit = square / sigma**2 - 2 * cross / sigma + square_fit
        numpyro.factor("data", -count * log_sigma - 0.5 * misfit)
        numpyro.factor("noise", -2 * a * log_sigma - b / sigma**2)
        numpyro.deterministic("d", sigma * strength)
        numpyro.deterministic("sigma", sigma)
        numpyro.deterministic("U", U)
        numpyro.deterministic("V", V)
        if slot.log_odds is not None:
            numpyro.deterministic("slab", jax.nn.sigmoid(slot.log_odds(x)))

    return model


def _free(name: str, shape: tuple[int, ...]) -> Array:
    return numpyro.sample(name, dist.ImproperUniform(dist.constraints.real, (), shape))  # pyright: ignore


def _directions(problem: Problem, choices: Choices) -> tuple[Array, Array, Array]:
    """``U (m, H)``, ``V (m or n, H)`` and ``(UᵀU) ∘ (VᵀV)`` over all rows."""
    (m, n), H = problem.shape, problem.truncation
    make = FORMS[choices.form]
    if make is None:
        U, across = _relaxed("left", m, H, choices)
        V, along = _relaxed("right", n, H, choices)
        return U, V, across * along
    X, Z = _together(m, n, H)
    if problem.observed is None and n - m >= H:
        gram = Z.T @ Z + _wishart(n - m, H)
        return make(X, X.T @ X), make(Z, gram), jnp.eye(H)
    if n > m:
        Z = jnp.concatenate([Z, numpyro.sample("rest", dist.Normal().expand([n - m, H]))])
    return make(X, X.T @ X), make(Z, Z.T @ Z), jnp.eye(H)


def _together(m: int, n: int, H: int) -> tuple[Any, Any]:
    """Free matrices ``(m, H)`` behind U and the leading rows of V, by their sum and difference.

    In the singular basis two components of similar size turn easily into each other if U and V
    turn together, and hardly if one turns alone. Of X with norm √m and Z with norm √n the first
    is ``cos φ·X + sin φ·Z``, the second ``cos φ·Z − sin φ·X``: a rotation of independent standard
    normal numbers, which they stay, and by which a diagonal mass matrix tells loose from tight.
    """
    cos, sin = _mixing(m, n)
    both = numpyro.sample("sum", dist.Normal().expand([m, H]))
    one = numpyro.sample("difference", dist.Normal().expand([m, H]))
    return cos * both - sin * one, sin * both + cos * one


def _mixing(m: int, n: int) -> tuple[float, float]:
    return float(np.sqrt(m / (m + n))), float(np.sqrt(n / (m + n)))


def _wishart(rows: int, H: int) -> Array:
    """``ZᵀZ`` of a standard normal ``(rows, H)`` by its Bartlett factor."""
    squares = numpyro.sample("chi2", dist.Chi2(rows - jnp.arange(H)))
    below = numpyro.sample("below", dist.Normal().expand([H * (H - 1) // 2]))
    T = jnp.diag(jnp.sqrt(squares)).at[jnp.tril_indices(H, -1)].set(below)
    return T @ T.T


def _relaxed(name: str, rows: int, H: int, choices: Choices) -> tuple[Array, Array]:
    """A free matrix with the penalty ``‖UᵀU − I‖²/2ε`` and, if asked, the volume's correction."""
    U = _free(name, (rows, H))
    gram = U.T @ U
    numpyro.factor(
        f"{name}_orthonormal", -jnp.sum((gram - jnp.eye(H)) ** 2) / (2 * choices.epsilon)
    )
    if choices.corrected:
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(gram))))
        numpyro.factor(f"{name}_volume", -0.5 * (rows - H - 1) * log_det)
    return U, gram


def start(problem: Problem, choices: Choices, seed: int) -> dict[str, np.ndarray]:
    """Unconstrained values near the SVD to start a chain at.

    Args:
        problem: the data.
        choices: prior and form.
        seed: of the noise around the SVD; chains start apart.

    Returns:
        Site → value, for the sites whose start matters.

    Example:
        >>> from lorank.bayes.problem import prepare
        >>> problem = prepare(np.random.default_rng(0).normal(size=(4, 6)))
        >>> sorted(start(problem, Choices(), 0))
        ['difference', 'log_sigma', 'rest', 'sum', 't']
    """
    generator = np.random.default_rng(seed)
    m, n = problem.shape
    strength = problem.values / problem.noise
    t = np.log(np.expm1(np.minimum(strength, 30))) + np.maximum(strength - 30, 0)
    spread = 0.1 * generator.standard_normal(problem.truncation)
    begun = {"t": t + spread, "log_sigma": np.log(np.asarray(problem.noise))}
    H, relaxed = problem.truncation, FORMS[choices.form] is None
    U, V = (np.eye(k, H) + 0.3 / np.sqrt(k) * generator.standard_normal((k, H)) for k in (m, n))
    if relaxed:
        return {**begun, "left": _orthonormal(U), "right": _orthonormal(V)}
    X, Z, (cos, sin) = np.sqrt(m) * U, np.sqrt(n) * V, _mixing(m, n)
    begun |= {"sum": cos * X + sin * Z[:m], "difference": cos * Z[:m] - sin * X}
    summed = n == m or (problem.observed is None and n - m >= H)
    return begun if summed else {**begun, "rest": Z[m:]}


def _orthonormal(X: np.ndarray) -> np.ndarray:
    Q, R = np.linalg.qr(X)
    return Q * np.sign(np.diag(R))
