"""Quaternion linear equations: solve, pseudo-inverse, least squares and truncated total ones."""

from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import (
    check_product,
    expand,
    from_rows,
    rows,
    star,
    star_times,
    times,
)
from lorank.linalg.quaternion.householder import columns, from_columns
from lorank.linalg.quaternion.kinds import QArray, arrive_finite, check_range, check_together
from lorank.linalg.quaternion.qr import triangular
from lorank.linalg.quaternion.randomized import Seed, check_rank, project, range_finder
from lorank.linalg.quaternion.svd import factorise


def qsolve(A: QArray, B: QArray) -> QArray:
    """The X with ``A·X = B``, for a square A of full rank.

    Args:
        A: ``(..., n, n, 4)``.
        B: ``(..., n, l, 4)``.

    Returns:
        ``(..., n, l, 4)``, of the kind of A.

    Raises:
        LorankError: if A is not square, not of full rank to rounding, or the shapes do not fit.

    Cost: an LU of twice the side. Source: the adjoint is an isomorphism, and one column of each
    block column of its solution holds X.

    Example:
        >>> j = torch.tensor([[[0.0, 0.0, 2.0, 0.0]]])
        >>> qsolve(j, j)[..., 0].tolist()
        [[1.0]]
    """
    (left, kind), (right, _) = arrive_finite(A), arrive_finite(B)
    if left.shape[-2] != left.shape[-3]:
        raise LorankError(f"equations to solve need a square matrix, found {tuple(left.shape)}")
    check_product(left, right)
    X = expand(rows(left.double()))
    with exact(left.device):
        factor, pivots, info = torch.linalg.lu_factor_ex(X)
        diagonal = factor.diagonal(dim1=-2, dim2=-1).abs()
        eps = torch.finfo(diagonal.dtype).eps
        if (info > 0).any() or not (diagonal.amin(-1) > eps * diagonal.amax(-1)).all():
            raise LorankError(
                "equations to solve need a matrix of full rank, found a pivot of 0 to rounding: "
                "use qpinv or qlstsq"
            )
        solved = torch.linalg.lu_solve(factor, pivots, columns(rows(right.double())))
    return kind.give(from_rows(from_columns(solved)).to(left.dtype))


def qpinv(A: QArray, rcond: float | None = None) -> QArray:
    """Moore–Penrose inverse ``A† = V·diag(1/σ)·U*``.

    Args:
        A: ``(..., m, n, 4)``.
        rcond: values up to this share of the largest count as zero; by default
            ``max(m, n)·eps`` of A's precision.

    Returns:
        ``(..., n, m, 4)``, of the kind of A.

    Raises:
        LorankError: if A is not a quaternion matrix of finite values.

    Cost: a full SVD.

    Example:
        >>> qpinv(torch.tensor([[[0.0, 2.0, 0.0, 0.0]]])).flatten().tolist()
        [0.0, -0.5, 0.0, 0.0]
    """
    tensor, kind = arrive_finite(A)
    with exact(tensor.device):
        U, s, V = factorise(rows(tensor.double()))
        inverse = _inverse(s, tensor, rcond).repeat_interleave(2, -1).unsqueeze(-2)
        found = from_rows(times(V * inverse, star(U))).to(tensor.dtype)
        check_range(found)
        return kind.give(found)


def qlstsq(A: QArray, B: QArray, rcond: float | None = None) -> QArray:
    """The X of least ``‖A·X − B‖_F``, and of least norm among those: ``A†·B``.

    Args:
        A: ``(..., m, n, 4)``, of any rank.
        B: ``(..., m, l, 4)``.
        rcond: as in :func:`qpinv`.

    Returns:
        ``(..., n, l, 4)``, of the kind of A.

    Raises:
        LorankError: if an array is not a quaternion matrix of finite values, or they do not fit.

    Example:
        >>> A = torch.ones(3, 1, 4)
        >>> qlstsq(A, 2 * A)[0, 0, 0]
        tensor(2.)
    """
    (left, kind), (right, _) = arrive_finite(A), arrive_finite(B)
    if left.shape[-3] != right.shape[-3]:
        raise LorankError(
            "least squares need as many rows on both sides, found "
            f"{tuple(left.shape)} and {tuple(right.shape)}"
        )
    check_together(left, right)
    with exact(left.device):
        U, s, V = factorise(rows(left.double()))
        inverse = _inverse(s, left, rcond).repeat_interleave(2, -1).unsqueeze(-2)
        solved = times(V * inverse, star_times(U, rows(right.double())))
    return kind.give(from_rows(solved).to(left.dtype))


def _inverse(s: Tensor, A: Tensor, rcond: float | None) -> Tensor:
    """``1/σ`` where σ counts, and 0 where it does not."""
    rcond = max(A.shape[-3:-1]) * torch.finfo(A.dtype).eps if rcond is None else rcond
    counts = s > rcond * s[..., :1]
    return torch.where(counts, 1 / torch.where(counts, s, 1), 0)


TLS_METHODS = ("auto", "full", "randomized")


def qtls(
    A: QArray,
    b: QArray,
    k: int,
    *,
    method: str = "auto",
    n_oversamples: int = 10,
    n_iter: int = 2,
    random_state: Seed = None,
) -> Any:
    """Truncated total least squares, ``A·x ≈ b`` with errors in both: ``x = V₁₁·(V₁₁*V₁₁)⁻¹·V₂₁*``.

    V₁₁ over V₂₁ are the k dominant right singular vectors of ``[A b]``. The rest, which noise
    rules, is left out; of the solutions that remain this has the least norm.

    Args:
        A: ``(m, n, 4)``, or with leading axes.
        b: ``(m, d, 4)``.
        k: how many triplets of ``[A b]`` to keep, at most n.
        method: ``"full"``, ``"randomized"``, or ``"auto"``: the sketch where it is the cheaper.
        n_oversamples: p of the sketch.
        n_iter: q of the sketch.
        random_state: a seed or a generator; by default always the same numbers.

    Returns:
        x ``(n, d, 4)``, of the kind of A.

    Raises:
        LorankError: if the shapes do not fit, k is out of range, the method is not known, or the
            truncated problem has no solution, as b is at right angles to what is kept of A.

    Source: Fierro, Golub, Hansen and O'Leary, 1997; over the quaternions Liu, Ling and Jia, the
    first version of 2020.

    Example:
        >>> A = torch.tensor([[[1.0, 0, 0, 0]], [[0, 1.0, 0, 0]]])
        >>> round(float(qtls(A, 3 * A, 1)[0, 0, 0]), 5)
        3.0
    """
    (left, kind), (right, _) = arrive_finite(A), arrive_finite(b)
    if left.shape[:-2] != right.shape[:-2]:
        raise LorankError(
            "least squares need as many rows on both sides, found "
            f"{tuple(left.shape)} and {tuple(right.shape)}"
        )
    check_together(left, right)
    check_rank(k, left)
    if method not in TLS_METHODS:
        raise unknown("method", method, TLS_METHODS)
    n = left.shape[-2]
    P = rows(torch.cat((left, right), -2).double())
    width = min(k + n_oversamples, P.shape[-2], P.shape[-1] // 2)
    sketched = method == "randomized" or (method == "auto" and 4 * width <= min(left.shape[-3:-1]))
    with exact(left.device):
        if sketched:
            Q = range_finder(P, width, n_iter, "auto", "quaternion", random_state)
            V = project(P, Q, rank=k)[2]
        else:
            V = factorise(P, rank=k)[2]
        return kind.give(from_rows(_from_dominant(V, n)).to(left.dtype))


ROUNDING = 1e3
"""A kept direction that reaches the unknowns by less than this many eps an entry does not."""


def _from_dominant(V: Tensor, n: int) -> Tensor:
    """``V₁₁·(V₁₁*V₁₁)⁻¹·V₂₁*`` by QR: ``Q·R^(−*)·V₂₁*``."""
    Q, R = triangular(V[..., :n, :])
    diagonal = R[..., 0::2].diagonal(dim1=-2, dim2=-1).abs()
    if not (diagonal.amin(-1) > ROUNDING * n * torch.finfo(diagonal.dtype).eps).all():
        raise LorankError(
            "truncated total least squares need kept directions that reach the unknowns, found one "
            "that lies in b alone: take another k"
        )
    right = columns(star(V[..., n:, :]))
    solved = torch.linalg.solve_triangular(expand(R).mH, right, upper=False)
    return times(Q, from_columns(solved))
