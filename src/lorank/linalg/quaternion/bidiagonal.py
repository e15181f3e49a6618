"""Quaternion SVD by way of a real bidiagonal matrix: indifferent to repeated singular values."""

import torch
from torch import Tensor

from lorank.linalg.quaternion.algebra import join, star, star_times, times
from lorank.linalg.quaternion.householder import (
    conjugate,
    left_scale,
    reflect,
    reflector,
    right_scale,
)


def bidiagonal_svd(P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``A = U·diag(s)·V*`` of a tall row form ``(..., m, 2n)``, ``m ≥ n``, in complex128.

    Reflections from both sides, each followed by a unit quaternion that makes its pivot real,
    leave a *real* bidiagonal matrix. Its real SVD, whatever the multiplicities, is then carried
    back by the reflections.

    Returns:
        Row forms of U ``(..., m, 2n)`` and V ``(..., n, 2n)``, and s descending between them.

    Cost: ``O(m·n²)``, half of it in products of a matrix and a vector. Source: Golub and Kahan,
    1965; over the quaternions Sangwine and Le Bihan, 2006.
    """
    left, right, B, (left_units, right_units) = _bidiagonalise(P.clone())
    W, s, Zh = torch.linalg.svd(B)
    U = left_scale(conjugate(left_units), _as_rows(W, P.dtype))
    V = left_scale(conjugate(right_units), _as_rows(Zh.mT, P.dtype))
    padding = P.new_zeros((*U.shape[:-2], P.shape[-2] - U.shape[-2], U.shape[-1]))
    return reflect(left, torch.cat((U, padding), -2)), s, reflect(right, V)


def _bidiagonalise(P: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Reflections from the left and the right, the real bidiagonal matrix, and both units.

    P is overwritten.
    """
    *batch, _, columns = P.shape
    n = columns // 2
    left, right = torch.zeros_like(P), P.new_zeros((*batch, n, columns))
    units = (_ones(P, n), _ones(P, n))
    B = P.real.new_zeros((*batch, n, n))
    for j in range(n):
        here, after = slice(2 * j, 2 * j + 2), slice(2 * j + 2, None)
        v, unit, B[..., j, j] = reflector(P[..., j:, here])
        left[..., j:, here], units[0][..., j : j + 1, :] = v, unit
        if j + 1 == n:
            break
        rest = P[..., j:, after]
        rest -= 2 * times(v, star_times(v, rest))
        row = left_scale(unit, rest[..., :1, :])
        v, unit, B[..., j, j + 1] = reflector(star(row))
        right[..., j + 1 :, here], units[1][..., j + 1 : j + 2, :] = v, unit
        below = P[..., j + 1 :, after]
        below -= 2 * times(times(below, v), star(v))
        below[..., :2] = right_scale(below[..., :2], conjugate(unit))
    return left, right, B, units


def _ones(P: Tensor, n: int) -> Tensor:
    units = P.new_zeros((*P.shape[:-2], n, 2))
    units[..., 0] = 1
    return units


def _as_rows(X: Tensor, dtype: torch.dtype) -> Tensor:
    X = X.to(dtype)
    return join(X, torch.zeros_like(X))
