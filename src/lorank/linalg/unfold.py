"""A kernel as a matrix and back.

Every layout is one idea. Write the layer as two thin operations in a row, an *inner* one that
reads the input and an *outer* one that writes the output. A layout says which kernel axes the
inner operation sweeps; the others are left to the outer one:

====================  ======================================  ==================================
layout                convolution: inner, then outer          transposed convolution
====================  ======================================  ==================================
``channel``           all taps, then 1×1                      1×1, then all taps
``channel_reversed``  1×1, then all taps                      all taps, then 1×1
``spatial``           first axis (k×1), then the rest (1×k)   the same
``spatial_reversed``  last axis (1×k), then the rest (k×1)    the same
====================  ======================================  ==================================

The matrix has one row for each (output channel, outer tap) and one column for each (input
channel, inner tap); ``A = U·diag(S)·Vh`` then gives the inner kernel from ``Vh`` and the outer
one from ``U``. ``channel`` and ``spatial`` are the two modes of SVD training (Yang et al., 2020).
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.svd import SVD, product_singular_values, product_svd, singular_values, svd

LAYOUTS = ("channel", "channel_reversed", "spatial", "spatial_reversed")


@dataclass(frozen=True)
class Unfolding:
    """One kernel's geometry in one layout.

    Attributes:
        out_channels: output channels of the layer.
        in_channels: input channels of the layer.
        kernel_size: taps along each axis; empty for a linear layer.
        groups: number of groups; the matrix is then a batch, one for each group.
        transposed: the weight is stored ``(in, out / groups, *kernel)``.
        layout: a name of the table above.

    Raises:
        LorankError: if the layout is unknown or cannot be used for the kernel.

    Example:
        >>> view = Unfolding(8, 4, (3, 3))
        >>> view.shape, Unfolding(8, 4, (3, 3), layout="spatial").shape
        ((8, 36), (24, 12))
    """

    out_channels: int
    in_channels: int
    kernel_size: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    layout: str = "channel"

    def __post_init__(self):
        if self.layout not in LAYOUTS:
            raise unknown("layout", self.layout, LAYOUTS)
        if self.layout not in self.possible():
            raise LorankError(
                f"layout {self.layout!r} needs more than one tap on both sides of the split, "
                f"found kernel size {self.kernel_size}"
            )

    def possible(self) -> list[str]:
        """Layouts that this kernel admits.

        A spatial split with a single tap on one side would be a channel layout with its stride
        torn apart: it gains nothing, and such a pair crashes some CPU kernels.
        """
        kernel = self.kernel_size
        names = ["channel"]
        if math.prod(kernel) > 1:
            names.append("channel_reversed")
        if len(kernel) > 1 and kernel[0] > 1 and math.prod(kernel[1:]) > 1:
            names.append("spatial")
        if len(kernel) > 1 and kernel[-1] > 1 and math.prod(kernel[:-1]) > 1:
            names.append("spatial_reversed")
        return names

    @cached_property
    def inner_axes(self) -> tuple[int, ...]:
        """Kernel axes that the inner operation sweeps."""
        axes = tuple(range(len(self.kernel_size)))
        if self.layout == "spatial":
            return axes[:1]
        if self.layout == "spatial_reversed":
            return axes[-1:]
        sweeps_all = (self.layout == "channel") != self.transposed
        return axes if sweeps_all else ()

    @cached_property
    def outer_axes(self) -> tuple[int, ...]:
        """Kernel axes that the outer operation sweeps."""
        return tuple(a for a in range(len(self.kernel_size)) if a not in self.inner_axes)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of one group's matrix."""
        rows = self.out_channels // self.groups * self._taps(self.outer_axes)
        columns = self.in_channels // self.groups * self._taps(self.inner_axes)
        return rows, columns

    @cached_property
    def patch_size(self) -> int:
        """Entries of one group's input that one output position reads, whatever the layout.

        Example:
            >>> Unfolding(8, 4, (3, 3), groups=2).patch_size
            18
        """
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    def matrix(self, kernel: Tensor) -> Tensor:
        """Unfold a kernel: ``(rows, columns)``, or ``(groups, rows, columns)``.

        Args:
            kernel: the layer's weight, ``(out, in / groups, *kernel_size)``, or
                ``(in, out / groups, *kernel_size)`` when transposed.

        Example:
            >>> import torch
            >>> Unfolding(8, 4, (3, 3)).matrix(torch.ones(8, 4, 3, 3)).shape
            torch.Size([8, 36])
        """
        blocks = kernel.unflatten(0, (self.groups, -1))
        if self.transposed:
            blocks = blocks.transpose(1, 2)
        return self._batched(blocks.permute(self._order).reshape(self.groups, *self.shape))

    def kernel(self, matrix: Tensor) -> Tensor:
        """Fold a matrix back into a kernel; the inverse of :meth:`matrix`.

        Example:
            >>> import torch
            >>> view = Unfolding(8, 4, (3, 3), layout="spatial")
            >>> view.kernel(torch.ones(24, 12)).shape
            torch.Size([8, 4, 3, 3])
        """
        sizes = (self.groups, *self._sizes)
        blocks = matrix.reshape([sizes[a] for a in self._order]).permute(self._inverse_order)
        if self.transposed:
            blocks = blocks.transpose(1, 2)
        return blocks.flatten(0, 1)

    def inner_kernel(self, Vh: Tensor) -> Tensor:
        """Kernel ``(groups·r, in / groups, *taps)`` of the inner operation, not transposed."""
        taps = self._side(self.inner_axes)
        return Vh.reshape(-1, self.in_channels // self.groups, *taps)

    def outer_kernel(self, U: Tensor) -> Tensor:
        """Kernel ``(out, r, *taps)`` of the outer operation, not transposed."""
        taps = [self.kernel_size[a] for a in self.outer_axes]
        blocks = U.reshape(self.out_channels, *taps, U.shape[-1]).movedim(-1, 1)
        return blocks.reshape(*blocks.shape[:2], *self._side(self.outer_axes))

    def right(self, inner_kernel: Tensor) -> Tensor:
        """Matrix ``(…, r, columns)`` of an inner kernel; the inverse of :meth:`inner_kernel`."""
        return self._batched(inner_kernel.reshape(self.groups, -1, self.shape[1]))

    def left(self, outer_kernel: Tensor) -> Tensor:
        """Matrix ``(…, rows, r)`` of an outer kernel; the inverse of :meth:`outer_kernel`."""
        rank_last = outer_kernel.flatten(2).mT
        return self._batched(rank_last.reshape(self.groups, self.shape[0], -1))

    def _batched(self, stack: Tensor) -> Tensor:
        """Keep the group axis only where there are groups."""
        return stack if self.groups > 1 else stack[0]

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense layer's weight, as the layer stores it.

        Example:
            >>> Unfolding(8, 4, (3, 3), transposed=True).kernel_shape
            (4, 8, 3, 3)
        """
        ends = self.out_channels, self.in_channels // self.groups
        if self.transposed:
            ends = self.in_channels, self.out_channels // self.groups
        return (*ends, *self.kernel_size)

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of U, S and Vh at a rank.

        Example:
            >>> Unfolding(8, 4, (3, 3)).factor_shapes(2)
            ((8, 2), (2,), (2, 36))
        """
        rows, columns = self.shape
        lead = (self.groups,) if self.groups > 1 else ()
        return (*lead, rows, rank), (*lead, rank), (*lead, rank, columns)

    def svd(self, kernel: Tensor) -> SVD:
        """Decompose a kernel's matrix (:func:`lorank.linalg.svd`)."""
        return svd(self.matrix(kernel))

    def singular_values(self, kernel: Tensor) -> Tensor:
        """Singular values of a kernel's matrix, without their vectors."""
        return singular_values(self.matrix(kernel))

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply two factors of a kernel's matrix (differentiable)."""
        return left @ right

    def product_svd(self, factors: SVD) -> SVD:
        """Decompose the product of factors (:func:`lorank.linalg.product_svd`)."""
        return product_svd(*factors)

    def product_singular_values(self, factors: SVD) -> Tensor:
        """Singular values of the product of factors, without their vectors."""
        return product_singular_values(*factors)

    def product_macs(self) -> int:
        """Multiply-accumulates of :meth:`product`, for each rank."""
        return self.weights()[0]

    def weights(self) -> tuple[int, int]:
        """Weights of the dense kernel, and of each rank of the two thin ones.

        Example:
            >>> Unfolding(8, 4, (3, 3)).weights()
            (288, 44)
        """
        rows, columns = self.shape
        return self.groups * rows * columns, self.groups * (rows + columns)

    def macs(self, in_size: tuple[int, ...], out_size: tuple[int, ...]) -> tuple[int, int]:
        """Multiply-accumulates for one image: dense, and for each rank of the two thin operations.

        A convolution works at each position that it writes, a transposed one at each position
        that it reads. Between the two operations the map already has the output's size along
        the inner axes and still the input's along the others: a stride is paid for once.

        Args:
            in_size: size of the input map along each kernel axis.
            out_size: size of the output map along each kernel axis.

        Example:
            >>> Unfolding(8, 4, (3, 3)).macs((16, 16), (16, 16))
            (73728, 11264)
        """
        inner, axes = set(self.inner_axes), range(len(self.kernel_size))
        between = [out_size[a] if a in inner else in_size[a] for a in axes]
        if self.transposed:
            dense_at, inner_at, outer_at = in_size, in_size, between
        else:
            dense_at, inner_at, outer_at = out_size, between, out_size
        rows, columns = self.shape
        dense = math.prod(dense_at) * rows * columns
        per_rank = math.prod(inner_at) * columns + math.prod(outer_at) * rows
        return self.groups * dense, self.groups * per_rank

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        per_group = self.out_channels // self.groups, self.in_channels // self.groups
        return (*per_group, *self.kernel_size)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Axes of (group, out, in, *taps) in the order group, out, outer taps, in, inner taps."""
        outer, inner = ([a + 3 for a in axes] for axes in (self.outer_axes, self.inner_axes))
        return (0, 1, *outer, 2, *inner)

    @cached_property
    def _inverse_order(self) -> tuple[int, ...]:
        return tuple(self._order.index(a) for a in range(len(self._order)))

    def _taps(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.kernel_size[a] for a in axes)

    def _side(self, axes: tuple[int, ...]) -> list[int]:
        """Kernel size of the operation that sweeps ``axes``: one tap along the others."""
        return [k if a in axes else 1 for a, k in enumerate(self.kernel_size)]
