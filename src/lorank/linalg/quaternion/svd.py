"""Singular value decomposition of quaternion matrices, right where singular values repeat."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import unknown
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import expand, from_rows, largest, over, rows, star, times
from lorank.linalg.quaternion.bidiagonal import bidiagonal_svd
from lorank.linalg.quaternion.frame import frame_svd, pairs_svd
from lorank.linalg.quaternion.householder import complement, conjugate, right_scale
from lorank.linalg.quaternion.kinds import Kind, QArray, arrive_finite, check_range
from lorank.linalg.quaternion.qr import triangular

DRIVERS = ("auto", "pairs", "bidiag")

Factors = tuple[Tensor, Tensor, Tensor]


class QSVD(NamedTuple):
    """Factors of ``A = U·diag(S)·Vh`` over the quaternions, possibly batched.

    Shapes: ``U (..., m, r, 4)``, ``S (..., r)`` real, descending and not negative,
    ``Vh (..., r, n, 4)``: V*, the conjugate transpose.

    Each u_i and v_i is fixed up to one unit quaternion from the right; the largest entry of v_i
    is made real and positive.

    Example:
        >>> lorank.linalg.qsvd(torch.ones(2, 3, 4))._fields
        ('U', 'S', 'Vh')
    """

    U: QArray
    S: Any
    Vh: QArray


def qsvd(
    A: QArray, full_matrices: bool = False, compute_uv: bool = True, driver: str = "auto"
) -> Any:
    """Singular value decomposition ``A = U·diag(S)·Vh`` of a quaternion matrix.

    Args:
        A: ``(..., m, n, 4)``, float32 or float64; computed in float64, values without vectors in
            A's own precision.
        full_matrices: make U and Vh square.
        compute_uv: without it, singular values alone.
        driver: ``"auto"``, from the complex SVD of the adjoint with vectors chosen so that they
            are quaternion-orthonormal also at repeated values, and looked at afterwards;
            ``"bidiag"``, through a real bidiagonal matrix; ``"pairs"``, every second vector of
            the adjoint, as public code has it: wrong where values repeat or nearly do.

    Returns:
        :class:`QSVD`, of the kind of A; or S alone.

    Raises:
        LorankError: if A is not a quaternion matrix of finite values, or the driver not known.

    Cost: that of a complex SVD of twice the sides, ``O(m·n·min(m, n))``. Source: Le Bihan and
    Mars, 2004, for the adjoint; the choice of vectors is derived in ``frame``.

    Example:
        >>> A = torch.eye(3).unsqueeze(-1) * torch.tensor([0.0, 0.0, 2.0, 0.0])
        >>> U, S, Vh = qsvd(A)
        >>> S.tolist()
        [2.0, 2.0, 2.0]
        >>> bool((lorank.linalg.qmatmul(U * S[:, None], Vh) - A).abs().max() < 1e-6)
        True
    """
    tensor, kind = arrive_finite(A)
    if driver not in DRIVERS:
        raise unknown("driver", driver, DRIVERS)
    if not compute_uv:
        return kind.real(_values(tensor))
    with exact(tensor.device):
        U, s, V = factorise(rows(tensor.double()), driver)
        U, V = canonical(U, V)
        if full_matrices:
            U, V = (torch.cat((X, complement(X)), -1) for X in (U, V))
        return given(U, s, V, tensor.dtype, kind)


def qsvdvals(A: QArray) -> Any:
    """Singular values of a quaternion matrix, in descending order.

    Args:
        A: ``(..., m, n, 4)``.

    Returns:
        ``(..., min(m, n))``, real.

    Raises:
        LorankError: as :func:`qsvd`.

    Cost: about a fifth of :func:`qsvd`.

    Example:
        >>> qsvdvals(torch.tensor([[[0.0, 3.0, 0.0, 4.0]]]))
        tensor([5.])
    """
    tensor, kind = arrive_finite(A)
    return kind.real(_values(tensor))


def _values(tensor: Tensor) -> Tensor:
    values = torch.linalg.svdvals(expand(rows(tensor)))[..., 0::2].contiguous()
    check_range(values)
    return values


def factorise(P: Tensor, driver: str = "auto", rank: int | None = None) -> Factors:
    """Leading triplets U, s, V of a complex128 row form; a QR first where it is not square."""
    m, n = P.shape[-2], P.shape[-1] // 2
    if m < n:
        V, s, U = factorise(star(P), driver, rank)
        return U, s, V
    if m == n:
        return cut(_scaled(P, driver), rank)
    Q, R = triangular(P)
    U, s, V = cut(_scaled(R, driver), rank)
    return times(Q, U), s, V


def cut(factors: Factors, rank: int | None) -> Factors:
    """The leading triplets of row forms; all where the rank is None."""
    U, s, V = factors
    return (U, s, V) if rank is None else (U[..., : 2 * rank], s[..., :rank], V[..., : 2 * rank])


def _scaled(P: Tensor, driver: str) -> Factors:
    """The square decomposition, of entries near 1 whatever their size."""
    size = largest(P)
    check_range(size)
    size = torch.where(size > 0, size, torch.ones_like(size))
    U, s, V = _square(over(P, size), driver)
    return U, s * size[..., 0], V


def _square(P: Tensor, driver: str) -> Factors:
    if driver == "pairs":
        return pairs_svd(P)
    found = frame_svd(P) if driver == "auto" else None
    return bidiagonal_svd(P) if found is None else found


def canonical(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors times one unit quaternion a column: the largest entry of v_i real, positive."""
    sizes = torch.linalg.vector_norm(V.unflatten(-1, (-1, 2)), dim=-1)
    index = sizes.argmax(-2, keepdim=True)
    largest = V.unflatten(-1, (-1, 2)).gather(-3, index.unsqueeze(-1).expand(*index.shape, 2))
    unit = conjugate((largest / sizes.gather(-2, index).unsqueeze(-1)).flatten(-2))
    return right_scale(U, unit), right_scale(V, unit)


def given(U: Tensor, s: Tensor, V: Tensor, dtype: torch.dtype, kind: Kind) -> QSVD:
    """Row forms as arrays of the kind and precision that came in."""
    left, right, values = from_rows(U).to(dtype), from_rows(star(V)).to(dtype), s.to(dtype)
    check_range(values)
    return QSVD(kind.give(left), kind.real(values), kind.give(right))
