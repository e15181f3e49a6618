"""Convolutions as operators: the singular values and the norm that each layer really has."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.compression.measure import check_weight, layer_error
from lorank.compression.operator_layers import Kernel, is_convolution, kernel_of
from lorank.compression.trace import Example, trace
from lorank.errors import LorankError
from lorank.linalg import SVD
from lorank.linalg.convolution import spectrum as conv_spectrum
from lorank.linalg.convolution.operator import operator_energy
from lorank.nn.conv import SVDConv
from lorank.nn.surgery import Site, opened, select, sites

POINTS = 65
"""Quantiles that describe a spectrum."""


class Operator(NamedTuple):
    """One convolution as an operator on the images that it sees; plain values.

    Attributes:
        size: image that the layer reads; the largest, where it is called on several.
        padding: ``"zeros"``, ``"circular"``, or zeros in number along each axis.
        values: number of singular values.
        quantiles: of the singular values, at equal steps from the largest to the smallest.
        method: how they were found (:mod:`lorank.linalg.convolution.spectrum`).
        kind: ``"exact"`` or ``"estimate"``.
        error: relative error of the values, as that method states it.
        lower: certified: the norm on large images is no less.
        upper: certified: the norm on images of any size is no more.
        reshaped_norm: norm of the reshaped kernel ``(out, in·taps)``, which is often taken for it.
        ratio: ``upper`` over it.
        stable_rank: ``‖T‖_F² / upper²`` for each position written, in channels.
        reshaped_stable_rank: the same ratio of the reshaped kernel.
    """

    size: tuple[int, ...]
    padding: str | tuple[int, ...]
    values: int
    quantiles: list[float]
    method: str
    kind: str
    error: float
    lower: float
    upper: float
    reshaped_norm: float
    ratio: float
    stable_rank: float
    reshaped_stable_rank: float


class Operators(dict[str, Operator]):
    """A table by layer name, and why other convolutions are not in it.

    Attributes:
        skipped: layer name → the reason.
    """

    def __init__(self, table: dict[str, Operator], skipped: dict[str, str]):
        super().__init__(table)
        self.skipped = skipped


def operators(
    model: nn.Module,
    example: Example,
    *,
    method: str = "auto",
    accuracy: float = conv_spectrum.ACCURACY,
    tol: float = 1e-2,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
) -> Operators:
    """Describe every convolution of a network as the operator on the images that it really sees.

    The kernel reshaped to a matrix has other singular values: the norm of the layer is up to
    ``√taps`` times larger, and depends on borders and strides.

    Args:
        model: dense, in SVD form, or folded; it is not changed.
        example: what it is called with; the images' sizes follow from it.
        method: of :func:`lorank.linalg.operator_singular_values`.
        accuracy: mean relative error that ``"auto"`` meets.
        tol: relative gap of the certified norm; a flat symbol makes a smaller one slow.
        layers: names or shell patterns of the layers to describe; by default all convolutions.
        skip: names or patterns of layers to leave alone.

    Returns:
        A table by layer name; its ``skipped`` says why other convolutions cannot be described.

    Raises:
        LorankError: if there is no convolution, a name is unknown, a weight is not there or not
            finite, or the model does not run on the example.

    Cost: one forward pass; for each layer its singular values by the method and a certified norm.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
        >>> _ = nn.init.ones_(model[0].weight)
        >>> found = operators(model, torch.ones(1, 1, 6, 6))["0"]
        >>> found.size, found.kind, round(found.reshaped_norm, 3), found.lower <= 9 <= found.upper
        ((6, 6), 'exact', 3.0, True)
    """
    table: dict[str, Operator] = {}
    skipped: dict[str, str] = {}
    for site, size in convolutions(model, example, layers, skip):
        if size is None:
            skipped[site.name] = "the example does not reach it"
            continue
        try:
            kernel = kernel_of(site.module, size)
        except LorankError as error:
            skipped[site.name] = str(error)
            continue
        try:
            found = _spectrum(site.module, kernel, method, accuracy)
            table[site.name] = _described(kernel, found, tol)
        except LorankError as error:
            raise layer_error(site, error) from None
    return Operators(table, skipped)


def convolutions(
    model: nn.Module,
    example: Example,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
) -> list[tuple[Site, tuple[int, ...] | None]]:
    """Find the convolutions of a network, and the largest image that each one reads.

    Raises:
        LorankError: if there is none, or the model does not run on the example.
    """
    every = [s for s in sites(opened(model)) if is_convolution(s.module)]
    if not every:
        raise LorankError(
            f"an operator's spectrum needs convolutions, and {type(model).__name__} has none"
        )
    # A weight that must stay dense is an operator like any other.
    chosen = select([replace(site, reason=None) for site in every], layers, skip)
    for site in chosen:
        check_weight(site)
    seen = trace(model, example, [m for s in chosen for m in s.members.values()])
    return [(site, _largest(site, seen.calls)) for site in chosen]


def _largest(site: Site, calls: Any) -> tuple[int, ...] | None:
    sizes = [call.in_size for m in site.members.values() for call in calls[id(m)]]
    return max(sizes, key=math.prod, default=None)


def geometry(kernel: Kernel) -> dict[str, Any]:
    """Geometry of a kernel as the functions of ``linalg`` take it."""
    return {
        "padding": kernel.padding,
        "stride": kernel.stride,
        "dilation": kernel.dilation,
        "groups": kernel.groups,
        "transposed": kernel.transposed,
        "output_padding": kernel.output_padding,
    }


def _spectrum(
    module: nn.Module, kernel: Kernel, method: str, accuracy: float
) -> conv_spectrum.OperatorSpectrum:
    """Singular values of a layer; one in SVD form is served from its small core."""
    chosen: Any = {"method": method, "accuracy": accuracy}
    settings = geometry(kernel)
    if not isinstance(module, SVDConv):
        return conv_spectrum.operator_singular_values(
            kernel.weight, kernel.size, **settings, **chosen
        )
    own = {k: v for k, v in settings.items() if k not in ("groups", "transposed")}
    factors = SVD(module.U, module.S, module.Vh)
    return conv_spectrum.factored_singular_values(
        module.view, factors, kernel.size, **own, **chosen
    )


def _described(kernel: Kernel, found: conv_spectrum.OperatorSpectrum, tol: float) -> Operator:
    bracket = kernel.bracket(tol=tol)
    matrix = reshaped(kernel)
    norm = float(torch.linalg.matrix_norm(matrix, 2).max())
    energy = operator_energy(kernel.weight, kernel.size, **geometry(kernel))
    return Operator(
        kernel.size,
        kernel.padding,
        len(found.values),
        quantiles(found.values),
        found.method,
        found.kind,
        float(found.error),
        bracket.lower,
        bracket.upper,
        norm,
        _ratio(bracket.upper, norm),
        _ratio(energy / kernel.positions, bracket.upper**2),
        _ratio(float(matrix.square().sum()), norm**2),
    )


def reshaped(kernel: Kernel) -> Tensor:
    """Kernel as ``(groups, out, in·taps)`` in float64, as a spectral norm usually takes it."""
    blocks = kernel.weight.double().unflatten(0, (kernel.groups, -1))
    return (blocks.transpose(1, 2) if kernel.transposed else blocks).flatten(2)


def quantiles(values: Tensor, points: int = POINTS) -> list[float]:
    """Values at equal steps from the largest to the smallest, interpolated.

    Example:
        >>> quantiles(torch.tensor([1.0, 3.0, 2.0]), 5)
        [3.0, 2.5, 2.0, 1.5, 1.0]
    """
    falling = values.detach().double().cpu().sort(descending=True).values
    at = torch.linspace(0, len(falling) - 1, points, dtype=torch.float64)
    low = at.floor().long()
    high = (low + 1).clamp_max(len(falling) - 1)
    return torch.lerp(falling[low], falling[high], at - low).tolist()


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0
