"""The structure of a low-rank network in words, and back."""

from typing import Any

import torch
from torch import nn

from lorank.errors import LorankError
from lorank.linalg import SVD, Unfolding
from lorank.nn import Factored
from lorank.nn.quaternion import Quaternionic
from lorank.nn.surgery import Site, by_site, closed, exchange, opened, sites, swap

LayerTable = dict[str, dict[str, Any]]
"""Layer name → ``{"form": "svd" or "pair", "layout": …, "rank": …}``."""


def describe(model: nn.Module) -> LayerTable:
    """List the layers that are in SVD form or folded into a pair, tied ones once.

    Example:
        >>> import lorank
        >>> describe(lorank.decompose(nn.Linear(8, 4), {"": 2}))
        {'': {'form': 'svd', 'layout': 'channel', 'rank': 2}}
    """
    table: LayerTable = {}
    for name, module in model.named_modules():
        if isinstance(module, Factored):
            table[name] = _entry("svd", module.view.layout, module.rank)
        elif isinstance(module, nn.Sequential) and hasattr(module, "svd_layout"):
            table[name] = _entry("pair", str(module.svd_layout), _width(module))
    return table


def _entry(form: str, layout: str, rank: int) -> dict[str, Any]:
    return {"form": form, "layout": layout, "rank": rank}


def _width(pair: nn.Sequential) -> int:
    """Rank of a pair, for each group."""
    inner: Any = pair[0]
    if isinstance(inner, nn.Embedding):
        return inner.embedding_dim
    if isinstance(inner, nn.Linear):
        return inner.out_features
    if isinstance(inner, Quaternionic):
        return inner.weight.shape[1]
    return inner.out_channels // inner.groups


def rebuild(dense_model: nn.Module, table: LayerTable) -> nn.Module:
    """Copy a dense model with the structure that a table describes; the weights are arbitrary.

    Raises:
        LorankError: if the table names a layer that the model lacks, or that cannot have the
            form, layout or rank it names.
    """
    source = opened(dense_model)
    every = sites(source)
    low = [site.name for site in every if site.factored]
    if low:
        raise LorankError(f"the model must be the dense one, and {low[0]!r} is in SVD form")
    known = by_site(every, table)
    factors = {s.name: _blank(s, known[s.name]) for s in every if s.name in known}
    shaped = swap(source, factors)
    successors: dict[int, Any] = {}
    shared: dict[Any, nn.Parameter] = {}
    for site in sites(shaped):
        if site.factored and known[site.name]["form"] == "pair":
            for layer in site.members.values():
                assert isinstance(layer, Factored)
                successors[id(layer)] = layer.plain(True, shared=shared)
    return closed(exchange(shaped, successors, share=True))


def _blank(site: Site, entry: dict[str, Any]) -> tuple[SVD, Unfolding]:
    """Factors of the right shape, for weights to be filled in."""
    if site.reason is not None:
        raise LorankError(f"layer {site.name!r} cannot be low-rank: {site.reason}")
    try:
        rank, view = entry["rank"], site.view(entry["layout"])
        possible = type(rank) is int and 1 <= rank <= min(view.shape)
        if not possible or entry["form"] not in ("svd", "pair"):
            raise LorankError(f"its ranks go from 1 to {min(view.shape)}")
    except (KeyError, TypeError, ValueError) as error:
        raise LorankError(f"layer {site.name!r} cannot have the form {entry}: {error}") from None
    device = site.module.weight.device
    return SVD(*(torch.zeros(shape, device=device) for shape in view.factor_shapes(rank))), view
