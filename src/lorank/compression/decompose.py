"""Decompose: a dense network becomes the same function in SVD form."""

from collections.abc import Iterable, Mapping
from numbers import Integral

import torch
from torch import nn

from lorank.compression.calibrate import Calibration
from lorank.compression.layout import choose_layout, layout_table
from lorank.compression.measure import decomposable, layer_error, reached
from lorank.errors import LorankError
from lorank.linalg import SVD, Moments, Unfolding, truncate, weighted_cut
from lorank.nn.surgery import Site, by_site, closed, opened, parameter_like, sites, swap


def decompose(
    model: nn.Module,
    ranks: Mapping[str, int] | None = None,
    *,
    layout: str | Mapping[str, str] = "auto",
    layers: Iterable[str] | None = None,
    skip: Iterable[str] | None = None,
    calibration: Calibration | None = None,
) -> nn.Module:
    """Copy a network with its layers as ``U·diag(S)·Vh``.

    At full rank the function is the same to rounding; at rank r each weight is its best rank-r
    approximation in its layout (Eckart and Young, 1936), or with a calibration the best for what
    the layer does (:func:`lorank.linalg.weighted_cut`). Everything else is kept: biases,
    normalisation with its statistics, buffers, dtypes, devices, modes, ties.

    Args:
        model: a dense network; it is not changed.
        ranks: layer name → rank. The layers named, and no others, are decomposed. By default
            every layer is, at full rank.
        layout: as in :func:`lorank.measure`; give both the same.
        layers: names or shell patterns of the layers to decompose (without ``ranks``).
        skip: names or patterns of layers to leave dense.
        calibration: from :func:`lorank.calibrate`, for layers cut below full rank.

    Returns:
        A new model. ``nn.MultiheadAttention`` with a decomposed projection becomes
        :class:`lorank.nn.Attention`.

    Raises:
        LorankError: if no layer can be decomposed, a layer is in SVD form already, a name,
            layout or rank is wrong, a weight is lazy, on the meta device, empty, or holds NaN or
            Inf, the calibration has not seen a layer that is cut, or the call is made under
            ``torch.inference_mode``.

    Cost: one SVD a weight, ``O(m·n·min(m, n))``. Source: Yang et al., 2020, section 3.

    Example:
        >>> low = decompose(nn.Sequential(nn.Linear(8, 8)), {"0": 2})
        >>> low[0].rank, low[0].weight.shape
        (2, torch.Size([8, 8]))
    """
    refuse_inference_mode("decompose")
    if ranks is not None and layers is not None:
        raise LorankError("decompose takes ranks or layers: the layers that ranks names are meant")
    source = opened(model)
    every = sites(source)
    wanted = None if ranks is None else by_site(every, ranks)
    if wanted is not None:
        layers = list(wanted)
    chosen = decomposable(source, every, layers, skip)
    _refuse_factored(chosen)
    if calibration is not None and ranks is None:
        raise LorankError("a calibration is for a cut: give decompose ranks, too")
    reached(chosen, calibration, layers)
    layouts = layout_table(every, layout)
    factors = {
        site.name: _factors(site, layouts[site.name], wanted, (calibration or {}).get(site.name))
        for site in sorted(chosen, key=_size, reverse=True)  # most workspace while least is held
    }
    return closed(swap(source, factors))


def _size(site: Site) -> int:
    return site.module.weight.numel()


def _refuse_factored(chosen: list[Site]) -> None:
    ready = [site.name for site in chosen if site.factored]
    if ready:
        raise LorankError(
            f"decompose takes dense layers, and {', '.join(map(repr, ready))} "
            f"{'is' if len(ready) == 1 else 'are'} in SVD form already: cut with lorank.prune"
        )


def _factors(
    site: Site, layout: str, ranks: Mapping[str, int] | None, moments: Moments | None
) -> tuple[SVD, Unfolding]:
    weight = site.module.weight
    try:
        view = site.view(choose_layout(site, layout, moments))
        full = min(view.shape)
        rank = full if ranks is None else check_rank(ranks[site.name], full)
        if moments is not None and rank < full:
            factors = weighted_cut(view, weight, moments, rank)
        else:
            factors = view.svd(weight)
    except LorankError as error:
        raise layer_error(site, error) from None
    # parameters at once: the SVD's own, larger memory is let go
    return SVD(*(parameter_like(weight, factor) for factor in truncate(factors, rank))), view


def refuse_inference_mode(verb: str) -> None:
    """Refuse to make parameters that could not be trained.

    Raises:
        LorankError: under ``torch.inference_mode``.
    """
    if torch.is_inference_mode_enabled():
        raise LorankError(
            f"{verb} makes parameters to train, and under torch.inference_mode they could not be"
        )


def check_rank(rank: object, full: int) -> int:
    """Return a rank, and refuse what is not a whole number between 1 and the full rank.

    Raises:
        LorankError: if the rank is out of range or not an integer.
    """
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= int(rank) <= full:
        raise LorankError(f"a rank must be a whole number between 1 and {full}, found {rank!r}")
    return int(rank)
