"""A convolution as plain blocks: one unstrided, undilated kernel a group, with the same norm.

The norm meant is that of the operator on the infinite grid, the largest singular value of the
symbol over all frequencies. The layer on an image of any size, with zero or no padding, is a
section of that operator, and with circular padding it acts on the periodic images among those that
the operator takes: neither can stretch more.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.convolution.symbol import by_group, check_kernel, polyphase
from lorank.linalg.convolution.window import PADDINGS, REFUSED
from lorank.linalg.svd import check_matrix, working_dtype

Numbers = int | Sequence[int]


def kernel_blocks(
    weight: Tensor,
    *,
    stride: Numbers = 1,
    dilation: Numbers = 1,
    groups: int = 1,
    padding: str | Numbers = "zeros",
) -> Tensor:
    """Blocks ``(groups, out, in, *taps)`` whose largest symbol norm is the layer's.

    With stride s and dilation d, and g their greatest common divisor, a layer reads only pixels
    of one class modulo g, and its taps fall into ``s/g`` phases, each a dilated and shifted row
    of taps: the norm is that of the polyphase kernel of stride ``s/g`` without dilation.

    Args:
        weight: ``(out, in/groups, *kernel)`` with up to three kernel axes, or the weight of a
            transposed layer as torch stores it, which is that of the adjoint; any float dtype.
        stride: of each axis.
        dilation: of each axis.
        groups: number of groups.
        padding: the layer's; only refused where it copies pixels.

    Returns:
        In float32 at least, differentiable in the weight.

    Raises:
        LorankError: if the weight is no kernel of finite real floats, a number is out of range,
            or the padding is reflect or replicate.

    Example:
        >>> kernel_blocks(torch.ones(8, 4, 3, 3), stride=2).shape
        torch.Size([1, 8, 16, 2, 2])
    """
    check_padding(padding)
    if weight.ndim == 2:
        check_matrix(weight)
        weight = weight.unsqueeze(-1)
    check_kernel(weight)
    kernel = weight.shape[2:]
    strides, dilations = (_each(v, len(kernel)) for v in (stride, dilation))
    steps = [
        # A stride beyond the kernel leaves out pixels: each tap is then a phase of its own.
        min(s // math.gcd(s, d), k)
        for s, d, k in zip(strides, dilations, kernel, strict=True)
    ]
    blocks = by_group(weight.to(working_dtype(weight.dtype)), groups)
    return polyphase(blocks, steps) if max(steps) > 1 else blocks


def check_padding(padding: object) -> None:
    """Refuse padding for which no bound of the symbol holds.

    Raises:
        LorankError: for reflect, replicate, and names that are not known.
    """
    if padding in REFUSED:
        raise LorankError(
            f"no bound of a convolution's norm holds with padding {padding!r}: copied border "
            "pixels count more than once, and the layer can stretch more than its symbol; use "
            "zeros, circular or valid"
        )
    if isinstance(padding, str) and padding not in (*PADDINGS, "same"):
        raise unknown("padding", padding, (*PADDINGS, "same"))


def unit_scaled(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Divide by the largest entry: squares then neither overflow nor vanish.

    Returns:
        The blocks, and the scale (1 for a zero kernel, and without gradient).

    Example:
        >>> unit_scaled(torch.full((1, 1, 1, 1), -4.0))[1].item()
        4.0
    """
    largest = blocks.detach().abs().amax()
    scale = torch.where(largest > 0, largest, 1.0)
    return blocks / scale, scale


def trimmed(blocks: Tensor) -> Tensor:
    """Leave out the outermost taps along each axis where all of them are zero.

    Example:
        >>> trimmed(torch.eye(3).reshape(1, 1, 1, 3, 3)[..., :2]).shape
        torch.Size([1, 1, 1, 2, 2])
    """
    for axis in range(3, blocks.ndim):
        used = torch.where(blocks.detach().transpose(0, axis).flatten(1).ne(0).any(1))[0]
        first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        blocks = blocks.narrow(axis, first, last - first + 1)
    return blocks


def _each(value: Numbers, axes: int) -> tuple[int, ...]:
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes or any(not isinstance(v, int) or v < 1 for v in values):
        raise LorankError(
            f"stride and dilation are integers of at least 1, or one for each of {axes} axes, "
            f"found {value!r}"
        )
    return values
