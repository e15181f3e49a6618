"""What a layer takes on a clock: dense, and as two thin layers at the ranks that were timed."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from lorank.errors import LorankError

Rank = TypeVar("Rank", int, Tensor)


@dataclass(frozen=True)
class Times:
    """Measured time of one layer over all its calls in a forward pass, in nanoseconds.

    Attributes:
        dense: of the layer as it is; 0 where it was not called.
        ranks: rank → time of the two thin layers, ranks ascending and times not falling.
        multiple: ranks are offered in steps of it, because others were not looked at: rank 13
            need not lie between 8 and 16.

    Raises:
        LorankError: if a time is not a whole number of nanoseconds, or the order is another.

    Example:
        >>> Times(900, {8: 300, 16: 500}, multiple=8).fastest()
        8
    """

    dense: int
    ranks: Mapping[int, int]
    multiple: int = 1

    def __post_init__(self):
        for number in (self.dense, *self.ranks.values()):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise LorankError(
                    f"a measured time is a whole number of nanoseconds, found {number!r}"
                )
        pairs = itertools.pairwise(self.ranks.items())
        if any(rank >= later or time > more for (rank, time), (later, more) in pairs):
            raise LorankError(
                f"times of a layer are by ascending rank and do not fall, found {dict(self.ranks)}"
            )

    def at(self, rank: Rank) -> Rank:
        """Time at a rank: linear between those that were timed, and held beyond the outer ones.

        Args:
            rank: a rank, or a tensor of ranks.

        Returns:
            Nanoseconds; the dense time where no rank was timed.

        Example:
            >>> Times(900, {8: 300, 16: 500}).at(12), Times(900, {}).at(8)
            (400, 900)
        """
        if not isinstance(rank, Tensor):
            return int(self.at(torch.tensor([rank]))[0])
        if not self.ranks:
            return torch.full_like(rank, self.dense)
        x = torch.tensor([*self.ranks, math.inf], dtype=torch.float64, device=rank.device)
        y = torch.tensor([*self.ranks.values()], dtype=torch.float64, device=rank.device)
        r = rank.double().clamp(x[0], x[-2])
        low = (torch.searchsorted(x, r, right=True) - 1).clamp(max=len(y) - 1)
        high = (low + 1).clamp(max=len(y) - 1)
        part = (r - x[low]) / (x[low + 1] - x[low])
        return torch.lerp(y[low], y[high], part).round().long()

    def fastest(self) -> int | None:
        """Return the largest of the quickest ranks, or ``None`` where none is below dense.

        Example:
            >>> Times(900, {8: 300, 16: 300}).fastest(), Times(200, {8: 300}).fastest()
            (16, None)
        """
        best = min(self.ranks.values(), default=self.dense)
        if best >= self.dense:
            return None
        return max(rank for rank, time in self.ranks.items() if time == best)


def fit(dense: float, measured: Mapping[int, float], multiple: int = 1) -> Times:
    """Turn seconds into :class:`Times`: the nearest times that do not fall with the rank.

    ``min Σ (t_k − m_k)²`` subject to ``t_1 ≤ t_2 ≤ …``, by pooling adjacent violators: noise
    cannot make rank 16 dearer than rank 24.

    Args:
        dense: seconds of the dense layer.
        measured: rank → seconds of the two thin ones.
        multiple: as in :class:`Times`.

    Returns:
        The times, in whole nanoseconds.

    Raises:
        LorankError: if a time is NaN, infinite or negative.

    Cost: linear. Source: Barlow, Bartholomew, Bremner and Brunk, Statistical Inference under
    Order Restrictions, 1972, section 1.2.

    Example:
        >>> fit(9e-7, {8: 4e-7, 16: 6e-7, 24: 5e-7}).ranks
        {8: 400, 16: 550, 24: 550}
    """
    for seconds in (dense, *measured.values()):
        if not 0 <= seconds < math.inf:
            raise LorankError(f"a measured time is finite and not negative, found {seconds!r}")
    ranks = sorted(measured)
    pools: list[tuple[float, int]] = []  # mean and size, ascending
    for rank in ranks:
        mean, size = measured[rank], 1
        while pools and pools[-1][0] >= mean:
            before, count = pools.pop()
            mean, size = (mean * size + before * count) / (size + count), size + count
        pools.append((mean, size))
    level = [mean for mean, size in pools for _ in range(size)]
    nanoseconds = {rank: round(1e9 * mean) for rank, mean in zip(ranks, level, strict=True)}
    return Times(round(1e9 * dense), nanoseconds, multiple)
