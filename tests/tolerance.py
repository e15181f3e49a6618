"""Tolerances that are theorems: from the precision, the sizes and the operations, never from what
happened to pass.

``eps`` is the distance from 1 to the next number, ``u = eps / 2`` the unit roundoff. A sum of k
products in floating point is off by at most ``k·u / (1 − k·u)`` of the sum of their magnitudes
(Higham, Accuracy and Stability of Numerical Algorithms, 3.1); ``TEN`` stands for the modest
constants that such theorems carry and for sums of a few such terms.
"""

import math

import torch
from torch import Tensor

TEN = 10


def eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def orthonormal(size: int, dtype: torch.dtype) -> float:
    """Bound of ``|QᵀQ − I|``: Householder methods keep ``size`` × eps (Higham, 19.4)."""
    return TEN * size * eps(dtype)


def backward(m: int, n: int, dtype: torch.dtype) -> float:
    """Bound of ``‖A − U·S·Vh‖_F / ‖A‖_F`` and of ``|σ − σ̂| / σ₁``: a computed SVD is the exact one
    of a matrix ``p(m, n)·eps·‖A‖₂`` away (Golub and Van Loan, 8.6; singular values move by no
    more than the matrix does, Weyl).
    """
    return TEN * (m + n) * eps(dtype)


def storage(dtype: torch.dtype) -> float:
    """Bound of ``‖W − W'‖_F / ‖W‖_F`` when U, S and Vh are each rounded to a dtype.

    ``W = U·diag(S)·Vh``. Rounding U by at most u in each entry moves W by ``‖ΔU·S·Vh‖_F =
    ‖ΔU·diag(S)‖_F ≤ u·‖U·diag(S)‖_F = u·‖W‖_F``, because Vh has orthonormal rows and U orthonormal
    columns; likewise S and Vh: 3u, and the terms of second order stay below a fourth u.
    """
    return 2 * eps(dtype)


def product(terms: int, dtype: torch.dtype) -> float:
    """Bound of an operation's error relative to the product of its operands' norms, where each
    result is a sum of at most ``terms`` products, computed in two orders.
    """
    return TEN * terms * eps(dtype)


def sweep_norm(weight: Tensor, x: Tensor, taps: int, copies: int = 1) -> float:
    """Bound of ``‖K * x‖_F`` for a convolution: ``√taps·‖K‖_F·‖x‖_F``.

    ``K * x`` is a sum over taps of ``K_t·shift_t(x)`` with norms at most ``‖K_t‖_F·‖x‖_F``, and
    ``Σ ‖K_t‖ ≤ √taps·‖K‖_F`` (Cauchy and Schwarz). Padding by copies of the map multiplies
    ``‖x‖_F`` by at most ``√copies``.
    """
    norms = weight.detach().double().norm() * x.detach().double().norm()
    return math.sqrt(max(taps, 1) * copies) * float(norms)


def distance(a: Tensor, b: Tensor) -> float:
    """``‖a − b‖_F`` in float64; infinite where the shapes differ or an entry is not finite."""
    if a.shape != b.shape:
        return math.inf
    gap = float((a.detach().double() - b.detach().double()).norm())
    return gap if math.isfinite(gap) else math.inf
