"""Convolutions in SVD form: one to three axes, plain and transposed."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from lorank.linalg import SVD, Unfolding
from lorank.nn.adjoint import check_maps, check_zeros, smallest, sweep_adjoint
from lorank.nn.factored import Factored
from lorank.nn.pair import Pair

_APPLY = {
    (1, False): F.conv1d,
    (2, False): F.conv2d,
    (3, False): F.conv3d,
    (1, True): F.conv_transpose1d,
    (2, True): F.conv_transpose2d,
    (3, True): F.conv_transpose3d,
}
_PLAIN: dict[tuple[int, bool], Any] = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}

ConvModule = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


class Sweep(NamedTuple):
    """How one operation moves over its input, an entry for each kernel axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]

    def along(self, axes: tuple[int, ...]) -> "Sweep":
        """Return the share of the thin operation that sweeps ``axes`` and no other."""

        def keep(values: tuple[int, ...], still: int) -> tuple[int, ...]:
            return tuple(v if a in axes else still for a, v in enumerate(values))

        padding = self.padding if isinstance(self.padding, str) else keep(self.padding, 0)
        return Sweep(
            keep(self.stride, 1), padding, keep(self.dilation, 1), keep(self.output_padding, 0)
        )


class SVDConv(Factored):
    """A convolution ``y = K * x + b`` whose kernel, as a matrix, is ``U·diag(|S|)·Vh``.

    The matrix view (:class:`lorank.linalg.Unfolding`) decides the two thin operations that equal
    the dense one; stride, padding and dilation of an axis go with the operation that sweeps it.
    Grouped convolutions have one matrix, and the same rank, for each group.

    Cost: the cheaper of two thin operations and of rebuilding the kernel (``r`` times the number
    of weights, whatever the batch) plus one dense operation.

    Example:
        >>> import torch, lorank
        >>> layer = lorank.decompose(torch.nn.Conv2d(4, 8, 3, padding="same"), {"": 2})
        >>> layer(torch.ones(1, 4, 6, 6)).shape
        torch.Size([1, 8, 6, 6])
    """

    settings: ClassVar[tuple[str, ...]] = (
        *("in_channels", "out_channels", "kernel_size", "groups", "transposed", "padding_mode"),
        *("stride", "padding", "dilation", "output_padding"),
    )

    def __init__(
        self,
        factors: SVD,
        view: Unfolding,
        sweep: Sweep,
        padding_mode: str = "zeros",
        bias: nn.Parameter | None = None,
    ):
        super().__init__(factors, view, bias)
        self.sweep = sweep
        self.padding_mode = padding_mode

    @classmethod
    def unfold(cls, module: ConvModule, layout: str = "channel") -> Unfolding:
        """Return the kernel's view in a layout."""
        return Unfolding(
            module.out_channels,
            module.in_channels,
            tuple(module.kernel_size),
            module.groups,
            module.transposed,
            layout,
        )

    @classmethod
    def from_dense(
        cls, module: ConvModule, factors: SVD, view: Unfolding, bias: nn.Parameter | None
    ) -> "SVDConv":
        """Take over a convolution."""
        padding = module.padding if isinstance(module.padding, str) else tuple(module.padding)
        still = (0,) * len(module.kernel_size)
        sweep = Sweep(
            tuple(module.stride),
            still if padding == "valid" else cast("tuple[int, ...] | str", padding),
            tuple(module.dilation),
            tuple(module.output_padding),
        )
        return cls(factors, view, sweep, module.padding_mode, bias)

    in_channels = property(lambda self: self.view.in_channels)
    out_channels = property(lambda self: self.view.out_channels)
    kernel_size = property(lambda self: self.view.kernel_size)
    groups = property(lambda self: self.view.groups)
    transposed = property(lambda self: self.view.transposed)
    stride = property(lambda self: self.sweep.stride)
    padding = property(lambda self: self.sweep.padding)
    dilation = property(lambda self: self.sweep.dilation)
    output_padding = property(lambda self: self.sweep.output_padding)

    def forward(
        self,
        input: Tensor,  # noqa: A002 - torch's name, callers may use it
        output_size: list[int] | None = None,
    ) -> Tensor:
        """Apply the layer to ``(batch, in, *size)`` or to one unbatched ``(in, *size)``.

        ``output_size`` is for transposed convolutions, as in torch.
        """
        x = input
        d = len(self.view.kernel_size)
        in_size = tuple(x.shape[-d:])
        sweep = self.sweep
        if output_size is not None:
            sweep = sweep._replace(output_padding=self._missing(in_size, output_size))
        out_size = self._out_size(in_size, sweep)
        if self.padding_mode != "zeros":
            around = pads(self.padding, self.dilation, self.kernel_size)
            x = F.pad(x, around, mode=self.padding_mode)
            sweep = sweep._replace(padding=(0,) * d)
        batch = x.shape[0] if x.ndim == d + 2 else 1
        if self._rebuilds(batch, in_size, out_size):
            return self._convolve(x, self.weight, self.bias, sweep)
        U, s, Vh = self.factors
        if U.numel() <= Vh.numel():
            U = U * s.unsqueeze(-2)
        else:
            Vh = s.unsqueeze(-1) * Vh
        inner, outer = self.kernels(U, Vh)
        between = self._convolve(x, inner, None, sweep.along(self.view.inner_axes))
        return self._convolve(between, outer, self.bias, sweep.along(self.view.outer_axes))

    def _convolve(self, x: Tensor, kernel: Tensor, bias: Tensor | None, sweep: Sweep) -> Tensor:
        view = self.view
        # Strides in order, also of axes of size 1: others would permute the memory of the output.
        kernel = kernel.reshape(-1).view(kernel.shape)
        apply: Any = _APPLY[len(view.kernel_size), view.transposed]
        if view.transposed:
            return apply(
                x,
                kernel,
                bias,
                sweep.stride,
                sweep.padding,
                sweep.output_padding,
                view.groups,
                sweep.dilation,
            )
        return apply(x, kernel, bias, sweep.stride, sweep.padding, sweep.dilation, view.groups)

    def transpose_apply(self, y: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Apply the transposed convolution to maps ``(batch, out, *size)`` (zero padding only).

        Args:
            y: a batch of maps.
            size: size of the input map to give; by default the smallest that gives ``y``'s.

        Raises:
            LorankError: if the layer pads otherwise, or ``y`` does not fit it.

        Cost: as the layer's own: two thin operations, or the rebuilt kernel and one.
        """
        check_zeros(self.padding_mode)
        check_maps(y, self.out_channels, len(self.kernel_size))
        around = pads(self.padding, self.dilation, self.kernel_size)
        if size is None:
            about = self.stride, self.dilation, self.transposed
            size = smallest(y.shape[2:], self.kernel_size, around, *about)
        in_size, out_size = tuple(size), tuple(y.shape[2:])
        if self._rebuilds(y.shape[0], in_size, out_size):
            return self._adjoint(y, self.weight, in_size, self.sweep)
        U, s, Vh = self.factors
        inner, outer = self.kernels(U * s.unsqueeze(-2), Vh)
        axes = self.view.inner_axes, self.view.outer_axes
        between = tuple(
            out_size[a] if a in axes[0] else in_size[a] for a in range(len(self.kernel_size))
        )
        y = self._adjoint(y, outer, between, self.sweep.along(axes[1]))
        return self._adjoint(y, inner, in_size, self.sweep.along(axes[0]))

    def _adjoint(self, y: Tensor, kernel: Tensor, size: tuple[int, ...], sweep: Sweep) -> Tensor:
        around = pads(sweep.padding, sweep.dilation, tuple(kernel.shape[2:]))
        kernel = kernel.reshape(-1).view(kernel.shape)  # as in _convolve
        about = sweep.stride, sweep.dilation, self.groups, self.transposed
        return sweep_adjoint(y, kernel, size, around, *about)

    def kernels(self, U: Tensor, Vh: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the inner and of the outer convolution, as torch stores them."""
        inner, outer = self.view.inner_kernel(Vh), self.view.outer_kernel(U)
        return _stored(self.view, inner), _stored(self.view, outer)

    @classmethod
    def compose(cls, view: Unfolding, first: Tensor, second: Tensor) -> Tensor:
        """Multiply the kernels of a pair, each as a matrix."""
        inner, outer = _stored(view, first), _stored(view, second)
        return view.kernel(view.left(outer) @ view.right(inner)).contiguous()

    def pair(self, inner: nn.Parameter, outer: nn.Parameter) -> Pair:
        """Give two convolutions; the bias sits on the second."""
        axes = self.view.inner_axes, self.view.outer_axes
        return Pair(
            self,
            self._plain(inner, None, self.sweep.along(axes[0])),
            self._plain(outer, self.bias, self.sweep.along(axes[1])),
        )

    def dense(self, weight: nn.Parameter) -> nn.Module:
        """Give one dense convolution."""
        return self._plain(weight, self.bias, self.sweep)

    def _plain(self, weight: nn.Parameter, bias: nn.Parameter | None, sweep: Sweep) -> nn.Module:
        ends = weight.shape[0], weight.shape[1] * self.groups
        in_channels, out_channels = ends if self.transposed else reversed(ends)
        settings = {
            "stride": sweep.stride,
            "padding": sweep.padding,
            "dilation": sweep.dilation,
            "groups": self.groups,
            "bias": bias is not None,
            "padding_mode": self.padding_mode,
            "device": "meta",
        }
        if self.transposed:
            settings["output_padding"] = sweep.output_padding
        kind = _PLAIN[len(self.kernel_size), self.transposed]
        layer = kind(in_channels, out_channels, tuple(weight.shape[2:]), **settings)
        layer.weight, layer.bias = weight, bias
        return layer

    @staticmethod
    def positions(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return one position, and the stride's worth of positions on the other side."""
        stride = tuple(module.stride)
        one = (1,) * len(stride)
        return (one, stride) if module.transposed else (stride, one)

    def _out_size(self, in_size: tuple[int, ...], sweep: Sweep) -> tuple[int, ...]:
        sizes = []
        for axis, size in enumerate(in_size):
            reach = sweep.dilation[axis] * (self.kernel_size[axis] - 1)
            padded = sum(pads(self.padding, self.dilation, self.kernel_size)[-2 * axis - 2 :][:2])
            if self.transposed:
                grown = (size - 1) * sweep.stride[axis] - padded + reach
                sizes.append(grown + sweep.output_padding[axis] + 1)
            else:
                sizes.append((size + padded - reach - 1) // sweep.stride[axis] + 1)
        return tuple(sizes)

    def _missing(self, in_size: tuple[int, ...], output_size: list[int]) -> tuple[int, ...]:
        """Output padding that reaches a wanted output size; torch refuses what cannot be."""
        plain = self._out_size(in_size, self.sweep._replace(output_padding=(0,) * len(in_size)))
        wanted = output_size[-len(in_size) :]
        return tuple(w - p for w, p in zip(wanted, plain, strict=True))


def pads(
    padding: tuple[int, ...] | str, dilation: tuple[int, ...], kernel_size: tuple[int, ...]
) -> list[int]:
    """Entries added around a map, as ``F.pad`` wants them: last axis first, before and after.

    Torch puts the odd one of "same" after.

    Example:
        >>> pads("same", (1, 1), (4, 3)), pads((1, 2), (1, 1), (3, 3))
        ([1, 1, 1, 2], [2, 2, 1, 1])
    """
    around: list[int] = []
    for axis in reversed(range(len(kernel_size))):
        total = dilation[axis] * (kernel_size[axis] - 1) if padding == "same" else 0
        both = padding[axis] if not isinstance(padding, str) else None
        around += [total // 2, total - total // 2] if both is None else [both, both]
    return around


def _stored(view: Unfolding, kernel: Tensor) -> Tensor:
    """Swap ``(out, in / groups, …)`` and ``(in, out / groups, …)``, as torch transposes."""
    if not view.transposed:
        return kernel
    return kernel.unflatten(0, (view.groups, -1)).transpose(1, 2).flatten(0, 1)
