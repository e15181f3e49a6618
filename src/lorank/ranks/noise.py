"""The rule that calls small singular values noise: the optimal hard threshold."""

import math
from collections.abc import Mapping

from torch import Tensor

from lorank.errors import LorankError
from lorank.ranks.per_layer import by_group, per_layer
from lorank.ranks.spectrum import Spectrum


def gavish_donoho(
    spectra: Mapping[str, Spectrum], noise: float | None = None, *, multiple: int = 1
) -> dict[str, int]:
    """Optimal hard threshold for a low-rank matrix in white noise.

    ``r = #{i : sᵢ > τ}`` with ``τ = λ*(β)·√n·σ`` where the noise level is known, and
    ``τ = ω(β)·median(s)``, ``ω(β) = λ*(β)/√μ_β`` where it is not; ``β = m/n ≤ 1`` is the aspect
    ratio and ``μ_β`` the median of the Marchenko-Pastur law. Asymptotically no other threshold
    has a smaller error. More than half of the values must be noise for the median to see it.
    Groups are judged one by one, and the largest count is taken.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        noise: standard deviation σ of the noise in one entry, ``None`` to estimate it.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if ``noise`` is not positive, or the spectra are empty or not finite.

    Cost: ``O(r)`` per group. Source: Gavish and Donoho, The optimal hard threshold for singular
    values is 4/√3, IEEE Transactions on Information Theory, 2014.

    Example:
        >>> import torch
        >>> from lorank.ranks import Price, Spectrum
        >>> s = torch.tensor([9.0, 7.0, 1.0, 1.0, 1.0, 0.5])
        >>> gavish_donoho({"fc": Spectrum(s, (6, 6), "channel", Price(36, 12))})
        {'fc': 2}
    """
    if noise is not None and not 0 < noise < math.inf:
        raise LorankError(f"noise is a positive standard deviation, found {noise!r}")
    return per_layer(spectra, lambda layer: _signals(layer, noise), multiple)


def _signals(layer: Spectrum, noise: float | None) -> int:
    m, n = sorted(layer.shape)
    lam = hard_threshold(m / n)
    if noise is not None:
        return max(int((s > lam * math.sqrt(n) * noise).sum()) for s in by_group(layer))
    omega = lam / math.sqrt(marchenko_pastur_median(m / n))
    return max(int((s > omega * _median(s)).sum()) for s in by_group(layer))


def _median(s: Tensor) -> float:
    return float(s[(len(s) - 1) // 2] + s[len(s) // 2]) / 2


def hard_threshold(beta: float) -> float:
    """Optimal hard threshold λ*(β) in units of ``√n·σ``.

    ``λ*(β)² = 2(β+1) + 8β / (β + 1 + √(β² + 14β + 1))``.

    Args:
        beta: aspect ratio m/n in (0, 1].

    Returns:
        4/√3 for a square matrix.

    Source: Gavish and Donoho, 2014, equation 11.

    Example:
        >>> round(hard_threshold(1.0) * 3**0.5, 12)
        4.0
    """
    root = math.sqrt(beta * beta + 14 * beta + 1)
    return math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + root))


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
