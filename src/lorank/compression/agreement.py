"""How far are a network's outputs from another's? No labels are needed to ask."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError


class Agreement(NamedTuple):
    """How far outputs are from a reference.

    Attributes:
        relative_error: ‖z − y‖₂ / ‖y‖₂ over all outputs.
        max_error: largest difference of an entry over the largest entry of the reference.
        cosine: ⟨y, z⟩ / (‖y‖₂·‖z‖₂) of one input's output, on average.
    """

    relative_error: float
    max_error: float
    cosine: float


class Compared:
    """Outputs against a reference, batch by batch, in float64 and constant memory.

    Example:
        >>> found = Compared()
        >>> found.add([torch.tensor([[3.0, 4.0]])], [torch.tensor([[3.0, 3.0]])])
        >>> [round(value, 4) for value in found.agreement()]
        [0.2, 0.25, 0.9899]
    """

    def __init__(self) -> None:
        self._error = self._norm = self._cosines = 0.0
        self._largest = self._entry = 0.0
        self._rows = 0

    def add(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
        """Take in the outputs for one batch: the reference's, and what is judged.

        Args:
            expected: the reference's output tensors, inputs along their first axis.
            found: as many of the same shapes.

        Raises:
            LorankError: if they are not.
        """
        shapes = [tuple(tuple(t.shape) for t in side) for side in (expected, found)]
        if shapes[0] != shapes[1]:
            raise LorankError(
                f"outputs to compare have the same shapes, found {shapes[0]} and {shapes[1]}"
            )
        y, z = _rows(expected), _rows(found)
        gap = z - y
        self._error += float(gap.square().sum())
        self._norm += float(y.square().sum())
        self._largest = _larger(self._largest, gap)
        self._entry = _larger(self._entry, y)
        self._cosines += float(_cosine(y, z).sum())
        self._rows += len(y)

    def agreement(self) -> Agreement:
        """Give the figures of all batches so far; NaN where an output is not finite.

        Raises:
            LorankError: if there was none.
        """
        if self._rows == 0:
            raise LorankError("comparing outputs needs at least one input, found none")
        return Agreement(
            _over(math.sqrt(self._error), math.sqrt(self._norm)),
            _over(self._largest, self._entry),
            self._cosines / self._rows,
        )


def _rows(tensors: Sequence[Tensor]) -> Tensor:
    """One row an input: all its outputs in a line."""
    flat = [t.detach().cpu().double().reshape(len(t) if t.ndim else 1, -1) for t in tensors]
    return torch.cat(flat, 1) if len({len(t) for t in flat}) == 1 else _line(flat)


def _line(flat: Sequence[Tensor]) -> Tensor:
    """Outputs that do not share their first axis are taken as one."""
    return torch.cat([t.reshape(1, -1) for t in flat], 1)


def _cosine(y: Tensor, z: Tensor) -> Tensor:
    """Cosine of each pair of rows; two zeros agree."""
    lengths = y.norm(dim=1) * z.norm(dim=1)
    both = (y == z).all(1)
    return torch.where(both, 1.0, (y * z).sum(1) / lengths.where(lengths > 0, 1.0))


def _larger(known: float, x: Tensor) -> float:
    """Largest magnitude so far; NaN stays."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    return largest if math.isnan(largest) or largest > known else known


def _over(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf
