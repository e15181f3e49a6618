"""Quaternion matrices as float arrays ``(..., m, n, 4)``: views, product, transpose, norms."""

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.quaternion.eight import eight_products
from lorank.linalg.quaternion.kinds import QArray, arrive, check_together

# The working format is the *row form*: an entry w + xi + yj + zk = a + bj with the complex numbers
# a = w + xi, b = y + zi takes two neighbouring columns, so that the array itself, viewed as
# complex, is a matrix (m, 2n) with columns a₁ b₁ a₂ b₂ … It is every second row of the complex
# adjoint, whose blocks are [[a, b], [−b̄, ā]]; the others say nothing new.


def rows(A: Tensor) -> Tensor:
    """Row form ``(..., m, 2n)``, complex: a view where the last three axes are contiguous."""
    *batch, m, n, _ = A.shape
    A = A.contiguous()
    if A.storage_offset() % 2:  # a slice of a flat buffer: no complex number starts there
        A = A.clone()
    return torch.view_as_complex(A.view(*batch, m, 2 * n, 2))


def from_rows(P: Tensor) -> Tensor:
    """Quaternion array ``(..., m, n, 4)`` of a row form: the inverse of :func:`rows`."""
    *batch, m, columns = P.shape
    return torch.view_as_real(P.resolve_conj().contiguous()).view(*batch, m, columns // 2, 4)


def halves(P: Tensor) -> tuple[Tensor, Tensor]:
    """The complex matrices a, b of a row form, as strided views."""
    return P[..., 0::2], P[..., 1::2]


def join(a: Tensor, b: Tensor) -> Tensor:
    """Row form of two complex matrices: the inverse of :func:`halves`."""
    return torch.stack((a, b), -1).flatten(-2)


def expand(P: Tensor) -> Tensor:
    """Complex adjoint ``(..., 2m, 2n)`` in interleaved order: a 2×2 block an entry."""
    a, b = halves(P)
    out = P.new_empty((*P.shape[:-1], 2, P.shape[-1]))
    out[..., 0, :] = P
    out[..., 1, 0::2] = b.conj()
    out[..., 1, 0::2].neg_()
    out[..., 1, 1::2] = a.conj()
    return out.flatten(-3, -2)


def size(P: Tensor) -> Tensor:
    """``‖A‖_F`` of a row form of moderate size: real, in one sweep, several times faster."""
    return torch.linalg.vector_norm(_flat(P), dim=-1)


def largest(P: Tensor) -> Tensor:
    """Largest part of a row form in magnitude, ``(..., 1, 1)``."""
    return _flat(P).abs().amax(-1)[..., None, None]


def _flat(P: Tensor) -> Tensor:
    return torch.view_as_real(P.resolve_conj()).flatten(-3)


def over(P: Tensor, size: Tensor) -> Tensor:
    """A row form over real numbers ``(..., 1, 1)``, right for the smallest floats too.

    Complex division is not: it multiplies by ``1 / size``, which overflows.
    """
    parts = torch.view_as_real(P.resolve_conj()) / size.unsqueeze(-1)
    return torch.view_as_complex(parts)


def star(P: Tensor) -> Tensor:
    """Conjugate transpose of a row form: ``a → aᴴ``, ``b → −bᵀ``."""
    a, b = halves(P)
    return join(a.mH, -b.mT)


def times(P: Tensor, Q: Tensor) -> Tensor:
    """Product of two row forms: one complex product, and only the right factor is expanded."""
    return P @ expand(Q)


def star_times(P: Tensor, Q: Tensor) -> Tensor:
    """``A*B`` of two row forms: one complex product, and only the smaller factor is conjugated.

    With ``G = PᴴQ`` in 2×2 blocks, ``a = G₀₀ + Ḡ₁₁`` and ``b = G₀₁ − Ḡ₁₀``.
    """
    if P.shape[-1] <= Q.shape[-1]:
        G = P.conj().resolve_conj().mT @ Q
    else:
        G = (P.mT @ Q.conj().resolve_conj()).conj()
    a, b = G[..., 0::2, 0::2], G[..., 0::2, 1::2]
    return join(a + G[..., 1::2, 1::2].conj(), b - G[..., 1::2, 0::2].conj())


def qmatmul(A: QArray, B: QArray, *, method: str = "auto") -> QArray:
    """Quaternion matrix product ``C = A·B``; the order of factors matters in every entry.

    Args:
        A: ``(..., m, n, 4)``, parts in the order w, x, y, z.
        B: ``(..., n, l, 4)``; leading axes broadcast.
        method: ``"complex"``, one complex product; ``"8"``, eight real products in place of the
            sixteen which that counts, at three times the memory; ``"auto"`` chooses by size.

    Returns:
        ``(..., m, l, 4)``, of the kind of A; differentiable for tensors.

    Raises:
        LorankError: if a factor is not a quaternion matrix, the shapes do not fit, or the method
            is not known.

    Cost: ``16·m·n·l`` real multiplications, or 8. Source: the eight are Howell and Lafon's count,
    The complexity of the quaternion product, 1975, applied to blocks.

    Example:
        >>> i, j = torch.eye(4)[1].view(1, 1, 4), torch.eye(4)[2].view(1, 1, 4)
        >>> qmatmul(i, j).flatten().tolist(), qmatmul(j, i).flatten().tolist()
        ([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0])
    """
    (left, kind), (right, _) = arrive(A), arrive(B)
    check_product(left, right)
    if method not in ("auto", "complex", "8"):
        raise unknown("quaternion product", method, ["auto", "complex", "8"])
    dtype = torch.promote_types(left.dtype, right.dtype)
    left, right = left.to(dtype), right.to(dtype)
    if method == "8" or (method == "auto" and _worth_eight(left, right)):
        return kind.give(eight_products(left, right))
    return kind.give(from_rows(times(rows(left), rows(right))))


def _worth_eight(A: Tensor, B: Tensor) -> bool:
    """Whether half the multiplications repay the sums around them: measured on one thread."""
    return A.ndim == B.ndim == 3 and min(A.shape[0], A.shape[1], B.shape[1]) >= 400


def check_product(A: Tensor, B: Tensor) -> None:
    """Insist on columns of A as many as rows of B, on one device, and leading axes that fit.

    Raises:
        LorankError: otherwise.
    """
    check_together(A, B)
    if A.shape[-2] != B.shape[-3]:
        raise LorankError(
            "a product needs as many columns on the left as rows on the right, found "
            f"{tuple(A.shape)} and {tuple(B.shape)}"
        )


def qct(A: QArray) -> QArray:
    """Conjugate transpose ``A*``: ``(A·B)* = B*·A*``, which the plain transpose does not keep.

    Args:
        A: ``(..., m, n, 4)``.

    Returns:
        ``(..., n, m, 4)``, a new array of the kind of A.

    Raises:
        LorankError: if A is not a quaternion matrix.

    Example:
        >>> qct(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])).flatten().tolist()
        [1.0, -2.0, -3.0, -4.0]
    """
    tensor, kind = arrive(A)
    signs = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=tensor.dtype, device=tensor.device)
    return kind.give((tensor.transpose(-3, -2) * signs).contiguous())


def qnorm(A: QArray, ord: str | int = "fro") -> Tensor | float:  # noqa: A002 (torch's own name)
    """Norm of a quaternion matrix: Frobenius ``"fro"``, spectral ``2``, or nuclear ``"nuc"``.

    Entries as large as the type holds do not overflow. The spectral norm is that of the adjoint,
    not that of the row form.

    Args:
        A: ``(..., m, n, 4)``.
        ord: which norm.

    Returns:
        A tensor ``(...)``, differentiable for ``"fro"``; for one NumPy matrix a number.

    Raises:
        LorankError: if A is not a quaternion matrix, or the norm is not known.

    Example:
        >>> A = 2 * torch.eye(3).unsqueeze(-1) * torch.tensor([0.0, 0.0, 1.0, 0.0])
        >>> [round(float(qnorm(A, ord)), 4) for ord in ("fro", 2, "nuc")]
        [3.4641, 2.0, 6.0]
    """
    tensor, kind = arrive(A)
    if ord not in ("fro", 2, "nuc"):
        raise unknown("quaternion norm", ord, ["fro", "2", "nuc"])
    if ord == "fro":
        return _scalar(frobenius(tensor), kind.numpy)
    from lorank.linalg.quaternion.svd import qsvdvals  # the product's room is below the SVD's

    values = qsvdvals(tensor)
    return _scalar(values[..., 0] if ord == 2 else values.sum(-1), kind.numpy)


def _scalar(x: Tensor, numpy: bool) -> Tensor | float:
    if not numpy:
        return x
    return float(x) if x.ndim == 0 else x.detach().cpu().numpy()  # pyright: ignore[reportReturnType]


def frobenius(A: Tensor) -> Tensor:
    """``‖A‖_F`` of quaternion tensors, safe against overflow and underflow of squares."""
    axes = (-3, -2, -1)
    norm = torch.linalg.vector_norm(A, dim=axes)
    if not (torch.isinf(norm) | (norm < _tiny(A.dtype))).any():
        return norm
    largest = torch.linalg.vector_norm(A, ord=torch.inf, dim=axes, keepdim=True)
    largest = torch.where(largest == 0, torch.ones_like(largest), largest)
    scaled = torch.linalg.vector_norm(A / largest, dim=axes)
    return scaled * largest[..., 0, 0, 0]


def _tiny(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny ** 0.5 / torch.finfo(dtype).eps
