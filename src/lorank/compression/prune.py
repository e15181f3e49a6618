"""Prune: cut the singular values that do not matter; U, S and Vh really become smaller."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from lorank.compression.calibrate import Calibration
from lorank.compression.decompose import check_rank, refuse_inference_mode
from lorank.compression.measure import layer_error
from lorank.errors import LorankError, unknown
from lorank.linalg import SVD, Moments, truncate, weighted_cut
from lorank.nn import Factored
from lorank.nn.surgery import Site, by_site, exchange, opened, parameter_like, sites


def prune(
    model: nn.Module,
    ranks: Mapping[str, int],
    *,
    by: str = "product",
    calibration: Calibration | None = None,
) -> nn.Module:
    """Copy a network in SVD form with smaller ranks.

    Args:
        model: a network in SVD form; it is not changed.
        ranks: layer name → rank, as the rules of :mod:`lorank.ranks` give it. Other layers are
            left as they are. A rank above what the factors have (a rule's full rank, for a layer
            that was cut before) changes nothing: what was cut does not come back.
        by: what is cut. ``"product"``: the singular values of ``U·diag(|S|)·Vh``, the best cut,
            and the one that :func:`lorank.measure` shows. ``"raw"``: the entries of ``|S|``, as
            in the paper; U and Vh are then only sliced.
        calibration: from :func:`lorank.calibrate`; layers that it has seen are then cut by what
            they do (:func:`lorank.linalg.weighted_cut`), in place of ``by``.

    Returns:
        A new model. Its parameters are new too: make a new optimizer.

    Raises:
        LorankError: if a layer is unknown or dense, a rank is out of range, ``by`` is unknown,
            a factor holds NaN or Inf, or the call is made under ``torch.inference_mode``.

    Cost: ``O((m + n)·r²)`` a layer. Source: Yang et al., 2020, section 3.3.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Sequential(nn.Linear(8, 8)))
        >>> prune(model, {"0": 3})[0].rank
        3
    """
    successors: dict[int, Any] = {}
    for layer, cut in _cuts(model, ranks, by, calibration):
        old = layer.U, layer.S, layer.Vh
        successors.update((id(o), n) for o, n in zip(old, cut, strict=True))
    return exchange(model, successors)


def _cuts(
    model: nn.Module, ranks: Mapping[str, int], by: str, calibration: Calibration | None = None
) -> list[tuple[Factored, SVD]]:
    """Layers to cut, each with its new parameters; everything is checked before anything is cut."""
    if by not in CUTS:
        raise unknown("cut", by, CUTS)
    refuse_inference_mode("prune")
    every = sites(opened(model))
    wanted = by_site(every, ranks)
    known = calibration or {}
    return [_cut_site(s, wanted[s.name], by, known.get(s.name)) for s in every if s.name in wanted]


def _cut_site(site: Site, rank: int, by: str, moments: Moments | None) -> tuple[Factored, SVD]:
    layer = site.module
    if not isinstance(layer, Factored):
        raise LorankError(
            f"prune takes layers in SVD form, and {site.name!r} is dense: call lorank.decompose"
        )
    try:
        most = check_rank(rank, min(layer.view.shape))
        most = min(most, layer.rank)
        if moments is not None and most < layer.rank:
            cut = weighted_cut(layer.view, layer.weight, moments, most)
        else:
            cut = CUTS[by](layer, most)
    except LorankError as error:
        raise layer_error(site, error) from None
    old = layer.U, layer.S, layer.Vh
    return layer, SVD(*(parameter_like(o, n) for o, n in zip(old, cut, strict=True)))


@torch.no_grad()
def prune_in_place(
    model: nn.Module,
    ranks: Mapping[str, int],
    optimizers: Iterable[torch.optim.Optimizer] = (),
    *,
    by: str = "product",
) -> None:
    """Cut a network in SVD form where it is, for a training loop that holds on to it.

    The parameters stay the same objects with smaller values. Optimizers keep stepping them, and
    forget their own state of what was cut: a momentum of the old factors has no meaning for the
    new ones, which are rotated.

    Args:
        model: a network in SVD form, not wrapped for distributed training.
        ranks: layer name → rank.
        optimizers: the optimizers that step the model.
        by: as in :func:`prune`.

    Raises:
        LorankError: as :func:`prune`, before anything is changed.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Sequential(nn.Linear(8, 8)))
        >>> prune_in_place(model, {"0": 3})
        >>> model[0].rank
        3
    """
    for layer, cut in _cuts(model, ranks, by):
        for old, new in zip((layer.U, layer.S, layer.Vh), cut, strict=True):
            old.data = new.data
            old.grad = None
            for optimizer in optimizers:
                optimizer.state.pop(old, None)


def cut_product(layer: Factored, rank: int) -> SVD:
    """Leading triplets of the product: the best approximation of the layer's weight."""
    return truncate(layer.spectrum(), rank)


def cut_raw(layer: Factored, rank: int) -> SVD:
    """Largest entries of ``|S|`` with their columns and rows: the paper's cut."""
    U, s, Vh = (f.detach() for f in layer.factors)
    order = s.argsort(dim=-1, descending=True)[..., :rank]
    columns = order.unsqueeze(-2).expand(*U.shape[:-1], rank)
    rows = order.unsqueeze(-1).expand(*Vh.shape[:-2], rank, Vh.shape[-1])
    return SVD(U.gather(-1, columns), s.gather(-1, order), Vh.gather(-2, rows))


CUTS: dict[str, Callable[[Factored, int], SVD]] = {"product": cut_product, "raw": cut_raw}
