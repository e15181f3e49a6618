"""Measure: the singular values of every layer, and what its ranks cost."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lorank.compression.calibrate import Calibration
from lorank.compression.cost import count_bytes, count_parameters, limit, site_macs
from lorank.compression.layout import choose_layout, layout_table
from lorank.compression.trace import Example, Trace, trace
from lorank.errors import LorankError
from lorank.linalg import Moments, Unfolding, weighted_singular_values
from lorank.nn.surgery import Site, opened, select, sites
from lorank.ranks import Price, Spectra, Spectrum


def measure(
    model: nn.Module,
    example: Example | None = None,
    *,
    layout: str | Mapping[str, str] = "auto",
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
    calibration: Calibration | None = None,
) -> Spectra:
    """Singular values of every layer, with the price of its ranks.

    A dense weight is measured in a layout; a layer in SVD form by the singular values of the
    product ``U·diag(|S|)·Vh``, which ``|S|`` need not equal after training.

    Args:
        model: dense, in SVD form, or both.
        example: what the model is called with (a tensor, a tuple of arguments or a dict of named
            ones). With it, prices are in MACs of this input; without it only in parameters.
        layout: ``"channel"``, ``"channel_reversed"``, ``"spatial"``, ``"spatial_reversed"``, or
            ``"auto"``; or a table by layer name. :func:`lorank.decompose` must be given the same.
        layers: names or shell patterns of the layers to measure; by default all that have an
            SVD form, but for embeddings that are only looked up.
        skip: names or patterns of layers to leave alone.
        calibration: from :func:`lorank.calibrate`. Singular values are then those of the weight
            weighed by what the layer reads and by what its errors do to the answer, and only
            layers that the calibration has reached are measured.

    Returns:
        A table by layer name; tied layers have one entry, under the first one's name.

    Raises:
        LorankError: if no layer can be decomposed, a name or layout is unknown, a weight is
            lazy, on the meta device, or holds NaN or Inf, or the example does not fit.

    Cost: the singular values of each weight, ``O(m·n·min(m, n))``, and one forward pass.

    Example:
        >>> spectra = measure(nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4))
        >>> spectra["0"].shape, spectra["0"].macs
        ((2, 4), Price(dense=8, per_rank=6))
    """
    model = opened(model)
    every = sites(model)
    chosen = reached(decomposable(model, every, layers, skip), calibration, layers)
    seen = None
    if example is not None:
        seen = trace(model, example, [m for s in every if s.kind for m in s.members.values()])
    layouts = layout_table(every, layout)
    moments = calibration or {}
    table = {s.name: _spectrum(s, layouts, seen, moments.get(s.name)) for s in chosen}
    macs = None if seen is None else _dense_macs(every, seen)
    params, size = _dense_size(model, every)
    return Spectra(table, params=params, bytes=size, macs=macs)


def decomposable(
    model: nn.Module,
    every: list[Site],
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
) -> list[Site]:
    """Choose the sites to work on, and refuse a model that has none or whose weights are not there.

    Raises:
        LorankError: if there is none, or a chosen weight is lazy or on the meta device.
    """
    chosen = select(every, layers, skip)
    if not chosen:
        if not any(True for _ in model.parameters()):
            raise LorankError(f"a model needs parameters, and {type(model).__name__} has none")
        free = [repr(s.name) for s in every if s.reason is None]
        if free:
            raise LorankError(
                "no layer was chosen: layers, skip or ranks leave none of those that can be "
                f"decomposed ({', '.join(free)})"
            )
        reasons = "; ".join(f"{s.name!r}: {s.reason}" for s in every if s.reason)
        raise LorankError(
            f"a model needs a layer that can be decomposed, and {type(model).__name__} has none"
            + (f" ({reasons})" if reasons else "")
        )
    for site in chosen:
        check_weight(site)
    return chosen


def check_weight(site: Site) -> None:
    """Refuse a weight that is not there yet.

    Raises:
        LorankError: if the weight is lazy or on the meta device.
    """
    weight = site.module.U if site.factored else site.module.weight
    if is_lazy(weight):
        raise LorankError(
            f"layer {site.name!r} is lazy and not initialised: run the model once on real input"
        )
    if weight.device.type == "meta":
        raise LorankError(
            f"layer {site.name!r} has its weight on the meta device: load the weights first"
        )


def layer_error(site: Site, error: LorankError) -> LorankError:
    """Say which layer an error of the numbers is about."""
    return LorankError(f"layer {site.name!r}: {error}")


def _spectrum(
    site: Site, layouts: Mapping[str, str], seen: Trace | None, moments: Moments | None
) -> Spectrum:
    try:
        if site.factored:
            view = site.view()
        else:
            view = site.view(choose_layout(site, layouts[site.name], moments))
        values = _values(site, view, moments)
    except LorankError as error:
        raise layer_error(site, error) from None
    macs = None if seen is None else site_macs(site, view, seen.calls)
    weights = Price(*site.weights(view))
    loss = None if moments is None else predicted_loss(values)
    most = limit(site, view, seen)
    size = (site.module.U if site.factored else site.module.weight).element_size()
    return Spectrum(values, view.shape, view.layout, weights, macs, most, None, loss, size)


def _values(site: Site, view: Unfolding, moments: Moments | None) -> Tensor:
    if moments is not None:
        return weighted_singular_values(view, site.module.weight, moments)
    if site.factored:
        return site.module.singular_values()
    return view.singular_values(site.module.weight)


def predicted_loss(values: Tensor) -> Tensor:
    """What each rank loses, comparable between layers: ``Σ_{i>r} σ_i² / √(Σ σ_i²)``.

    The geometric mean of two measures that fail in opposite ways: the share of the layer's own
    output, blind to how much the layer matters, and its first-order effect on the answer, which
    later layers absorb in part.

    Args:
        values: weighed singular values, ``(r,)`` or ``(groups, r)``.

    Returns:
        ``(r + 1,)`` for ranks from 0 to full.

    Example:
        >>> predicted_loss(torch.tensor([4.0, 3.0])).tolist()
        [5.0, 1.8, 0.0]
    """
    energy = values.double().square().reshape(-1, values.shape[-1]).sum(0)
    tail = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    return tail / tail[0].clamp_min(torch.finfo(tail.dtype).tiny).sqrt()


def reached(
    chosen: list[Site], calibration: Calibration | None, named: Iterable[str] | None
) -> list[Site]:
    """Keep the sites that a calibration knows.

    Raises:
        LorankError: if a site was asked for by name and no batch has reached it, or none is left.
    """
    if calibration is None:
        return chosen
    missing = [repr(s.name) for s in chosen if s.name not in calibration]
    if missing and (named is not None or len(missing) == len(chosen)):
        raise LorankError(
            f"calibration has seen no input of {', '.join(missing)}: calibrate the same network "
            "on batches that reach these layers, or skip them"
        )
    return [s for s in chosen if s.name in calibration]


def _dense_size(model: nn.Module, every: list[Site]) -> tuple[int, int]:
    """Parameters and bytes of the dense network that a model is, or came from."""
    params, size = count_parameters(model), count_bytes(model)
    for site in every:
        if site.factored:
            layer = site.module
            held = sum(f.numel() for f in (layer.U, layer.S, layer.Vh))
            saved = held - layer.view.weights()[0]
            params, size = params - saved, size - saved * layer.U.element_size()
    return params, size


def _dense_macs(every: list[Site], seen: Trace) -> int:
    """MACs of the dense network: layers in SVD form are counted by formula, not as they ran."""
    total = seen.macs
    for site in every:
        if site.factored:
            total += site_macs(site, site.view(), seen.calls).dense
            total -= sum(seen.inside[id(m)] for m in site.members.values())
    return total
