"""Every way to the singular values of a convolution as an operator, each a function of a layer.

An error is relative: of a computed spectrum a bound of its rounding, of an estimate what is to be
expected of the mean over the values above a tenth of the largest. How far zero padding moves a
spectrum goes with the border's share of the image (:func:`border`), and so do these errors; their
factors are measured, by benchmarks/conv_spectra.py, and rounded up.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.linalg.convolution.law import (
    Law,
    Layer,
    branches,
    count_values,
    law_by_branch,
    law_grid,
    law_of,
    middles,
    repeated,
    sampled_law,
    symbol_values,
)
from lorank.linalg.convolution.leading import leading_values
from lorank.linalg.convolution.symbol import frequency_grid
from lorank.linalg.convolution.window import Window, volume
from lorank.linalg.gram import gram_singular_values

COARSE, DENSE = 2_000, 16_000
"""Values of the symbol on the grid that stands for its law: coarse, and where an estimate adds its
own error."""

COARSE_ERROR = 0.015
OF_BORDER = {"circular": 0.35, "quantile": 0.35, "energy": 0.125, "extrapolated": 0.05}
FEW_BRANCHES, FEW = 9, 2.0
"""Below so many values a frequency the law has gaps, and what moves it errs up to twice as much."""


class Found(NamedTuple):
    """Singular values in descending order, whether computed or estimated, and their error."""

    values: Tensor
    exact: bool
    error: float


def exact_values(layer: Layer) -> Found:
    """All singular values of the operator, written out as a matrix.

    Cost: ``O((pixels·channels)³)``: for small images. Float32 kernels take the Gram matrix in
    float64, which costs no precision that they have (:mod:`lorank.linalg.gram`).
    """
    T = layer.matrix()
    values = gram_singular_values(T).to(T.dtype).flatten().sort(descending=True).values
    return Found(values, True, _rounding(T))


def leading(layer: Layer, count: int) -> Found:
    """Largest singular values, by block Lanczos on the layer itself.

    Cost: some tens of convolutions and adjoints of ``count + 2`` images, whatever the size.
    """
    read, written = layer.read_shape(), layer.written_shape()
    count = min(count, volume(read), volume(written))
    width = min(count + 2, volume(read))
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(width, volume(read), generator=generator, dtype=layer.factor.dtype)
    values, residuals = leading_values(
        lambda x: layer.apply(x.unflatten(1, read)).flatten(1),
        lambda y: layer.adjoint(y.unflatten(1, written)).flatten(1),
        start.to(layer.factor.device),
        count,
        tolerance=torch.finfo(start.dtype).eps ** 0.5 / 20,
    )
    largest = float(values[0])
    return Found(values, True, float(residuals.max()) / largest if largest else 0.0)


def circular(layer: Layer) -> Found:
    """Singular values of the symbol at the frequencies of the image.

    Exact for circular padding, where the stride divides the image, and where no axis has more than
    one tap. Of zero padding an estimate from above: nothing of the border is in it.

    Cost: a small SVD for each frequency of half the grid. Source: Sedghi, Gupta and Long, 2019.
    """
    grid = frequency_grid([w.out if w.taps > 1 else 1 for w in layer.windows])
    values = symbol_values(layer, grid.angles)
    if is_circular(layer):
        still = volume([w.out for w in layer.windows if w.taps == 1])
        values = repeated(values, grid.multiplicity * still)
        return Found(values, True, _rounding(layer.symbols(grid.angles[:1])))
    law, count = law_of(values, grid.multiplicity), count_values(layer)
    return _estimate(layer, law.at(middles(count)).flip(0), error_of("circular", layer))


def coarse(layer: Layer, wanted: int = COARSE) -> Found:
    """Estimate the circular values from a grid that does not grow with the image.

    The law of the symbol does not depend on the image, so quantiles of few frequencies do: the
    more channels, the fewer.

    Cost: as many small SVDs as give ``wanted`` values, or those of the image if they are fewer.
    """
    grid = law_grid(layer, wanted)
    if is_circular(layer):
        if count_values(layer) <= branches(layer) * int(grid.multiplicity.sum()):
            return circular(layer)
        error = COARSE_ERROR * math.sqrt(COARSE / wanted)
    else:
        error = error_of("circular", layer)
    law = sampled_law(layer, grid)
    return _estimate(layer, law.at(middles(count_values(layer))).flip(0), error)


def quantile(layer: Layer) -> Found:
    """Reconstruction from the abstract of Yi, 2020: quantiles of each branch of the symbol.

    Of the largest, the second, … singular value over all frequencies, as many quantiles as the
    image has pixels. The paper's text was not available: its own algorithm may differ.

    Cost: four times that of circular values, on a grid twice as dense.
    """
    if is_circular(layer):
        return circular(layer)
    grid = frequency_grid([2 * w.out if w.taps > 1 else 1 for w in layer.windows], 0.5)
    laws = law_by_branch(symbol_values(layer, grid.angles), grid.multiplicity)
    count = count_values(layer)
    levels = middles(math.ceil(count / len(laws)))
    values = torch.cat([law.at(levels) for law in laws]).sort(descending=True).values
    return _estimate(layer, values[:count], error_of("quantile", layer))


def energy(layer: Layer) -> Found:
    """Ours: quantiles of the law, scaled to the operator's exact energy ``Σσ²``.

    Cost: that of a coarse grid; the energy comes from the kernel.
    """
    if is_circular(layer):
        return circular(layer)
    law = sampled_law(layer, law_grid(layer, DENSE))
    values = law.at(middles(count_values(layer))).flip(0)
    own = float(values.square().sum())
    scale = math.sqrt(layer.energy() / own) if own else 1.0
    return _estimate(layer, values * scale, error_of("energy", layer))


def extrapolated(layer: Layer, written: int | None = None) -> Found:
    """Ours: the law, and a border of which one small exact problem tells the size.

    ``Q_n(u) ≈ Q(u) + c(u)/n``: the quantiles of an image of n pixels are those of the law and a
    term for the border, which an image of four pixels shows as well. The largest value nears the
    law's like ``1/(n + (k − 1)/2)²`` instead.

    Args:
        layer: of any size.
        written: pixels that the small image has along each axis; by default four, or one more
            than the kernel.

    Cost: the exact values of the small image, and a dense grid of the law.
    """
    if is_circular(layer):
        return circular(layer)
    small = shrunk(layer, small_size(layer) if written is None else written)
    if small.windows == layer.windows:
        return exact_values(layer)
    law = dense_law(layer)
    return from_small(layer, small, small_values(small), law, error_of("extrapolated", layer))


def dense_law(layer: Layer) -> Law:
    """Law on a dense grid, with its largest value last."""
    law = sampled_law(layer, law_grid(layer, DENSE))
    corners = frequency_grid([2 if w.taps > 1 else 1 for w in layer.windows])
    top = symbol_values(layer, corners.angles).max().cpu().double()
    return Law(law.levels, torch.cat([law.values[:-1], torch.maximum(law.values[-1:], top)]))


def small_values(small: Layer) -> Tensor:
    """Exact values in ascending order, to the precision of float32."""
    return gram_singular_values(small.matrix().float()).cpu().double().flatten().sort().values


def from_small(layer: Layer, small: Layer, values: Tensor, law: Law, error: float) -> Found:
    """Estimate a layer's values from those of a smaller image, in ascending order."""
    levels = middles(count_values(layer))
    at = law.at(levels)
    border = Law(middles(len(values)), values).at(levels) - at
    estimate = (at + border * _near(layer, small, 1)).clamp_min(0).sort(descending=True).values
    sup = float(law.values[-1])
    top = max(sup - (sup - float(values[-1])) * _near(layer, small, 2), 0.0)
    estimate[0] = top
    return _estimate(layer, estimate.clamp_max(top), error)


def _near(layer: Layer, small: Layer, power: int) -> float:
    """How much of the small image's border term is left: the ratio of ``Σ weight/n^power``.

    For the largest value (power 2) n is counted to the middle of the outermost taps.
    """
    weights = _weights(layer) if power == 1 else [1.0] * len(layer.windows)

    def term(windows: tuple[Window, ...]) -> float:
        sizes = (_length(w) + (power - 1) * _reach(w) / 2 for w in windows)
        return sum(
            weight / n**power
            for weight, n, w in zip(weights, sizes, windows, strict=True)
            if w.taps > 1
        )

    return term(layer.windows) / term(small.windows)


def _weights(layer: Layer) -> list[float]:
    """Pixels' worth of energy that the border takes along each axis.

    On long axes the energy is ``α·(n − w)``, with n the written length: w tells an axis along
    which the kernel reaches far from one along which it hardly does.
    """
    long = [4 * (w.reach // w.stride + 1) for w in layer.windows]
    base = _written(layer, long)
    held, weights = base.energy(), []
    for axis in range(len(long)):
        longer = _written(layer, [n + (a == axis) for a, n in enumerate(long)]).energy()
        weights.append(max(long[axis] - held / (longer - held), 0.0) if longer > held else 0.0)
    return weights if max(weights) > 1e-9 else [1.0] * len(weights)


def border(layer: Layer) -> float:
    """Share of the image that the border's taps miss, summed over the axes and scaled.

    Of t taps side by side one lies ``t/4`` pixels from the middle on average (``t/4 − 1/(4t)``
    for an odd t), and misses as many of the n pixels of an axis. Scaled so that three taps on n
    pixels count ``2/n``.
    """
    share = 0.0
    for window in layer.windows:
        t = _reach(window) + 1
        share += 3 * (t * t - t % 2) / (4 * t) / _length(window) if t > 1 else 0.0
    return share


def error_of(method: str, layer: Layer) -> float:
    """Error to be expected of an estimate under zero padding.

    Infinite for a layer that does not keep the size: that is not measured, and can be large. Such
    a layer may have fewer rows than columns on a small image and more on a large one.
    """
    if not keeps_size(layer):
        return math.inf
    moved = method in ("energy", "extrapolated")
    few = FEW if moved and branches(layer) < FEW_BRANCHES else 1.0
    return OF_BORDER[method] * few * border(layer)


def is_circular(layer: Layer) -> bool:
    """Whether the symbol at the frequencies of the image gives the exact values."""
    return all(
        (w.wraps and w.out * w.stride == w.size)
        or (w.taps == 1 and w.before == 0 and w.out == -(-w.size // w.stride))
        for w in layer.windows
    )


def keeps_size(layer: Layer) -> bool:
    """Whether as many pixels are written as are read, up to the stride."""
    return all(w.out == -(-w.size // w.stride) for w in layer.windows)


def is_short(layer: Layer) -> bool:
    """Whether the kernel reaches over a whole axis of the image."""
    return any(w.taps > 1 and w.out <= _reach(w) for w in layer.windows)


def small_size(layer: Layer) -> int:
    """Written pixels of a small image that shows a border: four, or one more than the kernel.

    More where that image would turn a tall matrix into a wide one, whose spectrum says nothing
    about it.
    """
    least = max(4, *(_reach(w) + 2 for w in layer.windows))
    whole = max(least, *(w.out for w in layer.windows))
    return next((n for n in range(least, whole) if _tall(shrunk(layer, n)) == _tall(layer)), whole)


def _tall(layer: Layer) -> bool:
    return layer.shape[0] > layer.shape[1]


def shrunk(layer: Layer, written: int) -> Layer:
    """Return the same layer on an image of which at most ``written`` pixels an axis are written."""
    return _written(layer, [min(written, w.out) for w in layer.windows])


def _written(layer: Layer, sizes: list[int]) -> Layer:
    """Return the same layer on the image of which so many pixels are written."""
    read = [w.size - w.stride * (w.out - n) for w, n in zip(layer.windows, sizes, strict=True)]
    return layer.resized(read)


def _length(window: Window) -> float:
    """Pixels along an axis, the mean of those written and read, in units of the stride."""
    return (window.out + window.size / window.stride) / 2


def _reach(window: Window) -> int:
    """Pixels from the first tap to the last in units of the stride, rounded up."""
    return -(-window.reach // window.stride)


def _estimate(layer: Layer, values: Tensor, error: float) -> Found:
    return Found(values.to(layer.factor), False, error)


def _rounding(matrix: Tensor) -> float:
    """Bound of the error of computed singular values, relative to the largest."""
    return 10 * sum(matrix.shape[-2:]) * torch.finfo(matrix.dtype).eps
