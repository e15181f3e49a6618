"""Fold: give a network back in plain torch layers, and never a larger one."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from lorank.compression.cost import limit, watch
from lorank.compression.recalibrate import recalibrate
from lorank.compression.trace import Example, Trace
from lorank.errors import LorankError
from lorank.nn import Factored
from lorank.nn.factored import Shared
from lorank.nn.surgery import Site, closed, exchange, opened, sites


def fold(
    model: nn.Module,
    *,
    multiple: int = 1,
    example: Example | None = None,
    batches: Iterable[Any] | None = None,
) -> nn.Module:
    """Copy a network in SVD form as plain torch layers with the same function.

    Each layer becomes a pair of thin layers (an ``nn.Sequential``,
    :class:`lorank.nn.Pair`) where that saves weights or
    MACs and costs neither, and one dense layer again where it does not: a network never grows.
    MACs depend on the maps' sizes where a stride or a missing padding shrinks them: the example
    gives them, and without one a layer is judged at one position of a large map.

    Args:
        model: a network in SVD form; it is not changed. Dense layers are copied.
        multiple: pad the ranks of pairs with zeros up to a multiple of this, which many
            processors run faster, as far as the pair still saves something.
        example: what the model is called with, as in :func:`lorank.cost`.
        batches: inputs to estimate BatchNorm statistics anew (see :func:`recalibrate`).

    Returns:
        A new model of torch's own modules. Attention with a thin projection stays
        :class:`lorank.nn.Attention`, which torch's packed module cannot hold.

    Raises:
        LorankError: if ``multiple`` is not a positive whole number, the model does not run on the
            example, or :func:`recalibrate` refuses the batches.

    Example:
        >>> import lorank
        >>> low = lorank.decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})
        >>> fold(low)[0]
        Pair(
          (0): Linear(in_features=8, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=8, bias=True)
        )
    """
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise LorankError(f"multiple must be a whole number of at least 1, found {multiple!r}")
    successors: dict[int, Any] = {}
    shared: Shared = {}
    source = opened(model)
    found = [site for site in sites(source) if site.factored]
    seen = None if example is None else watch(source, found, example)
    for site in found:
        as_pair, padded = form(site, multiple, seen)
        for layer in site.members.values():
            assert isinstance(layer, Factored)
            plain = layer.plain(as_pair, padded, shared)
            successors.update((id(p), p) for p in shared.values())
            successors[id(layer)] = copy.deepcopy(plain, successors)
    folded = closed(exchange(source, successors))
    if batches is not None:
        recalibrate(folded, batches)
    return folded


def form(site: Site, multiple: int = 1, seen: Trace | None = None) -> tuple[bool, int]:
    """Decide whether a weight becomes a pair, and to which multiple its rank is padded."""
    rank, most = site.module.rank, limit(site, site.view(), seen)
    for candidate in (multiple, 1):
        if rank + -rank % candidate <= most:
            return True, candidate
    return False, 1
