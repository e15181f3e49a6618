"""Singular value decompositions that a network's weights can rely on."""

from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact


class SVD(NamedTuple):
    """Factors of ``A = U·diag(S)·Vh``, possibly batched.

    Shapes: ``U (..., m, r)``, ``S (..., r)`` descending and not negative, ``Vh (..., r, n)``.
    """

    U: Tensor
    S: Tensor
    Vh: Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision a decomposition is computed in: float32 at least.

    LAPACK has no half-precision kernels, and a spectrum in bfloat16 would be noise.

    Example:
        >>> working_dtype(torch.bfloat16), working_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def svd(matrix: Tensor) -> SVD:
    """Thin singular value decomposition, ``A = U·diag(S)·Vh`` with ``r = min(m, n)``.

    Computed in float32 or float64 and returned in that precision. The tall orientation is
    decomposed, because LAPACK's ``gesdd`` is two to three times faster on it. Where the fast
    driver does not converge, the decomposition is repeated in float64.

    Args:
        matrix: ``(..., m, n)``, any float dtype; batches are decomposed one by one.

    Returns:
        Factors without gradient history.

    Raises:
        LorankError: if the matrix has no entries, is not a float tensor, or holds NaN or Inf.

    Cost: ``O(m·n·min(m, n))``. Source: Golub and Van Loan, Matrix Computations, 8.6.

    Example:
        >>> U, S, Vh = svd(torch.diag(torch.tensor([1.0, 3.0])))
        >>> S.tolist()
        [3.0, 1.0]
    """
    check_matrix(matrix)
    A = matrix.detach().to(working_dtype(matrix.dtype))
    m, n = A.shape[-2:]
    if m >= n:
        return SVD(*_decompose(A))
    V, S, Uh = _decompose(A.mT)
    return SVD(Uh.mT, S, V.mT)


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values alone, in descending order: a third of the work of all factors.

    Args:
        matrix: ``(..., m, n)``, any float dtype.

    Raises:
        LorankError: as :func:`svd`.

    Example:
        >>> singular_values(torch.diag(torch.tensor([1.0, 3.0]))).tolist()
        [3.0, 1.0]
    """
    check_matrix(matrix)
    A = matrix.detach().to(working_dtype(matrix.dtype))
    A = A if A.shape[-2] >= A.shape[-1] else A.mT
    try:
        return torch.linalg.svdvals(A)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return torch.linalg.svdvals(A.double()).to(A.dtype)


def _decompose(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        U, S, Vh = torch.linalg.svd(A.double(), full_matrices=False)
        return U.to(A.dtype), S.to(A.dtype), Vh.to(A.dtype)
    return U, S, Vh


def check_matrix(matrix: Tensor) -> None:
    """Insist on a matrix of finite floats.

    Raises:
        LorankError: otherwise.
    """
    if not matrix.is_floating_point():
        raise LorankError(f"a decomposition needs a float tensor, found {matrix.dtype}")
    if matrix.ndim < 2 or matrix.numel() == 0:
        raise LorankError(
            f"a decomposition needs a matrix with entries, found shape {tuple(matrix.shape)}"
        )
    finite = torch.isfinite(matrix)
    if not finite.all():
        bad = int((~finite).sum())
        raise LorankError(
            f"a decomposition needs finite values, found {bad} NaN or Inf among {matrix.numel()}"
        )


def truncate(factors: SVD, rank: int) -> SVD:
    """Keep the leading ``rank`` triplets: the best rank-r approximation (Eckart and Young, 1936).

    Args:
        factors: a decomposition with descending singular values.
        rank: between 1 and the number of singular values.

    Raises:
        LorankError: if the rank is out of range.

    Example:
        >>> truncate(svd(torch.eye(3)), 2).S.shape
        torch.Size([2])
    """
    U, S, Vh = factors
    full = S.shape[-1]
    if not 1 <= rank <= full:
        raise LorankError(f"a rank must be between 1 and {full}, found {rank}")
    return SVD(U[..., :rank], S[..., :rank], Vh[..., :rank, :])


def product_svd(U: Tensor, s: Tensor, Vh: Tensor) -> SVD:
    """SVD of the product ``U·diag(|s|)·Vh`` without forming it, for factors in any position.

    With ``U = Q₁R₁`` and ``Vhᵀ = Q₂R₂`` the core ``R₁·diag(|s|)·R₂ᵀ`` is r×r and carries all
    singular values: after training U and V are only nearly orthonormal, and ``|s|`` are then not
    the singular values of the weight.

    Args:
        U: ``(..., m, r)``.
        s: ``(..., r)``; the sign means nothing.
        Vh: ``(..., r, n)``.

    Returns:
        Factors with orthonormal ``U``, ``Vh`` and descending ``S``, of rank
        ``min(m, r, n)``, without gradient history.

    Raises:
        LorankError: if a factor holds NaN or Inf.

    Cost: ``O((m + n)·r² + r³)``.

    Example:
        >>> U, s, Vh = torch.eye(3)[:, :2], torch.tensor([1.0, -2.0]), torch.eye(4)[:2]
        >>> product_svd(U, s, Vh).S.tolist()
        [2.0, 1.0]
    """
    with exact(U.device):
        (Q1, R1), s, (Q2, R2) = _triangles(U, s, Vh, "reduced")
        P, S, Qh = svd((R1 * s) @ R2.mT)
        return SVD(Q1 @ P, S, Qh @ Q2.mT)


def product_singular_values(U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
    """Singular values of :func:`product_svd` alone, at two thirds of the work.

    Example:
        >>> U, s, Vh = torch.eye(3)[:, :2], torch.tensor([1.0, -2.0]), torch.eye(4)[:2]
        >>> product_singular_values(U, s, Vh).tolist()
        [2.0, 1.0]
    """
    with exact(U.device):
        (_, R1), s, (_, R2) = _triangles(U, s, Vh, "r")
        return singular_values((R1 * s) @ R2.mT)


QR = tuple[Tensor, Tensor]


def _triangles(U: Tensor, s: Tensor, Vh: Tensor, mode: str) -> tuple[QR, Tensor, QR]:
    """QR of both factors, and ``|s|`` as a row between them."""
    for factor in (U, s.unsqueeze(-1), Vh):
        check_matrix(factor)
    dtype = working_dtype(U.dtype)
    left = torch.linalg.qr(U.detach().to(dtype), mode)
    right = torch.linalg.qr(Vh.detach().to(dtype).mT, mode)
    return left, s.detach().to(dtype).abs().unsqueeze(-2), right
