"""Cap the singular values of a convolution as an operator, with the least change of its kernel."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.convolution.blocks import Numbers, kernel_blocks
from lorank.linalg.convolution.norms import gram
from lorank.linalg.precision import exact
from lorank.linalg.svd import working_dtype

DENSITY = 6
"""Points of the grid for each tap after the first, where singular values are capped."""


class Capped(NamedTuple):
    """A kernel whose symbol is nearly capped on a grid, and the rounds that it took."""

    weight: Tensor
    rounds: int


def cap_kernel(
    weight: Tensor,
    target: float,
    *,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    groups: int = 1,
    padding: str | Numbers = "zeros",
    rounds: int = 30,
    excess: float = 5e-3,
) -> Capped:
    """Cap the symbol's singular values on a grid, and cut the kernel back to its taps, repeatedly.

    Capping spreads a kernel over the whole grid, and cutting it back undoes part of the cap: one
    round leaves far more than the target. Both sets are convex, and Dykstra's alternation goes to
    the point of both that is nearest to the kernel in the Frobenius norm. What is left above the
    target, off the grid and on it, is for the caller to scale away by a certified bound.

    Args:
        weight: as :func:`lorank.linalg.norm_bracket` takes it.
        target: the cap.
        stride: of each axis; the strided operator is capped.
        dilation: of each axis.
        groups: number of groups.
        padding: refused where it copies pixels.
        rounds: at most so many.
        excess: end where the grid's largest value is below ``target·(1 + excess)``.

    Returns:
        A kernel of the weight's shape, in float32 at least, without gradient.

    Raises:
        LorankError: if the target is not above zero, the rounds are negative, or as
            :func:`lorank.linalg.norm_bracket`.

    Cost: an eigendecomposition of the smaller channel count a round for each frequency of half the
    grid whose symbol is above the target. Source: the capping of Sedghi, Gupta and Long, 2019;
    Boyle and Dykstra, 1986, for the alternation.

    Example:
        >>> from lorank.linalg import norm_bracket
        >>> box = torch.ones(1, 1, 3, 3)
        >>> capped = cap_kernel(box, 6.0).weight
        >>> norm_bracket(box).lower > 8.99, norm_bracket(capped).upper < 6.6
        (True, True)
    """
    if not 0 < target < math.inf:
        raise LorankError(f"a cap of singular values is finite and above zero, found {target!r}")
    if rounds < 0:
        raise LorankError(f"a number of rounds is at least 0, found {rounds!r}")
    settings = {"stride": stride, "dilation": dilation, "groups": groups, "padding": padding}
    W = weight.detach().to(working_dtype(weight.dtype))
    with torch.no_grad(), exact(W.device):
        blocks = kernel_blocks(W, **settings)
        # Each place of the blocks holds one weight, or a zero of the polyphase's filling.
        order = torch.arange(1, W.numel() + 1, dtype=torch.float64, device=W.device)
        places = kernel_blocks(order.reshape(W.shape), **settings).long()
        found, count = _alternate(blocks, places > 0, target, rounds, excess)
        flat = torch.empty_like(W).flatten()
        flat[places[places > 0] - 1] = found[places > 0]
        return Capped(flat.reshape(W.shape), count)


def _alternate(
    blocks: Tensor, used: Tensor, target: float, rounds: int, excess: float
) -> tuple[Tensor, int]:
    """Dykstra's alternation; the cut is linear, so only the cap is corrected."""
    kernel = blocks.shape[3:]
    sizes = [DENSITY * (k - 1) if k > 1 else 1 for k in kernel]
    axes = list(range(3, blocks.ndim))
    kept = (..., *(slice(k) for k in kernel))
    correction = torch.zeros((), dtype=blocks.dtype, device=blocks.device)
    for done in range(rounds):
        F = torch.fft.rfftn(blocks, s=sizes, dim=axes)
        if done and not _exceeds(_matrices(F), target * (1 + excess)).any():
            return blocks, done
        wanted = F + correction
        capped = _capped(wanted, target)
        correction = wanted - capped
        blocks = torch.fft.irfftn(capped, s=sizes, dim=axes)[kept] * used
    return blocks, rounds


def _exceeds(A: Tensor, target: float) -> Tensor:
    """Which matrices have a norm above a number: those whose gap has no Cholesky factor."""
    G = gram(A)
    eye = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    return torch.linalg.cholesky_ex(target**2 * eye - G).info != 0


def _matrices(F: Tensor) -> Tensor:
    """``(groups, out, in, *frequencies)`` as matrices, the smaller side first."""
    A = F.flatten(3).movedim(3, 1)
    return A if A.shape[-2] <= A.shape[-1] else A.mT


def _capped(F: Tensor, target: float) -> Tensor:
    """``min(σ, target)`` at every frequency, ``F − W·(1 − min(1, target/σ))·W*·F``."""
    A = _matrices(F).clone()
    high = _exceeds(A, target)
    above = A[high]
    squared, W = torch.linalg.eigh(gram(above))
    tiny = torch.finfo(squared.dtype).tiny
    share = (target / squared.clamp_min(tiny).sqrt()).clamp_max(1)
    A[high] = above - W @ ((1 - share).unsqueeze(-1) * (W.mH @ above))
    A = A if F.shape[1] <= F.shape[2] else A.mT
    return A.movedim(1, 3).unflatten(3, F.shape[3:])
