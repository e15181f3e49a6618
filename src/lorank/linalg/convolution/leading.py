"""The leading singular values of an operator that can only be applied."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError

Map = Callable[[Tensor], Tensor]

STEPS = 500
"""Blocks after which a search is given up."""


class Leading(NamedTuple):
    """Singular values in descending order, and ``‖Tᵀu − σv‖``, how far each may be from one."""

    values: Tensor
    residuals: Tensor


def leading_values(
    apply: Map, adjoint: Map, start: Tensor, count: int, *, tolerance: float
) -> Leading:
    """Largest singular values by block Lanczos with full reorthogonalisation, restarted.

    The basis V of right vectors grows by blocks ``TᵀTX``; the SVD of ``T·V`` gives the best
    approximations in its span (Rayleigh and Ritz). When V is full, the leading ones are kept and
    the search goes on from their residuals. Each value lies below the true one of its place, and
    within its residual there is a singular value; a value that no start direction touches would
    be missed, which random blocks make improbable.

    Args:
        apply: ``T`` on ``(block, n)``, to ``(block, m)``.
        adjoint: ``Tᵀ`` on ``(block, m)``.
        start: ``(block, n)``, random. Of values that are equal no more than ``block`` are found,
            so the block is at least ``count`` wide.
        count: how many values.
        tolerance: largest residual, relative to the largest value.

    Raises:
        LorankError: if the block is narrower than ``count``, or the residuals do not come below
            the tolerance in 500 blocks.

    Cost: a convolution and its adjoint for each block, and orthogonalisation against a basis of
    at most ``count`` and twelve blocks. Source: Golub, Luk and Overton, 1981; for the restarts
    Stathopoulos, Saad and Wu, 1998.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 3.0, 2.0]))
        >>> found = leading_values(lambda x: x @ A, lambda y: y @ A, torch.eye(3)[:2] + 0.1, 1,
        ...                        tolerance=1e-4)
        >>> round(float(found.values), 4)
        3.0
    """
    block, n = start.shape
    if block < count:
        raise LorankError(f"a block of {count} vectors finds {count} values, found {block}")
    keep = min(count + 2 * block, n)
    V = W = Z = start.new_zeros(0, n)
    X = _orthonormal(start, V)
    for _ in range(STEPS):
        Y = apply(X)
        back = adjoint(Y)
        V, Z = torch.cat([V, X]), torch.cat([Z, back])
        W = torch.cat([W, Y]) if W.shape[1] == Y.shape[1] else Y
        U, S, Qh = torch.linalg.svd(W.mT, full_matrices=False)
        # Rows of Qh rotate the basis: T applied to them gives S·U, so Tᵀu = Qh·Z/S.
        rotated, images = Qh @ V, Qh @ Z
        safe = S.clamp_min(torch.finfo(S.dtype).tiny).unsqueeze(-1)
        residual = images / safe - S.unsqueeze(-1) * rotated
        sizes = torch.where(S > 0, torch.linalg.vector_norm(residual, dim=-1), 0.0)
        open_ = sizes > tolerance * S[0]
        if len(S) >= count and not open_[:count].any():
            return Leading(S[:count], sizes[:count])
        if len(V) >= min(keep + 10 * block, n):
            V, Z, W = rotated[:keep], images[:keep], (U * S).mT[:keep]
        X = _orthonormal(residual[open_][:block], V)
        if not len(X):  # the basis is invariant: its values are exact
            return Leading(S[:count], sizes[:count])
    raise LorankError(
        f"the leading {count} singular values did not reach a relative residual of {tolerance} in "
        f"{STEPS} blocks: the largest is {float(sizes[:count].max() / S[0]):.1e}"
    )


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows of what a block adds to a basis; twice is enough (Kahan and Parlett)."""
    scale = torch.linalg.vector_norm(block, dim=-1, keepdim=True)
    X = block / scale.clamp_min(torch.finfo(block.dtype).tiny)
    for _ in range(2):
        X = X - (X @ basis.mT) @ basis
        Q, R = torch.linalg.qr(X.mT)
        X = Q.mT[R.diagonal().abs() > 100 * torch.finfo(block.dtype).eps]
    return X
