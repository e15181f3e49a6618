"""Orthonormal bases of quaternion matrices: CholeskyQR where it is safe, Householder elsewhere."""

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import (
    expand,
    from_rows,
    halves,
    largest,
    over,
    rows,
    size,
    star,
    star_times,
    times,
)
from lorank.linalg.quaternion.householder import householder_qr
from lorank.linalg.quaternion.kinds import QArray, arrive_finite, check_range

PASSES = 10
"""CholeskyQR steps before Householder is asked: a full range needs two or three, noise five."""

NEARLY = 0.5
"""A basis with ``‖Y*Y − I‖_F`` below this is orthonormal to rounding after one more step."""

AGAIN = 4
"""Times that new directions are made orthogonal to old ones: two, and more where they are noise."""

HUGE = 1e70
"""Entries up to here, and down to its inverse, may be squared and summed."""

LOOSE = 1e-5
"""Ratio of a triangle's diagonal above which one step leaves a basis good enough to go on with."""


def qqr(A: QArray) -> tuple[QArray, QArray]:
    """Thin QR decomposition ``A = Q·R`` with a real, non-negative diagonal of R.

    Where A has full rank this makes it unique. A well-conditioned A takes two steps of Cholesky,
    all in products; for the rest, also without full rank, Householder reflections.

    Args:
        A: ``(..., m, n, 4)``, float32 or float64.

    Returns:
        Q ``(..., m, r, 4)`` and upper triangular R ``(..., r, n, 4)``, ``r = min(m, n)``.

    Raises:
        LorankError: if A is not a quaternion matrix of finite values.

    Cost: ``O(m·n·r)``. Source: Fukaya and others, Shifted Cholesky QR for computing the QR
    factorization of ill-conditioned matrices, 2020, over the quaternions.

    Example:
        >>> Q, R = qqr(torch.tensor([[[0.0, 3.0, 0.0, 0.0]], [[0.0, 0.0, 4.0, 0.0]]]))
        >>> R.flatten().tolist()
        [5.0, 0.0, 0.0, 0.0]
    """
    tensor, kind = arrive_finite(A)
    with exact(tensor.device):
        found = [from_rows(P).to(tensor.dtype) for P in triangular(rows(tensor.double()))]
        check_range(found[1])
        return tuple(kind.give(factor) for factor in found)  # pyright: ignore[reportReturnType]


def qcholesky(A: QArray) -> QArray:
    """Lower triangular L with ``A = L·L*`` and a positive diagonal, for A Hermitian and positive.

    Only the Hermitian part of A is looked at.

    Args:
        A: ``(..., n, n, 4)``.

    Raises:
        LorankError: if A is not a square quaternion matrix of finite values, or not positive
            definite.

    Example:
        >>> qcholesky(torch.tensor([[[4.0, 0.0, 0.0, 0.0]]]))[..., 0].tolist()
        [[2.0]]
    """
    tensor, kind = arrive_finite(A)
    if tensor.shape[-2] != tensor.shape[-3]:
        raise LorankError(f"a Cholesky factor needs a square matrix, found {tuple(tensor.shape)}")
    P = rows(tensor.double())
    X = expand(P)
    R, failed = _triangle((X + X.mH) / 2)
    if failed:
        raise LorankError(
            "a Cholesky factor needs a positive definite matrix, found an eigenvalue ≤ 0"
        )
    return kind.give(from_rows(star(R)).to(tensor.dtype))


def orth(Y: Tensor, *, loose: bool = False) -> Tensor:
    """Row form of an orthonormal basis whose span holds that of Y; in float64, given back as Y is.

    Columns that depend on others are replaced by directions at right angles to the rest.

    Args:
        Y: row form ``(..., m, 2l)``, ``m ≥ l``.
        loose: accept, where it is well-conditioned, a basis orthonormal to about 1e-6 only:
            enough between power iterations, at half the price.
    """
    wide = Y.to(torch.complex128)
    found = _cholesky_qr(wide, loose=loose)
    return (householder_qr(wide) if found is None else found)[0].to(Y.dtype)


def orth_against(Y: Tensor, Q: Tensor) -> Tensor:
    """Orthonormal basis of what Y adds to an orthonormal Q, at right angles to it.

    Where Y adds next to nothing, its remains are rounding and lean on Q again: so once more.
    Where it adds nothing at all, that may not help, and reflections of Q and Y together do.
    """
    for _ in range(AGAIN):
        Y = orth(Y - times(Q, star_times(Q, Y)))
        if bool((size(star_times(Q, Y)) <= Y.shape[-1] * torch.finfo(Y.real.dtype).eps).all()):
            return Y
    both = torch.cat((Q, Y), -1).to(torch.complex128)
    return householder_qr(both)[0][..., Q.shape[-1] :].to(Y.dtype)


def triangular(Y: Tensor) -> tuple[Tensor, Tensor]:
    """Row forms of Q and R of a complex128 row form, whatever its shape and rank."""
    tall = Y.shape[-2] >= Y.shape[-1] // 2
    found = _cholesky_qr(Y) if tall else None
    if found is None:
        return householder_qr(Y)
    Q, (R, *more) = found
    for step in more:
        R = times(step, R)
    return Q, R


def defect(Q: Tensor) -> Tensor:
    """``‖Q*Q − I‖_F`` over the quaternions, of a row form ``(..., m, 2l)``."""
    return size(_gap(gram(Q)))


def gram(Y: Tensor) -> Tensor:
    """Row form of ``Y*Y``."""
    return star_times(Y, Y)


def _gap(G: Tensor) -> Tensor:
    gap = G.clone()
    gap[..., 0::2].diagonal(dim1=-2, dim2=-1).sub_(1)
    return gap


def _cholesky_qr(Y: Tensor, *, loose: bool = False) -> tuple[Tensor, list[Tensor]] | None:
    """CholeskyQR, repeated until orthonormal, and the triangles; None where it does not get there.

    One step leaves a defect of ``κ²·eps``, a second mends it. Where ``Y*Y`` is not positive
    definite in rounding, it is shifted by its rounding error first, which takes a factor of about
    1e7 off κ. Each step divides by a structured triangle, so each stays in the quaternions.
    """
    scale = largest(Y)
    if not (scale > 0).all():
        return None
    if ((scale > HUGE) | (scale < 1 / HUGE)).any():  # squares would leave the range of floats
        found = _cholesky_qr(over(Y, scale), loose=loose)
        return None if found is None else (found[0], [found[1][0] * scale, *found[1][1:]])
    steps = []
    for _ in range(PASSES):
        G = gram(Y)
        last = bool((size(_gap(G)) <= NEARLY).all())
        X = expand(G)
        R, failed = _triangle(X)
        if failed:
            R, failed = _triangle(_shifted(X, Y.shape[-2]))
            if failed:
                return None
        Y = _divide(Y, R)
        steps.append(R)
        if last or (loose and _well_conditioned(R)):
            return Y, steps
    return None


def _triangle(X: Tensor) -> tuple[Tensor, bool]:
    """Row form of the upper Cholesky factor of an adjoint, with its structure enforced.

    The complex factor is an adjoint up to ``κ·eps`` only, and dividing by one that is not would
    move the range itself by ``κ²·eps``.
    """
    L, info = torch.linalg.cholesky_ex(X)
    R = L.mH[..., 0::2, :].resolve_conj().contiguous()
    a, b = (half.diagonal(dim1=-2, dim2=-1) for half in halves(R))
    torch.view_as_real(a)[..., 1].zero_()
    b.zero_()
    failed = (info > 0) | ~torch.isfinite(size(R))
    return R, bool(failed.any())


def _shifted(X: Tensor, m: int) -> Tensor:
    n = X.shape[-1]
    trace = X.diagonal(dim1=-2, dim2=-1).real.sum(-1)
    eps = torch.finfo(X.real.dtype).eps
    shift = 2 * (m + n) * eps * trace
    return X + torch.diag_embed(shift.unsqueeze(-1).expand(X.shape[:-1])).to(X.dtype)


def _divide(Y: Tensor, R: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(expand(R), Y, upper=True, left=False)


def _well_conditioned(R: Tensor) -> bool:
    diagonal = halves(R)[0].diagonal(dim1=-2, dim2=-1).real
    return bool((diagonal.amin(-1) >= LOOSE * diagonal.amax(-1)).all())
