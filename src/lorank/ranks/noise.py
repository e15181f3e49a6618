"""The rule that calls small singular values noise: the optimal hard threshold."""

import math
from collections.abc import Mapping
from numbers import Real

from lorank.errors import LorankError
from lorank.linalg.shrinkage import median_noise
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
    if noise is not None:
        check_noise(noise)
    return per_layer(spectra, lambda layer: _signals(layer, noise), multiple)


def _signals(layer: Spectrum, noise: float | None) -> int:
    m, n = sorted(layer.shape)
    lam = hard_threshold(m / n)
    if noise is not None:
        return max(int((s > lam * math.sqrt(n) * noise).sum()) for s in by_group(layer))
    omega = lam * math.sqrt(n)
    return max(int((s > omega * median_noise(s, (m, n))).sum()) for s in by_group(layer))


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


def check_noise(noise: float) -> None:
    """Insist on a noise level that is a number, positive and finite.

    Raises:
        LorankError: otherwise.

    Example:
        >>> check_noise(0.1)
    """
    real = isinstance(noise, Real) and not isinstance(noise, bool)
    if not (real and 0 < noise < math.inf):
        raise LorankError(f"noise is a positive standard deviation, found {noise!r}")
