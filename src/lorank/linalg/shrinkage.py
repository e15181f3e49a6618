"""Singular values in white noise: what the noise does to them, and the best way back."""

import math

import torch
from torch import Tensor

from lorank.errors import LorankError

HUGE = 1e70


def marchenko_pastur_median(beta: float) -> float:
    """Median μ_β of the Marchenko-Pastur law with unit variance.

    The law has density ``√((b−t)(t−a)) / (2πβt)`` on ``[a, b] = [(1−√β)², (1+√β)²]``. With
    ``q = √β`` and ``t = 1 + β − 2q·cos θ`` its distribution function is elementary,
    ``F(θ) = (θ + sin θ / q − φ·(1 − q²)/q²) / π``, ``φ = atan2(q·sin θ, 1 − q·cos θ)``, and is
    solved for one half by bisection.

    Args:
        beta: aspect ratio m/n in (0, 1].

    Returns:
        The median, exact to about 1e-15/β.

    Source: Marchenko and Pastur, 1967; the closed form follows from the Fourier series of
    ``sin θ / (1 + q² − 2q·cos θ)``.

    Example:
        >>> round(marchenko_pastur_median(1.0), 4)
        0.6528
    """
    q = math.sqrt(beta)
    low, high = 0.0, math.pi
    for _ in range(60):
        theta = (low + high) / 2
        low, high = (theta, high) if _below(theta, q) < 0.5 else (low, theta)
    return 1 + beta - 2 * q * math.cos((low + high) / 2)


def _below(theta: float, q: float) -> float:
    phi = math.atan2(q * math.sin(theta), 1 - q * math.cos(theta))
    return (theta + math.sin(theta) / q - phi * (1 - q * q) / (q * q)) / math.pi


def median_noise(s: Tensor, shape: tuple[int, int]) -> float:
    """Noise level read off the middle singular value: ``σ = median(s) / √(n·μ_β)``.

    Right where more than half of the values are noise; biased upwards by what the signal pushes
    out of the middle, ``rank/m`` above a tenth.

    Args:
        s: all ``min(shape)`` singular values, descending.
        shape: rows and columns of the matrix, in either order.

    Returns:
        The standard deviation of the noise in one entry; 0 where half of the values are 0.

    Source: Gavish and Donoho, The optimal hard threshold for singular values is 4/√3, IEEE
    Transactions on Information Theory, 2014, equation 17.

    Example:
        >>> round(median_noise(torch.tensor([9.0, 1.0, 1.0, 0.5]), (4, 4)), 3)
        0.619
    """
    m, n = sorted(shape)
    middle = float(s[(len(s) - 1) // 2] + s[len(s) // 2]) / 2
    return middle / math.sqrt(n * marchenko_pastur_median(m / n))


def detection_edge(shape: tuple[int, int], noise: float = 1.0) -> float:
    """Smallest singular value of a signal that leaves a trace in the spectrum: ``σ·(mn)^¼``.

    Below it the noise swallows the component: the observed spectrum looks the same without it,
    up to terms that vanish with the size.

    Args:
        shape: rows and columns of the matrix.
        noise: standard deviation σ of the noise in one entry.

    Returns:
        The edge, in the units of the singular values.

    Source: Benaych-Georges and Nadakuditi, The singular values and vectors of low rank
    perturbations of large rectangular random matrices, Journal of Multivariate Analysis, 2012.

    Example:
        >>> detection_edge((16, 81), noise=2.0)
        12.0
    """
    m, n = shape
    return noise * math.sqrt(math.sqrt(m * n))


def denoised_value(
    y: Tensor, shape: tuple[Tensor | int, Tensor | int], noise: Tensor | float
) -> Tensor:
    """Singular value of the signal behind an observed one; 0 inside the bulk of the noise.

    ``d² = (t + √(t² − 4mnσ⁴))/2`` with ``t = y² − (m + n)σ²``, the inverse of
    ``y² = (d² + mσ²)(d² + nσ²)/d²``, which holds for ``d`` above :func:`detection_edge`.

    Args:
        y: observed singular values, any shape.
        shape: rows and columns of the matrix; tensors broadcast against ``y``.
        noise: standard deviation σ of the noise in one entry.

    Returns:
        The values ``d``, with the shape of the inputs together.

    Source: Benaych-Georges and Nadakuditi, 2012.

    Example:
        >>> denoised_value(torch.tensor([5.0, 3.9]), (4, 4), 1.0)
        tensor([4., 0.])
    """
    m, n = shape
    variance = noise * noise
    t = y * y - (m + n) * variance
    root = (t * t - 4 * m * n * variance * variance).clamp_min(0).sqrt()
    bulk = 2 * (m * n) ** 0.5 * variance
    return torch.where(t >= bulk, ((t + root) / 2).clamp_min(0).sqrt(), torch.zeros_like(root))


def shrink(s: Tensor, shape: tuple[int, int], noise: float) -> Tensor:
    """Singular values shrunk so that the Frobenius error is asymptotically the smallest.

    ``η(y) = √((y² − (m + n)σ²)² − 4mnσ⁴) / y`` above the bulk, 0 inside it: each observed value
    times the share of it that its direction still carries.

    Args:
        s: singular values, any shape.
        shape: rows and columns of the matrix, in either order.
        noise: standard deviation σ of the noise in one entry.

    Returns:
        Shrunk values, shape of ``s``.

    Raises:
        LorankError: if ``noise`` is negative or not finite.

    Source: Gavish and Donoho, Optimal shrinkage of singular values, IEEE Transactions on
    Information Theory, 2017, equation 7.

    Example:
        >>> shrink(torch.tensor([5.0, 3.9]), (4, 4), 1.0)
        tensor([3., 0.])
    """
    if not 0 <= noise < math.inf:
        raise LorankError(f"noise is a standard deviation of at least 0, found {noise!r}")
    if noise > HUGE:  # its fourth power would leave the range of doubles
        return noise * shrink(s / noise, shape, 1.0)
    m, n = shape
    d = denoised_value(s, shape, noise)
    # The form y·(1 − …) of the equation with d in it: no difference of large squares is left.
    kept = (d**4 - m * n * noise**4).clamp_min(0) / d.square().clamp_min(torch.finfo(s.dtype).tiny)
    return torch.where(d > 0, kept / s.clamp_min(torch.finfo(s.dtype).tiny), 0.0)
