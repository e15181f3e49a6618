"""Randomized SVD with error bounds, and the cheapest decomposition that is provably good enough."""

import math

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.gram import gram_svd
from lorank.linalg.precision import exact
from lorank.linalg.svd import SVD, check_matrix, svd, truncate, working_dtype

OVERSAMPLE, POWER_ITERATIONS = 10, 2

TOLERANCE = 1e-3
"""A randomized cut may lose this much more than the best one, relative to what that loses."""

WORTH = 1 / 8
"""Share of the full rank up to which a sketch is faster than the exact decomposition: measured on
768×768 to 4096×1024 matrices, a sketch of a twelfth takes a third of the time, of a quarter half,
and a refused one is paid on top."""


def randomized_svd(
    matrix: Tensor,
    rank: int,
    *,
    oversample: int = OVERSAMPLE,
    power_iterations: int = POWER_ITERATIONS,
    generator: torch.Generator | None = None,
) -> SVD:
    """Approximate leading triplets: ``A ≈ Q(QᵀA)``, ``Q`` a basis of ``(AAᵀ)^q·A·Ω``.

    Good where singular values fall, no better than its bounds where they do not: on a flat
    spectrum use :func:`lorank.linalg.gram_svd`. The basis is made orthonormal after each product.

    Args:
        matrix: ``(..., m, n)``, any float dtype.
        rank: how many triplets.
        oversample: how many more random directions than the rank.
        power_iterations: q; each multiplies the decay of the spectrum twice more.
        generator: where random numbers come from; by default a new one, always the same.

    Returns:
        Factors in float32 or float64.

    Raises:
        LorankError: if the matrix is not one of finite floats, the rank is out of range, or
            ``oversample`` or ``power_iterations`` is negative.

    Cost: ``O((2q + 2)·m·n·(r + p))``. Source: Halko, Martinsson and Tropp, Finding structure with
    randomness, SIAM Review 2011, algorithms 4.4 and 5.1.

    Example:
        >>> A = torch.outer(torch.arange(4.0), torch.ones(5))
        >>> randomized_svd(A, 1).S
        tensor([8.3666])
    """
    check_matrix(matrix)
    full = min(matrix.shape[-2:])
    if not 1 <= rank <= full:
        raise LorankError(f"a rank must be between 1 and {full}, found {rank}")
    if oversample < 0 or power_iterations < 0:
        raise LorankError(
            "oversample and power_iterations count from 0, found "
            f"{oversample} and {power_iterations}"
        )
    A = matrix.detach().to(working_dtype(matrix.dtype))
    width = min(full, rank + oversample)
    omega = _normal(A, width, generator)
    with exact(A.device):
        Q = torch.linalg.qr(A @ omega)[0]
        for _ in range(power_iterations):
            Q = torch.linalg.qr(A.mT @ Q)[0]
            Q = torch.linalg.qr(A @ Q)[0]
        small = svd(Q.mT @ A)
        return truncate(SVD(Q @ small.U, small.S, small.Vh), rank)


def _normal(A: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
    """Draw where the generator is, by default on the CPU: every device sees the same directions."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    shape = (*A.shape[:-2], A.shape[-1], width)
    drawn = torch.randn(shape, generator=generator, dtype=A.dtype, device=generator.device)
    return drawn.to(A.device)


def expected_error(values: Tensor, rank: int, oversample: int = OVERSAMPLE) -> float:
    """Bound of ``E‖A − QQᵀA‖_F`` without power iterations: ``√(1 + r/(p−1))·(Σ_{i>r} σᵢ²)^½``.

    Args:
        values: all singular values, in descending order.
        rank: r, at least 1.
        oversample: p, at least 2; the basis has r + p columns.

    Source: Halko, Martinsson and Tropp, 2011, theorem 10.5.

    Example:
        >>> expected_error(torch.tensor([2.0, 1.0, 0.0]), 1, 2)
        1.4142135623730951
    """
    tail = float(values[rank:].double().square().sum())
    return math.sqrt((1 + rank / (oversample - 1)) * tail)


def residual(matrix: Tensor, factors: SVD) -> float:
    """``‖A − U·diag(S)·Vh‖_F``, from the difference itself: small errors are not cancelled away.

    Cost: one product, ``m·n·r`` MACs.

    Example:
        >>> residual(torch.eye(2), svd(torch.eye(2)))
        0.0
    """
    U, S, Vh = factors
    with exact(U.device):
        gap = matrix.detach().to(U.dtype) - (U * S.unsqueeze(-2)) @ Vh
    return float(torch.linalg.vector_norm(gap.double()))


def spectral_error(
    matrix: Tensor, factors: SVD, *, probes: int = 10, generator: torch.Generator | None = None
) -> float:
    """Estimate ``‖A − U·diag(S)·Vh‖₂`` from above, wrong with a probability of ``10^−probes``.

    ``10·√(2/π)·max_i ‖(A − U·diag(S)·Vh)·ωᵢ‖`` over Gaussian ``ωᵢ``: the matrix is only multiplied.

    Args:
        matrix: ``(m, n)``.
        factors: an approximate decomposition of it.
        probes: number of random vectors.
        generator: where random numbers come from; by default a new one, always the same.

    Source: Halko, Martinsson and Tropp, 2011, lemma 4.1.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 1.0]))
        >>> spectral_error(A, truncate(svd(A), 1)) >= 1
        True
    """
    U, S, Vh = factors
    A = matrix.detach().to(U.dtype)
    omega = _normal(A, probes, generator)
    with exact(A.device):
        gap = A @ omega - U @ (S.unsqueeze(-1) * (Vh @ omega))
    return 10 * math.sqrt(2 / math.pi) * float(torch.linalg.vector_norm(gap, dim=-2).max())


def leading(matrix: Tensor, rank: int, values: Tensor) -> SVD:
    """Leading triplets by the cheapest method that is provably good enough.

    What the best approximation loses is known, ``(Σ_{i>r} σᵢ²)^½``. Where the rank is far below
    the full one a sketch is tried, its loss is measured, and it is taken if that is within
    0.1 % of the best; otherwise the decomposition is exact. A flat spectrum, as of random
    weights, ends with the exact one.

    Args:
        matrix: ``(..., m, n)``.
        rank: how many triplets.
        values: all singular values of the matrix, as :func:`gram_singular_values` gives them.

    Raises:
        LorankError: if the matrix is not one of finite floats, or the rank is out of range.

    Example:
        >>> A = torch.diag(torch.tensor([3.0, 1.0]))
        >>> leading(A, 1, torch.tensor([3.0, 1.0])).S
        tensor([3.])
    """
    full = min(matrix.shape[-2:])
    if rank + OVERSAMPLE <= WORTH * full:
        sketch = randomized_svd(matrix, rank)
        if residual(matrix, sketch) <= (1 + TOLERANCE) * _best(values, rank):
            return sketch
    return truncate(gram_svd(matrix, rank), rank)


def _best(values: Tensor, rank: int) -> float:
    return math.sqrt(float(values[..., rank:].double().square().sum()))
