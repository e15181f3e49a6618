"""Upper bounds of a convolution's norm from its taps alone, without frequencies.

Computed in float64: sums over a million weights leave no rounding to speak of, and the bounds cost
little in any precision.
"""

import math

import torch
from torch import Tensor

from lorank.linalg.convolution.bounds_grid import subsets
from lorank.linalg.convolution.norms import largest

ROUNDING = 1 + 2.0**-30
"""Above all that these sums and products lose in float64, up to a hundred million weights."""


def frobenius(blocks: Tensor) -> Tensor:
    """``√T·‖K‖_F`` with T taps: triangle and Cauchy–Schwarz inequality over the taps.

    Example:
        >>> frobenius(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    squared = blocks.double().flatten(1).square().sum(1)
    root = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
    return math.sqrt(_taps(blocks)) * root * ROUNDING


def schur(blocks: Tensor) -> Tensor:
    """``√(‖A‖_1·‖A‖_∞)`` with ``A = Σ_p |K_p|``, which dominates every symbol entrywise.

    Source: Schur's test.

    Example:
        >>> schur(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    A = _absolute(blocks)
    product = A.sum(1).amax(1) * A.sum(2).amax(1)
    return product.clamp_min(torch.finfo(product.dtype).tiny).sqrt() * ROUNDING


def absolute(blocks: Tensor) -> Tensor:
    """``‖Σ_p |K_p|‖``: at most :func:`schur`.

    Example:
        >>> absolute(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    return largest(_absolute(blocks)) * ROUNDING


def taps(blocks: Tensor) -> Tensor:
    """``Σ_p ‖K_p‖``: the triangle inequality.

    Example:
        >>> taps(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    return largest(blocks.double().flatten(3).movedim(3, 1)).sum(1) * ROUNDING


def unfoldings(blocks: Tensor) -> Tensor:
    """``√T·min ‖unfolding‖`` over the ways to give each kernel axis to the rows or the columns.

    The symbol is an unfolding between unit vectors times √T. Images have four unfoldings; their
    norms are computed to the end here, where the published code iterates and may stop below.

    Cost: an eigenvalue problem of the smaller side of each unfolding. Source: Singla and Feizi,
    Fantastic Four: Differentiable and Efficient Bounds on Singular Values of Convolution Layers,
    ICLR 2021.

    Example:
        >>> unfoldings(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    K = blocks.double()
    axes = range(3, K.ndim)
    norms = []
    for rows in subsets(list(axes)):
        columns = [a for a in axes if a not in rows]
        flat = K.permute(0, 1, *rows, 2, *columns).flatten(1, 1 + len(rows)).flatten(2)
        norms.append(largest(flat))
    return math.sqrt(_taps(blocks)) * torch.stack(norms).amin(0) * ROUNDING


def gram_kernel(blocks: Tensor, steps: int = 3) -> Tensor:
    """Gram iteration on the kernel itself: ``‖K‖^{2^t} ≤ max_row Σ |(K*·K)^{2^{t−1}}|``.

    The kernel's autocorrelation, t times, has ``2^t·(k−1) + 1`` taps an axis. It is computed by a
    transform of just that length, so that nothing wraps around, and judged by its rows' sums.
    Needs no grid factor; ``"gram"``, on a grid, is closer for its price.

    Cost: ``t·Π(2^t·(k−1)+1)/2`` products, all held at once. Source: Delattre, Barthélemy and
    Allauzen, Spectral Norm of Convolutional Layers with Circular and Zero Paddings, 2024, in
    another order of computation.

    Example:
        >>> gram_kernel(torch.ones(1, 1, 1, 3, 3)).item().__round__(6)
        9.0
    """
    K = blocks.double()
    wide = [2**steps * (k - 1) + 1 for k in K.shape[3:]]
    axes = list(range(3, K.ndim))
    X = torch.fft.rfftn(K, s=wide, dim=axes).flatten(3).movedim(3, 1)
    X = X if X.shape[-2] <= X.shape[-1] else X.mT
    logarithm = X.new_zeros(len(X), dtype=K.dtype)
    for _ in range(steps):
        scale = X.detach().abs().square().sum((2, 3)).amax(1).sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        X = X / scale[:, None, None, None]
        logarithm = 2 * (logarithm + scale.log())
        X = X @ X.mH
    half = [*wide[:-1], wide[-1] // 2 + 1]
    power = torch.fft.irfftn(X.movedim(1, 3).unflatten(3, half), s=wide, dim=axes)
    # What the transforms round, at most a few dozen eps of the whole in each entry.
    room = power.shape[2] * math.prod(wide) * 64 * torch.finfo(K.dtype).eps
    norm = power.abs().flatten(2).sum(2).amax(1) + room
    zero = K.detach().flatten(1).abs().amax(1) == 0
    return torch.where(zero, 0.0, ((norm.log() + logarithm) / 2**steps).exp()) * ROUNDING


def _taps(blocks: Tensor) -> int:
    return math.prod(blocks.shape[3:])


def _absolute(blocks: Tensor) -> Tensor:
    return blocks.double().abs().flatten(3).sum(3)
