"""Randomized quaternion SVD: a sketch, power iterations, and a small decomposition."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import (
    halves,
    join,
    largest,
    over,
    qct,
    rows,
    star_times,
    times,
)
from lorank.linalg.quaternion.errors import qsvd_error
from lorank.linalg.quaternion.kinds import QArray, arrive, arrive_finite, check_together
from lorank.linalg.quaternion.qr import orth
from lorank.linalg.quaternion.svd import DRIVERS, Factors, canonical, factorise, given

NORMALIZERS = ("auto", "qr", "none")
TEST_MATRICES = ("quaternion", "complex", "real")

ROWS = 64
"""Rows whose parts are taken apart at a time, for a test matrix that is not quaternion."""

Seed = torch.Generator | int | None


def randomized_qsvd(
    A: QArray,
    n_components: int,
    *,
    n_oversamples: int = 10,
    n_iter: int = 2,
    power_iteration_normalizer: str = "auto",
    test_matrix: str = "quaternion",
    driver: str = "auto",
    flip_sign: bool = True,
    random_state: Seed = None,
    return_error: bool = False,
) -> Any:
    """Leading triplets ``A ≈ U·diag(S)·Vh``: ``Q`` a basis of ``(AA*)^q·A·Ω``, then ``Q*A``.

    Good where singular values fall. A slow decay wants more power iterations, or
    :func:`qsvd_krylov`; an unknown rank wants :func:`qsvd_adaptive`.

    Args:
        A: ``(..., m, n, 4)``, float32 or float64; products in its precision, bases and the small
            decomposition in float64.
        n_components: k, how many triplets.
        n_oversamples: p, how many more random columns; k + p is cut at ``min(m, n)``.
        n_iter: q; each power iteration reads A twice more.
        power_iteration_normalizer: ``"auto"``, a basis after each product, as orthonormal as going
            on needs; ``"qr"``, orthonormal to rounding; ``"none"``, powers alone, which lose
            everything below ``eps^(1/(2q + 1))·σ₁``.
        test_matrix: parts of Ω: ``"quaternion"``, which the error bounds are about;
            ``"complex"`` or ``"real"``, which make the first product two or four times cheaper.
        driver: for the small decomposition, as in :func:`qsvd`.
        flip_sign: fix each pair's unit quaternion: the largest entry of v_i real and positive.
        random_state: a seed or a generator; by default always the same numbers.
        return_error: give :class:`lorank.linalg.QSVDError` as a fourth value.

    Returns:
        :class:`lorank.linalg.QSVD` of the kind of A, with k triplets; with ``return_error`` its
        three factors and the error.

    Raises:
        LorankError: if A is not a quaternion matrix of finite values, the rank is out of range, a
            count is negative, or a name is not known.

    Cost: ``16·(2q + 2)·m·n·(k + p)`` real multiplications; memory of a few ``(m + n)·(k + p)``
    beside A. Source: Liu, Ling and Jia, Randomized quaternion singular value decomposition for
    low-rank approximation, 2022.

    Example:
        >>> A = torch.ones(6, 5, 4)
        >>> randomized_qsvd(A, 1).S
        tensor([10.9545])
    """
    tensor, kind = arrive_finite(A)
    check_rank(n_components, tensor)
    check_counts(n_oversamples=n_oversamples, n_iter=n_iter)
    normalizer = str(power_iteration_normalizer).lower()  # "QR" is scikit-learn's name
    for what, name, known in (
        ("normalizer", normalizer, NORMALIZERS),
        ("test matrix", test_matrix, TEST_MATRICES),
        ("driver", driver, DRIVERS),
    ):
        if name not in known:
            raise unknown(what, name, known)
    width = min(n_components + n_oversamples, *tensor.shape[-3:-1])
    with exact(tensor.device):
        Q = range_finder(rows(tensor), width, n_iter, normalizer, test_matrix, random_state)
        U, s, V = project(rows(tensor), Q, driver, n_components)
        if flip_sign:
            U, V = canonical(U, V)
        found = given(U, s, V, tensor.dtype, kind)
    return (*found, qsvd_error(A, found)) if return_error else found


def qsvd_lowrank(
    A: QArray, q: int = 6, niter: int = 2, M: QArray | None = None
) -> tuple[QArray, Any, QArray]:
    """``A − M ≈ U·diag(S)·V*``, called as :func:`torch.svd_lowrank` is: q columns, and V, not Vh.

    Args:
        A: ``(..., m, n, 4)``.
        q: how many triplets and random columns; take a few more than the rank you want.
        niter: power iterations.
        M: a mean to take away, of a shape that broadcasts to that of A.

    Returns:
        U ``(..., m, q, 4)``, S ``(..., q)`` and V ``(..., n, q, 4)``.

    Raises:
        LorankError: as :func:`randomized_qsvd`.

    Example:
        >>> U, S, V = qsvd_lowrank(torch.ones(6, 5, 4), q=2)
        >>> U.shape, V.shape
        (torch.Size([6, 2, 4]), torch.Size([5, 2, 4]))
    """
    U, S, Vh = randomized_qsvd(_less(A, M), q, n_oversamples=0, n_iter=niter)
    return U, S, qct(Vh)


def _less(A: QArray, M: QArray | None) -> QArray:
    if M is None:
        return A
    (whole, kind), (mean, _) = arrive(A), arrive(M)
    check_together(whole, mean)
    fits = all(a in (1, b) for a, b in zip(mean.shape[-3:], whole.shape[-3:], strict=True))
    if not fits:
        raise LorankError(
            f"a mean broadcasts to its matrix, found {tuple(mean.shape)} for {tuple(whole.shape)}"
        )
    return kind.give(whole - mean)


def check_rank(rank: int, A: Tensor) -> None:
    """Insist on a rank that the matrix can have.

    Raises:
        LorankError: otherwise.
    """
    check_whole("a rank", rank, 1, min(A.shape[-3:-1]))


def check_whole(what: str, number: int, least: int, most: int) -> None:
    """Insist on a whole number, Python's or NumPy's, between two others.

    Raises:
        LorankError: otherwise.
    """
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not whole or not least <= number <= most:
        raise LorankError(
            f"{what} must be a whole number between {least} and {most}, found {number!r}"
        )


def check_counts(**counts: int) -> None:
    """Insist on whole numbers from 0.

    Raises:
        LorankError: otherwise.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
            raise LorankError(f"{name} is a whole number from 0, found {count!r}")


def range_finder(
    P: Tensor, width: int, n_iter: int, normalizer: str, test_matrix: str, seed: Seed
) -> Tensor:
    """Row form of an orthonormal basis ``(..., m, 2·width)`` of the sketched range of A."""
    Y = sketch(P, width, test_matrix, seed)
    for _ in range(n_iter):
        Y = _normal(star_times(P, _normal(Y, normalizer)), normalizer)
        Y = times(P, Y)
    return orth(Y)


def _normal(Y: Tensor, normalizer: str) -> Tensor:
    if normalizer == "none":  # of moderate size at least: powers overflow
        return over(Y, largest(Y).clamp_min(torch.finfo(Y.real.dtype).tiny))
    return orth(Y, loose=normalizer == "auto")


def sketch(P: Tensor, width: int, test_matrix: str, seed: Seed) -> Tensor:
    """``A·Ω`` for a Gaussian Ω, drawn on the CPU so that every device sees the same."""
    n = P.shape[-1] // 2
    shape = (*P.shape[:-2], n, width)
    if test_matrix == "quaternion":
        return times(P, rows(normal((*shape, 4), P.real, seed)))
    drawn = normal((*shape, 1 if test_matrix == "real" else 2), P.real, seed)
    omega = drawn[..., 0] if test_matrix == "real" else torch.view_as_complex(drawn)
    blocks = P.split(ROWS, dim=-2)
    return torch.cat([_sketch_parts(block, omega) for block in blocks], -2)


def _sketch_parts(P: Tensor, omega: Tensor) -> Tensor:
    """``A·Ω`` for a real or complex Ω, which meets the parts of A one by one.

    A few rows at a time, so that the parts stay in the processor's cache.
    """
    if not omega.is_complex():
        parts = torch.view_as_real(P).unflatten(-2, (-1, 2)).flatten(-2).movedim(-1, 0)
        flat = parts.contiguous() @ omega
        return rows(flat.movedim(0, -1))
    a, b = halves(P)
    return join(a @ omega, b @ omega.conj())


def generator_of(seed: Seed) -> torch.Generator:
    """A generator as it is, a seed as a new one.

    Raises:
        LorankError: if it is neither, nor None.
    """
    if isinstance(seed, torch.Generator):
        return seed
    seed = 0 if seed is None else seed
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not -(2**63) <= int(seed) < 2**64:
        raise LorankError(
            f"random numbers start from 64 bits as a seed or a torch.Generator, found {seed!r}"
        )
    return torch.Generator().manual_seed(int(seed))


def normal(shape: tuple[int, ...], like: Tensor, seed: Seed) -> Tensor:
    """Standard normal numbers of the type and on the device of a real tensor.

    They are drawn in float32, four times faster, so that both precisions see the same directions.
    """
    generator = generator_of(seed)
    return torch.randn(shape, generator=generator, device=generator.device).to(like)


def project(P: Tensor, Q: Tensor, driver: str = "auto", rank: int | None = None) -> Factors:
    """Triplets of ``Q·Q*·A`` in complex128: the SVD of the tall ``A*Q`` with its sides changed."""
    V, s, U = factorise(star_times(P, Q).to(torch.complex128), driver, rank)
    return times(Q.to(U.dtype), U), s, V
