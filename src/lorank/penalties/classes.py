"""Who is in a class with whom, in one batch: the sums that class-wise penalties are made of."""

from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError

MISSING = -100
"""The label of a sample without one, as ``torch.nn.functional.cross_entropy`` has it."""


class Classes(NamedTuple):
    """The classes of a batch.

    Attributes:
        row: ``(B,)``, a number from 0 to B − 1 for every sample, the same for one class.
        size: ``(B,)``, how many labelled samples the sample's class has in the batch.
        labelled: ``(B,)``, whether the sample has a label.
    """

    row: Tensor
    size: Tensor
    labelled: Tensor

    @property
    def paired(self) -> Tensor:
        """Whether a sample has another one of its class in the batch."""
        return self.labelled & (self.size > 1)


def activations(h: Tensor) -> Tensor:
    """Check a batch of activations, and give it as ``(B, d)``.

    Raises:
        LorankError: if it is not a floating-point tensor ``(B, …)`` with entries.

    Example:
        >>> activations(torch.ones(2, 3, 4)).shape
        torch.Size([2, 12])
    """
    if not isinstance(h, Tensor) or not h.is_floating_point() or h.ndim == 0 or h.numel() == 0:
        found = f"{h.dtype} {tuple(h.shape)}" if isinstance(h, Tensor) else type(h).__name__
        raise LorankError(
            f"activations must be floating-point (samples, …) with entries, found {found}"
        )
    return h.reshape(len(h), -1)


def classes(y: Tensor | None, h: Tensor) -> Classes:
    """Group a batch by its labels, without asking the device how many classes there are.

    Args:
        y: whole numbers ``(B,)``, one a sample; any numbers will do, and −100 is no label.
        h: their activations ``(B, d)``, of which only the size and the device are read.

    Raises:
        LorankError: if there is not one whole number a sample, on the device of h.

    Cost: a sort of B numbers.

    Example:
        >>> classes(torch.tensor([7, 3, 7, -100]), torch.zeros(4, 2)).size.tolist()
        [2, 1, 2, 0]
    """
    if not isinstance(y, Tensor) or y.ndim != 1 or len(y) != len(h):
        found = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise LorankError(f"there must be one label a sample ({len(h)},), found {found}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise LorankError(f"labels must be whole numbers, found {y.dtype}")
    if y.device != h.device:
        raise LorankError(f"labels must be where activations are, {h.device}, found {y.device}")
    y = y.long()  # in uint8, -100 would wrap around to 156, which is a label like others
    labelled = y != MISSING
    # A label's first place among the sorted ones is a row of its own, whatever the labels are.
    row = torch.searchsorted(y.sort().values, y)
    count = torch.zeros_like(row).index_add(0, row, labelled.to(row.dtype))
    return Classes(row, count[row], labelled)


def check_finite(h: Tensor, counted: Tensor | None = None) -> None:
    """Refuse activations that are not numbers, but for half precision and compiled code.

    In float16 an Inf is what a gradient scaler waits for, and skips; it must reach the loss.

    Args:
        h: ``(B, d)``.
        counted: which samples count, ``(B,)``; by default all.

    Raises:
        LorankError: if an entry of a sample that counts is NaN or Inf.

    Example:
        >>> check_finite(torch.tensor([[1.0], [torch.nan]]), torch.tensor([True, False]))
    """
    if h.dtype == torch.float16 or torch.compiler.is_compiling():
        return
    bad = ~torch.isfinite(h.detach()).all(1)
    if counted is not None:
        bad &= counted
    if bool(bad.any()):
        where = bad.nonzero().flatten().tolist()
        raise LorankError(
            f"activations must be finite, and {len(where)} of {len(h)} samples hold NaN or Inf, "
            f"the first at {where[0]}: look at the layer's input, or lower the learning rate"
        )


def deviations(h: Tensor, of: Classes) -> Tensor:
    """``h_i − μ_c`` for every sample with another of its class in the batch; 0 for the others.

    Args:
        h: ``(B, d)``.
        of: its classes.

    Returns:
        ``(B, d)``. A sample alone in its class, or without a label, has no part in the graph.

    Example:
        >>> h, y = torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1])
        >>> deviations(h, classes(y, h)).flatten().tolist()
        [-1.0, 1.0, 0.0]
    """
    away = ~of.paired.unsqueeze(1)
    kept = h.masked_fill(away, 0.0)
    total = torch.zeros_like(kept).index_add(0, of.row, kept)
    mean = total[of.row] / of.size.clamp(min=1).unsqueeze(1)
    return (kept - mean).masked_fill(away, 0.0)
