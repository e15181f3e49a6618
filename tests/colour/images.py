"""Small images with a known make-up."""

import torch
from torch import Tensor

from lorank.linalg import qct, qmatmul, qqr


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=draw(seed), dtype=torch.float64)


def smooth(height: int = 40, width: int = 60) -> Tensor:
    """A colour image of few directions in every form: products of waves, with own amplitudes."""
    down = torch.linspace(0, 3, height, dtype=torch.float64)[:, None]
    across = torch.linspace(0, 5, width, dtype=torch.float64)
    waves = [torch.sin(down * (i + 1)) * torch.cos(across * (i + 2) / 3) for i in range(3)]
    mixed = torch.stack(waves, -1) @ torch.tensor(
        [[0.2, 0.1, 0.05], [0.05, 0.2, 0.1], [0.1, 0.0, 0.15]], dtype=torch.float64
    )
    return 0.5 + mixed


def spectrum(values: Tensor, m: int, n: int, seed: int = 0) -> Tensor:
    """A quaternion matrix ``(m, n, 4)`` with these singular values."""
    U, _ = qqr(normal(m, len(values), 4, seed=seed))
    V, _ = qqr(normal(n, len(values), 4, seed=seed + 1))
    return qmatmul(U * values[:, None], qct(V))
