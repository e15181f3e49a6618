"""Running sums of what passes through layers, added up over processes at the end."""

import torch
import torch.distributed as dist
from torch import Tensor

from lorank.linalg.precision import exact


class Gram:
    """Sum of ``xᵀ·y`` over rows, kept in float64 however the rows come.

    Example:
        >>> gram = Gram()
        >>> gram.add(torch.ones(1, 3, 2), torch.ones(1, 3, 2))
        >>> gram.total.tolist(), gram.rows
        ([[[3.0, 3.0], [3.0, 3.0]]], 3)
    """

    def __init__(self):
        self.total: Tensor | None = None
        self.rows = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows ``(groups, rows, n)`` and ``(groups, rows, m)``."""
        with exact(x.device):
            part = (single(x).mT @ single(y)).double()
        self.total = part if self.total is None else self.total + part
        self.rows += x.shape[1]

    @property
    def mean(self) -> Tensor:
        """``E[x·yᵀ]``, ``(groups, n, m)``."""
        assert self.total is not None
        return self.total / self.rows

    def join(self, shape: tuple[int, ...], device: torch.device) -> None:
        """Add what other processes saw; one that saw nothing adds zeros."""
        self.rows = all_of(self.rows, device)
        if self.rows:
            zeros = torch.zeros(shape, dtype=torch.float64, device=device)
            self.total = zeros if self.total is None else self.total
            dist.all_reduce(self.total)


def single(x: Tensor) -> Tensor:
    """Raise half precision to float32: sums of products overflow or round away in less."""
    return x.float() if x.dtype.itemsize < 4 else x


def distributed() -> bool:
    """Whether several processes work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_of(count: int, device: torch.device) -> int:
    """Sum of a count over processes."""
    total = torch.tensor(count, device=device)
    dist.all_reduce(total)
    return int(total)
