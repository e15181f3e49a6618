"""A convolution that is two thin ones along different axes, served without its dense kernel.

In the spatial layouts the outer operation sweeps some axes and the inner one the others, so each
border belongs to one of the two, and the layer is their product exactly. Only triangular factors
of the two enter: an orthonormal factor on either side changes no singular value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lorank.linalg.convolution.operator import ConvOperator, split_classes, unit_entries
from lorank.linalg.convolution.window import Window, windows
from lorank.linalg.svd import SVD, check_matrix, working_dtype
from lorank.linalg.unfold import Unfolding


@dataclass(frozen=True, eq=False)
class PairOperator:
    """``T = T_outer·T_inner``, group by group; the words are those of ``ConvOperator``.

    Attributes:
        inner: ``(groups, rank, in, *taps)`` along the axes that the inner operation sweeps.
        outer: ``(groups, out, rank, *taps)`` along the others.
        inner_axes: the axes of the inner operation, in order.
        windows: how the whole kernel moves along each axis.

    Example:
        >>> window = Window(3, 4, before=1, after=1)
        >>> pair = PairOperator(torch.ones(1, 1, 1, 3), torch.ones(1, 1, 1, 3), (0,), (window,) * 2)
        >>> pair.energy()
        100.0
    """

    inner: Tensor
    outer: Tensor
    inner_axes: tuple[int, ...]
    windows: tuple[Window, ...]

    @property
    def outer_axes(self) -> tuple[int, ...]:
        """Axes of the outer operation."""
        return tuple(a for a in range(len(self.windows)) if a not in self.inner_axes)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.inner.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix that carries the nonzero singular values."""
        (r_written, read), (written, r_read) = self._along(0).shape, self._along(1).shape
        rank = self.inner.shape[1]
        rows = min(written, r_read) * (r_written // rank)
        return rows, min(read, r_written) * (r_read // rank)

    def resized(self, size: Sequence[int]) -> "PairOperator":
        """Return the same layer on another image."""
        made = tuple(w.resized(n) for w, n in zip(self.windows, size, strict=True))
        return replace(self, windows=made)

    def unit(self) -> tuple["PairOperator", float]:
        """Return the layer scaled to factors of entries of at most 1, and the scale."""
        (inner, first), (outer, second) = unit_entries(self.inner), unit_entries(self.outer)
        return replace(self, inner=inner, outer=outer), first * second

    def parts(self) -> Iterator[tuple["PairOperator", int]]:
        """Layers of dilation 1 that this one is made of, and how often each occurs."""
        return ((replace(self, windows=w), m) for w, m in split_classes(self.windows))

    def matrix(self) -> Tensor:
        """Write out a matrix with the nonzero singular values, of the size ``shape``."""
        rank = self.inner.shape[1]
        V, U = self._along(0).matrix(), self._along(1).matrix()
        right = torch.linalg.qr(V.mT, "r").R.mT.unflatten(1, (rank, -1))
        left = torch.linalg.qr(U, "r").R.unflatten(2, (rank, -1))
        return torch.einsum("gqrb,grap->gqapb", left, right).reshape(self.groups, *self.shape)

    def energy(self) -> float:
        """``‖T‖_F²``, exact, from two ``rank × rank`` matrices of inner products of taps."""
        inner, outer = self._along(0).rows_gram(), self._along(1).columns_gram()
        return float((inner * outer).sum())

    def symbols(self, angles: Tensor) -> Tensor:
        """Matrices with the nonzero singular values of the symbols: rank × rank at stride 1.

        Cost: a QR for each angle of each of the two operations, then one product for each point.
        """
        rank = self.inner.shape[1]
        V, place = self._triangles(angles, 0)
        right = V.mH[:, place]  # (groups, points, rank, ·)
        U, place = self._triangles(angles, 1)
        left = U[:, place].unflatten(-1, (rank, -1))  # (groups, points, ·, rank, phases)
        if left.shape[-1] == 1:
            return left.squeeze(-1) @ right
        return torch.einsum("gmqrb,gmrp->gmqpb", left, right).flatten(-2)

    def apply(self, images: Tensor) -> Tensor:
        """``T·x`` for images ``(batch, groups·in, *size)``."""
        inner, outer = self._both()
        return outer.apply(inner.apply(images))

    def adjoint(self, images: Tensor) -> Tensor:
        """``Tᵀ·y`` for images ``(batch, groups·out, *written)``."""
        inner, outer = self._both()
        return inner.adjoint(outer.adjoint(images))

    @property
    def factor(self) -> Tensor:
        """A tensor of the precision and on the device of the layer."""
        return self.inner

    def read_shape(self) -> tuple[int, ...]:
        """Channels and size of the images that are read."""
        return (self.groups * self.inner.shape[2], *(w.size for w in self.windows))

    def written_shape(self) -> tuple[int, ...]:
        """Channels and size of the images that are written."""
        return (self.groups * self.outer.shape[1], *(w.out for w in self.windows))

    def _along(self, which: int) -> ConvOperator:
        """Return the inner (0) or outer (1) operation on its own axes alone."""
        axes = (self.inner_axes, self.outer_axes)[which]
        return ConvOperator((self.inner, self.outer)[which], tuple(self.windows[a] for a in axes))

    def _triangles(self, angles: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """Triangular factors at each different angle, and which of them each point has."""
        axes = (self.inner_axes, self.outer_axes)[which]
        different, place = torch.unique(angles[:, list(axes)], dim=0, return_inverse=True)
        F = self._along(which).symbols(different)
        return torch.linalg.qr(F if which else F.mH, "r").R, place

    def _both(self) -> tuple[ConvOperator, ConvOperator]:
        """Both operations on whole images: one tap along the axes of the other."""
        made = []
        for kernel, axes in ((self.inner, self.inner_axes), (self.outer, self.outer_axes)):
            taps = [self.windows[a].taps if a in axes else 1 for a in range(len(self.windows))]
            rests = (
                Window(1, w.out if kernel is self.outer else w.size, wraps=w.wraps)
                for w in self.windows
            )
            laid = (
                w if a in axes else rest
                for a, (w, rest) in enumerate(zip(self.windows, rests, strict=True))
            )
            made.append(ConvOperator(kernel.reshape(*kernel.shape[:3], *taps), tuple(laid)))
        return made[0], made[1]


def pair_operator(
    view: Unfolding, factors: SVD, size: int | Sequence[int], **geometry: Any
) -> PairOperator:
    """Read a layer in SVD form, in a spatial layout, as an operator.

    Of a transposed layer the operator is the convolution that it is the adjoint of, whose first
    operation is the layer's last.

    Args:
        view: the layer's geometry, in a spatial layout.
        factors: as the layer holds them.
        size: the image that the layer reads.
        geometry: as :func:`lorank.linalg.convolution.window.windows` takes it.

    Raises:
        LorankError: if a factor is not finite, or a size or padding is not possible.

    Example:
        >>> view = Unfolding(8, 4, (3, 3), layout="spatial")
        >>> factors = SVD(torch.ones(24, 2), torch.ones(2), torch.ones(2, 12))
        >>> pair_operator(view, factors, 6).shape
        (72, 72)
    """
    for factor in (factors.U, factors.S.unsqueeze(-1), factors.Vh):
        check_matrix(factor)
    dtype = working_dtype(factors.U.dtype)
    U, S, Vh = (f.detach().to(dtype) for f in factors)
    rank = S.shape[-1]
    kernel, axes = view.kernel_size, (view.inner_axes, view.outer_axes)
    inner_taps, outer_taps = ([kernel[a] for a in side] for side in axes)
    inner = (S.abs().unsqueeze(-1) * Vh).reshape(view.groups, rank, -1, *inner_taps)
    outer = U.reshape(view.groups, -1, *outer_taps, rank).movedim(-1, 2)
    if view.transposed:
        inner, outer, axes = outer.transpose(1, 2), inner.transpose(1, 2), axes[::-1]
    return PairOperator(
        inner.contiguous(), outer.contiguous(), axes[0], windows(kernel, size, **geometry)
    )
