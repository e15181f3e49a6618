"""Singular values of a convolution as an operator on images of one size.

The kernel reshaped to a matrix has other singular values than the layer: its norm is too small by
up to the square root of the number of taps. Methods for those of the layer:

================  ======================================================  ==================
method            values                                                  mean error, zeros
================  ======================================================  ==================
``exact``         of the operator written out as a matrix                 rounding
``leading``       the largest few, without the matrix                     rounding
``circular``      of the symbol at the frequencies of the image; exact    6 to 11 %
                  for circular padding
``coarse``        the same from a grid that does not grow                 6 to 11 %
                  (1.5 % for circular padding)
``quantile``      of each branch of the symbol; *reconstruction from the  6 to 11 %
                  abstract* of Yi, 2020
``energy``        ours: quantiles scaled to the exact energy              2 to 3 %
``extrapolated``  ours: the border learnt from one small exact problem    1 %
``auto``          the cheapest that meets ``accuracy``                    as asked
================  ======================================================  ==================

Errors under zero padding are measured, on 16 to 8 pixels: means over values above a tenth of the
largest and over 28 kernels, most of them 3×3 (docs/results). They fall like one over the size of
the image and grow with the kernel; the field ``error`` of a result takes both into account.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.linalg.convolution import estimates as estimates
from lorank.linalg.convolution.auto import auto
from lorank.linalg.convolution.core import core_kernel
from lorank.linalg.convolution.estimates import Found
from lorank.linalg.convolution.law import Layer, count_values
from lorank.linalg.convolution.operator import convolution
from lorank.linalg.convolution.pair import pair_operator
from lorank.linalg.convolution.window import Padding, volume
from lorank.linalg.precision import exact
from lorank.linalg.svd import SVD
from lorank.linalg.unfold import Unfolding

ACCURACY = 0.03
"""Mean relative error that ``auto`` keeps to unless told otherwise."""

COUNT = 6
"""Values that the method ``leading`` gives unless told otherwise."""

METHODS: dict[str, Callable[[Layer], Found]] = {
    "exact": estimates.exact_values,
    "circular": estimates.circular,
    "coarse": estimates.coarse,
    "quantile": estimates.quantile,
    "energy": estimates.energy,
    "extrapolated": estimates.extrapolated,
}
"""Name → all singular values of a layer of dilation 1; ``leading`` and ``auto`` stand beside it."""

NAMES = (*METHODS, "leading", "auto")
OF_ZEROS = ("quantile", "energy", "extrapolated")
"""Estimates of what a border of zeros does: circular padding has none."""


class OperatorSpectrum(NamedTuple):
    """Singular values of a convolution as an operator.

    Attributes:
        values: in descending order, in the precision and on the device of the weight; all of them,
            zeros among them, but for the method ``leading``.
        method: the method that gave them.
        kind: ``"exact"`` for computed values, ``"estimate"`` for others: these bound nothing.
        error: relative. Of exact values a bound of rounding, or of what Lanczos left; of an
            estimate what is to be expected of the mean over values above a tenth of the largest.

    Example:
        >>> spectrum = operator_singular_values(torch.ones(1, 1, 3), 100, method="energy")
        >>> spectrum.kind, 0 < spectrum.error < 0.01
        ('estimate', True)
    """

    values: Tensor
    method: str
    kind: str
    error: float


def operator_singular_values(
    weight: Tensor,
    size: int | Sequence[int],
    *,
    padding: Padding = "zeros",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    transposed: bool = False,
    output_padding: int | Sequence[int] = 0,
    method: str = "auto",
    accuracy: float = ACCURACY,
    count: int = COUNT,
) -> OperatorSpectrum:
    """Singular values of ``x ↦ K * x`` on images of one size.

    Args:
        weight: ``(out, in/groups, *kernel)``, or ``(in, out/groups, *kernel)`` when transposed;
            one to three kernel axes. Half precision is widened to float32.
        size: the image that the layer reads; one number stands for every axis.
        padding: ``"zeros"`` keeps the size (an even kernel's odd zero comes after the image, as
            torch does it), ``"circular"`` the same cyclically, ``"valid"`` adds nothing; or zeros
            in number, for each axis one or ``(before, after)``.
        stride: of each axis.
        dilation: of each axis.
        groups: number of groups; the spectrum is that of all groups together.
        transposed: whether the layer is a transposed convolution. Under the two names that keep
            the size it writes ``size·stride``.
        output_padding: of a transposed layer, as in torch.
        method: a name of the table at the top of this module.
        accuracy: of ``auto``: the mean relative error to keep to, over values above a tenth of the
            largest.
        count: of ``leading``: how many values.

    Raises:
        LorankError: if the method is unknown or an estimate of borders that circular padding does
            not have; the weight is not a kernel of finite real floats; a number is out of range;
            the layer writes nothing; or the padding is ``"reflect"`` or ``"replicate"``, which
            copy pixels, so that the layer is no section of a convolution.

    Cost: see the methods in the module ``estimates``. Source: for circular padding
    Sedghi, Gupta and Long, 2019; the law of zero padding: Tyrtyshnikov, 1996; the estimates that
    are called ours: docs/operator.md.

    Example:
        >>> box = torch.ones(1, 1, 3, 3)
        >>> operator_singular_values(box, 4, padding="circular").values[:3].round().tolist()
        [9.0, 3.0, 3.0]
        >>> reshaped = box.reshape(1, 9)
        >>> round(float(torch.linalg.matrix_norm(reshaped, 2)), 3)
        3.0
    """
    layer = convolution(
        weight,
        size,
        padding=padding,
        stride=stride,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=output_padding,
    )
    return _spectrum(layer, method, accuracy, count, count_values(layer))


def factored_singular_values(
    view: Unfolding,
    factors: SVD,
    size: int | Sequence[int],
    *,
    padding: Padding = "zeros",
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    output_padding: int | Sequence[int] = 0,
    method: str = "auto",
    accuracy: float = ACCURACY,
    count: int = COUNT,
) -> OperatorSpectrum:
    """Singular values of a layer in SVD form as an operator, from its small core.

    The dense kernel ``U·diag(|S|)·Vh`` is never formed. A layer of rank r in a channel layout is
    served by a kernel with r channels on one side (the module ``core``), one in a spatial layout
    by r×r symbols (the module ``pair``); both
    have exactly the layer's nonzero singular values, under any of the paddings.

    Args:
        view: the layer's geometry; it says which layout, how many groups, and whether transposed.
        factors: as the layer holds them; U and Vh need not be orthonormal.
        size: the image that the layer reads.
        padding: as :func:`operator_singular_values` takes it, and so are the others.
        stride: of each axis.
        dilation: of each axis.
        output_padding: of a transposed layer.
        method: a name of the table at the top of this module.
        accuracy: of ``auto``.
        count: of ``leading``.

    Returns:
        As many values as of the dense layer: those that the rank leaves out are 0.

    Raises:
        LorankError: as :func:`operator_singular_values`.

    Cost: at rank c/4 of a layer with c channels a fifteenth of the dense kernel's, and less.

    Example:
        >>> view = Unfolding(8, 8, (3, 3))
        >>> factors = SVD(torch.eye(8)[:, :2], torch.ones(2), torch.eye(72)[::9][:2])
        >>> spectrum = factored_singular_values(view, factors, 4, padding="circular")
        >>> len(spectrum.values), int(spectrum.values.count_nonzero())
        (128, 32)
    """
    geometry = {
        "padding": padding,
        "stride": stride,
        "dilation": dilation,
        "transposed": view.transposed,
        "output_padding": output_padding,
    }
    if view.inner_axes and view.outer_axes:
        layer: Layer = pair_operator(view, factors, size, **geometry)
    else:
        core = core_kernel(view, SVD(*(f.detach() for f in factors)))
        layer = convolution(core, size, groups=view.groups, **geometry)
    ends = view.out_channels, view.in_channels
    written, read = reversed(ends) if view.transposed else ends
    images = ([w.out for w in layer.windows], [w.size for w in layer.windows])
    sides = (c * volume(image) for c, image in zip((written, read), images, strict=True))
    return _spectrum(layer, method, accuracy, count, min(sides))


def _spectrum(
    layer: Layer, method: str, accuracy: float, count: int, total: int
) -> OperatorSpectrum:
    """Run a method on every part of a layer, and fill up with the zeros that are known."""
    if method not in NAMES:
        raise unknown("method", method, NAMES)
    if method in OF_ZEROS and layer.windows[0].wraps:
        raise LorankError(
            f"method {method!r} estimates what a border of zeros does, and circular padding has "
            "none: use 'circular', 'coarse' or 'auto'"
        )
    if accuracy <= 0 or count < 1:
        raise LorankError(f"accuracy is above 0 and count at least 1, found {accuracy} and {count}")
    with torch.no_grad(), exact(layer.factor.device):
        layer, scale = layer.unit()
        if method == "leading":
            found = estimates.leading(layer, count)
            return OperatorSpectrum(found.values * scale, method, "exact", found.error)
        done = [(*_run(part, method, accuracy), often) for part, often in layer.parts()]
    values = torch.cat([found.values.repeat(often) for _, found, often in done])
    if len(values) > len(done[0][1].values):
        values = values.sort(descending=True).values
    values = values[:total]
    zeros = values.new_zeros(total - len(values))
    names = {name for name, _, _ in done}
    computed = all(found.exact for _, found, _ in done)
    return OperatorSpectrum(
        torch.cat([values, zeros]) * scale,
        names.pop() if len(names) == 1 else method,
        "exact" if computed else "estimate",
        max(found.error for _, found, _ in done),
    )


def _run(layer: Layer, method: str, accuracy: float) -> tuple[str, Found]:
    if method == "auto":
        return auto(layer, accuracy)
    return method, METHODS[method](layer)
