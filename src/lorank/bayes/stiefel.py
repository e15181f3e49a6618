"""Orthonormal columns from free ones, so that standard normal numbers give the uniform law."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.custom_jvp
def inverse_root(G: Array) -> Array:
    """``G^{−½}`` of a positive definite matrix, with a derivative that is safe at ties.

    With ``G = Q·diag(s²)·Qᵀ`` the differential is ``Q·(K ∘ QᵀdG·Q)·Qᵀ``,
    ``K_ij = −1/(s_i·s_j·(s_i + s_j))``: no difference of eigenvalues is divided by, as the
    derivative of the eigenvectors alone would.

    Args:
        G: ``(H, H)``.

    Returns:
        ``(H, H)``.

    Cost: ``O(H³)``. Source: Higham, Functions of Matrices, 2008, theorem 3.11.

    Example:
        >>> inverse_root(4 * jnp.eye(2)).tolist()
        [[0.5, 0.0], [0.0, 0.5]]
    """
    s, Q = _roots(G)
    return (Q / s) @ Q.T


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (G,), (dG,) = primals, tangents
    s, Q = _roots(G)
    K = -1 / (s[:, None] * s[None, :] * (s[:, None] + s[None, :]))
    return (Q / s) @ Q.T, Q @ (K * (Q.T @ dG @ Q)) @ Q.T


def _roots(G: Array) -> tuple[Array, Array]:
    eigenvalues, Q = jnp.linalg.eigh(G)
    return jnp.sqrt(eigenvalues), Q


def polar(X: Array, gram: Array) -> Array:
    """``U = X·(XᵀX)^{−½}``, the nearest matrix with orthonormal columns.

    Args:
        X: ``(k, H)``, all rows, or the leading rows of a taller matrix.
        gram: ``(H, H)``, ``XᵀX`` over all rows.

    Returns:
        ``(k, H)``: the same rows of U. Uniform where X is standard normal.

    Source: Jauch, Hoff and Dunson, Monte Carlo simulation on the Stiefel manifold via polar
    expansion, 2019.

    Example:
        >>> X = jnp.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> polar(X, X.T @ X).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    return X @ inverse_root(gram)


def qr(X: Array, gram: Array) -> Array:
    """``U = X·L^{−T}`` with ``XᵀX = L·Lᵀ``: columns made orthonormal one after the other.

    The first column depends on no other one, and the derivative is smooth.

    Args:
        X: ``(k, H)``, all rows, or the leading rows of a taller matrix.
        gram: ``(H, H)``, ``XᵀX`` over all rows.

    Returns:
        ``(k, H)``: the same rows of U. Uniform where X is standard normal.

    Example:
        >>> X = jnp.array([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> qr(X, X.T @ X).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    L = jnp.linalg.cholesky(gram)
    return jax.scipy.linalg.solve_triangular(L, X.T, lower=True).T
