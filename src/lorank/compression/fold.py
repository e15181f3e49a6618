"""Fold: give a network back in plain torch layers, and never a larger one."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from lorank.compression.recalibrate import recalibrate
from lorank.errors import LorankError
from lorank.nn import Factored, SVDEmbedding
from lorank.nn.factored import Shared
from lorank.nn.surgery import Site, closed, exchange, sites
from lorank.ranks import Price


def fold(model: nn.Module, *, multiple: int = 1, batches: Iterable[Any] | None = None) -> nn.Module:
    """Copy a network in SVD form as plain torch layers with the same function.

    Each layer becomes a pair of thin layers (an ``nn.Sequential``) where that saves weights or
    MACs and costs neither, and one dense layer again where it does not: a network never grows.

    Args:
        model: a network in SVD form; it is not changed. Dense layers are copied.
        multiple: pad the ranks of pairs with zeros up to a multiple of this, which many
            processors run faster, as far as the pair still saves something.
        batches: inputs to estimate BatchNorm statistics anew (see :func:`recalibrate`).

    Returns:
        A new model of torch's own modules. Attention with a thin projection stays
        :class:`lorank.nn.Attention`, which torch's packed module cannot hold.

    Raises:
        LorankError: if ``multiple`` is not a positive whole number.

    Example:
        >>> import lorank
        >>> low = lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})
        >>> fold(low)[0]
        Sequential(
          (0): Linear(in_features=8, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=8, bias=True)
        )
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise LorankError(f"multiple must be a whole number of at least 1, found {multiple!r}")
    successors: dict[int, Any] = {}
    shared: Shared = {}
    for site in sites(model):
        if site.factored:
            as_pair, padded = form(site, multiple)
            for layer in site.members.values():
                assert isinstance(layer, Factored)
                plain = layer.plain(as_pair, padded, shared)
                successors.update((id(p), p) for p in shared.values())
                successors[id(layer)] = copy.deepcopy(plain, successors)
    folded = closed(exchange(model, successors))
    if batches is not None:
        recalibrate(folded, batches)
    return folded


def form(site: Site, multiple: int = 1) -> tuple[bool, int]:
    """Decide whether a weight becomes a pair, and to which multiple its rank is padded."""
    rank = site.module.rank
    for candidate in (multiple, 1):
        if pays(site, rank + -rank % candidate):
            return True, candidate
    return False, 1


def pays(site: Site, rank: int) -> bool:
    """Break-even guard: whether a pair of this rank saves weights or MACs, and costs neither."""
    weights = Price(*site.view().weights())
    macs = [_nominal(layer) for layer in site.members.values()]
    pair = rank * weights.per_rank, rank * sum(price.per_rank for price in macs)
    dense = weights.dense, sum(price.dense for price in macs)
    return pair != dense and all(p <= d for p, d in zip(pair, dense, strict=True))


def _nominal(layer: nn.Module) -> Price:
    """MACs for one position; a table that is only looked up is judged by its weights alone."""
    if isinstance(layer, SVDEmbedding):
        return Price(0, 0)
    assert isinstance(layer, Factored)
    return Price(*layer.view.macs(*layer.positions(layer)))
