"""Orthonormal columns from free ones: exact, uniform, with a derivative that is safe at ties."""

import math

import numpy as np
import pytest
import torch

import tolerance

jax = pytest.importorskip("jax", reason="the samplers need the extra 'bayes'")
jnp = jax.numpy

from lorank.bayes.stiefel import inverse_root, polar, qr  # noqa: E402  (after the skip)

MAPS = {"polar": polar, "qr": qr}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def free(rows: int, columns: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, columns)))


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", [(5, 2), (30, 8), (9, 8)])
def test_columns_are_orthonormal(name, shape):
    X = free(*shape)
    U = MAPS[name](X, X.T @ X)
    # The Gram matrix is formed, so the error grows with its condition number, at most.
    condition = float(np.linalg.cond(X)) ** 2
    bound = tolerance.orthonormal(shape[0], torch.float64) * condition
    assert float(jnp.abs(U.T @ U - jnp.eye(shape[1])).max()) < bound


@pytest.mark.parametrize("name", MAPS)
def test_the_span_is_kept(name):
    X = free(7, 3)
    U = MAPS[name](X, X.T @ X)
    rest = X - U @ (U.T @ X)
    assert float(jnp.abs(rest).max()) < tolerance.product(7, torch.float64) * np.linalg.cond(X) ** 2


@pytest.mark.parametrize("name", MAPS)
def test_leading_rows_follow_from_the_gram_of_all(name):
    X = free(9, 3)
    whole, part = MAPS[name](X, X.T @ X), MAPS[name](X[:4], X.T @ X)
    np.testing.assert_allclose(whole[:4], part, atol=1e-14)


@pytest.mark.parametrize("name", MAPS)
def test_normal_numbers_give_the_uniform_law(name):
    """For U uniform ``E u₁₁² = 1/m`` and ``E u₁₁⁴ = 3/(m(m+2))`` (Beta(½, (m−1)/2) moments)."""
    m, draws = 6, 20_000
    X = jnp.asarray(np.random.default_rng(1).normal(size=(draws, m, 2)))
    U = np.asarray(jax.vmap(lambda A: MAPS[name](A, A.T @ A))(X))
    square, fourth = 1 / m, 3 / (m * (m + 2))
    error = 5 * math.sqrt((fourth - square**2) / draws)  # five standard errors
    assert np.abs((U**2).mean(0) - square).max() < error
    # A negative control: dividing columns by their norms gives unit columns, not orthonormal ones.
    norms = np.linalg.norm(np.asarray(X), axis=1, keepdims=True)
    cross = np.einsum("dm,dm->d", *np.moveaxis(np.asarray(X) / norms, -1, 0))
    assert np.abs(cross).mean() > 0.1
    assert np.abs(np.einsum("dm,dm->d", U[..., 0], U[..., 1])).max() < 1e-9


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("start", ["random", "orthonormal"])
def test_derivative_is_that_of_differences(name, start):
    X = free(6, 3) if start == "random" else jnp.eye(6)[:, :3] * 2.0
    along, weight = free(6, 3, 1), free(6, 3, 2)

    def value(A):
        return jnp.sum(weight * MAPS[name](A, A.T @ A))

    h = 1e-5
    difference = (value(X + h * along) - value(X - h * along)) / (2 * h)
    slope = jnp.sum(jax.grad(value)(X) * along)
    # central differences: h²·(third derivative, O(1)) + eps/h
    assert abs(float(difference - slope)) < 100 * (h**2 + np.finfo(float).eps / h)


def test_eigenvectors_alone_fail_at_ties():
    """The negative control of the custom derivative."""

    def plain(G):
        eigenvalues, Q = jnp.linalg.eigh(G)
        return ((Q / jnp.sqrt(eigenvalues)) @ Q.T)[0, 1]

    G = 4 * jnp.eye(3)
    assert not np.isfinite(jax.grad(plain)(G)).all()
    assert np.isfinite(jax.grad(lambda A: inverse_root(A)[0, 1])(G)).all()


def test_inverse_root():
    X = free(8, 4)
    G = X.T @ X
    R = inverse_root(G)
    bound = tolerance.product(4, torch.float64) * float(np.linalg.cond(G))
    np.testing.assert_allclose(R @ G @ R, np.eye(4), atol=bound)
