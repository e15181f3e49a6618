"""Singular values of a symbol on a grid, and the law that they sample.

The share of singular values below x tends, for large images, to the share of frequencies and
branches at which the symbol's are. A quantile function of that law gives as many values as wanted.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.linalg.convolution.operator import ConvOperator
from lorank.linalg.convolution.pair import PairOperator
from lorank.linalg.convolution.symbol import Grid, frequency_grid
from lorank.linalg.convolution.window import volume

Layer = ConvOperator | PairOperator

AT_ONCE = 2**22
"""Entries of the symbols that are held at one time; larger batches leave the cache and gain
nothing."""


class Law(NamedTuple):
    """Quantile function of a distribution, given by points.

    Shapes: ``levels (points,)`` ascending in (0, 1), ``values (points,)`` ascending; in float64.
    """

    levels: Tensor
    values: Tensor

    def at(self, levels: Tensor) -> Tensor:
        """Interpolate linearly; before the first point and after the last one constant."""
        place = torch.searchsorted(self.levels, levels).clamp(1, max(len(self.levels) - 1, 1))
        if len(self.levels) == 1:
            return self.values.expand(len(levels))
        x0, x1 = self.levels[place - 1], self.levels[place]
        share = ((levels - x0) / (x1 - x0)).clamp(0, 1)
        return torch.lerp(self.values[place - 1], self.values[place], share)


def middles(count: int) -> Tensor:
    """Levels ``(i − ½)/count``: each singular value stands for an equal share.

    Example:
        >>> middles(2).tolist()
        [0.25, 0.75]
    """
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def law_of(values: Tensor, multiplicity: Tensor) -> Law:
    """Law of all values together, whatever their order.

    Args:
        values: ``(…, points, branches)``.
        multiplicity: ``(points,)``, what each point stands for.

    Example:
        >>> law_of(torch.tensor([[3.0, 1.0]]), torch.ones(1)).values.tolist()
        [1.0, 3.0]
    """
    ordered, order = values.cpu().double().flatten().sort()
    weights = multiplicity.double().unsqueeze(-1).expand(values.shape).flatten()[order]
    total = weights.cumsum(0)
    return Law((total - weights / 2) / total[-1], ordered)


def law_by_branch(values: Tensor, multiplicity: Tensor) -> list[Law]:
    """Law of each branch: of the largest singular value at each point, the second, and so on."""
    return [law_of(b, multiplicity) for b in values.flatten(0, -3).unsqueeze(-1).unbind(-2)]


def symbol_values(layer: Layer, angles: Tensor) -> Tensor:
    """Singular values of a layer's symbols, ``(groups, points, branches)``, in descending order.

    Cost: one small SVD for each group and point: nearly all of the time of every method that
    samples the symbol.
    """
    entries = max(volume(layer.symbols(angles[:1]).shape), 1)
    steps = angles.split(max(1, AT_ONCE // entries))
    return torch.cat([small_singular_values(layer.symbols(a)) for a in steps], dim=1)


def small_singular_values(matrices: Tensor) -> Tensor:
    """Singular values of a batch of complex matrices; a row or a column needs only its length."""
    if min(matrices.shape[-2:]) == 1:
        return torch.linalg.vector_norm(matrices, dim=(-2, -1)).unsqueeze(-1)
    tall = matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mT
    try:
        return torch.linalg.svdvals(tall)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return torch.linalg.svdvals(tall.to(torch.complex128)).to(matrices.real.dtype)


def law_grid(layer: Layer, wanted: int, shift: float = 0.5) -> Grid:
    """Grid with about ``wanted`` singular values or more, and eight points along each axis.

    A uniform grid of N points integrates every moment of order 2p exactly while ``p·(k − 1) < N``.

    Args:
        layer: whose symbol is sampled.
        wanted: how many singular values, of all branches and points together.
        shift: as :func:`lorank.linalg.convolution.symbol.frequency_grid` takes it.
    """
    swept = [w for w in layer.windows if w.taps > 1]
    each = 2 * math.ceil((wanted / branches(layer)) ** (1 / max(len(swept), 1)) / 2)
    least = [max(8, each, 2 * math.ceil(w.reach / w.stride)) for w in layer.windows]
    sizes = [n if w.taps > 1 else 1 for w, n in zip(layer.windows, least, strict=True)]
    return frequency_grid(sizes, shift)


def branches(layer: Layer) -> int:
    """Singular values of all groups at one frequency."""
    return layer.groups * min(layer.symbols(torch.zeros(1, len(layer.windows))).shape[-2:])


def sampled_law(layer: Layer, grid: Grid) -> Law:
    """Law of a layer's symbol from its values on a grid."""
    return law_of(symbol_values(layer, grid.angles), grid.multiplicity)


def repeated(values: Tensor, multiplicity: Tensor) -> Tensor:
    """All values of a full grid from those of half of it, in descending order."""
    times = multiplicity.to(values.device)
    return values.repeat_interleave(times, dim=-2).flatten().sort(descending=True).values


def count_values(layer: Layer) -> int:
    """Count of singular values of a layer, zeros among them."""
    return layer.groups * min(layer.shape)
