"""How far are the factors from orthonormal?"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.penalties.precision import at_least_float32


def orthogonality(factors: Iterable[Tensor]) -> Tensor:
    """Squared distance of every Gram matrix from the identity, over the squared rank, summed.

    ``Σ_A ‖G_A − I‖_F² / r_A²`` with ``r = min(m, n)`` and ``G`` the Gram matrix on the small
    side: ``AᵀA`` of a tall matrix, ``AAᵀ`` of a wide one. Give it ``U (m, r)`` and ``Vh (r, n)``
    of every layer. 0 exactly when every short side is orthonormal.

    Computed in float32 (float64 input: in float64), also under autocast; matrices of equal shape
    run as one batch, and nothing larger than r×r is made of any of them.

    Args:
        factors: matrices ``(m, n)``, or batches of them ``(groups, m, n)``.

    Returns:
        A scalar to add to the loss.

    Raises:
        LorankError: if there are no factors, or one is not a matrix with entries.

    Cost: ``r²·max(m, n)`` multiply-accumulates per matrix forward and as many backward. Source:
    Yang et al., Learning Low-Rank Deep Neural Networks via Singular Vector Orthogonality
    Regularization and Singular Value Sparsification, 2020, equation 4.

    Example:
        >>> round(float(orthogonality([torch.eye(4)[:, :2], 2 * torch.eye(3)])), 6)
        3.0
    """
    terms = [_term(batch) for batch in _equal_shapes(factors)]
    return torch.stack([term.to(terms[0].device) for term in terms]).sum()


def _equal_shapes(factors: Iterable[Tensor]) -> list[list[Tensor]]:
    batches = defaultdict(list)
    for factor in factors:
        if factor.ndim not in (2, 3) or factor.numel() == 0:
            raise LorankError(
                "orthogonality needs matrices (m, n) or (groups, m, n) with entries, "
                f"found shape {tuple(factor.shape)}"
            )
        batches[factor.ndim, factor.shape[-2:], factor.dtype, factor.device].append(factor)
    if not batches:
        raise LorankError("there is nothing to penalise: no factors were given")
    return list(batches.values())


def _term(batch: list[Tensor]) -> Tensor:
    with exact(batch[0].device):
        stacked = torch.stack(batch) if batch[0].ndim == 2 else torch.cat(batch)
        A = at_least_float32(stacked)
        wide = A if A.shape[-2] <= A.shape[-1] else A.mT
        return _Deviation.apply(wide) / wide.shape[-2] ** 2


def _defect(A: Tensor) -> Tensor:
    """``A·Aᵀ − I`` of wide matrices ``(k, r, n)``, in one kernel."""
    eye = torch.eye(A.shape[-2], dtype=A.dtype, device=A.device)
    return torch.baddbmm(eye, A, A.mT, beta=-1)


class _Deviation(torch.autograd.Function):
    """``Σ ‖A·Aᵀ − I‖_F²`` with its gradient ``4·(A·Aᵀ − I)·A``.

    The Gram matrix is symmetric, which autograd does not know: it would multiply by it twice.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        D = _defect(A)
        ctx.save_for_backward(A, D)
        return torch.linalg.vector_norm(D).square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        A, D = ctx.saved_tensors
        with exact(A.device):
            # For a second derivative the Gram matrix must be a function of A again.
            D = _defect(A) if torch.is_grad_enabled() else D
            return torch.bmm(D * (4 * grad), A)
