"""Matrices of known spectrum."""

import torch
from torch import Tensor


def orthonormal_columns(m: int, r: int, *batch: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """``(*batch, m, r)`` with orthonormal columns, uniformly distributed."""
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(*batch, m, r, generator=g, dtype=torch.float64))[0].to(dtype)


def with_spectrum(
    values: list[float] | Tensor, m: int, n: int, *batch: int, seed: int = 0, dtype=torch.float64
) -> Tensor:
    """``(*batch, m, n)`` whose singular values are ``values``, and zeros where they are fewer."""
    s = torch.as_tensor(values, dtype=torch.float64)
    U = orthonormal_columns(m, s.shape[-1], *batch, seed=seed)
    V = orthonormal_columns(n, s.shape[-1], *batch, seed=seed + 1)
    return ((U * s) @ V.mT).to(dtype)


def falling(r: int, power: float = 1.0) -> Tensor:
    """``1, 1/2^p, 1/3^p, …``: a spectrum with a gap between any two values."""
    return torch.arange(1, r + 1, dtype=torch.float64) ** -power


def skewed(m: int, r: int, *batch: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    """``(*batch, m, r)`` with columns that are neither orthogonal nor of length 1."""
    g = torch.Generator().manual_seed(seed)
    raw = torch.randn(*batch, m, r, generator=g, dtype=torch.float64)
    return (raw + raw.roll(1, -1)).to(dtype)
