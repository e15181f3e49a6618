"""The cheapest singular values of a convolution that meet a stated accuracy."""

import math
from collections.abc import Sequence

from torch import Tensor

from lorank.linalg.convolution import estimates as estimates
from lorank.linalg.convolution.estimates import Found
from lorank.linalg.convolution.law import Layer, count_values
from lorank.linalg.convolution.symbol import frequency_grid

EXACT_WORK = 1.5e9
"""Products of a matrix's sides, ``m·n·min(m, n)``, up to which the operator itself is decomposed:
about a second."""

SMALL_WORK = 1e12
"""The same for the small problem that shows the border: a matrix of side 10,000, some minutes."""

SYMBOL_WORK = 1e10
"""The same for the symbols of all frequencies together: some seconds."""


MARGIN, SHORT_MARGIN = 1.5, 3.0
"""Factors on what two images disagree by, that no error was measured above: usually, and where the
kernel reaches over a whole axis of the image, which the law then describes badly."""


def auto(layer: Layer, accuracy: float) -> tuple[str, Found]:
    """Give the cheapest values whose error is at most ``accuracy``, and the name of their method.

    Under circular padding these are the symbol's at the frequencies of the image, or, where that
    is more than some seconds of work, of a coarse grid, refined until two in turn agree.

    Under zero padding: the exact values of a small operator; else the energy method, where the
    error that was measured of it is small enough; else extrapolation from growing images, until
    what one predicts of the next agrees with the exact values of that one. The values given come
    from the larger of the two; their error is that disagreement times a measured margin. Where
    the small problem becomes too large first, the best so far is given, with its larger error.
    """
    if estimates.is_circular(layer):
        return _frequencies(layer, accuracy)
    if work(layer.shape, layer.groups) <= EXACT_WORK:
        return "exact", estimates.exact_values(layer)
    if estimates.error_of("energy", layer) <= accuracy:
        return "energy", estimates.energy(layer)
    return _extrapolated_until(layer, accuracy)


def work(shape: Sequence[int], copies: int = 1) -> float:
    """Return ``copies·m·n·min(m, n)``, to which the time of a decomposition is proportional."""
    m, n = shape[-2:]
    return float(copies * m * n * min(m, n))


def _frequencies(layer: Layer, accuracy: float) -> tuple[str, Found]:
    grid = frequency_grid([w.out if w.taps > 1 else 1 for w in layer.windows])
    one = layer.symbols(grid.angles[:1])
    if work(one.shape, layer.groups * len(grid.angles)) <= SYMBOL_WORK:
        return "circular", estimates.circular(layer)
    wanted = estimates.COARSE
    found = estimates.coarse(layer, wanted)
    while 4 * wanted < count_values(layer):
        wanted *= 4
        finer = estimates.coarse(layer, wanted)
        error = mean_error(found.values, finer.values)
        if error <= accuracy:
            return "coarse", finer._replace(error=error)
        found = finer
    return "circular", estimates.circular(layer)


def _extrapolated_until(layer: Layer, accuracy: float) -> tuple[str, Found]:
    name, best = "energy", estimates.energy(layer)
    law = estimates.dense_law(layer)
    written = max(3, estimates.small_size(layer) - 1)
    small = estimates.shrunk(layer, written)
    values = estimates.small_values(small)
    while best.error > accuracy:
        written = math.ceil(1.25 * written)
        larger = estimates.shrunk(layer, written)
        if larger.windows == layer.windows:
            return "exact", estimates.exact_values(layer)
        if work(larger.shape, layer.groups) > SMALL_WORK:
            break
        truth = estimates.small_values(larger)
        predicted = estimates.from_small(larger, small, values, law, 0.0).values
        apart = mean_error(predicted.double(), truth.flip(0).to(predicted.device))
        error = apart * (SHORT_MARGIN if estimates.is_short(layer) else MARGIN)
        small, values = larger, truth
        name, best = "extrapolated", estimates.from_small(layer, small, values, law, error)
    return name, best


def mean_error(found: Tensor, truth: Tensor) -> float:
    """Mean relative error over the values above a tenth of the largest, both in descending order.

    Example:
        >>> import torch
        >>> mean_error(torch.tensor([2.0, 0.5]), torch.tensor([2.0, 0.1]))
        0.0
    """
    counted = truth > 0.1 * truth[0]
    if not counted.any():
        return 0.0
    return float(((found - truth).abs() / truth)[counted].mean())
