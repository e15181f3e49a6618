"""Quaternion convolutions: plain, and in SVD form."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorank.errors import LorankError
from lorank.linalg.quaternion.unfold import PARTS, QuaternionUnfolding, real_kernel
from lorank.nn.conv import SVDConv, Sweep, pads
from lorank.nn.quaternion import Quaternionic, quarter

MODES = ("zeros", "reflect", "replicate", "circular")
AXES = 2


class QuaternionConv2d(Quaternionic):
    """``y = K * x + b`` for maps of quaternions, ``K (out / 4, in / 4, h, w)``, from four kernels.

    Channels lie in blocks ``[w | x | y | z]``. The forward pass is one real convolution with the
    real counterpart of the kernel.

    Args:
        in_channels: real channels, a multiple of four.
        out_channels: real channels, a multiple of four.
        kernel_size: taps along both axes, or one number for both.
        stride: steps along both axes.
        padding: entries added on both sides, or ``"same"`` or ``"valid"``.
        dilation: distance of taps.
        bias: add one number to each real channel.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: where the parameters are made.
        dtype: of the parameters.

    Raises:
        LorankError: if channels do not come in fours, a size is not a positive whole number, or
            the padding cannot be used.

    Cost: MACs of the real convolution of the same channels, from a quarter of its weights. Source:
    Gaudet and Maida, Deep quaternion networks, 2018.

    Example:
        >>> layer = QuaternionConv2d(4, 8, 3, padding=1)
        >>> layer(torch.ones(1, 4, 5, 5)).shape, layer.weight.shape
        (torch.Size([1, 8, 5, 5]), torch.Size([4, 2, 1, 3, 3]))
    """

    __constants__ = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"),
        "padding_mode",
    )
    groups = 1
    transposed = False
    output_padding = (0, 0)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        taps = _both("kernel_size", kernel_size, 1)
        shape = PARTS, quarter(out_channels), quarter(in_channels), *taps
        super().__init__(shape, bias, device=device, dtype=dtype)
        self.stride = _both("stride", stride, 1)
        self.dilation = _both("dilation", dilation, 1)
        self.padding = _padding(padding, self.stride)
        self.padding_mode = padding_mode
        if padding_mode not in MODES:
            raise LorankError(f"padding_mode is one of {', '.join(MODES)}, found {padding_mode!r}")

    @property
    def in_channels(self) -> int:
        """Real input channels."""
        return PARTS * self.weight.shape[2]

    @property
    def out_channels(self) -> int:
        """Real output channels."""
        return PARTS * self.weight.shape[1]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps along both axes."""
        return tuple(self.weight.shape[3:])

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name, callers may use it
        """Apply the layer to ``(batch, in, h, w)`` or to one unbatched ``(in, h, w)``."""
        x, padding = input, self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, pads(padding, self.dilation, self.kernel_size), mode=self.padding_mode)
            padding = (0, 0)
        return F.conv2d(x, self.real_weight(), self.bias, self.stride, padding, self.dilation)

    def extra_repr(self) -> str:
        """Describe the layer in a printed model."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, "
            f"padding_mode={self.padding_mode!r}, bias={self.bias is not None}"
        )


def _both(name: str, value: int | tuple[int, ...], least: int) -> tuple[int, ...]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in pair)
    if len(pair) != AXES or not whole:
        raise LorankError(
            f"{name} is a whole number of at least {least}, or two of them, found {value!r}"
        )
    return pair


def _padding(padding: int | tuple[int, ...] | str, stride: tuple[int, ...]) -> Any:
    """Padding as torch has it: "valid" is none; "same" needs a map that keeps its size."""
    if not isinstance(padding, str):
        return _both("padding", padding, 0)
    if padding not in ("same", "valid") or (padding == "same" and max(stride) > 1):
        raise LorankError(
            "padding is a number, two numbers, 'valid', or 'same' at stride 1, "
            f"found {padding!r} at stride {stride}"
        )
    return (0, 0) if padding == "valid" else padding


class SVDQuaternionConv(SVDConv):
    """A quaternion convolution whose kernel, as a quaternion matrix, is ``U·diag(|S|)·Vh``.

    Layouts, strides and orders are those of :class:`SVDConv`; each of its operations is one real
    convolution with the real counterpart of a quaternion kernel.

    Example:
        >>> import lorank
        >>> layer = lorank.decompose(QuaternionConv2d(8, 8, 3), {"": 1})
        >>> layer(torch.ones(1, 8, 6, 6)).shape, layer.rank
        (torch.Size([1, 8, 4, 4]), 1)
    """

    settings: ClassVar[tuple[str, ...]] = (
        *("in_channels", "out_channels", "kernel_size", "padding_mode"),
        *("stride", "padding", "dilation"),
    )
    weighed: ClassVar[bool] = False

    @classmethod
    def unfold(cls, module: Any, layout: str = "channel") -> QuaternionUnfolding:
        """Return the kernel's view in a layout, in quaternion channels."""
        _, rows, columns, *taps = module.weight.shape
        return QuaternionUnfolding(rows, columns, tuple(taps), layout=layout)

    in_channels = property(lambda self: PARTS * self.view.in_channels)
    out_channels = property(lambda self: PARTS * self.view.out_channels)

    def sides(self) -> tuple[Tensor, Tensor]:
        """Real counterparts: orthonormal exactly where the quaternion factors are."""
        return real_kernel(self.U), real_kernel(self.Vh)

    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Quaternion kernels of the inner and of the outer convolution."""
        return self.view.inner_kernel(Vh), self.view.outer_kernel(U)

    @classmethod
    def compose(cls, view: Any, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the kernels of a pair, each as a quaternion matrix."""
        return view.kernel(view.product(view.left(second), view.right(first))).contiguous()

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, sweep: Sweep) -> Tensor:
        return super()._convolve(x, real_kernel(kernel), bias, sweep)

    def _adjoint(self, y: Tensor, kernel: Tensor, size: tuple[int, ...], sweep: Sweep) -> Tensor:
        return super()._adjoint(y, real_kernel(kernel), size, sweep)

    def _plain(self, weight: nn.Parameter, bias: nn.Parameter | None, sweep: Sweep) -> nn.Module:
        _, rows, columns, *taps = weight.shape
        layer = QuaternionConv2d(
            PARTS * columns,
            PARTS * rows,
            tuple(taps),
            sweep.stride,
            sweep.padding,
            sweep.dilation,
            bias=bias is not None,
            padding_mode=self.padding_mode,
            device="meta",
        )
        layer.weight = weight
        layer.register_parameter("bias", bias)
        return layer
