"""Quaternion Householder reflections: the reference for bases, and the way to a real bidiagonal."""

import torch
from torch import Tensor

from lorank.linalg.quaternion.algebra import expand, halves, join, over, star_times, times

# A reflection is H = I − 2vv* with ‖v‖ = 1. For a column x with first entry u·|x₁|, u a unit
# quaternion, v ∝ x + u‖x‖e₁ gives Hx = −u‖x‖e₁; the unit −ū from the left makes the pivot real.

PANEL = 24
"""Columns reduced one by one before the rest is reached by products."""


def reflector(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vector v ``(..., m, 2)``, unit −ū ``(..., 1, 2)`` and ``‖x‖`` of a column's row form.

    A zero column has v = 0, which reflects nothing, and the unit 1.
    """
    largest = x.abs().amax((-2, -1), keepdim=True)
    safe = torch.where(largest > 0, largest, torch.ones_like(largest))
    x = over(x, safe)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    first = x[..., :1, :]
    size = torch.linalg.vector_norm(first, dim=(-2, -1), keepdim=True)
    one = torch.zeros_like(first)
    one[..., 0] = 1
    u = torch.where(size > 0, first / torch.where(size > 0, size, 1), one)
    v = x.clone()
    v[..., :1, :] += u * norm
    length = torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True)
    v = v / torch.where(length > 0, length, 1)
    a, b = halves(u)
    unit = torch.where(norm > 0, join(-a.conj(), b), one)  # −ū: the conjugate of a + bj is ā − bj
    return v, unit, (norm * safe)[..., 0, 0]


def left_scale(unit: Tensor, P: Tensor) -> Tensor:
    """``g·P`` for unit quaternions ``(..., m, 2)``, one a row of P."""
    (a, b), (p, q) = halves(unit), halves(P)
    return join(a * p - b * q.conj(), a * q + b * p.conj())


def right_scale(P: Tensor, unit: Tensor) -> Tensor:
    """``P·g`` for unit quaternions ``(..., 1, 2n)``, one a column of P."""
    (p, q), (a, b) = halves(P), halves(unit)
    return join(p * a - q * b.conj(), p * b + q * a.conj())


def reflect(V: Tensor, X: Tensor, *, back: bool = False) -> Tensor:
    """``H₁H₂…H_k·X``, or ``H_k…H₂H₁·X`` with ``back``, in four products.

    ``H₁…H_k = I − V·T·V*`` with ``T⁻¹ = ½·I + striu(V*V)``, so that T itself is never formed.

    Args:
        V: row form ``(..., m, 2k)`` of unit columns; zero columns reflect nothing.
        X: row form ``(..., m, 2l)``.
        back: the reverse order, which undoes the other.
    """
    a, b = halves(star_times(V, V))
    half = torch.full(a.shape[:-1], 0.5, dtype=a.dtype, device=a.device)
    T = expand(join(a.triu(1) + torch.diag_embed(half), b.triu(1)))
    # the adjoint's odd columns of a right side hold nothing new: solve for the even ones
    Y = columns(star_times(V, X))
    if back:
        Y = torch.linalg.solve_triangular(T.mH, Y, upper=False)
    else:
        Y = torch.linalg.solve_triangular(T, Y, upper=True)
    return X - times(V, from_columns(Y))


def columns(P: Tensor) -> Tensor:
    """Even columns ``(..., 2m, n)`` of the adjoint: a over −b̄, entry by entry."""
    a, b = halves(P)
    return torch.stack((a, -b.conj()), -2).flatten(-3, -2)


def from_columns(C: Tensor) -> Tensor:
    """Row form of the even columns of an adjoint: the inverse of :func:`columns`."""
    return join(C[..., 0::2, :], -C[..., 1::2, :].conj())


def householder_qr(A: Tensor) -> tuple[Tensor, Tensor]:
    """Thin QR of a row form ``(..., m, 2n)`` by reflections, whatever the rank.

    Cost: ``O(m·n·min(m, n))``, in panels. Source: Bunse-Gerstner, Byers and Mehrmann, A quaternion
    QR algorithm, 1989.
    """
    r = min(A.shape[-2], A.shape[-1] // 2)
    V, R = _reflections(A)
    units = torch.cat([_to_real(R[..., j : j + 1, 2 * j : 2 * j + 2]) for j in range(r)], -2)
    a, b = halves(left_scale(units, R[..., :r, :]))
    Q = reflect(V, right_scale(_identity(A, r), conjugate(units).flatten(-2).unsqueeze(-2)))
    return Q, join(_real_pivots(a), b.triu(1))


def complement(U: Tensor) -> Tensor:
    """Row form of the missing columns ``(..., m, 2(m − r))`` that make a basis unitary."""
    m, r = U.shape[-2], U.shape[-1] // 2
    V, _ = _reflections(U)
    return reflect(V, _identity(U, m)[..., 2 * r :])


def _reflections(A: Tensor) -> tuple[Tensor, Tensor]:
    """Unit columns of the reflections that make A upper triangular, and what becomes of A."""
    n = A.shape[-1] // 2
    r = min(A.shape[-2], n)
    R, V = A.clone(), torch.zeros_like(A[..., : 2 * r])
    for start in range(0, r, PANEL):
        stop = min(start + PANEL, r)
        panel = V[..., start:, 2 * start : 2 * stop]
        _reduce(R[..., start:, 2 * start : 2 * stop], panel)
        if stop < n:
            rest = R[..., start:, 2 * stop :]
            rest.copy_(reflect(panel, rest, back=True))
    return V, R


def _reduce(R: Tensor, V: Tensor) -> None:
    """Reflect the columns of one panel in place."""
    for j in range(V.shape[-1] // 2):
        v, _, _ = reflector(R[..., j:, 2 * j : 2 * j + 2])
        rest = R[..., j:, 2 * j :]
        rest -= 2 * times(v, star_times(v, rest))
        V[..., j:, 2 * j : 2 * j + 2] = v


def _to_real(x: Tensor) -> Tensor:
    """Unit quaternion g with ``g·x = |x|``, 1 where x is zero; row forms ``(..., 1, 2)``."""
    largest = x.abs().amax((-2, -1), keepdim=True)
    x = over(x, torch.where(largest > 0, largest, torch.ones_like(largest)))  # squares underflow
    size = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    one = torch.zeros_like(x)
    one[..., 0] = 1
    return torch.where(size > 0, conjugate(x) / torch.where(size > 0, size, 1), one)


def conjugate(P: Tensor) -> Tensor:
    """Conjugate of each entry, not transposed."""
    a, b = halves(P)
    return join(a.conj(), -b)


def _identity(like: Tensor, r: int) -> Tensor:
    """Row form of the first r columns of the identity, with as many rows as ``like``."""
    out = like.new_zeros((*like.shape[:-1], 2 * r))
    out[..., 0::2].diagonal(dim1=-2, dim2=-1).fill_(1)
    return out


def _real_pivots(a: Tensor) -> Tensor:
    k = min(a.shape[-2:])
    diagonal = a.diagonal(dim1=-2, dim2=-1).real
    out = a.triu(1)
    out[..., :k, :k] += torch.diag_embed(diagonal).to(a.dtype)
    return out
