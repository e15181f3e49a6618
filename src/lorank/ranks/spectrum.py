"""The currency between measuring and choosing: singular values, and what a rank costs."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Price(NamedTuple):
    """What a layer costs dense, and what each rank of its low-rank form costs, in one unit."""

    dense: int
    per_rank: int

    def at(self, rank: int) -> int:
        """Cost at a rank: the two thin layers, or the dense layer where that is not dearer."""
        return min(self.dense, rank * self.per_rank)

    @property
    def break_even(self) -> int:
        """Largest rank at which two thin layers are strictly cheaper than the dense one."""
        return (self.dense - 1) // self.per_rank


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one layer's weight in a layout, with the price of its ranks.

    Attributes:
        values: singular values in descending order, shape ``(r,)``; ``(groups, r)`` for a
            grouped convolution, where every group is cut to the same rank.
        shape: rows and columns of the matrix (of one group's matrix).
        layout: how the weight was laid out as a matrix.
        params: price in weights (bias excluded).
        macs: price in multiply-accumulates of one forward pass of the measured example,
            ``None`` when no example was given.
    """

    values: Tensor
    shape: tuple[int, int]
    layout: str
    params: Price
    macs: Price | None = None

    @property
    def full_rank(self) -> int:
        """The largest rank the matrix can have."""
        return min(self.shape)

    @property
    def energy(self) -> Tensor:
        """Squared singular values ``(r,)``, summed over groups: what a rank keeps of ‖W‖_F²."""
        squares = self.values.double() ** 2
        return squares.sum(0) if squares.ndim == 2 else squares


class Spectra(dict[str, Spectrum]):
    """Layer name → :class:`Spectrum`; a plain dict that also knows the whole network's cost.

    ``params`` and ``macs`` count everything in the dense network: the measured layers, and what
    is never cut (biases, normalisation, layers left alone). Without them a budget is taken over
    the measured layers only.
    """

    def __init__(self, *args, params: int | None = None, macs: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.params = params
        self.macs = macs
