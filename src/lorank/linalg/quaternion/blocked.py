"""Blocked quaternion SVD for an unknown rank: it grows until the error is small enough."""

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import frobenius, rows, size, star, star_times, times
from lorank.linalg.quaternion.errors import residual_norm
from lorank.linalg.quaternion.kinds import QArray, arrive_finite
from lorank.linalg.quaternion.qr import orth, orth_against
from lorank.linalg.quaternion.randomized import (
    Seed,
    check_counts,
    check_whole,
    generator_of,
    normal,
)
from lorank.linalg.quaternion.svd import canonical, cut, factorise, given

LOOK = 1.5
"""The residual itself is formed where its estimate is below this multiple of the tolerance."""


class Growth(NamedTuple):
    """How :func:`qsvd_adaptive` ended.

    ``rank`` triplets are given, ``columns`` were drawn; ``error`` is the relative Frobenius error
    of what is given; ``converged`` says whether it is within the tolerance.

    Example:
        >>> lorank.linalg.qsvd_adaptive(torch.ones(9, 8, 4).double(), 0.1)[-1].converged
        True
    """

    rank: int
    columns: int
    error: float
    converged: bool


def qsvd_adaptive(
    A: QArray,
    tol: float,
    block_size: int = 10,
    max_rank: int | None = None,
    n_iter: int = 1,
    *,
    random_state: Seed = None,
) -> tuple[QArray, Any, QArray, Growth]:
    """``A ≈ U·diag(S)·Vh`` with ``‖A − U·diag(S)·Vh‖_F ≤ tol·‖A‖_F`` and the rank that takes.

    Columns are added a block at a time, each sketched from what is left of A and made orthogonal
    to those before; so small singular values keep their accuracy. The next sketch also estimates
    what is left, and near the tolerance the residual itself is measured: the difference
    ``‖A‖² − ‖Q*A‖²``, which costs nothing, stalls at the root of eps. At the end triplets that the
    tolerance does not need are cut.

    Args:
        A: ``(m, n, 4)``, float32 or float64.
        tol: relative error in the Frobenius norm, from 0 to 1; below rounding, growth ends at the
            numerical rank.
        block_size: columns a step.
        max_rank: where to stop otherwise; by default ``min(m, n)``.
        n_iter: power iterations a block.
        random_state: a seed or a generator; by default always the same numbers.

    Returns:
        U, S, Vh of the kind of A, and :class:`Growth`.

    Raises:
        LorankError: if A is not one quaternion matrix of finite values, or an argument is out of
            range.

    Cost: ``16·(2q + 2)·m·n·l`` real multiplications for l columns, and a residual or two. Source:
    Liu, Ling and Jia, 2022, the blocked form, with Martinsson and Voronin's deflation, 2016.

    Example:
        >>> A = torch.ones(20, 30, 4)
        >>> qsvd_adaptive(A, 1e-3)[-1].rank
        1
    """
    tensor, kind = arrive_finite(A)
    limit = _limits(tensor, tol, block_size, max_rank)
    check_counts(n_iter=n_iter)
    generator = generator_of(random_state)
    with exact(tensor.device):
        goal = max(
            tol, tensor.shape[1] ** 0.5 * torch.finfo(tensor.dtype).eps
        )  # rounding leaves it
        Q, C = _grow(rows(tensor), goal, block_size, limit, n_iter, generator)
        V, s, U = factorise(C.to(torch.complex128))
        U = times(Q.to(U.dtype), U)
        whole = float(residual_norm(rows(tensor), Q, star(C)))
        rank, error = _shortest(s, float(frobenius(tensor)), whole, goal)
        U, s, V = cut((U, s, V), rank)
        U, V = canonical(U, V)
        found = given(U, s, V, tensor.dtype, kind)
    return *found, Growth(rank, Q.shape[-1] // 2, error, bool(error <= tol))


def _limits(A: Tensor, tol: float, block_size: int, max_rank: int | None) -> int:
    if A.ndim != 3:
        raise LorankError(f"an adaptive rank needs one matrix (m, n, 4), found {tuple(A.shape)}")
    full = min(A.shape[:2])
    if not isinstance(tol, Real) or not 0 <= tol < 1:
        raise LorankError(f"a relative tolerance lies between 0 and 1, found {tol!r}")
    check_counts(block_size=block_size)
    if block_size < 1:
        raise LorankError(f"a block has at least one column, found {block_size}")
    max_rank = full if max_rank is None else max_rank
    check_whole("a rank", max_rank, 1, full)
    return max_rank


def _grow(
    P: Tensor, goal: float, block: int, limit: int, n_iter: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Q and ``C = A*Q``, grown until the residual is within the goal or the rank reached."""
    n = P.shape[-1] // 2
    norm = float(frobenius(torch.view_as_real(P)))
    Q, C = P.new_empty((P.shape[0], 0)), P.new_empty((n, 0))
    while Q.shape[-1] // 2 < limit:
        width = min(block, limit - Q.shape[-1] // 2)
        Y = _left(P, Q, C, rows(normal((n, width, 4), P.real, generator)))
        estimate = float(size(Y)) / (2 * width**0.5)  # E‖EΩ‖² = 4·width·‖E‖²
        near = bool(Q.shape[-1]) and estimate <= LOOK * goal * norm
        if near and float(residual_norm(P, Q, star(C))) <= goal:
            break
        for _ in range(n_iter):
            Z = star_times(P, orth(Y, loose=True))
            Y = _left(P, Q, C, orth(Z, loose=True))
        Y = orth_against(Y, Q) if Q.shape[-1] else orth(Y)
        Q, C = torch.cat((Q, Y), -1), torch.cat((C, star_times(P, Y)), -1)
    return Q, C


def _left(P: Tensor, Q: Tensor, C: Tensor, X: Tensor) -> Tensor:
    """``(A − Q·C*)·X``: what the columns so far leave of A, applied."""
    Y = times(P, X)
    return Y - times(Q, star_times(C, X)) if Q.shape[-1] else Y


def _shortest(s: Tensor, norm: float, left: float, goal: float) -> tuple[int, float]:
    """Fewest triplets within the goal, and the relative error with them.

    Where all are not within it, the fewest with the error of all. The columns leave ``left``, at
    right angles to what the triplets carry.
    """
    if norm == 0:
        return 1, 0.0
    tails = torch.cat(((s / norm).square().flip(0).cumsum(0).flip(0), s.new_zeros(1)))
    errors = (tails + left**2).sqrt()
    enough = (errors <= max(goal, float(errors[-1]))).nonzero().flatten()
    rank = max(1, int(enough[0]))
    return rank, float(errors[rank])
