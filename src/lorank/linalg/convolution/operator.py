"""A convolution of one image size as a linear operator: applied, written out, weighed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lorank.linalg.convolution.symbol import by_group, check_kernel, dilated, polyphase, symbol
from lorank.linalg.convolution.window import Padding, Window, volume, windows
from lorank.linalg.precision import exact
from lorank.linalg.svd import working_dtype

_FORWARD: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_ADJOINT: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True, eq=False)
class ConvOperator:
    """A convolution ``T = Σ_p S_p ⊗ K_p`` on images of one size, group by group.

    Attributes:
        kernel: ``(groups, out, in, *taps)``, of one group.
        windows: how the kernel moves along each axis.

    Example:
        >>> layer = convolution(torch.ones(1, 1, 3), 4)
        >>> layer.matrix()[0].int().tolist()
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    """

    kernel: Tensor
    windows: tuple[Window, ...]

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.kernel.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of one group's matrix."""
        out, inputs = self.kernel.shape[1:3]
        images = volume([w.out for w in self.windows]), volume([w.size for w in self.windows])
        return out * images[0], inputs * images[1]

    def resized(self, size: Sequence[int]) -> "ConvOperator":
        """Return the same layer on another image."""
        made = tuple(w.resized(n) for w, n in zip(self.windows, size, strict=True))
        return replace(self, windows=made)

    def unit(self) -> tuple["ConvOperator", float]:
        """Return the layer scaled to entries of at most 1, and the scale."""
        kernel, scale = unit_entries(self.kernel)
        return replace(self, kernel=kernel), scale

    def parts(self) -> Iterator[tuple["ConvOperator", int]]:
        """Layers of dilation 1 that this one is made of, and how often each occurs."""
        return ((replace(self, windows=w), m) for w, m in split_classes(self.windows))

    def matrix(self) -> Tensor:
        """Write the operator out, ``(groups, out·pixels, in·pixels)``.

        Cost: as many numbers as the matrix has; ``taps`` times as many MACs.
        """
        T, axes = self.kernel, len(self.windows)
        for window in self.windows:
            T = _contracted(T, 3, window.placements())
        written, read = range(3, 3 + 2 * axes, 2), range(4, 4 + 2 * axes, 2)
        return T.permute(0, 1, *written, 2, *read).reshape(self.groups, *self.shape)

    def energy(self) -> float:
        """``‖T‖_F² = Σ_pq ⟨K_p, K_q⟩·⟨S_p, S_q⟩``, exact, from the kernel.

        Two taps lie on each other only where a cyclic image is shorter than the kernel.
        """
        K, weighed = self._weighed()
        return float((K * weighed).sum())

    def rows_gram(self) -> Tensor:
        """Inner products of the rows of T, by output channels: ``(groups, out, out)``.

        Entry (o, o') is the sum over the outputs that the two channels share.
        """
        K, weighed = self._weighed()
        return K.flatten(2) @ weighed.flatten(2).mT

    def columns_gram(self) -> Tensor:
        """The same of the columns, ``(groups, in, in)``."""
        K, weighed = (k.transpose(1, 2).flatten(2) for k in self._weighed())
        return K @ weighed.mT

    def _weighed(self) -> tuple[Tensor, Tensor]:
        """Kernel in float64, and each tap with what lies on its places: ``Σ_q K_q·⟨S_p, S_q⟩``."""
        K = self.kernel.double()
        weighed = K
        for axis, window in enumerate(self.windows):
            moved = _contracted(weighed, 3 + axis, window.overlaps())
            weighed = moved.movedim(-1, 3 + axis)
        return K, weighed

    def symbols(self, angles: Tensor) -> Tensor:
        """Symbols at ``(points, axes)``, ``(groups, points, out, in·prod(stride))``."""
        dilation = [w.dilation for w in self.windows]
        stride = [w.stride for w in self.windows]
        if max(stride) == 1:
            return symbol(self.kernel, angles * torch.tensor(dilation).to(angles))
        return symbol(polyphase(dilated(self.kernel, dilation), stride), angles)

    def apply(self, images: Tensor) -> Tensor:
        """``T·x`` for images ``(batch, groups·in, *size)``.

        Cost: one convolution.
        """
        x, axes = images, len(self.windows)
        for axis, window in enumerate(self.windows):
            if window.wraps:
                x = x.index_select(axis + 2, _wrapped(window).to(x.device))
        if not self.windows[0].wraps:
            x = F.pad(x, self._around())
        sweep = {"stride": self._each("stride"), "dilation": self._each("dilation")}
        return _FORWARD[axes](x, self.kernel.flatten(0, 1), groups=self.groups, **sweep)

    def adjoint(self, images: Tensor) -> Tensor:
        """``Tᵀ·y`` for images ``(batch, groups·out, *written)``.

        Cost: one transposed convolution.
        """
        y, axes = images, len(self.windows)
        sweep = {"stride": self._each("stride"), "dilation": self._each("dilation")}
        x = _ADJOINT[axes](y, self.kernel.flatten(0, 1), groups=self.groups, **sweep)
        if not self.windows[0].wraps:
            return F.pad(x, [-n for n in self._around()])
        for axis, window in enumerate(self.windows):
            shape = (*x.shape[: axis + 2], window.size, *x.shape[axis + 3 :])
            x = x.new_zeros(shape).index_add(axis + 2, _wrapped(window).to(x.device), x)
        return x

    @property
    def factor(self) -> Tensor:
        """A tensor of the precision and on the device of the layer."""
        return self.kernel

    def read_shape(self) -> tuple[int, ...]:
        """Channels and size of the images that are read."""
        return (self.groups * self.kernel.shape[2], *(w.size for w in self.windows))

    def written_shape(self) -> tuple[int, ...]:
        """Channels and size of the images that are written."""
        return (self.groups * self.kernel.shape[1], *(w.out for w in self.windows))

    def _around(self) -> list[int]:
        """Zeros around the image as ``F.pad`` wants them; just as many as are read."""
        around = []
        for w in reversed(self.windows):
            around += [w.before, w.stride * (w.out - 1) + w.reach + 1 - w.size - w.before]
        return around

    def _each(self, name: str) -> list[int]:
        return [getattr(w, name) for w in self.windows]


def unit_entries(kernel: Tensor) -> tuple[Tensor, float]:
    """Divide by a power of two, which rounds nothing: squares neither overflow nor vanish.

    Example:
        >>> unit_entries(torch.tensor([-3.0, 0.5]))
        (tensor([-0.7500,  0.1250]), 4.0)
    """
    largest = float(kernel.abs().amax())
    scale = 2.0 ** min(math.frexp(largest)[1], 1023) if largest else 1.0
    return (kernel.double() / scale).to(kernel.dtype), scale


def split_classes(windows: Sequence[Window]) -> Iterator[tuple[tuple[Window, ...], int]]:
    """Windows of the pixel classes that do not interact, and how often each occurs.

    Example:
        >>> [(w[0].size, m) for w, m in split_classes([Window(3, 8, 2, 2, dilation=2)])]
        [(4, 2)]
    """
    found: dict[tuple[Window, ...], int] = {(): 1}
    for window in windows:
        classes = window.classes().items()
        found = {(*w, c): m * often for w, m in found.items() for c, often in classes}
    yield from found.items()


def _contracted(kernel: Tensor, axis: int, taps: Tensor) -> Tensor:
    """Sum over one axis of taps: the other axes of ``taps`` come last."""
    dims: Any = ([axis], [0])  # torch declares an int alone
    return torch.tensordot(kernel, taps.to(kernel), dims)


def _wrapped(window: Window) -> Tensor:
    """Pixels of a cyclic image in the order in which a plain convolution reads them."""
    length = window.stride * (window.out - 1) + window.reach + 1
    return (torch.arange(length) - window.before) % window.size


def convolution(
    weight: Tensor,
    size: int | Sequence[int],
    *,
    padding: Padding = "zeros",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
) -> ConvOperator:
    """Read a layer as an operator; of a transposed layer, the convolution whose adjoint it is.

    Args:
        weight: ``(out, in/groups, *kernel)``, or ``(in, out/groups, *kernel)`` when transposed;
            below float32 it is widened.
        size: the image that the layer reads; one number stands for every axis.
        padding: as :func:`lorank.linalg.convolution.window.windows` explains.
        stride: of each axis.
        dilation: of each axis.
        groups: number of groups.
        transposed: whether the layer is a transposed convolution.
        output_padding: of a transposed layer, as in torch.

    Raises:
        LorankError: if the weight is not a finite real kernel, a number is out of range, or
            nothing is written.

    Example:
        >>> convolution(torch.ones(8, 1, 3, 3), (6, 5), groups=8).shape
        (30, 30)
    """
    check_kernel(weight)
    laid = windows(
        weight.shape[2:],
        size,
        padding,
        stride,
        dilation,
        transposed=transposed,
        output_padding=output_padding,
    )
    kernel = by_group(weight.detach().to(working_dtype(weight.dtype)), groups)
    return ConvOperator(kernel, laid)


def operator_matrix(weight: Tensor, size: int | Sequence[int], **geometry: Any) -> Tensor:
    """Write a convolution as a matrix, ``T·vec(x) = vec(K * x)``: the truth for small images.

    Args:
        weight: ``(out, in/groups, *kernel)``, or ``(in, out/groups, *kernel)`` when transposed.
        size: the image that the layer reads.
        geometry: ``padding``, ``stride``, ``dilation``, ``groups``, ``transposed`` and
            ``output_padding``, as :func:`operator_singular_values` takes them.

    Returns:
        ``(out·written pixels, in·read pixels)`` with channels before pixels, as torch flattens.

    Raises:
        LorankError: as :func:`operator_singular_values`.

    Example:
        >>> operator_matrix(torch.ones(1, 1, 3), 4, padding="valid").int().tolist()
        [[1, 1, 1, 0], [0, 1, 1, 1]]
    """
    layer = convolution(weight, size, **geometry)
    with exact(weight.device):
        T = torch.block_diag(*layer.matrix())
    return T.mT if geometry.get("transposed") else T


def operator_energy(weight: Tensor, size: int | Sequence[int], **geometry: Any) -> float:
    """``Σσ² = ‖T‖_F²`` of a convolution, exact, from the kernel alone.

    Under zero padding tap p of an axis fills ``n − |p|`` places, and no two taps share one.

    Args:
        weight: ``(out, in/groups, *kernel)``, or ``(in, out/groups, *kernel)`` when transposed.
        size: the image that the layer reads.
        geometry: as :func:`operator_matrix`.

    Raises:
        LorankError: as :func:`operator_singular_values`.

    Cost: one product for each tap of each axis.

    Example:
        >>> operator_energy(torch.ones(1, 1, 3), 4)
        10.0
    """
    return convolution(weight, size, **geometry).energy()
