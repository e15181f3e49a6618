"""Norms of a kernel's symbol at given frequencies, with room for rounding.

``u = eps/2`` is the unit roundoff. A product of matrices with inner size n is off by at most
``(n + 4)·eps·‖A‖_F·‖B‖_F`` in the Frobenius norm, complex arithmetic included (Higham, Accuracy
and Stability of Numerical Algorithms, 3.5 and 3.6); a computed eigenvalue of a Hermitian matrix of
side m by a modest multiple of ``m·u`` of its norm (Golub and Van Loan, 8.1); 10 is taken for it.
The symbol itself is a sum over T taps, off by at most ``(T + 4)·eps·√T·‖K‖_F``. What these leave
open is added to an upper value and taken off a lower one.
"""

import math

import torch
from torch import Tensor

from lorank.linalg.convolution.symbol import symbol

LARGEST_CHUNK = 2**23
"""Entries of the symbol that are held at once."""


def gram(A: Tensor) -> Tensor:
    """``A·A*`` or ``A*·A``, the smaller.

    Example:
        >>> gram(torch.ones(2, 5)).shape
        torch.Size([2, 2])
    """
    A = A if A.shape[-2] <= A.shape[-1] else A.mH
    return A @ A.mH


def largest(A: Tensor) -> Tensor:
    """Largest singular value of each matrix (differentiable, also where it is zero).

    Example:
        >>> largest(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
        4.0
    """
    if min(A.shape[-2:]) == 1:
        squared = A.abs().square().sum((-2, -1))
    else:
        squared = torch.linalg.eigvalsh(gram(A))[..., -1]
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def enclosed(A: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers below and above the largest singular value of each matrix, entries being exact.

    Example:
        >>> low, high = enclosed(torch.eye(2))
        >>> bool(low <= 1 <= high)
        True
    """
    A = A.detach()
    squared = A.abs().square().sum((-2, -1))
    eps, inner = torch.finfo(squared.dtype).eps, max(A.shape[-2:])
    if min(A.shape[-2:]) == 1:
        top, room = squared, (inner + 4) * eps * squared
    else:
        top = torch.linalg.eigvalsh(gram(A))[..., -1].clamp_min(0)
        room = eps * ((inner + 4) * squared + 5 * min(A.shape[-2:]) * top)
    return (top - room).clamp_min(0).sqrt(), (top + room).sqrt() * (1 + eps)


def below(A: Tensor, G: Tensor, aim: Tensor) -> Tensor:
    """Upper bound of each norm, near ``aim`` where the norm is below it, else infinite.

    ``aim²·I − A·A*`` has a Cholesky decomposition ``R*·R`` if and only if ``‖A‖ < aim``; computed,
    it is that of a matrix off by at most ``(n + 2)·eps·‖|R|‖²`` (Higham, 10.1), which is added.

    Args:
        A: matrices ``(points, m, n)``.
        G: their :func:`gram`.
        aim: a number for each.

    Cost: a fifth of the eigenvalues of G.

    Example:
        >>> A = torch.eye(2).repeat(2, 1, 1)
        >>> below(A, gram(A), torch.tensor([1.5, 0.5])).tolist()
        [1.5000..., inf]
    """
    eps, side, inner = torch.finfo(aim.dtype).eps, G.shape[-1], max(A.shape[-2:])
    trace = G.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    room = (inner + 4) * eps * trace
    target = aim.square() - room
    eye = torch.eye(side, dtype=G.dtype, device=G.device)
    R, failed = torch.linalg.cholesky_ex(target[:, None, None] * eye - G)
    size = R.abs()
    rounded = (side + 2) * eps * size.sum(-1).amax(-1) * size.sum(-2).amax(-1)
    found = (target + room + rounded).clamp_min(0).sqrt() * (1 + 2 * eps)
    return torch.where((failed == 0) & (target > 0), found, math.inf)


def gram_bound(A: Tensor, steps: int) -> Tensor:
    """``‖A‖ ≤ ‖(A*A)^{2^{t−1}}‖_F^{1/2^t}``, by t squarings (differentiable).

    Each step divides by the Frobenius norm, and the way back adds the rounding of each product:
    with ``X_0 = A`` and ``X_{k+1} = X_k·X_k* / n_{k+1}``, ``‖X_k‖² ≤ n_{k+1}·‖X_{k+1}‖ + ρ``, and
    ``‖X_t‖ ≤ 1``.

    Args:
        A: ``(…, m, n)``.
        steps: t; ``steps=0`` is the Frobenius norm. The gap is at most ``r^{1/2^{t+1}}`` for r
            equal singular values.

    Cost: t products of the smaller side. Source: Delattre et al., Efficient Bound of Lipschitz
    Constant for Convolutional Layers by Gram Iteration, ICML 2023; the room for rounding is ours.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 0.5, 0.5]))
        >>> [round(float(gram_bound(A, t)), 3) for t in (0, 1, 4)]
        [1.225, 1.03, 1.0]
    """
    norms, rooms = [], []
    X = A
    for _ in range(steps + 1):
        norms.append(_frobenius(X))
        if len(norms) > steps:
            break
        rooms.append((max(X.shape[-2:]) + 4) * torch.finfo(norms[0].dtype).eps)
        X = gram(X / norms[-1][..., None, None])
    bound = torch.ones_like(norms[0])
    for norm, room in zip(reversed(norms[1:]), reversed(rooms), strict=True):
        bound = (norm * bound + room).sqrt()
    # Sums of squares go pairwise: each norm is right to log2 of its terms in eps.
    return norms[0] * bound * (1 + 64 * torch.finfo(bound.dtype).eps)


def _frobenius(X: Tensor) -> Tensor:
    """Norm of each matrix, above zero."""
    real = torch.view_as_real(X.resolve_conj()).flatten(-3) if X.is_complex() else X.flatten(-2)
    squared = real.square().sum(-1)
    return squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


def symbol_room(blocks: Tensor) -> Tensor:
    """Bound of the rounding of ``symbol(block, angle)``, for each block.

    Example:
        >>> symbol_room(torch.ones(2, 1, 1, 4)).shape
        torch.Size([2])
    """
    taps = math.prod(blocks.shape[3:])
    norms = torch.linalg.vector_norm(blocks.detach().flatten(1), dim=1)
    return (taps + 4) * torch.finfo(blocks.dtype).eps * math.sqrt(taps) * norms * 1.001


def symbols_at(blocks: Tensor, group: Tensor, angles: Tensor) -> Tensor:
    """Symbol of block ``group[i]`` at ``angles[i]``: ``(points, out, in)``.

    Example:
        >>> symbols_at(torch.ones(2, 1, 3, 4), torch.tensor([0, 1]), torch.zeros(2, 1)).shape
        torch.Size([2, 1, 3])
    """
    if len(blocks) == 1:
        return symbol(blocks[0], angles)
    # One product a point: a block differs from point to point.
    taps = math.prod(blocks.shape[3:])
    unit = torch.eye(taps, dtype=blocks.dtype, device=blocks.device)
    phases = symbol(unit.reshape(taps, 1, *blocks.shape[3:]), angles).squeeze(-1)
    real, imaginary = (
        (blocks.flatten(3)[group] @ part[:, None, :, None]).squeeze(-1)
        for part in (phases.real.contiguous(), phases.imag.contiguous())
    )
    return torch.complex(real, imaginary)
