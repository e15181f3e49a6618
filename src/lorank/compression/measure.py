"""Measure: the singular values of every layer, and what its ranks cost."""

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.parameter import is_lazy

from lorank.compression.cost import count_parameters, limit, site_macs
from lorank.compression.layout import choose_layout, layout_table
from lorank.compression.trace import Example, Trace, trace
from lorank.errors import LorankError
from lorank.linalg import singular_values
from lorank.nn.surgery import Site, opened, select, sites
from lorank.ranks import Price, Spectra, Spectrum


def measure(
    model: nn.Module,
    example: Example | None = None,
    *,
    layout: str | Mapping[str, str] = "auto",
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
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
    chosen = decomposable(model, every, layers, skip)
    seen = None
    if example is not None:
        seen = trace(model, example, [m for s in every if s.kind for m in s.members.values()])
    layouts = layout_table(every, layout)
    table = {site.name: _spectrum(site, layouts, seen) for site in chosen}
    macs = None if seen is None else _dense_macs(every, seen)
    return Spectra(table, params=_dense_params(model, every), macs=macs)


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


def _spectrum(site: Site, layouts: Mapping[str, str], seen: Trace | None) -> Spectrum:
    try:
        if site.factored:
            view, values = site.view(), site.module.singular_values()
        else:
            view = site.view(choose_layout(site, layouts[site.name]))
            values = singular_values(view.matrix(site.module.weight))
    except LorankError as error:
        raise layer_error(site, error) from None
    macs = None if seen is None else site_macs(site, view, seen.calls)
    weights = Price(*site.weights(view))
    return Spectrum(values, view.shape, view.layout, weights, macs, limit(site, view, seen))


def _dense_params(model: nn.Module, every: list[Site]) -> int:
    """Parameters of the dense network that a model is, or came from."""
    total = count_parameters(model)
    for site in every:
        if site.factored:
            layer = site.module
            total -= sum(f.numel() for f in (layer.U, layer.S, layer.Vh))
            total += layer.view.weights()[0]
    return total


def _dense_macs(every: list[Site], seen: Trace) -> int:
    """MACs of the dense network: layers in SVD form are counted by formula, not as they ran."""
    total = seen.macs
    for site in every:
        if site.factored:
            total += site_macs(site, site.view(), seen.calls).dense
            total -= sum(seen.inside[id(m)] for m in site.members.values())
    return total
