"""Clip: cap what each layer can stretch its input by, and say what the cap cost."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.compression.decompose import refuse_inference_mode
from lorank.compression.measure import check_weight, decomposable, layer_error
from lorank.errors import LorankError
from lorank.linalg import SVD, norm_bracket, truncate
from lorank.linalg.convolution.clip import cap_kernel
from lorank.linalg.precision import exact
from lorank.nn import Factored
from lorank.nn.operator import is_operator, operator_kernel
from lorank.nn.surgery import (
    Site,
    by_site,
    closed,
    exchange,
    opened,
    parameter_like,
    select,
    sites,
)

TRIES = 20
"""Times that a kernel is scaled until the cap holds for it as it is stored."""


class LayerClip(NamedTuple):
    """What a cap did to one layer.

    Attributes:
        target: the cap.
        before: certified upper bound of the layer's norm before.
        after: the same afterwards, not above the target.
        change: ``‖W − W'‖_F / ‖W‖_F``; 0 where the layer was below the cap.
        rounds: of capping and cutting back.
    """

    target: float
    before: float
    after: float
    change: float
    rounds: int


class Clipped(NamedTuple):
    """A network with capped layers, and what that cost.

    Attributes:
        model: the new network.
        layers: by name, also those that were below the cap.
        before: what ``evaluate`` says of the network before, or ``None``.
        after: and of the new one.
    """

    model: nn.Module
    layers: dict[str, LayerClip]
    before: float | None = None
    after: float | None = None


def clip(
    model: nn.Module,
    target: float | Mapping[str, float],
    *,
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    rounds: int = 30,
    tol: float = 5e-3,
) -> Clipped:
    """Copy a network with every layer's singular values, as an operator, at most at a target.

    Convolutions are capped on a grid of frequencies and cut back to their taps until little is
    left above the target (:mod:`lorank.linalg.convolution.clip`), then scaled by the certified
    bound of what came out: the cap holds for images of every size, in the dtype of the weights,
    with zero, circular or no padding. Linear layers are capped at once. A layer in SVD form stays
    in its form, at its rank: in the channel layouts a cap keeps the rank by itself, in the spatial
    ones the capped kernel is cut back to it.

    A BatchNorm after the layer is not looked at: fold it first where the cap is to hold for both.

    Args:
        model: dense, in SVD form, or both; it is not changed.
        target: the cap, or a table by layer name.
        layers: names or shell patterns of the layers to cap; by default all linear layers and
            convolutions, or those of the table.
        skip: names or patterns of layers to leave alone.
        evaluate: called with the old and the new network, for example an accuracy; the two numbers
            are part of the result.
        rounds: of capping and cutting back, at most.
        tol: relative gap of the certified norms. A capped symbol is flat, which makes them dear.

    Returns:
        The network, what became of each layer, and the two scores.

    Raises:
        LorankError: if a target is not above zero, a name is unknown, no layer is a linear layer
            or convolution, a layer pads by reflection or replication or cyclically beyond its
            kernel's reach, layers that share a weight move it differently, a weight is lazy, on
            the meta device, or holds NaN or Inf, or the call is made under
            ``torch.inference_mode``.

    Cost: ``rounds`` times eigendecompositions at some hundred frequencies a layer.

    Example:
        >>> small = clip(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4)), 0.5)
        >>> all(layer.after <= 0.5 for layer in small.layers.values())
        True
    """
    refuse_inference_mode("clip")
    source = opened(model)
    every = sites(source)
    targets = by_site(every, target) if isinstance(target, Mapping) else None
    chosen = _chosen(source, every, targets if layers is None else layers, skip)
    successors: dict[int, Any] = {}
    table: dict[str, LayerClip] = {}
    for site in chosen:
        check_weight(site)
        cap = _cap(site, target if targets is None else targets)
        try:
            table[site.name], new = _clip_site(site, cap, rounds, tol)
        except LorankError as error:
            raise layer_error(site, error) from None
        successors.update(new)
    made = closed(exchange(source, successors))
    scores = (None, None) if evaluate is None else (evaluate(model), evaluate(made))
    return Clipped(made, table, *scores)


def _chosen(
    source: nn.Module,
    every: list[Site],
    layers: Iterable[str] | None,
    skip: Iterable[str] | None,
) -> list[Site]:
    if layers is None:
        found = decomposable(source, every, None, skip)
        chosen = [site for site in found if is_operator(site.module)]
        if not chosen:
            raise LorankError(
                f"clip takes linear layers and convolutions, and {type(source).__name__} has none "
                "that it may change"
            )
        return chosen
    found = select(every, layers, skip)
    for site in found:
        if not is_operator(site.module):
            raise LorankError(
                f"clip takes linear layers and convolutions, and {site.name!r} is a "
                f"{type(site.module).__name__}"
            )
    return found


def _cap(site: Site, target: Any) -> float:
    if isinstance(target, Mapping) and site.name not in target:
        raise LorankError(f"the table of targets has no entry for layer {site.name!r}")
    cap = target[site.name] if isinstance(target, Mapping) else target
    if isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap < math.inf:
        raise LorankError(
            f"a cap of singular values is finite and above zero, found {cap!r} for {site.name!r}"
        )
    return float(cap)


def _clip_site(
    site: Site, target: float, rounds: int, tol: float
) -> tuple[LayerClip, dict[int, nn.Parameter]]:
    layer = site.module
    kernel = operator_kernel(layer)
    for name, member in site.members.items():
        if operator_kernel(member).settings != kernel.settings:
            raise LorankError(f"it shares its weight with {name!r}, which moves it in another way")
    before = kernel.bracket(tol).upper
    if before <= target:
        return LayerClip(target, before, before, 0.0, 0), {}
    dense = layer.weight.detach()
    capped = cap_kernel(dense, target, **kernel.settings, rounds=rounds)
    held = _factors(layer, capped.weight) if isinstance(layer, Factored) else (capped.weight,)
    old = (layer.U, layer.S, layer.Vh) if isinstance(layer, Factored) else (layer.weight,)
    new, after = _scaled(layer, old, held, target, tol)
    change = float((_weight(layer, new) - dense).norm() / dense.norm())
    report = LayerClip(target, before, after, change, capped.rounds)
    return report, {id(o): n for o, n in zip(old, new, strict=True)}


def _factors(layer: Factored, weight: Tensor) -> SVD:
    """Factors of a kernel in a layer's layout, at its rank."""
    found = truncate(layer.view.svd(weight), min(layer.rank, *layer.view.shape))
    extra = layer.rank - found.S.shape[-1]
    if not extra:
        return found
    pad = nn.functional.pad
    return SVD(pad(found.U, (0, extra)), pad(found.S, (0, extra)), pad(found.Vh, (0, 0, 0, extra)))


def _scaled(
    layer: Any, old: tuple[Tensor, ...], held: tuple[Tensor, ...], target: float, tol: float
) -> tuple[list[nn.Parameter], float]:
    """Parameters of the layer's dtype for which the cap certainly holds, and their norm."""
    settings = operator_kernel(layer).settings
    at = 1 if len(held) == 3 else 0  # S carries the scale of three factors
    new = [parameter_like(o, h) for o, h in zip(old, held, strict=True)]
    after = norm_bracket(_weight(layer, new), tol=tol, **settings).upper
    for _ in range(TRIES):
        if after <= target:
            return new, after
        share = target / (after * (1 + 2 * _storage(layer, new, after)))
        held = (*held[:at], held[at] * share, *held[at + 1 :])
        new = [parameter_like(o, h) for o, h in zip(old, held, strict=True)]
        if new[at].dtype.itemsize >= 4:
            # Scaling scales the norm, and rounding moves it by no more than was left for it.
            return new, after * share * (1 + _storage(layer, new, after * share))
        after = norm_bracket(_weight(layer, new), tol=tol, **settings).upper
    raise LorankError(f"no weights in {new[at].dtype} hold the cap {target}: found {after}")


def _storage(layer: Any, parameters: list[nn.Parameter], norm: float) -> float:
    """How much rounding of the stored numbers can move a layer's norm, relative to it.

    ``√T·‖ΔK‖_F``, where a dense kernel is off by eps in each entry, and a product of factors by
    eps for each of r terms.
    """
    weight = _weight(layer, parameters)
    taps = math.prod(layer.view.kernel_size if len(parameters) == 3 else weight.shape[2:])
    terms = 1 if len(parameters) == 1 else 4 + parameters[1].shape[-1]
    if weight.dtype.itemsize < 4:
        return torch.finfo(weight.dtype).eps / 8  # judged anew, not trusted: a step to try
    eps = torch.finfo(weight.dtype).eps
    return terms * eps * math.sqrt(taps) * float(weight.norm()) / norm


def _weight(layer: Any, parameters: list[nn.Parameter]) -> Tensor:
    """Dense weight that a layer has with other parameters."""
    if len(parameters) == 1:
        return parameters[0].detach()
    U, S, Vh = (p.detach() for p in parameters)
    with exact(U.device):
        return layer.view.kernel((U * S.abs().unsqueeze(-2)) @ Vh)
