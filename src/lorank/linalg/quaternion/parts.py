"""Quaternion matrices from and to what others hold: parts, complex pairs, adjoints, colours."""

from typing import Any

import torch
from torch import Tensor

from lorank.errors import LorankError
from lorank.linalg.quaternion.algebra import from_rows, halves, join, rows
from lorank.linalg.quaternion.kinds import FLOATS, Kind, QArray, arrive, as_tensor


def from_parts(w: Any, x: Any, y: Any, z: Any) -> QArray:
    """``w + x·i + y·j + z·k`` from four real matrices ``(..., m, n)``.

    Returns:
        ``(..., m, n, 4)``, of the kind of the parts.

    Raises:
        LorankError: if the parts are not float matrices of one shape.

    Example:
        >>> one, none = torch.ones(2, 3), torch.zeros(2, 3)
        >>> from_parts(none, one, none, none).shape
        torch.Size([2, 3, 4])
    """
    parts, kind = _arrays(w, x, y, z)
    return kind.give(arrive(torch.stack(parts, -1))[0])


def to_parts(A: QArray) -> tuple[Any, Any, Any, Any]:
    """The four real matrices w, x, y, z of a quaternion matrix, as views where A is a tensor.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> [float(part) for part in to_parts(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))]
        [1.0, 2.0, 3.0, 4.0]
    """
    tensor, kind = arrive(A)
    w, x, y, z = (kind.real(part) for part in tensor.unbind(-1))
    return w, x, y, z


def from_complex_pair(a: Any, b: Any) -> QArray:
    """``a + b·j`` from two complex matrices ``(..., m, n)``: ``a = w + x·i``, ``b = y + z·i``.

    Raises:
        LorankError: if the matrices are not complex, or of different shapes.

    Example:
        >>> from_complex_pair(torch.tensor([[1 + 2j]]), torch.tensor([[3 + 4j]])).flatten().tolist()
        [1.0, 2.0, 3.0, 4.0]
    """
    (first, second), kind = _arrays(a, b)
    if not first.is_complex() or not second.is_complex():
        raise LorankError(f"a complex pair needs complex matrices, found {first.dtype}")
    return kind.give(arrive(from_rows(join(first, second)))[0])


def to_complex_pair(A: QArray) -> tuple[Any, Any]:
    """The complex matrices a, b of ``A = a + b·j``.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> a, b = to_complex_pair(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
        >>> complex(a), complex(b)
        ((1+2j), (3+4j))
    """
    tensor, kind = arrive(A)
    a, b = halves(rows(tensor))
    return kind.real(a), kind.real(b)


def adjoint(A: QArray) -> Any:
    """Complex adjoint ``χ(A) = [[a, b], [−b̄, ā]]``, which multiplies as A does.

    Each singular value of A appears in it twice, so its singular vectors are not unique and every
    second of them is no singular vector of A where values repeat: use :func:`lorank.linalg.qsvd`.

    Args:
        A: ``(..., m, n, 4)``.

    Returns:
        ``(..., 2m, 2n)``, complex.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> adjoint(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]])).tolist()
        [[1j, (1+0j)], [(-1+0j), -1j]]
    """
    tensor, kind = arrive(A)
    a, b = halves(rows(tensor))
    upper = torch.cat((a, b), -1)
    lower = torch.cat((-b.conj(), a.conj()), -1)
    return kind.real(torch.cat((upper, lower), -2))


def from_adjoint(X: Any) -> QArray:
    """The quaternion matrix nearest to a complex ``(..., 2m, 2n)``: the inverse of :func:`adjoint`.

    Where X is no adjoint, it is projected on those: ``a = (X₁₁ + X̄₂₂)/2``, ``b = (X₁₂ − X̄₂₁)/2``.

    Raises:
        LorankError: if X is not complex, or a side is odd.

    Example:
        >>> A = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> torch.equal(from_adjoint(adjoint(A)), A)
        True
    """
    (matrix,), kind = _arrays(X)
    if not matrix.is_complex():
        raise LorankError(f"a complex adjoint needs a complex matrix, found {matrix.dtype}")
    m, n = _sides(matrix, 2)
    upper, lower = matrix[..., :m, :], matrix[..., m:, :]
    a = (upper[..., :n] + lower[..., n:].conj()) / 2
    b = (upper[..., n:] - lower[..., :n].conj()) / 2
    return kind.give(arrive(from_rows(join(a, b)))[0])


SIGNS = [[1, -1, -1, -1], [1, 1, -1, 1], [1, 1, 1, -1], [1, -1, 1, 1]]
PARTS = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
"""Block (i, j) of the real counterpart is ``SIGNS[i][j]·A[PARTS[i][j]]``."""


def real_counterpart(A: QArray) -> Any:
    """Real matrix ``(..., 4m, 4n)`` which multiplies as A does, by blocks of its four parts.

    Each singular value of A appears in it four times.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> real_counterpart(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))[0].tolist()
        [1.0, -2.0, -3.0, -4.0]
    """
    tensor, kind = arrive(A)
    part = tensor.unbind(-1)
    blocks = [
        torch.cat([s * part[p] for s, p in zip(*row, strict=True)], -1)
        for row in zip(SIGNS, PARTS, strict=True)
    ]
    return kind.real(torch.cat(blocks, -2))


def from_real_counterpart(X: Any) -> QArray:
    """The quaternion matrix nearest to a real ``(..., 4m, 4n)``: undoes :func:`real_counterpart`.

    Raises:
        LorankError: if X is not float32 or float64, or a side is not a multiple of four.

    Example:
        >>> A = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
        >>> torch.equal(from_real_counterpart(real_counterpart(A)), A)
        True
    """
    (matrix,), kind = _arrays(X)
    if matrix.dtype not in FLOATS:
        raise LorankError(f"a real counterpart needs float32 or float64, found {matrix.dtype}")
    m, n = _sides(matrix, 4)
    found = [torch.zeros_like(matrix[..., :m, :n]) for _ in range(4)]
    for i in range(4):
        for j in range(4):
            block = matrix[..., i * m : (i + 1) * m, j * n : (j + 1) * n]
            found[PARTS[i][j]] = found[PARTS[i][j]] + SIGNS[i][j] * block / 4
    return kind.give(arrive(torch.stack(found, -1))[0])


def from_rgb(image: Any) -> QArray:
    """Pure quaternions ``r·i + g·j + b·k`` from a colour image ``(..., height, width, 3)``.

    Raises:
        LorankError: if the last axis is not 3, or the type is not float32 or float64.

    Example:
        >>> from_rgb(torch.ones(2, 3, 3))[0, 0].tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    (colours,), kind = _arrays(image)
    if colours.ndim < 3 or colours.shape[-1] != 3:
        raise LorankError(
            f"a colour image has shape (..., height, width, 3), found {tuple(colours.shape)}"
        )
    return kind.give(arrive(torch.cat((torch.zeros_like(colours[..., :1]), colours), -1))[0])


def to_rgb(A: QArray) -> Any:
    """The three imaginary parts ``(..., height, width, 3)``; a low-rank real part is left out.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> to_rgb(torch.tensor([[[9.0, 1.0, 2.0, 3.0]]])).flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    tensor, kind = arrive(A)
    return kind.real(tensor[..., 1:])


def _arrays(*given: Any) -> tuple[list[Tensor], Kind]:
    """Matrices of one shape and type as tensors, and the kind of the first."""
    found = [as_tensor(x) for x in given]
    shapes = [tuple(tensor.shape) for tensor, _ in found]
    if len(set(shapes)) != 1 or len(shapes[0]) < 2:
        raise LorankError(f"the parts of a matrix are matrices of one shape, found {shapes}")
    return [tensor for tensor, _ in found], found[0][1]


def _sides(matrix: Tensor, times: int) -> tuple[int, int]:
    m, n = matrix.shape[-2:]
    if m % times or n % times:
        raise LorankError(
            f"both sides of this form are multiples of {times}, found {tuple(matrix.shape)}"
        )
    return m // times, n // times
