"""Quaternion matrices of known spectrum, and the algebra written out as Hamilton gave it: an oracle
that shares no code with the library.
"""

import torch
from torch import Tensor

# i² = j² = k² = ijk = −1: the product of parts p and q is SIGN·(part TABLE)
TABLE = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
SIGN = [[1, 1, 1, 1], [1, -1, 1, -1], [1, -1, -1, 1], [1, 1, -1, -1]]


def hamilton(dtype: torch.dtype = torch.float64) -> Tensor:
    constants = torch.zeros(4, 4, 4, dtype=dtype)
    for p in range(4):
        for q in range(4):
            constants[p, q, TABLE[p][q]] = SIGN[p][q]
    return constants


def product(A: Tensor, B: Tensor) -> Tensor:
    return torch.einsum("...mnp,...nlq,pqr->...mlr", A, B, hamilton(A.dtype))


def star(A: Tensor) -> Tensor:
    return A.transpose(-3, -2) * torch.tensor([1.0, -1, -1, -1], dtype=A.dtype)


def identity(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    out = torch.zeros(n, n, 4, dtype=dtype)
    out[..., 0] = torch.eye(n, dtype=dtype)
    return out


def defect(U: Tensor) -> float:
    """``‖U*U − I‖_F``, the largest of a batch."""
    gap = product(star(U), U) - identity(U.shape[-2], U.dtype)
    return float(gap.flatten(-3).norm(dim=-1).max())


def rebuilt(U: Tensor, s: Tensor, Vh: Tensor) -> Tensor:
    return product(U * s[..., None, :, None], Vh)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 4, generator=generator, dtype=torch.float64)


def unitary(m: int, n: int, seed: int = 0) -> Tensor:
    """Quaternion-orthonormal columns by Gram and Schmidt, twice, in plain quaternion sums."""
    Q = normal(m, n, seed=seed)
    for j in range(n):
        v = Q[:, j : j + 1]
        for _ in range(2):
            known = Q[:, :j]
            v = v - product(known, product(star(known), v)) if j else v
            v = v / v.norm()
        Q[:, j : j + 1] = v
    return Q


def with_values(values: Tensor, m: int, n: int, seed: int = 0) -> Tensor:
    r = len(values)
    left, right = unitary(m, r, seed), unitary(n, r, seed + 1)
    return rebuilt(left, values.double(), star(right))


def families(n: int) -> dict[str, Tensor]:
    """Spectra of the figures that are asked for: k = n/20 components."""
    i = torch.arange(1, n + 1).double()
    k = max(n // 20, 2)
    return {
        "fast": (0.85 ** (i - 1)).clamp_min(1e-14),
        "slow": i**-0.8,
        "s-shaped": 1e-3 + (1 - 1e-3) / (1 + torch.exp((i - 0.8 * k) / (0.08 * k))),
        "flat": torch.where(i <= 2 * k, torch.ones_like(i), (i - 2 * k + 1).clamp_min(1) ** -2),
    }
