"""The currency between measuring and choosing: singular values, and what a rank costs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lorank.ranks.times import Rank, Times


class Price(NamedTuple):
    """What a layer costs dense, and what each rank of its low-rank form costs, in one unit."""

    dense: int
    per_rank: int

    def at(self, rank: Rank) -> Rank:
        """Cost of two thin layers at a rank, or at a tensor of ranks."""
        return rank * self.per_rank


def break_even(prices: Iterable[Price]) -> int:
    """Largest rank at which two thin layers save something in one unit and cost nothing in any.

    A unit in which the dense layer costs nothing (the MACs of a look-up) has no say.

    Example:
        >>> break_even([Price(100, 10)]), break_even([Price(100, 10), Price(60, 20)])
        (9, 3)
    """
    prices = [price for price in prices if price.dense > 0]
    rank = min((price.dense // price.per_rank for price in prices), default=0)
    even = all(rank * price.per_rank == price.dense for price in prices)
    return rank - 1 if even else rank


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
        limit: largest rank at which the layer is given back as two thin ones; by default where
            its prices break even.
        times: measured times dense and by rank, ``None`` where nobody looked at a clock
            (:func:`lorank.compression.timed` adds them).
        loss: what the network is expected to lose at each rank from 0 to full, ``(full + 1,)``,
            comparable between layers; ``None`` where nothing but the weight is known. A budget
            goes by it where it is there, and by shares of energy elsewhere.
        itemsize: bytes of one weight.
    """

    values: Tensor
    shape: tuple[int, int]
    layout: str
    params: Price
    macs: Price | None = None
    limit: int | None = None
    times: Times | None = None
    loss: Tensor | None = None
    itemsize: int = 4

    @property
    def break_even(self) -> int:
        """Largest rank at which two thin layers pay; beyond it the layer stays dense."""
        if self.limit is not None:
            return self.limit
        return break_even([self.params] if self.macs is None else [self.params, self.macs])

    def price(self, unit: str) -> Price | Times | None:
        """Price in ``"params"``, ``"bytes"``, ``"macs"`` or ``"latency"``."""
        if unit == "latency":
            return self.times
        if unit == "bytes":
            return Price(*(self.itemsize * weights for weights in self.params))
        return self.params if unit == "params" else self.macs

    def cost(self, rank: int, unit: str = "params") -> int | None:
        """Cost at a rank: two thin layers where they pay, otherwise the dense one."""
        price = self.price(unit)
        if price is None:
            return None
        return price.at(rank) if rank <= self.break_even else price.dense

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

    ``params``, ``bytes`` and ``macs`` count everything in the dense network: the measured layers,
    and what is never cut (biases, normalisation, buffers, layers left alone). Without them a
    budget is taken over the measured layers only. ``latency`` is the time of the dense network,
    in nanoseconds.
    """

    def __init__(
        self,
        *args,
        params: int | None = None,
        bytes: int | None = None,  # noqa: A002 - the unit's name
        macs: int | None = None,
        latency: int | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.params = params
        self.bytes = bytes
        self.macs = macs
        self.latency = latency
