"""Singular values and vectors by the Gram matrix, in float64: fast, and exact enough for float32.

The eigenvalues of ``AᵀA`` are squares: in float64 they are off by about ``eps₆₄·σ₁²``, so that a
singular value is off by at most ``√eps₆₄·σ₁ ≈ 1.5e-8·σ₁``, below the rounding of a float32 weight
(``6e-8·σ₁``). In float32 the same method would lose everything below ``3e-4·σ₁``.
"""

import torch
from torch import Tensor

from lorank.linalg.svd import SVD, check_matrix, singular_values, svd, working_dtype


def gram_singular_values(matrix: Tensor) -> Tensor:
    """Singular values ``√λ(AᵀA)`` in float64, in descending order.

    Args:
        matrix: ``(..., m, n)``, any float dtype; a float64 one is decomposed directly, because
            its own precision is above that of the method.

    Raises:
        LorankError: as :func:`lorank.linalg.svd`.

    Cost: ``m·n·min(m, n)`` MACs of a matrix product and an eigenproblem of size ``min(m, n)``:
    from 3072×768 on faster than float32 singular values. Source: Golub and Van Loan, 8.6.2.

    Example:
        >>> gram_singular_values(torch.diag(torch.tensor([1.0, 3.0]))).tolist()
        [3.0, 1.0]
    """
    check_matrix(matrix)
    if matrix.dtype == torch.float64:
        return singular_values(matrix)
    tall = _tall(matrix.detach().double())
    return torch.linalg.eigvalsh(tall.mT @ tall).flip(-1).clamp_min(0).sqrt()


def gram_svd(matrix: Tensor, rank: int | None = None) -> SVD:
    """Leading singular triplets by the eigenvectors of the Gram matrix.

    With ``AᵀA = VΛVᵀ`` the product ``A·V_r`` has the columns ``σᵢ·uᵢ``, and ``A·V_r·V_rᵀ`` is the
    best approximation of rank r. Columns of U that belong to ``σᵢ`` below ``√eps₆₄·σ₁`` are not
    orthogonal; they carry nothing that float32 shows.

    Args:
        matrix: ``(..., m, n)``, any float dtype.
        rank: how many triplets; by default ``min(m, n)``.

    Returns:
        Factors in float32 (float64 for a float64 matrix, which is decomposed directly).

    Raises:
        LorankError: as :func:`lorank.linalg.svd`.

    Cost: two thirds of :func:`lorank.linalg.svd` in float32.

    Example:
        >>> gram_svd(torch.diag(torch.tensor([1.0, 3.0])), 1).S
        tensor([3.])
    """
    check_matrix(matrix)
    kept = min(matrix.shape[-2:]) if rank is None else rank
    if matrix.dtype == torch.float64:
        U, S, Vh = svd(matrix)
        return SVD(U[..., :kept], S[..., :kept], Vh[..., :kept, :])
    dtype = working_dtype(matrix.dtype)
    A = matrix.detach().double()
    tall = _tall(A)
    V = torch.linalg.eigh(tall.mT @ tall)[1].flip(-1)[..., :kept]
    scaled = tall @ V
    S = torch.linalg.vector_norm(scaled, dim=-2)
    U = scaled / S.clamp_min(torch.finfo(S.dtype).tiny).unsqueeze(-2)
    left, right = (U, V) if A.shape[-2] >= A.shape[-1] else (V, U)
    return SVD(left.to(dtype), S.to(dtype), right.mT.to(dtype))


def _tall(A: Tensor) -> Tensor:
    return A if A.shape[-2] >= A.shape[-1] else A.mT
