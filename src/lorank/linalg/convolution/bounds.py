"""Upper bounds of the norm of a convolution as an operator, cheap and differentiable."""

from collections.abc import Callable

import torch
from torch import Tensor

from lorank.errors import unknown
from lorank.linalg.convolution import bounds_grid, bounds_taps
from lorank.linalg.convolution.blocks import Numbers, kernel_blocks, unit_scaled
from lorank.linalg.convolution.bounds_grid import raised
from lorank.linalg.convolution.bracket import norm_bracket
from lorank.linalg.convolution.norms import largest, symbols_at
from lorank.linalg.precision import exact


def refined(blocks: Tensor) -> Tensor:
    """Upper end of :func:`lorank.linalg.norm_bracket`, with the gradient of the norm itself.

    Example:
        >>> round(refined(torch.ones(1, 1, 1, 3, 3)).item(), 2)
        9.01
    """
    G, out = blocks.shape[:2]
    found = norm_bracket(blocks.detach().reshape(G * out, *blocks.shape[2:]), groups=G)
    upper = torch.tensor(found.upper, dtype=blocks.dtype, device=blocks.device)
    block = blocks[found.group].unsqueeze(0)
    frequency = found.frequency[None].to(blocks.device)
    return raised(largest(symbols_at(block, torch.zeros(1, dtype=torch.long), frequency)), upper)


BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "frobenius": bounds_taps.frobenius,
    "schur": bounds_taps.schur,
    "absolute": bounds_taps.absolute,
    "taps": bounds_taps.taps,
    "unfoldings": bounds_taps.unfoldings,
    "half_flattened": bounds_grid.half_flattened,
    "gram_kernel": bounds_taps.gram_kernel,
    "gram": bounds_grid.gram,
    "grid": bounds_grid.grid,
    "refined": refined,
}
"""Name → upper bound of the norms of blocks ``(groups, out, in, *taps)``; each is proven."""


def operator_norm_bound(
    weight: Tensor,
    method: str = "grid",
    *,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    groups: int = 1,
    padding: str | Numbers = "zeros",
) -> Tensor:
    """Upper bound of the largest singular value of a convolution, differentiable in its weight.

    It holds for images of every size, with zero, circular or no padding: all are bounded by the
    operator on the infinite grid. (With circular padding and a stride, where the stride divides
    the size; circular padding that adds more than the kernel's reach copies outputs.) It holds in
    floating point too: each bound leaves room for its own rounding.

    ==================  =======================================  ==========================
    method              what it takes                            above the norm by, usually
    ==================  =======================================  ==========================
    ``frobenius``       a sum                                    1.7 to 6 times
    ``schur``           sums                                     1.9 to 6 times
    ``absolute``        one eigenvalue problem                   1.3 to 5 times
    ``taps``            one for each tap                         1.05 to 4 times
    ``unfoldings``      four                                     1.1 to 1.9 times
    ``half_flattened``  64, of larger matrices                   1.06 to 1.4 times
    ``gram_kernel``     products of transforms                   1.05 to 1.2 times
    ``grid``            32 for 3×3 kernels                       at most 1.172 times
    ``gram``            512 times six products                   at most 1.01 times 1.02
    ``refined``         a few dozen to a few hundred             at most 1.001 times
    ==================  =======================================  ==========================

    Args:
        weight: ``(out, in/groups, *kernel)`` with one to three kernel axes, the weight of a
            transposed layer as torch stores it, or a linear layer's matrix; any float dtype.
        method: a key of :data:`BOUNDS`.
        stride: of each axis; the bound is that of the strided layer.
        dilation: of each axis.
        groups: number of groups; the bound is the largest of theirs.
        padding: ``"zeros"``, ``"circular"``, ``"valid"`` or numbers; a bound does not depend on it.

    Returns:
        A scalar in float32 or, for a float64 weight, float64. Its gradient is that of the bound at
        the frequency where it is largest; ``refined`` has the gradient of the norm itself.

    Raises:
        LorankError: if the method is unknown, the weight is no kernel of finite real floats, a
            number is out of range, or the padding is reflect or replicate.

    Example:
        >>> weight = torch.ones(1, 1, 3, 3, requires_grad=True)  # norm 9; reshaped, 3
        >>> bound = operator_norm_bound(weight)
        >>> round(bound.item(), 2), bound.requires_grad
        (9.5, True)
    """
    if method not in BOUNDS:
        raise unknown("bound", method, BOUNDS)
    with exact(weight.device):
        blocks = kernel_blocks(
            weight, stride=stride, dilation=dilation, groups=groups, padding=padding
        )
        unit, scale = unit_scaled(blocks)
        bound = BOUNDS[method](unit).amax()
        room = 1 + 8 * torch.finfo(blocks.dtype).eps  # for the scaling and the conversion
        return (bound * room).to(blocks.dtype) * scale
