"""What a network costs: parameters, multiply-accumulates, bytes."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from lorank.compression.trace import Call, Example, Trace, trace
from lorank.errors import LorankError
from lorank.linalg import Unfolding
from lorank.nn import Factored, SVDEmbedding
from lorank.nn.surgery import Site, opened, sites, svd_form
from lorank.ranks import Price
from lorank.ranks.spectrum import break_even


class Cost(NamedTuple):
    """Cost of a network.

    Attributes:
        params: number of parameters, tied ones once.
        macs: multiply-accumulates of one forward pass of the example, ``None`` without one.
            Convolutions, linear layers and attention products count; normalisation, activations
            and additions do not. One MAC is two FLOPs.
        bytes: parameters and buffers in their own dtypes.
    """

    params: int
    macs: int | None
    bytes: int


def cost(model: nn.Module, example: Example | None = None) -> Cost:
    """Count what a network costs; a layer in SVD form counts as :func:`lorank.fold` gives it back.

    Training in SVD form holds more parameters than the dense network; what counts is what comes
    out: two thin layers at the layer's rank, or the dense layer where the pair would not pay.

    Args:
        model: any module.
        example: what the model is called with (a tensor, a tuple or a dict), to count MACs.

    Returns:
        Parameters, MACs (``None`` without an example) and bytes.

    Raises:
        LorankError: if a parameter is lazy, or the model does not run on the example.

    Example:
        >>> import torch
        >>> cost(nn.Linear(4, 2), torch.ones(1, 4))
        Cost(params=10, macs=8, bytes=40)
    """
    model = opened(model)
    found = [site for site in sites(model) if site.factored]
    params = count_parameters(model)
    size = count_bytes(model)
    seen = None if example is None else watch(model, found, example)
    macs = None if seen is None else seen.macs - sum(seen.inside.values())
    for site in found:
        layer: Factored = site.module
        weights = Price(*site.weights(layer.view))
        as_pair = layer.rank <= limit(site, layer.view, seen)
        held = sum(f.numel() for f in (layer.U, layer.S, layer.Vh))
        saved = held - (layer.rank * weights.per_rank if as_pair else weights.dense)
        params -= saved
        size -= saved * layer.U.element_size()
        if seen is not None and macs is not None:
            work = site_macs(site, layer.view, seen.calls)
            macs += layer.rank * work.per_rank if as_pair else work.dense
    return Cost(params, macs, size)


def count_parameters(model: nn.Module) -> int:
    """Count parameters, tied ones once.

    Raises:
        LorankError: if one is lazy.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise LorankError(
                f"parameter {name!r} is lazy and not initialised: run the model once on real input"
            )
    return sum(p.numel() for p in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Count bytes of parameters and buffers, tied ones once."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def watch(model: nn.Module, found: Iterable[Site], example: Example) -> Trace:
    """Run a model on an example and watch every layer of some sites."""
    return trace(model, example, [m for s in found for m in s.members.values()])


def limit(site: Site, view: Unfolding, seen: Trace | None = None) -> int:
    """Break-even guard: the largest rank at which a weight is given back as a pair.

    A pair saves weights or MACs, and costs neither. MACs are those of the watched calls; of a
    weight that was not called, or without a trace, those of one position of a large map. A table
    that is only looked up, at no MACs, is judged by its weights alone.
    """
    called = seen is not None and any(seen.calls[id(m)] for m in site.members.values())
    calls = seen.calls if called and seen else nominal(site)
    return break_even([Price(*site.weights(view)), site_macs(site, view, calls)])


def nominal(site: Site) -> dict[int, list[Call]]:
    """One position of each layer that shares a weight."""
    forms = [(m, svd_form(m)) for m in site.members.values()]
    return {id(m): [Call(1, *form.positions(m))] for m, form in forms if form is not None}


def macs_price(layer: nn.Module, view: Unfolding, calls: Iterable[Call]) -> Price:
    """Price of a layer's ranks over its calls; looking up a dense table costs nothing."""
    dense = per_rank = 0
    for call in calls:
        one_dense, one_rank = view.macs(call.in_size, call.out_size)
        dense += call.batch * one_dense
        per_rank += call.batch * one_rank
    if isinstance(layer, (nn.Embedding, SVDEmbedding)):
        rows, columns = view.shape
        return Price(0, per_rank // (rows + columns) * columns)
    return Price(dense, per_rank)


def site_macs(site: Site, view: Unfolding, calls: dict[int, list[Call]]) -> Price:
    """Price of a weight's ranks over every layer that shares it."""
    prices = [macs_price(m, view, calls[id(m)]) for m in site.members.values()]
    return Price(sum(p.dense for p in prices), sum(p.per_rank for p in prices))
