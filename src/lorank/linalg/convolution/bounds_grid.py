"""Upper bounds of a convolution's norm from its symbol on a grid of frequencies.

A trigonometric polynomial with frequencies in ``[−D, D]`` that reaches its largest modulus M at a
point is still at least ``M·cos(D·t)`` at a distance ``t ≤ π/D`` (M. Riesz; Duffin and Schaeffer).
For the singular vectors of the largest value ``u*·F(a)·v`` is one along each axis, with D half the
kernel's reach. Stepping along one axis after the other to the nearest of N equally spaced points,
at most ``π/N`` away,

    ``sup ‖F‖ ≤ max_grid ‖F‖ / Π_axes cos(π·D/N)``,

for every N above the reach ``k − 1``, wherever the grid begins, and whatever the image's size. No
smaller factor holds for all kernels.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorank.linalg.convolution.norms import (
    LARGEST_CHUNK,
    enclosed,
    gram_bound,
    largest,
    symbol_room,
    symbols_at,
)
from lorank.linalg.convolution.symbol import frequency_grid, symbol


def secant_grid(kernel: Sequence[int], density: int) -> tuple[Tensor, float]:
    """Frequencies between those of a transform of ``density·(k − 1)`` points, and the factor.

    Half a step away from zero, where trained layers have their peak: the grid then needs no
    frequency that is its own negative, and on a peak the maximum is smaller by up to the factor.

    Args:
        kernel: taps along each axis.
        density: points for each tap after the first.

    Returns:
        Angles ``(points, axes)``, and ``1 / Π cos(π·D/N)``: of 4 points a tap 1.082 an axis, of
        16 points 1.0048.

    Example:
        >>> angles, factor = secant_grid((3, 3), 4)
        >>> len(angles), round(factor, 4)
        (32, 1.1716)
    """
    sizes = [max(1, density * (k - 1)) for k in kernel]
    grid = frequency_grid(sizes, 0.5 if max(sizes) > 1 else 0.0)
    reach = math.pi / (2 * density)
    return grid.angles, math.cos(reach) ** -sum(k > 1 for k in kernel)


Enclosure = Callable[[Tensor], Tensor]
"""Matrices ``(…, m, n)`` → numbers at or above their norms."""


def grid_maximum(blocks: Tensor, density: int, above: Enclosure, exactly: Enclosure) -> Tensor:
    """Largest value over a grid times the factor, for each block; rounded up.

    Only the frequency where the maximum lies is differentiated.

    Args:
        blocks: ``(groups, out, in, *taps)``.
        density: as in :func:`secant_grid`.
        above: computed everywhere, without gradient.
        exactly: computed at the maximum, with gradient.
    """
    angles, factor = secant_grid(blocks.shape[3:], density)
    angles = angles.to(blocks.device)
    with torch.no_grad():
        chunk = max(1, LARGEST_CHUNK // math.prod(blocks.shape[:3]))
        values = torch.cat([above(symbol(blocks, part)) for part in angles.split(chunk)], dim=1)
        value, place = values.max(dim=1)
        value = (value + symbol_room(blocks)) * (factor * (1 + 8 * torch.finfo(value.dtype).eps))
    if not blocks.requires_grad:
        return value
    at = symbols_at(blocks, torch.arange(len(blocks), device=blocks.device), angles[place])
    return raised(exactly(at), value)


def raised(value: Tensor, to: Tensor) -> Tensor:
    """Return numbers with the gradient of others, in proportion.

    Example:
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> y = raised(x, torch.tensor(3.0))
        >>> float(y.detach()), float(torch.autograd.grad(y, x)[0])
        (3.0, 1.5)
    """
    safe = torch.where(value.detach() > 0, value.detach(), 1.0)
    return to + (value - value.detach()) * (to / safe)


def grid(blocks: Tensor, density: int = 4) -> Tensor:
    """Largest symbol norm on a grid times the secant factor: within 1.172 of the norm for images.

    Cost: ``4·(k−1)·2·(k−1)`` eigenvalue problems of the smaller channel count.

    Example:
        >>> round(grid(torch.ones(1, 1, 1, 3, 3)).item(), 2)  # the norm is 9
        9.5
    """
    return grid_maximum(blocks, density, lambda A: enclosed(A)[1], largest)


def gram(blocks: Tensor, density: int = 16, steps: int = 6) -> Tensor:
    """Gram iteration at each frequency of a grid, times the secant factor.

    Products of matrices alone, where :func:`grid` needs eigenvalues: the bound for accelerators.

    Cost: ``density²·(k−1)²/2·steps`` products. Source: Delattre et al., Efficient Bound of
    Lipschitz Constant for Convolutional Layers by Gram Iteration, ICML 2023; grid, factor and
    rounding are ours, and make it hold for every image size and for zero padding.

    Example:
        >>> round(gram(torch.ones(1, 1, 1, 3, 3)).item(), 2)
        9.03
    """

    def bound(A: Tensor) -> Tensor:
        return gram_bound(A, steps)

    return grid_maximum(blocks, density, bound, bound)


def half_flattened(blocks: Tensor, density: int = 16) -> Tensor:
    """Unfold all kernel axes but one, and take the symbol along that one.

    ``F = [Σ_p K_p1·e^{ipa} … Σ_p K_pw·e^{ipa}]·(e_b ⊗ I)`` with ``‖e_b‖ = √w``, or with the rest
    among the rows; the least of all ways. Between the unfoldings and the grid.

    Cost: ``density·(k−1)/2`` eigenvalue problems for each way, of which images have four.

    Example:
        >>> round(half_flattened(torch.ones(1, 1, 1, 3, 3)).item(), 2)
        9.01
    """
    axes = range(3, blocks.ndim)
    found = []
    for kept in axes:
        others = [a for a in axes if a != kept]
        root = math.sqrt(math.prod(blocks.shape[a] for a in others))
        for rows in subsets(others):
            columns = [a for a in others if a not in rows]
            flat = blocks.permute(0, 1, *rows, 2, *columns, kept)
            flat = flat.flatten(1, 1 + len(rows)).flatten(2, -2)
            found.append(root * grid(flat, density))
    return torch.stack(found).amin(0) * (1 + 4 * torch.finfo(blocks.dtype).eps)


def subsets(items: Sequence[int]) -> list[list[int]]:
    """Every choice of some of the items, with none and with all.

    Example:
        >>> subsets([3, 4])
        [[], [3], [4], [3, 4]]
    """
    sizes = range(len(items) + 1)
    return [list(c) for size in sizes for c in itertools.combinations(items, size)]
