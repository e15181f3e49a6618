"""One budget for the whole network: which ranks lose least for what they may cost?"""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.ranks.knapsack import choose
from lorank.ranks.per_layer import RELATIVE, check, check_multiple, lost
from lorank.ranks.spectrum import Price, Spectrum
from lorank.ranks.times import Times

UNITS = {"params": "weights", "bytes": "bytes", "macs": "MACs", "latency": "nanoseconds"}


def budget(
    spectra: Mapping[str, Spectrum],
    *,
    params: float | None = None,
    bytes: float | None = None,  # noqa: A002 - the unit's name
    macs: float | None = None,
    latency: float | None = None,
    weights: Mapping[str, float] | None = None,
    keep: float = 0.0,
    multiple: int = 1,
) -> dict[str, int]:
    """Choose all ranks together, so that the network fits a budget and loses least energy.

    ``min Σ_l w_l · lost_l(r_l)`` subject to ``cost(r) ≤ budget``, where ``lost_l(r)`` is the
    share of ‖W_l‖_F² beyond rank r. A rank that saves nothing is never chosen: the layer then
    stays dense, and its rank is the full one. A multiple-choice knapsack, solved by its
    Lagrangian and a greedy fill: the cost never exceeds the budget, and the loss is above the
    smallest possible one by at most the gain of one step of one layer.

    The budget covers the whole network where the spectra know its cost
    (:class:`~lorank.ranks.Spectra`), and otherwise the measured layers.

    Args:
        spectra: layer name → spectrum.
        params: weights, as a fraction of the dense network (a float in (0, 1]) or as a count
            (an int).
        bytes: memory of parameters and buffers in their own dtypes, likewise.
        macs: multiply-accumulates of one forward pass, likewise.
        latency: measured time of one forward pass, as a fraction of the dense network's (a float
            in (0, 1]), from spectra with times (:func:`lorank.compression.timed`). Exactly one
            of the four.
        weights: layer name → how much its loss counts; 1 where not given.
        keep: share of its energy that every layer keeps whatever it costs, in [0, 1].
        multiple: ranks are multiples of it or full; the budget holds for the rounded ranks. A
            budget of latency keeps to the multiples that were timed, too.

    Returns:
        Layer name → rank; full rank everywhere from a budget of the dense cost on.

    Raises:
        LorankError: if the budget is not one of the above, is below the smallest cost that can be
            reached, or is in MACs and the spectra were measured without an example, or of
            latency and they have no times; if a weight is for an unknown layer, negative or not
            finite.

    Cost: ``O(Σ r)`` per step of the multiplier; a third of a second for 160 layers of rank 1024
    to 4096. Source: Everett, Generalized Lagrange multiplier method, Operations Research 1963;
    Kellerer, Pferschy and Pisinger, Knapsack Problems, 2004, chapter 11.

    Example:
        >>> from lorank.ranks import Price, Spectrum
        >>> s = torch.tensor([2.0, 1.0, 0.5, 0.1])
        >>> flat = Spectrum(torch.ones(4), (4, 12), "channel", Price(48, 16))
        >>> steep = Spectrum(s, (4, 12), "channel", Price(48, 16))
        >>> budget({"flat": flat, "steep": steep}, params=0.7)
        {'flat': 4, 'steep': 1}
    """
    unit, asked = _one_of({"params": params, "bytes": bytes, "macs": macs, "latency": latency})
    check(spectra)
    check_multiple(multiple)
    if not 0 <= keep <= 1:
        raise LorankError(f"keep is a share of the energy in [0, 1], found {keep!r}")
    importance = _importance(weights, spectra)
    whole = _whole(spectra, unit)
    target = _count(asked, whole, unit)
    if target >= whole:
        return {name: layer.full_rank for name, layer in spectra.items()}
    offers = {name: _offers(layer, unit, keep, multiple) for name, layer in spectra.items()}
    fixed = whole - sum(_price(layer, unit).dense for layer in spectra.values())
    _check_reachable(
        target, fixed + sum(int(cost.min()) for _, cost, _ in offers.values()), whole, unit
    )
    costs = [cost for _, cost, _ in offers.values()]
    losses = [importance[name] * loss for name, (_, _, loss) in offers.items()]
    chosen = choose(costs, losses, target - fixed)
    return {name: int(offers[name][0][i]) for name, i in zip(offers, chosen, strict=True)}


def cost_of(ranks: Mapping[str, int], spectra: Mapping[str, Spectrum], unit: str = "params") -> int:
    """Cost of the whole network at given ranks: ``fixed + Σ_l cost_l(r_l)``.

    A rank costs ``r·per_rank`` up to the layer's break-even, and the dense price beyond it.

    Args:
        ranks: layer name → rank; layers that are not named stay dense.
        spectra: the spectra the ranks were chosen from.
        unit: ``"params"``, ``"bytes"``, ``"macs"`` or ``"latency"``.

    Returns:
        Weights, bytes, or multiply-accumulates or nanoseconds of a forward pass; with all that
        is never cut where the spectra know it.

    Raises:
        LorankError: if the unit or a layer is unknown, a rank is out of range, or MACs or
            times were not measured.

    Example:
        >>> from lorank.ranks import Price, Spectra, Spectrum
        >>> fc = Spectrum(torch.ones(10), (10, 40), "channel", Price(400, 50))
        >>> cost_of({"fc": 3}, {"fc": fc}), cost_of({"fc": 3}, Spectra(fc=fc, params=420))
        (150, 170)
    """
    if unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    for name, rank in ranks.items():
        if name not in spectra:
            raise unknown("layer", name, spectra)
        if not 1 <= rank <= spectra[name].full_rank:
            raise LorankError(
                f"the rank of layer {name!r} must be between 1 and {spectra[name].full_rank}, "
                f"found {rank}"
            )
    dense = sum(_price(spectra[name], unit).dense for name in ranks)
    low = sum(spectra[name].cost(rank, unit) or 0 for name, rank in ranks.items())
    return _whole(spectra, unit) - dense + low


def _one_of(units: Mapping[str, float | None]) -> tuple[str, float]:
    given = [(unit, value) for unit, value in units.items() if value is not None]
    if len(given) != 1:
        raise LorankError("a budget is params, bytes, macs or latency, exactly one of the four")
    return given[0]


def _count(asked: float, whole: int, unit: str) -> int:
    counts = isinstance(asked, Integral) and not isinstance(asked, bool) and asked >= 1
    if counts and unit != "latency":
        return int(asked)
    number = isinstance(asked, Real) and not isinstance(asked, Integral)
    if number and 0 < asked <= 1:
        return math.floor(asked * whole * (1 + RELATIVE / 1000))
    if unit == "latency":
        raise LorankError(
            "a budget of latency is a fraction of the dense network's time, a float in (0, 1]; "
            f"found {asked!r}"
        )
    raise LorankError(
        f"a budget of {unit} is a fraction of the dense network, a float in (0, 1], or a count of "
        f"{UNITS[unit]}, an int of at least 1; found {asked!r}"
    )


def _price(layer: Spectrum, unit: str) -> Price | Times:
    price = layer.price(unit)
    if price is None and unit == "latency":
        raise LorankError(
            "times are unknown because nobody looked at a clock: measure them with "
            "lorank.compression.latency_table and add them with lorank.compression.timed"
        )
    if price is None:
        raise LorankError(
            "MACs are unknown because these spectra were measured without an example: pass an "
            "example input to measure"
        )
    return price


def _whole(spectra: Mapping[str, Spectrum], unit: str) -> int:
    measured = sum(_price(layer, unit).dense for layer in spectra.values())
    whole = getattr(spectra, unit, None)
    return measured if whole is None else whole


def _importance(
    weights: Mapping[str, float] | None, spectra: Mapping[str, Spectrum]
) -> dict[str, float]:
    for name, weight in (weights or {}).items():
        if name not in spectra:
            raise unknown("layer", name, spectra)
        if not 0 <= weight < math.inf:
            raise LorankError(
                f"the weight of layer {name!r} must be finite and not negative, found {weight!r}"
            )
    return dict.fromkeys(spectra, 1.0) | {k: float(v) for k, v in (weights or {}).items()}


def _offers(
    layer: Spectrum, unit: str, keep: float, multiple: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks that one layer may take, what each costs, and the share of energy each loses."""
    price, full = _price(layer, unit), layer.full_rank
    share = lost(layer)
    loss = share if layer.loss is None else layer.loss.detach().cpu()
    step = math.lcm(multiple, price.multiple) if isinstance(price, Times) else multiple
    thin = torch.arange(step, max(full, step), step)
    worth = (thin <= layer.break_even) & (price.at(thin) < price.dense)
    worth &= share[thin] <= (1 - keep) * (1 + RELATIVE)
    ranks = torch.cat([thin[worth], thin.new_tensor([full])])
    costs = torch.where(ranks < full, price.at(ranks), price.dense)
    return ranks, costs, loss[ranks]


def _check_reachable(target: int, least: int, whole: int, unit: str) -> None:
    if target < least:
        raise LorankError(
            f"a budget of {target} {UNITS[unit]} cannot be reached: the smallest possible is "
            f"{least}, {_up(least / whole)} of the dense network"
        )


def _up(fraction: float) -> str:
    # Rounded up, so that the fraction printed is one that can be reached.
    return f"{math.ceil(fraction * 1e4) / 1e4:.4f}"
