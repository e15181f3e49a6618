"""What a network costs: parameters, multiply-accumulates, bytes."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from lorank.compression.trace import Call, Example, trace
from lorank.linalg import Unfolding
from lorank.nn import Factored, SVDEmbedding
from lorank.nn.surgery import Site, opened, sites
from lorank.ranks import Price


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
    out: two thin layers at the layer's rank, or the dense layer where that is cheaper.

    Args:
        model: any module.
        example: what the model is called with (a tensor, a tuple or a dict), to count MACs.

    Returns:
        Parameters, MACs (``None`` without an example) and bytes.

    Raises:
        LorankError: if the model does not run on the example.

    Example:
        >>> import torch
        >>> cost(nn.Linear(4, 2), torch.ones(1, 4))
        Cost(params=10, macs=8, bytes=40)
    """
    model = opened(model)
    found = [site for site in sites(model) if site.factored]
    tensors = [*model.parameters(), *model.buffers()]
    params = sum(p.numel() for p in model.parameters())
    size = sum(t.numel() * t.element_size() for t in tensors)
    for site in found:
        layer: Factored = site.module
        held = sum(f.numel() for f in (layer.U, layer.S, layer.Vh))
        saved = held - Price(*layer.view.weights()).at(layer.rank)
        params -= saved
        size -= saved * layer.U.element_size()
    return Cost(params, None if example is None else macs_of(model, example), size)


def macs_of(model: nn.Module, example: Example) -> int:
    """Multiply-accumulates of one forward pass, layers in SVD form at their folded price."""
    layers = [m for m in model.modules() if isinstance(m, Factored)]
    seen = trace(model, example, layers)
    total = seen.macs - sum(seen.inside.values())
    for layer in layers:
        total += macs_price(layer, layer.view, seen.calls[id(layer)]).at(layer.rank)
    return total


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
