"""One-pass quaternion SVD: a matrix is read once, in pieces, and never held."""

from operator import index
from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.precision import exact
from lorank.linalg.quaternion.algebra import expand, rows, size, star, star_times, times
from lorank.linalg.quaternion.householder import columns, from_columns
from lorank.linalg.quaternion.kinds import FLOATS, Kind, QArray, arrive_finite, check_range
from lorank.linalg.quaternion.qr import orth, triangular
from lorank.linalg.quaternion.randomized import (
    Seed,
    check_counts,
    check_whole,
    generator_of,
    normal,
)
from lorank.linalg.quaternion.svd import canonical, factorise, given

PROBES = 10
"""Rows kept aside, from which the error is estimated: to about a sixth of itself."""


class QuaternionSketch:
    """Two sketches of a quaternion matrix that arrives in pieces: ``Y = A·Ω`` and ``W = Ψ·A``.

    Both are sums over pieces, so rows may come in any order, and updates may be added. At the end
    ``A ≈ H·(ΨH)†·W`` with H a basis of Y. One pass costs accuracy: on slow spectra the error is
    1.5 to 2 times the best, where :func:`randomized_qsvd` with two passes more is within 2 %.

    Args:
        shape: ``(m, n)`` of the whole matrix.
        k: how many triplets are wanted.
        range_columns: columns of Ω; by default 2k, and k + 10 at least.
        corange_rows: rows of Ψ; by default twice the columns of Ω.
        dtype: of the sketches, float64 or float32.
        random_state: a seed or a generator; by default always the same numbers.

    Raises:
        LorankError: if the rank is out of range, or there are fewer rows of Ψ than columns of Ω.

    Cost: memory ``4·(m + n)·(6k + 10)`` numbers for Ω, Ψ and both sketches, from k = 10 on;
    ``16·(6k + 10)`` multiplications an entry. Source: Tropp, Yurtsever, Udell and Cevher,
    Practical sketching algorithms, 2017; over the quaternions Chang and Yang, 2024.

    Example:
        >>> A = torch.ones(6, 5, 4, dtype=torch.float64)
        >>> QuaternionSketch((6, 5), 1).update(A[:4]).update(A[4:]).finalize().S
        tensor([10.9545], dtype=torch.float64)
    """

    def __init__(
        self,
        shape: tuple[int, int],
        k: int,
        *,
        range_columns: int | None = None,
        corange_rows: int | None = None,
        dtype: torch.dtype = torch.float64,
        random_state: Seed = None,
    ):
        m, n = _sides(shape)
        full = min(m, n)
        check_whole("a rank", k, 1, full)
        check_counts(range_columns=range_columns or 0, corange_rows=corange_rows or 0)
        if dtype not in FLOATS:
            raise LorankError(f"a sketch is of float32 or float64, found {dtype}")
        width = min(max(2 * k, k + 10) if range_columns is None else range_columns, full)
        height = min(2 * width if corange_rows is None else corange_rows, m)
        if not k <= width <= height:
            raise LorankError(
                f"a sketch needs k ≤ columns of Ω ≤ rows of Ψ, found {k}, {width} and {height}"
            )
        self.shape, self.k = (m, n), k
        generator = generator_of(random_state)
        like = torch.empty(0, dtype=dtype)
        self._omega = rows(normal((n, width, 4), like, generator))
        # Ψ and the probes side by side, as Ψ*: a piece of rows of A needs rows of it
        self._psi = rows(normal((m, height + PROBES, 4), like, generator))
        self._split = 2 * height
        self._range = torch.zeros((m, 2 * width), dtype=self._omega.dtype)
        self._corange = torch.zeros((n, 2 * (height + PROBES)), dtype=self._omega.dtype)
        self._next, self._kind = 0, Kind()

    def update(self, piece: QArray, at: tuple[int, int] | None = None) -> "QuaternionSketch":
        """Add a piece of the matrix: the next rows, or a block with its first entry at ``at``.

        Args:
            piece: ``(rows, columns, 4)``; whole rows where ``at`` is not given.
            at: row and column of its first entry.

        Returns:
            The sketch itself.

        Raises:
            LorankError: if the piece is not a quaternion matrix of finite values, or does not fit.

        Example:
            >>> sketch = QuaternionSketch((2, 2), 1)
            >>> sketch.update(torch.ones(1, 1, 4), at=(1, 1)).finalize().S
            tensor([2.0...], dtype=torch.float64)
        """
        tensor, self._kind = arrive_finite(piece)
        if tensor.ndim != 3:
            raise LorankError(f"a piece is one matrix (m, n, 4), found {tuple(tensor.shape)}")
        row, column = self._place(tensor, at)
        height, width = tensor.shape[:2]
        self._move(tensor.device)
        P = rows(tensor.to(self._omega.real))
        here, there = slice(row, row + height), slice(column, column + width)
        with exact(P.device):
            self._range[here] += times(P, self._omega[there])
            self._corange[there] += star_times(P, self._psi[here])
        self._next = row + height if at is None else self._next
        return self

    def _move(self, device: torch.device) -> None:
        """Hold everything where the last piece was."""
        self._omega, self._psi = self._omega.to(device), self._psi.to(device)
        self._range, self._corange = self._range.to(device), self._corange.to(device)

    def _place(self, piece: Tensor, at: tuple[int, int] | None) -> tuple[int, int]:
        (m, n), (height, width) = self.shape, piece.shape[:2]
        if at is None and width != n:
            raise LorankError(f"rows of this sketch have {n} entries, found {width}")
        row, column = (self._next, 0) if at is None else _two("a place is (row, column)", at)
        if row < 0 or column < 0 or row + height > m or column + width > n:
            raise LorankError(
                f"a piece lies inside the matrix of {m} × {n}, found rows {row} to {row + height}"
                f" and columns {column} to {column + width}"
            )
        return row, column

    def finalize(self, *, return_error: bool = False) -> Any:
        """The triplets of what was added so far; the sketch may be updated further.

        Args:
            return_error: give an estimate of ``‖A − U·diag(S)·Vh‖_F`` as a fourth value, from
                rows of a sketch that the approximation has not seen.

        Returns:
            :class:`lorank.linalg.QSVD`, of the kind of the last piece; then the estimate.

        Example:
            >>> U, S, Vh, error = QuaternionSketch((2, 2), 1).finalize(return_error=True)
            >>> error
            0.0
        """
        with exact(self._range.device):
            check_range(self._range)
            check_range(self._corange)
            psi, probes = self._psi[:, : self._split], self._psi[:, self._split :]
            H = orth(self._range.to(torch.complex128))
            X = _least_squares(star_times(psi.to(H.dtype), H), self._corange[:, : self._split])
            V, s, U = factorise(star(X), rank=self.k)
            U = times(H, U)
            U, V = canonical(U, V)
            found = given(U, s, V, self._omega.real.dtype, self._kind)
            if not return_error:
                return found
            seen = times(V * s.repeat_interleave(2), star_times(U, probes.to(U.dtype)))
            gap = self._corange[:, self._split :].to(U.dtype) - seen
            return (*found, float(size(gap)) / (2 * PROBES**0.5))


def _sides(shape: Any) -> tuple[int, int]:
    m, n = _two("the shape of a sketch is (m, n)", shape)
    if min(m, n) < 1:
        raise LorankError(f"a quaternion matrix needs at least one entry, found {m} × {n}")
    return m, n


def _two(what: str, numbers: Any) -> tuple[int, int]:
    """Two whole numbers.

    Raises:
        LorankError: otherwise.
    """
    try:
        first, second = (index(number) for number in numbers)
    except (TypeError, ValueError):
        raise LorankError(f"{what}, two whole numbers, found {numbers!r}") from None
    return first, second


def _least_squares(T: Tensor, W: Tensor) -> Tensor:
    """``T†·W`` for a tall T, given the row form of W*."""
    Q, R = triangular(T)
    right = columns(star(times(W.to(Q.dtype), Q)))
    diagonal = R[..., 0::2].diagonal().abs()
    if not bool((diagonal > torch.finfo(diagonal.dtype).eps * diagonal.amax()).all()):
        return torch.linalg.pinv(expand(T))[0::2] @ expand(star(W.to(Q.dtype)))
    return from_columns(torch.linalg.solve_triangular(expand(R), right, upper=True))
