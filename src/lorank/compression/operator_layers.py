"""A convolution layer as an operator: its kernel, and how that kernel moves over the image."""

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.linalg.convolution.bracket import NormBracket, norm_bracket
from lorank.nn.conv import SVDConv
from lorank.nn.operator import CONVOLUTIONS, is_operator, runs_as
from lorank.nn.pair import Pair


class Kernel(NamedTuple):
    """A kernel and its geometry, in the words of ``linalg``.

    Attributes:
        weight: as torch stores it, ``(out, in/groups, *taps)``, or ``(in, out/groups, *taps)`` of
            a transposed layer, which is the adjoint of the convolution with that kernel.
        size: image that the layer reads.
        padding: ``"zeros"`` or ``"circular"`` where they keep the size, or zeros in number.
        stride: along each axis.
        dilation: along each axis.
        groups: number of groups.
        transposed: whether the layer is the adjoint.
        output_padding: of a transposed layer.
    """

    weight: Tensor
    size: tuple[int, ...]
    padding: Any
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool
    output_padding: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Pixels of the image that the convolution writes; of a transposed layer, that it reads."""
        if self.transposed:
            return math.prod(self.size)
        return math.prod(_written(*axis) for axis in self._axes())

    def _axes(self) -> Any:
        taps = self.weight.shape[2:]
        if isinstance(self.padding, str):
            around = [d * (k - 1) for k, d in zip(taps, self.dilation, strict=True)]
        else:
            around = [2 * p for p in self.padding]
        return zip(self.size, around, taps, self.stride, self.dilation, strict=True)

    def bracket(self, weight: Tensor | None = None, tol: float = 1e-3) -> NormBracket:
        """Certified numbers below and above the operator's norm on large images.

        The upper one holds for every size of the image. A strided layer is bounded by its
        polyphase kernel; where a cyclic image is no multiple of the stride its last window is cut
        short, and the unstrided kernel's norm, of which it has some rows, bounds it.

        Args:
            weight: another kernel in this one's place, as of a difference.
            tol: relative gap wanted.
        """
        even = all(n % s == 0 for n, s in zip(self.size, self.stride, strict=True))
        strided = even or self.padding != "circular"
        return norm_bracket(
            self.weight if weight is None else weight,
            stride=self.stride if strided else (1,) * len(self.stride),
            dilation=self.dilation,
            groups=self.groups,
            tol=tol,
        )


def _written(size: int, around: int, taps: int, stride: int, dilation: int) -> int:
    return (size + around - dilation * (taps - 1) - 1) // stride + 1


def is_convolution(module: nn.Module) -> bool:
    """Whether a layer is a convolution: torch's own, in SVD form, or a pair that it folded into.

    Example:
        >>> is_convolution(nn.Conv2d(1, 1, 3)), is_convolution(nn.Linear(1, 1))
        (True, False)
    """
    return is_operator(module) and hasattr(module, "kernel_size")


def kernel_of(module: Any, size: tuple[int, ...]) -> Kernel:
    """Read a convolution's kernel and geometry.

    Args:
        module: a convolution (:func:`is_convolution`).
        size: image that it reads.

    Raises:
        LorankError: if the symbol of the kernel does not describe the layer: it runs in its own
            way, pads by copies of pixels in another way than cyclically, or so far around that
            pixels are written twice.

    Example:
        >>> kernel_of(nn.Conv2d(4, 8, 3, stride=2, padding=1), (6, 6)).positions
        9
    """
    if not runs_as(module, (*CONVOLUTIONS, SVDConv, Pair)):
        raise LorankError(f"{type(module).__name__} runs in its own way")
    weight = module.product() if isinstance(module, Pair) else module.weight
    stride, dilation = tuple(module.stride), tuple(module.dilation)
    output_padding = tuple(getattr(module, "output_padding", (0,) * len(size)))
    return Kernel(
        weight.detach(),
        size,
        _padding(module, tuple(weight.shape[2:]), dilation),
        stride,
        dilation,
        module.groups,
        module.transposed,
        output_padding,
    )


def _padding(module: Any, taps: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
    found, mode = module.padding, module.padding_mode
    reach = tuple(d * (k - 1) for k, d in zip(taps, dilation, strict=True))
    if mode == "zeros":
        return _number(found, reach)
    if mode != "circular":
        raise LorankError(
            f"it pads by {mode!r}, which repeats pixels of the image: the operator is then no part "
            "of a convolution, and its norm can exceed that of the symbol"
        )
    around = _number(found, reach)
    if around == "zeros" or tuple(2 * p for p in around) == reach:
        return "circular"
    raise LorankError(
        f"it pads cyclically by {found}, and only half of the kernel's reach {reach} keeps the "
        "image's size: other cyclic layers write some pixels twice or not at all"
    )


def _number(padding: Any, reach: tuple[int, ...]) -> Any:
    if padding == "same":
        return "zeros"
    return (0,) * len(reach) if padding == "valid" else tuple(padding)
