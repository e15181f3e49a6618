"""A kernel of quaternions as a quaternion matrix and back.

Layers keep the four parts apart, on the first axis: ``(4, out, in, *taps)``. The functions of
:mod:`lorank.linalg.quaternion.algebra` have them on the last one, and are given views.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import qct, qmatmul
from lorank.linalg.quaternion.qr import qqr
from lorank.linalg.quaternion.svd import qsvd, qsvdvals
from lorank.linalg.svd import SVD, check_matrix, working_dtype
from lorank.linalg.unfold import Unfolding

PARTS = 4
"""Numbers in a quaternion: w, x, y, z of ``w + x·i + y·j + z·k``."""

PRODUCTS = 16
"""Real products in a product of two quaternions, as a real counterpart takes them."""


@dataclass(frozen=True)
class QuaternionUnfolding(Unfolding):
    """One quaternion kernel's geometry in one layout; channels, rows and ranks are quaternions.

    A weight is ``(4, out, in, *kernel_size)``, its matrix ``(4, rows, columns)``, its factors
    ``U (4, rows, r)``, ``S (r,)``, ``Vh (4, r, columns)``. Weights are counted in real numbers and
    work in real multiply-accumulates of the real counterpart: a quaternion rank is four real
    ranks at a quarter of their numbers.

    Example:
        >>> view = QuaternionUnfolding(16, 16)
        >>> view.shape, view.weights(), view.macs((), ())
        ((16, 16), (1024, 128), (4096, 512))
    """

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the dense layer's weight: four parts, then the quaternion kernel."""
        return (PARTS, *super().kernel_shape)

    def factor_shapes(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of U, S and Vh at a quaternion rank."""
        U, S, Vh = super().factor_shapes(rank)
        return (PARTS, *U), S, (PARTS, *Vh)

    def matrix(self, kernel: Tensor) -> Tensor:
        """Unfold each part of a kernel: ``(4, rows, columns)``."""
        return _each(super().matrix, kernel)

    def kernel(self, matrix: Tensor) -> Tensor:
        """Fold a matrix back into a kernel; the inverse of :meth:`matrix`."""
        return _each(super().kernel, matrix)

    def inner_kernel(self, Vh: Tensor) -> Tensor:
        """Kernel ``(4, r, in, *taps)`` of the inner operation."""
        return _each(super().inner_kernel, Vh)

    def outer_kernel(self, U: Tensor) -> Tensor:
        """Kernel ``(4, out, r, *taps)`` of the outer operation."""
        return _each(super().outer_kernel, U)

    def right(self, inner_kernel: Tensor) -> Tensor:
        """Matrix ``(4, r, columns)`` of an inner kernel."""
        return _each(super().right, inner_kernel)

    def left(self, outer_kernel: Tensor) -> Tensor:
        """Matrix ``(4, rows, r)`` of an outer kernel."""
        return _each(super().left, outer_kernel)

    def svd(self, kernel: Tensor) -> SVD:
        """Quaternion singular value decomposition of a kernel's matrix."""
        return _decomposed(_array(self.matrix(kernel)))

    def singular_values(self, kernel: Tensor) -> Tensor:
        """Quaternion singular values; the real counterpart has each of them four times."""
        return qsvdvals(_array(self.matrix(kernel)))

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Multiply two factors (differentiable), as one product of real matrices.

        ``R(L)·[parts of R, one below the other]``: the first block column of ``R(L·R)``.
        """
        parts = real_kernel(left) @ right.flatten(0, 1)
        return parts.unflatten(0, (PARTS, -1))

    def product_svd(self, factors: SVD) -> SVD:
        """Decompose a product by QR of both sides and the SVD of the core."""
        with exact(factors.U.device):
            (Q1, R1), s, (Q2, R2) = _triangles(factors)
            P, S, Qh = qsvd(qmatmul(R1 * s, qct(R2)))
            return SVD(_parts(qmatmul(Q1, P)), S, _parts(qmatmul(Qh, qct(Q2))))

    def product_singular_values(self, factors: SVD) -> Tensor:
        """Quaternion singular values of the product of factors."""
        with exact(factors.U.device):
            (_, R1), s, (_, R2) = _triangles(factors)
            return qsvdvals(qmatmul(R1 * s, qct(R2)))

    def product_macs(self) -> int:
        """Real multiply-accumulates of :meth:`product`, for each rank."""
        return PRODUCTS // PARTS * self.weights()[0]

    def weights(self) -> tuple[int, int]:
        """Numbers of the dense kernel, and of each rank of the two thin ones."""
        dense, per_rank = super().weights()
        return PARTS * dense, PARTS * per_rank

    def macs(self, in_size: tuple[int, ...], out_size: tuple[int, ...]) -> tuple[int, int]:
        """Real multiply-accumulates for one image: dense, and for each rank."""
        dense, per_rank = super().macs(in_size, out_size)
        return PRODUCTS * dense, PRODUCTS * per_rank


def real_kernel(parts: Tensor) -> Tensor:
    """Real kernel ``(4·out, 4·in, *taps)`` that multiplies from the left as a quaternion one does.

    Features lie in blocks ``[w | x | y | z]``. With parts ``A₀ … A₃``::

        A₀ −A₁ −A₂ −A₃
        A₁  A₀ −A₃  A₂
        A₂  A₃  A₀ −A₁
        A₃ −A₂  A₁  A₀

    Args:
        parts: ``(4, out, in, *taps)``.

    Cost: no arithmetic but signs; sixteen blocks are copied.

    Example:
        >>> real_kernel(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1))
        tensor([[ 1., -2., -3., -4.],
                [ 2.,  1., -4.,  3.],
                [ 3.,  4.,  1., -2.],
                [ 4., -3.,  2.,  1.]])
    """
    w, x, y, z = parts.unbind(0)
    _, i, j, k = (-parts).unbind(0)
    rows = ((w, i, j, k), (x, w, k, y), (y, z, w, i), (z, j, x, w))
    return torch.cat([torch.cat(row, 1) for row in rows])


def _each(fold: Callable[[Tensor], Tensor], parts: Tensor) -> Tensor:
    return torch.stack([fold(part) for part in parts.unbind(0)])


def _array(parts: Tensor) -> Tensor:
    """Parts last, checked, without gradient, in a precision that can be decomposed."""
    check_matrix(parts)
    return parts.detach().to(working_dtype(parts.dtype)).movedim(0, -1).contiguous()


def _parts(array: Tensor) -> Tensor:
    return array.movedim(-1, 0)


def _decomposed(array: Tensor) -> SVD:
    U, S, Vh = qsvd(array)
    return SVD(_parts(U), S, _parts(Vh))


QR = tuple[Tensor, Tensor]


def _triangles(factors: SVD) -> tuple[QR, Tensor, QR]:
    """Quaternion QR of both factors, and ``|S|`` as it multiplies columns of the first triangle."""
    U, Vh = _array(factors.U), _array(factors.Vh)
    check_matrix(factors.S.unsqueeze(-1))
    s = factors.S.detach().to(U.dtype).abs()
    return qqr(U), s.unsqueeze(-1), qqr(qct(Vh))
