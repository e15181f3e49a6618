"""Quaternion SVD from the complex SVD of the adjoint, with vectors that are right at repeats."""

import torch
from torch import Tensor

from lorank.linalg.quaternion.algebra import expand, halves, size, star_times, times
from lorank.linalg.quaternion.householder import from_columns
from lorank.linalg.quaternion.qr import defect, triangular

# LAPACK's complex vectors of the adjoint come in twos for each singular value of A. Where a value
# stands alone, both are the same quaternion vector up to a unit. Where t values agree, the 2t
# complex vectors are an arbitrary basis, and every second of them is no quaternion basis at all:
# v and its partner vj, which spans the same quaternion line, may both be among them, and another
# line missing. But seen as quaternion columns, all 2n of them together are a tight frame,
# W·W* = 2I, and so are the 2t of one value. So n of them that are well independent can be chosen
# in order: see `choose`.

PANEL = 32
"""Candidates that are reached by products before they are looked at one by one."""

CLOSE = 0.1
"""Below this defect, making every second vector orthonormal changes none beyond rounding."""


def frame_svd(P: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """``A = U·diag(s)·V*`` of a tall row form ``(..., m, 2n)``; None where it is not accurate.

    V is chosen from the complex vectors and made orthonormal, in descending order of their
    values. Then ``A·V = U·R`` has R diagonal up to rounding, which is looked at: making v_j
    orthogonal to v_i mixes them by ``eps·σ₁/(σᵢ − σⱼ)`` and so moves R by ``eps·σ₁`` alone.

    Cost: one complex SVD of twice the sides, and ``O(m·n²)`` in products.
    """
    vectors = _complex_vectors(P)
    every_second = pick(vectors, slice(0, None, 2))
    V = every_second if bool((defect(every_second) <= CLOSE).all()) else choose(vectors)
    V = None if V is None else triangular(V)[0]
    return None if V is None else _complete(P, V)


def pairs_svd(P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The recipe of public code, every second vector of the adjoint: wrong at repeated values."""
    U, s, Vh = torch.linalg.svd(expand(P), full_matrices=False)
    even = slice(0, None, 2)
    return pick(from_columns(U), even), s[..., even], pick(from_columns(Vh.mH), even)


def pick(P: Tensor, columns: slice | Tensor) -> Tensor:
    """Some quaternion columns of a row form."""
    return P.unflatten(-1, (-1, 2))[..., columns, :].flatten(-2)


def choose(W: Tensor) -> Tensor | None:
    """Quaternion-orthonormal columns out of a tight frame of twice as many, in its order.

    A candidate is taken if at least ``1/√(n + 1)`` of it is new. That finds all: for t equal
    values with s < t taken, what is new in the 2t candidates has squares that add up to
    2(t − s) ≥ 2, which 2t rejected ones below ``1/(n + 1)`` cannot have.

    Args:
        W: row form ``(..., n, 4n)`` of 2n unit columns; batches are gone through one by one.
    """
    if W.ndim > 2:
        found = [choose(w) for w in W.flatten(0, -3)]
        whole = [V for V in found if V is not None]
        return torch.stack(whole).unflatten(0, W.shape[:-2]) if len(whole) == len(found) else None
    n = W.shape[-2]
    V, count = W.new_zeros((n, 2 * n)), 0
    for start in range(0, 4 * n, 2 * PANEL):
        C = W[:, start : start + 2 * PANEL].clone()
        for _ in range(2 if count else 0):
            known = V[:, : 2 * count]
            C -= times(known, star_times(known, C))
        count = _choose_panel(C, V, count)
    return V if count == n else None


def _choose_panel(C: Tensor, V: Tensor, count: int) -> int:
    """Take what is new of one panel into V, in place; the new number of columns."""
    n = V.shape[-2]
    for j in range(0, C.shape[-1], 2):
        if count == n:
            break
        v = C[:, j : j + 2]
        new = torch.linalg.vector_norm(v)
        if float(new) ** 2 * (n + 1) < 1:
            continue
        v = v / new
        V[:, 2 * count : 2 * count + 2] = v
        rest = C[:, j + 2 :]
        for _ in range(2):
            rest -= times(v, star_times(v, rest))
        count += 1
    return count


def _complex_vectors(P: Tensor) -> Tensor:
    """All right singular vectors of the adjoint as quaternion columns, ``(..., n, 4n)``."""
    return from_columns(torch.linalg.svd(expand(P), full_matrices=False)[2].mH)


def _complete(P: Tensor, V: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """U and s for given right vectors, or None where ``A·V`` has no orthogonal columns."""
    image = times(P, V)
    norms = torch.linalg.vector_norm(image.unflatten(-1, (-1, 2)), dim=(-3, -1))
    norms = torch.where(norms > 0, norms, torch.ones_like(norms))
    each = norms.repeat_interleave(2, -1).unsqueeze(-2)
    U, R = triangular(image / each)
    R = R * each
    s = halves(R)[0].diagonal(dim1=-2, dim2=-1).real.clone()
    halves(R)[0].diagonal(dim1=-2, dim2=-1).sub_(s)
    rounding = 4 * sum(P.shape[-2:]) * torch.finfo(s.dtype).eps * size(image)
    if not bool((size(R) <= rounding).all()):
        return None
    order = s.argsort(dim=-1, descending=True, stable=True)
    return _sorted(U, order), s.gather(-1, order), _sorted(V, order)


def _sorted(P: Tensor, order: Tensor) -> Tensor:
    blocks = P.unflatten(-1, (-1, 2))
    index = order[..., None, :, None].expand(*blocks.shape[:-2], order.shape[-1], 2)
    return blocks.gather(-2, index).flatten(-2)
