"""Partial quaternion SVD by block Krylov, for singular values that fall slowly."""

from typing import Any

import torch

from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import rows, star_times, times
from lorank.linalg.quaternion.errors import qsvd_error
from lorank.linalg.quaternion.kinds import QArray, arrive_finite
from lorank.linalg.quaternion.qr import orth, orth_against
from lorank.linalg.quaternion.randomized import Seed, check_counts, check_rank, sketch
from lorank.linalg.quaternion.svd import canonical, factorise, given


def qsvd_krylov(
    A: QArray,
    n_components: int,
    *,
    n_oversamples: int = 10,
    n_iter: int = 2,
    random_state: Seed = None,
    return_error: bool = False,
) -> Any:
    """Leading triplets from ``[AΩ, (AA*)AΩ, …, (AA*)^q·AΩ]``: all blocks that power steps make.

    The products are those of :func:`randomized_qsvd`; kept, they do much more where singular
    values fall slowly, for ``q + 1`` times the memory and a larger small decomposition. Each block
    is made orthogonal to all before it.

    Args:
        A: ``(..., m, n, 4)``, float32 or float64.
        n_components: k, how many triplets.
        n_oversamples: p; a block has k + p columns.
        n_iter: q, blocks after the first; the basis ends at ``min(m, n)`` columns.
        random_state: a seed or a generator; by default always the same numbers.
        return_error: give :class:`lorank.linalg.QSVDError` as a fourth value.

    Returns:
        :class:`lorank.linalg.QSVD` of the kind of A; with ``return_error`` three factors and the
        error.

    Raises:
        LorankError: if A is not a quaternion matrix of finite values, the rank is out of range or
            a count negative.

    Cost: ``16·(2q + 2)·m·n·(k + p)`` real multiplications and ``O((m + n)·(q + 1)²·(k + p)²)``.
    Source: Musco and Musco, Randomized block Krylov methods, 2015; Jia, Ng and Song, Lanczos
    method for large-scale quaternion singular value decomposition, 2019.

    Example:
        >>> qsvd_krylov(torch.ones(6, 5, 4), 1).S
        tensor([10.9545])
    """
    tensor, kind = arrive_finite(A)
    check_rank(n_components, tensor)
    check_counts(n_oversamples=n_oversamples, n_iter=n_iter)
    full = min(tensor.shape[-3:-1])
    width = min(n_components + n_oversamples, full)
    with exact(tensor.device):
        P = rows(tensor)
        Q = orth(sketch(P, width, "quaternion", random_state))
        C = star_times(P, Q)
        for _ in range(n_iter):
            room = full - Q.shape[-1] // 2
            if room == 0:
                break
            Y = times(P, orth(C[..., -2 * width :], loose=True))[..., : 2 * room]
            Y = orth_against(Y, Q)
            Q, C = torch.cat((Q, Y), -1), torch.cat((C, star_times(P, Y)), -1)
            width = Y.shape[-1] // 2
        V, s, U = factorise(C.to(torch.complex128), rank=n_components)
        U, V = canonical(times(Q.to(U.dtype), U), V)
        found = given(U, s, V, tensor.dtype, kind)
    return (*found, qsvd_error(A, found)) if return_error else found
