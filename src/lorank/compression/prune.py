"""Prune: cut the singular values that do not matter; U, S and Vh really become smaller."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from lorank.compression.decompose import check_rank
from lorank.compression.measure import layer_error
from lorank.errors import LorankError, unknown
from lorank.linalg import SVD, product_svd, truncate
from lorank.nn import Factored
from lorank.nn.surgery import Site, by_site, exchange, opened, sites


def prune(model: nn.Module, ranks: Mapping[str, int], *, by: str = "product") -> nn.Module:
    """Copy a network in SVD form with smaller ranks.

    Args:
        model: a network in SVD form; it is not changed.
        ranks: layer name → rank, as the rules of :mod:`lorank.ranks` give it. Other layers are
            left as they are.
        by: what is cut. ``"product"``: the singular values of ``U·diag(|S|)·Vh``, the best cut,
            and the one that :func:`lorank.measure` shows. ``"raw"``: the entries of ``|S|``, as
            in the paper; U and Vh are then only sliced.

    Returns:
        A new model. Its parameters are new too: make a new optimizer.

    Raises:
        LorankError: if a layer is unknown or dense, a rank is out of range, ``by`` is unknown,
            or a factor holds NaN or Inf.

    Cost: ``O((m + n)·r²)`` a layer. Source: Yang et al., 2020, section 3.3.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Sequential(nn.Linear(8, 8)))
        >>> prune(model, {"0": 3})[0].rank
        3
    """
    if by not in CUTS:
        raise unknown("cut", by, CUTS)
    source = opened(model)
    every = sites(source)
    successors: dict[int, Any] = {}
    for site in every:
        rank = by_site(every, ranks).get(site.name)
        if rank is not None:
            successors.update(_cut_site(site, rank, by))
    return exchange(model, successors)


def _cut_site(site: Site, rank: int, by: str) -> dict[int, nn.Parameter]:
    layer = site.module
    if not isinstance(layer, Factored):
        raise LorankError(
            f"prune takes layers in SVD form, and {site.name!r} is dense: call lorank.decompose"
        )
    try:
        check_rank(rank, layer.rank)
        cut = CUTS[by](layer, rank)
    except LorankError as error:
        raise layer_error(site, error) from None
    old = SVD(layer.U, layer.S, layer.Vh)
    return {id(o): _like(o, n) for o, n in zip(old, cut, strict=True)}


def _like(old: nn.Parameter, new: torch.Tensor) -> nn.Parameter:
    value = new.detach().to(old.dtype).clone(memory_format=torch.contiguous_format)
    return nn.Parameter(value, requires_grad=old.requires_grad)


def cut_product(layer: Factored, rank: int) -> SVD:
    """Leading triplets of the product: the best approximation of the layer's weight."""
    return truncate(product_svd(layer.U, layer.S, layer.Vh), rank)


def cut_raw(layer: Factored, rank: int) -> SVD:
    """Largest entries of ``|S|`` with their columns and rows: the paper's cut."""
    U, s, Vh = (f.detach() for f in layer.factors)
    order = s.argsort(dim=-1, descending=True)[..., :rank]
    columns = order.unsqueeze(-2).expand(*U.shape[:-1], rank)
    rows = order.unsqueeze(-1).expand(*order.shape, Vh.shape[-1])
    return SVD(U.gather(-1, columns), s.gather(-1, order), Vh.gather(-2, rows))


CUTS: dict[str, Callable[[Factored, int], SVD]] = {"product": cut_product, "raw": cut_raw}
