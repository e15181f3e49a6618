"""Networks of the same shapes with other weights: what a cut will take on a clock, before it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lorank.linalg import SVD, Unfolding
from lorank.nn import Factored
from lorank.nn.factored import Shared
from lorank.nn.surgery import Site, closed, exchange, opened, parameter_like, sites, svd_form
from lorank.ranks import Spectrum


def dense_twin(model: nn.Module) -> nn.Module:
    """Give the dense network that a model is, or came from; a dense model is returned as it is.

    Example:
        >>> import lorank
        >>> dense_twin(lorank.decompose(nn.Sequential(nn.Linear(4, 2))))[0]
        Linear(in_features=4, out_features=2, bias=True)
    """
    source = opened(model)
    shared: Shared = {}
    successors: dict[int, Any] = {}
    for site in sites(source):
        if site.factored:
            for layer in site.members.values():
                assert isinstance(layer, Factored)
                successors[id(layer)] = layer.plain(False, 1, shared)
    return closed(exchange(source, successors, share=True)) if successors else model


def thin_twin(
    model: nn.Module, ranks: Mapping[str, int], spectra: Mapping[str, Spectrum]
) -> nn.Module:
    """Copy a dense network with random pairs where :func:`lorank.fold` would give a pair.

    No singular value is computed: it has the shapes of the network that the ranks lead to, and
    takes its time.

    Args:
        model: a dense network; it is not changed.
        ranks: layer name → rank; what is not named, or does not pay, stays dense.
        spectra: what the ranks were chosen from.

    Example:
        >>> import lorank
        >>> model = nn.Sequential(nn.Linear(8, 8))
        >>> thin_twin(model, {"0": 2}, lorank.measure(model))[0][0]
        Linear(in_features=8, out_features=2, bias=False)
    """
    source = opened(model)
    shared: Shared = {}
    successors: dict[int, Any] = {}
    for site in sites(source):
        rank = ranks.get(site.name)
        if rank is None or rank > spectra[site.name].break_even:
            continue
        factors = random_factors(site, spectra[site.name].layout, rank)
        for module in site.members.values():
            successors[id(module)] = thin(module, factors, shared)
    return formatted(closed(exchange(source, successors)), model)


Factors = tuple[SVD, Unfolding]


def random_factors(site: Site, layout: str, rank: int) -> Factors:
    """Draw factors whose product is about as large as the dense weight."""
    assert site.kind is not None
    weight, view = site.module.weight, site.kind.unfold(site.module, layout)
    rows, columns = view.shape
    shapes = view.factor_shapes(rank)
    generator = torch.Generator().manual_seed(0)
    U = torch.randn(shapes[0], generator=generator) / math.sqrt(rows)
    Vh = torch.randn(shapes[2], generator=generator) / math.sqrt(columns)
    S = torch.full(shapes[1], float(weight.detach().norm()) / math.sqrt(math.prod(shapes[1])))
    return SVD(*(parameter_like(weight, factor) for factor in (U, S, Vh))), view


def thin(module: nn.Module, factors: Factors, shared: Shared | None = None) -> nn.Module:
    """Give the pair that a dense layer becomes with these factors."""
    kind = svd_form(module)
    assert kind is not None
    bias: Any = getattr(module, "bias", None)
    return kind.from_dense(module, *factors, bias).plain(True, 1, shared).train(module.training)


def formatted(model: nn.Module, like: nn.Module) -> nn.Module:
    """Put kernels in channels-last order in place where another network's are."""
    if is_channels_last(like):
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model


def is_channels_last(model: nn.Module) -> bool:
    """Whether a network's kernels lie in channels-last order.

    Example:
        >>> net = nn.Conv2d(2, 2, 3)
        >>> is_channels_last(net), is_channels_last(net.to(memory_format=torch.channels_last))
        (False, True)
    """
    return any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in model.parameters()
    )
