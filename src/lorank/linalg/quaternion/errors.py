"""How far a low-rank quaternion decomposition is from its matrix: measured, and as proved."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.quaternion.algebra import frobenius, over, rows, size, times
from lorank.linalg.quaternion.kinds import QArray, arrive, arrive_finite, check_range

BLOCK = 2**21
"""Entries of the residual that are formed at a time."""


MISS = 1 - 1.5 * math.exp(-0.5)
"""Probability that χ² with four degrees of freedom is below 1."""


class QSVDError(NamedTuple):
    """The error of ``U·diag(S)·Vh`` as an approximation of A.

    ``frobenius`` is ``‖A − U·diag(S)·Vh‖_F`` itself and ``relative`` its share of ``‖A‖_F``;
    ``spectral`` is an upper bound of the spectral norm, wrong with a probability below
    ``failure``.

    Example:
        >>> A = torch.ones(4, 3, 4)
        >>> lorank.linalg.qsvd_error(A, (A[:, :1], torch.zeros(1), A[:1])).frobenius
        6.928...
    """

    frobenius: Any
    relative: Any
    spectral: Any
    failure: float


def qsvd_error(
    A: QArray, factors: tuple[QArray, Any, QArray], *, probes: int = 10, seed: int = 0
) -> QSVDError:
    """Measure the error of an approximate decomposition, from the difference itself.

    The difference D is formed a few rows at a time, and multiplied by Gaussian quaternion vectors
    ω. The part of ω along the leading right singular vector has a squared length of χ² with four
    degrees of freedom, so ``max‖D·ωᵢ‖ < ‖D‖₂`` has a probability below
    ``(1 − 1.5·e^(−1/2))^probes``, 0.09 a probe. For a real vector it would be 0.68.

    Args:
        A: ``(..., m, n, 4)``.
        factors: U, S and Vh, of the kind of A.
        probes: number of random quaternion vectors.
        seed: where they come from.

    Returns:
        Tensors ``(...)`` or numbers, as A is batched or not.

    Raises:
        LorankError: if A or a factor is not a quaternion matrix, or the probes are none.

    Cost: ``16·m·n·(k + probes)`` real multiplications. Source: after Halko, Martinsson and Tropp,
    2011, lemma 4.1, with the quaternion's degrees of freedom.

    Example:
        >>> A = torch.ones(6, 5, 4)
        >>> error = qsvd_error(A, lorank.linalg.randomized_qsvd(A, 1))
        >>> error.relative < 1e-6
        True
    """
    tensor, kind = arrive_finite(A)
    left, values, right = _factors(tensor, factors)
    if probes < 1:
        raise LorankError(f"an estimate of the spectral norm needs a probe, found {probes}")
    P, R = rows(left.detach() * values[..., None, :, None]), rows(right.detach())
    norm, scale = _norm(tensor)
    relative, spectral = _gap(rows(tensor), P, R, scale, _probes(tensor, probes, seed))
    found = (relative * scale, torch.where(norm > 0, relative, 0), spectral * scale)
    return QSVDError(*(_plain(x, kind.numpy) for x in found), failure=MISS**probes)


def _factors(A: Tensor, factors: tuple[QArray, Any, QArray]) -> tuple[Tensor, Tensor, Tensor]:
    """U, S and Vh as tensors whose product has the shape of A."""
    U, S, Vh = factors
    left, values, right = arrive(U)[0], torch.as_tensor(S), arrive(Vh)[0]
    rank = left.shape[-2]
    *batch, m, n, _ = A.shape
    shapes = [(*batch, m, rank, 4), (*batch, rank), (*batch, rank, n, 4)]
    if [left.shape, values.shape, right.shape] != shapes:
        raise LorankError(
            f"a decomposition of {tuple(A.shape)} has factors of shapes {shapes} for some rank, "
            f"found {[tuple(factor.shape) for factor in (left, values, right)]}"
        )
    return left, values.to(left), right


def residual_norm(P: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``‖A − L·R‖_F / ‖A‖_F`` for row forms, formed a few rows at a time."""
    return _gap(P, left, right, _norm(torch.view_as_real(P))[1], None)[0]


def _norm(A: Tensor) -> tuple[Tensor, Tensor]:
    """``‖A‖_F``, and what errors are divided by: 1 for a zero matrix."""
    norm = frobenius(A)
    check_range(norm)
    return norm, torch.where(norm > 0, norm, torch.ones_like(norm))


def _gap(
    P: Tensor, left: Tensor, right: Tensor, scale: Tensor, probes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``‖A − L·R‖_F / scale``, and the largest ``‖(A − L·R)·ωᵢ‖ / scale``."""
    step = max(1, BLOCK // (2 * P.shape[-1]))
    squares, images = [torch.zeros_like(scale.double())], [torch.zeros_like(scale.double())]
    for start in range(0, P.shape[-2], step):
        block = slice(start, start + step)
        rest = P[..., block, :] - times(left[..., block, :], right)
        rest = over(rest, scale[..., None, None]).to(torch.complex128)
        squares.append(size(rest).square())
        if probes is not None:
            images.append(_squares(times(rest, probes)))
    largest = sum(images[1:], start=torch.zeros_like(scale.double()).unsqueeze(-1)).amax(-1).sqrt()
    return torch.stack(squares).sum(0).sqrt(), largest


def _probes(A: Tensor, probes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((A.shape[-2], probes, 4), generator=generator, dtype=torch.float64)
    return rows(drawn.to(A.device))


def _squares(Y: Tensor) -> Tensor:
    """Squared length of each quaternion column of a row form."""
    return torch.linalg.vector_norm(Y.unflatten(-1, (-1, 2)), dim=(-3, -1)).square()


def _plain(x: Tensor, numpy: bool) -> Any:
    if x.ndim == 0:
        return float(x)
    return x.cpu().numpy() if numpy else x


def expected_qsvd_error(
    values: Any, rank: int, oversample: int = 10, *, n_iter: int = 0, norm: str = "fro"
) -> float:
    """Bound of the mean error ``E‖A − QQ*A‖`` of a sketch with ``rank + oversample`` columns.

    With ``t = (Σ_{j>k} σⱼ²)^½``: ``√(1 + 4k/(4p + 2))·t`` in the Frobenius norm, without power
    iterations; ``(1 + 3·√(k/(4p + 2)))·σ_{k+1} + 3e·√(4k + 4p + 2)/(4p + 4)·t`` in the spectral
    norm, and with q power iterations the ``(2q + 1)``-th root of that for ``σ^(2q + 1)``.

    Args:
        values: all singular values, descending.
        rank: k, at least 1.
        oversample: p, at least 0, where the bound of real matrices needs 2.
        n_iter: q; the Frobenius bound holds for any, and gains nothing from it.
        norm: ``"fro"`` or ``"2"``.

    Raises:
        LorankError: if a count is out of range, or the norm not known.

    Source: Halko, Martinsson and Tropp, 2011, theorems 10.5 and 10.6, with the moments of the
    quaternion Wishart matrix.

    Example:
        >>> expected_qsvd_error(torch.tensor([2.0, 1.0, 0.0]), 1, 0)
        1.7320508075688772
    """
    sigma = torch.as_tensor(values).double()
    if not 1 <= rank <= len(sigma) or oversample < 0 or n_iter < 0:
        raise LorankError(
            f"this bound needs 1 ≤ rank ≤ {len(sigma)}, oversample ≥ 0 and n_iter ≥ 0, found "
            f"{rank}, {oversample} and {n_iter}"
        )
    if norm not in ("fro", "2"):
        raise LorankError(f"this bound is known in the norms fro and 2, found {norm!r}")
    k, p = rank, oversample
    if norm == "fro":
        return math.sqrt(1 + 4 * k / (4 * p + 2)) * float(sigma[k:].square().sum().sqrt())
    if k == len(sigma):
        return 0.0
    # relative to σ_{k+1}, whose high powers may be too small for floats
    first = float(sigma[k])
    tail = (sigma[k:] / first) ** (2 * n_iter + 1) if first > 0 else torch.zeros(1)
    inverse = math.e * math.sqrt(4 * k + 4 * p + 2) / (4 * p + 4)
    bound = 1 + 3 * math.sqrt(k / (4 * p + 2)) + 3 * inverse * float(tail.square().sum().sqrt())
    return first * bound ** (1 / (2 * n_iter + 1))
