"""Draws of a direction from the von Mises-Fisher law, many at a time."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(kappa: Array, size: int, generator: np.random.Generator) -> Array:
    """Draw ``w = fᵀx`` for a unit x with density ``∝ exp(κ·fᵀx)``, f a unit vector.

    ``p(w) ∝ (1 − w²)^{(p−3)/2}·e^{κw}``, by Wood's rejection from a transformed beta law.

    Args:
        kappa: concentrations ≥ 0, any shape.
        size: p ≥ 2, the dimension of the space.
        generator: source of random numbers.

    Returns:
        Cosines with the shape of ``kappa``.

    Cost: about 1.5 tries a draw whatever κ is. Source: Wood, Simulation of the von Mises Fisher
    distribution, 1994.

    Example:
        >>> float(cosine(np.array([1e6]), 5, np.random.default_rng(0))[0]) > 0.99
        True
    """
    p = size - 1
    b = p / (2 * kappa + np.sqrt(4 * kappa**2 + p * p))
    centre = (1 - b) / (1 + b)
    c = kappa * centre + p * np.log1p(-centre * centre)
    w, waiting = np.empty_like(kappa), np.ones(kappa.shape, bool)
    while waiting.any():
        k, b_, centre_, c_ = (array[waiting] for array in (kappa, b, centre, c))
        z = generator.beta(p / 2, p / 2, k.shape)
        tried = (1 - (1 + b_) * z) / (1 - (1 - b_) * z)
        log_ratio = k * tried + p * np.log1p(-centre_ * tried) - c_
        taken = log_ratio >= np.log1p(-generator.random(k.shape))
        place = np.flatnonzero(waiting)[taken]
        w.flat[place] = tried[taken]
        waiting.flat[place] = False
    return w


def beside(f: Array, others: Array, generator: np.random.Generator) -> Array:
    """Draw unit vectors with density ``∝ exp(fᵀx)`` among those orthogonal to given columns.

    Args:
        f: ``(B, k)``, parameters; only their part orthogonal to ``others`` counts.
        others: ``(B, k, c)``, orthonormal columns, ``c ≤ k − 2``.
        generator: source of random numbers.

    Returns:
        ``(B, k)``.

    Cost: ``O(B·k·c)``. Source: Hoff, Simulation of the matrix Bingham-von Mises-Fisher
    distribution, 2009, for the column-by-column scheme.

    Example:
        >>> x = beside(np.ones((1, 4)), np.eye(4)[None, :, :1], np.random.default_rng(0))
        >>> abs(float(x[0, 0])) < 1e-12
        True
    """
    f = _outside(f, others)
    kappa = np.linalg.norm(f, axis=-1)
    mean = f / np.maximum(kappa, 1e-300)[:, None]
    tangent = _outside(generator.standard_normal(f.shape), others)
    tangent -= (tangent * mean).sum(-1, keepdims=True) * mean
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    w = cosine(kappa, f.shape[-1] - others.shape[-1], generator)[:, None]
    x = w * mean + np.sqrt(np.maximum(1 - w * w, 0)) * tangent
    x = _outside(x, others)  # rounding would add up over sweeps
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _outside(x: Array, others: Array) -> Array:
    for _ in range(2):
        x = x - (others @ (np.swapaxes(others, -1, -2) @ x[..., None]))[..., 0]
    return x
