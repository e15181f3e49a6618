"""The rule that asks a Bayesian model: variational matrix factorisation in closed form."""

import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lorank.ranks.per_layer import by_group, per_layer
from lorank.ranks.spectrum import Spectrum

GRID = 256
ZOOMS = 6


def evbmf(spectra: Mapping[str, Spectrum], *, multiple: int = 1) -> dict[str, int]:
    """Rank of the empirical variational Bayes matrix factorisation, noise level estimated.

    A singular value is kept where its posterior mean is not zero, ``s² > M·σ²·x̲``; the noise σ²
    minimises the free energy (:func:`noise_variance`). A matrix of pure noise has rank 0 by this
    rule, and gets 1. Groups are judged one by one, and the largest count is taken.

    Args:
        spectra: layer name → spectrum, values ``(r,)`` or ``(groups, r)``.
        multiple: ranks are rounded up to a multiple of it, never above full rank.

    Returns:
        Layer name → rank.

    Raises:
        LorankError: if the spectra are empty or not finite.

    Cost: ``O(500·r)`` per group. Source: Nakajima, Sugiyama, Babacan and Tomioka, Global analytic
    solution of fully-observed variational Bayesian matrix factorization, JMLR 14, 2013.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> s = torch.cat([torch.tensor([90.0, 70.0]), torch.linspace(2, 0.1, 18)])
        >>> evbmf({"fc": Spectrum(s, (20, 20), "channel", Price(400, 40))})
        {'fc': 2}
    """
    return per_layer(spectra, _signals, multiple)


def _signals(layer: Spectrum) -> int:
    L, M = sorted(layer.shape)
    return max(_count(s, L, M) for s in by_group(layer))


def _count(s: Tensor, L: int, M: int) -> int:
    # The rule does not depend on the scale of s; at s₁ = 1 no square under- or overflows.
    s = s / s[0].clamp_min(torch.finfo(s.dtype).tiny)
    cut = M * noise_variance(s, L, M) * detection_threshold(L / M)[1]
    return int((s.square() > cut).sum())


@functools.cache
def detection_threshold(alpha: float) -> tuple[float, float]:
    """Signal-to-noise ratio from which the model sees a component.

    ``Φ(τ̲) + Φ(τ̲/α) = 0`` with ``Φ(z) = log(1+z)/z − 1/2``, and ``x̲ = (1 + τ̲)(1 + α/τ̲)``. The
    root is found by bisection; ``τ̲ ≈ 2.5129·√α`` is its usual approximation.

    Args:
        alpha: aspect ratio L/M in (0, 1].

    Returns:
        ``τ̲`` and ``x̲``.

    Source: Nakajima et al., JMLR 14, 2013, theorem 2.

    Example:
        >>> [round(number, 4) for number in detection_threshold(1.0)]
        [2.5129, 4.9108]
    """

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    # Φ has its root at 2.5129…, so the sum changes sign between α and 1 times that.
    low, high = 2.5 * alpha, 2.52
    for _ in range(60):
        tau = math.sqrt(low * high)
        low, high = (tau, high) if phi(tau) + phi(tau / alpha) > 0 else (low, tau)
    return low, (1 + low) * (1 + alpha / low)


def noise_variance(s: Tensor, L: int, M: int) -> float:
    """Noise variance σ² that minimises the free energy of an L×M matrix, ``L ≤ M``.

    ``Ω(σ²) = Σ_h (x_h + log σ²) + Σ_{x_h > x̲} ψ₁(x_h)``, ``x_h = s_h²/(M·σ²)``,
    ``ψ₁(x) = log(τ+1) + α·log(τ/α+1) − τ``, ``τ(x) = (y + √(y² − 4α))/2``, ``y = x − (1+α)``.
    The function has several minima: a grid over the known bounds is zoomed around its best point.

    Args:
        s: singular values ``(L,)``, descending, float64, the largest about 1.
        L: the smaller dimension.
        M: the larger dimension.

    Returns:
        σ², to a relative 1e-8.

    Cost: ``O(500·L)``. Source: Nakajima et al., JMLR 14, 2013, theorem 3 and equation 19.

    Example:
        >>> s = torch.linspace(1, 0.1, 10, dtype=torch.float64)
        >>> noise_variance(s, 10, 20) <= float(s.square().mean()) / 20
        True
    """
    low, high = _bounds(s, L, M)
    best, points = high, GRID
    for _ in range(ZOOMS):
        grid = torch.linspace(math.log(low), math.log(high), points, dtype=s.dtype, device=s.device)
        at = int(free_energy(grid.exp(), s, L / M, M).argmin())
        best = math.exp(grid[at])
        low, high = math.exp(grid[max(at - 1, 0)]), math.exp(grid[min(at + 1, points - 1)])
        points = GRID // 4
    return best


def _bounds(s: Tensor, L: int, M: int) -> tuple[float, float]:
    h = math.ceil(L / (1 + L / M)) - 1
    energy = s.square()
    detected = float(energy[h]) / detection_threshold(L / M)[1]
    # An exactly low-rank matrix has no noise; rounding puts a floor under it.
    floor = torch.finfo(s.dtype).eps ** 2
    low = max(detected, float(energy[h:].mean()), floor) / M
    return low, max(low, float(energy.mean()) / M)


def free_energy(variance: Tensor, s: Tensor, alpha: float, M: int) -> Tensor:
    """Free energy Ω(σ²) of :func:`noise_variance` at each variance, up to a constant.

    Args:
        variance: ``(k,)``.
        s: singular values ``(L,)``.
        alpha: aspect ratio L/M.
        M: the larger dimension.

    Returns:
        ``(k,)``.

    Example:
        >>> free_energy(torch.tensor([1.0]), torch.zeros(2), 1.0, 2)
        tensor([0.])
    """
    x = s.square() / (M * variance[:, None])
    # ψ₁ is 0 at x̲ and counts only above it, so clamping to x̲ switches it off.
    y = x.clamp_min(detection_threshold(alpha)[1]) - (1 + alpha)
    tau = (y + (y.square() - 4 * alpha).sqrt()) / 2
    psi = (tau + 1).log() + alpha * (tau / alpha + 1).log() - tau
    psi = torch.where(x > detection_threshold(alpha)[1], psi, 0.0)
    return (x + psi).sum(1) + s.numel() * variance.log()
