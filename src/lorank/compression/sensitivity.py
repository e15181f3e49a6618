"""Sensitivity: what a cut of one layer really does to the network's answer, at a few ranks."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from lorank.compression.calibrate import Answer, Calibration, answer_of, attempt
from lorank.compression.decompose import decompose
from lorank.compression.trace import Example, evaluating
from lorank.errors import LorankError, unknown
from lorank.ranks import Spectra, Spectrum

FRACTIONS = (0.25, 0.5, 0.75)
"""Shares of a layer's break-even rank at which it is tried."""


def _squared(found: Tensor, true: Tensor) -> Tensor:
    tiny = torch.finfo(true.dtype).tiny  # an answer of nothing that stays one
    return (found - true).square().sum() / true.square().sum().clamp_min(tiny)


def _divergence(found: Tensor, true: Tensor) -> Tensor:
    p, q = true.log_softmax(-1), found.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean()


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": _squared,
    "kl": _divergence,
}
"""How far an answer is from the dense network's: relative squared error, for any answer; mean
Kullback-Leibler divergence of the classes, for logits along the last axis."""


def sensitivity(
    model: nn.Module,
    spectra: Spectra,
    batches: Iterable[Example],
    *,
    calibration: Calibration | None = None,
    answer: Answer | None = None,
    distance: str = "squared",
    fractions: Sequence[float] = FRACTIONS,
    known: Mapping[str, float] | None = None,
    note: Callable[[str, float], None] | None = None,
) -> Spectra:
    """Replace the loss that spectra predict by one that was tried out, layer by layer.

    Each layer alone is cut to a few ranks, and the distance of the network's answer from the
    dense one's is measured. Between and beyond these ranks it is drawn as a power of the energy
    lost, and the loss that a budget sees is its geometric mean with the share of energy lost:
    single cuts tell little about many at once, and neither measure alone chooses as well.

    Args:
        model: the dense network.
        spectra: measured from it.
        batches: what it is called with; all are kept.
        calibration: the cuts are made with, as later ones should be.
        answer: picks the tensor that counts, as in :func:`lorank.calibrate`.
        distance: a key of ``DISTANCES``.
        fractions: of the largest rank that pays, in (0, 1]: where to try.
        known: distances from before, by ``"layer layout rank"``; they are not measured again.
        note: called with the key and distance of every try, to keep them for a resumed search.

    Returns:
        The same spectra with another ``loss``; layers where no rank pays keep theirs.

    Raises:
        LorankError: if there is no batch, the model does not run on one, a fraction or the
            distance is unknown, or an answer is not finite.

    Cost: a pass over the batches for each layer and fraction. Source: the procedure of greedy
    compression-ratio selection, with a curve in place of a score: He et al., AMC, 2018, and
    qualcomm/aimet.

    Example:
        >>> import lorank
        >>> net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), torch.ones(4, 8)
        >>> spectra = sensitivity(net, lorank.measure(net, x), [x])
        >>> spectra["0"].loss.shape
        torch.Size([9])
    """
    if distance not in DISTANCES:
        raise unknown("distance", distance, DISTANCES)
    if not fractions or not all(0 < f <= 1 for f in fractions):
        raise LorankError(f"fractions of a rank lie in (0, 1], found {tuple(fractions)}")
    kept, found = list(batches), dict(known or {})
    if not kept:
        raise LorankError("sensitivity needs at least one batch, found none")
    wanted = answer or answer_of
    true = _answers(model, kept, wanted)
    if not all(torch.isfinite(a).all() for a in true):
        raise LorankError("an answer must be finite, and the network's has NaN or Inf uncut")
    for key, name, rank in _tries(spectra, fractions):
        if key in found:
            continue
        layout = {name: spectra[name].layout}
        low = decompose(model, {name: rank}, layout=layout, calibration=calibration)
        pairs = zip(_answers(low, kept, wanted), true, strict=True)
        found[key] = float(sum(DISTANCES[distance](a, b) for a, b in pairs)) / len(kept)
        if not math.isfinite(found[key]):
            raise LorankError(f"an answer must be finite, and {name!r} at rank {rank} gave none")
        if note is not None:
            note(key, found[key])
    tried = {name: {} for name in spectra}
    for key, name, rank in _tries(spectra, fractions):
        tried[name][rank] = found[key]
    table = {
        name: dataclasses.replace(s, loss=curve(s, tried[name])) if tried[name] else s
        for name, s in spectra.items()
    }
    whole = {unit: getattr(spectra, unit, None) for unit in ("params", "bytes", "macs", "latency")}
    return Spectra(table, **whole)


def _tries(spectra: Spectra, fractions: Sequence[float]) -> list[tuple[str, str, int]]:
    tries: dict[str, tuple[str, str, int]] = {}
    for name, layer in spectra.items():
        for fraction in fractions:
            rank = max(1, round(fraction * layer.break_even))
            if rank < min(layer.full_rank, layer.break_even + 1):
                key = f"{name} {layer.layout} {rank}"
                tries[key] = key, name, rank
    return list(tries.values())


@torch.no_grad()
def _answers(model: nn.Module, batches: Sequence[Example], answer: Answer) -> list[Tensor]:
    with evaluating(model):
        return [answer(attempt(model, batch)).detach().float() for batch in batches]


def curve(layer: Spectrum, tried: Mapping[int, float]) -> Tensor:
    """Draw the loss of all ranks through the distances at a few.

    ``loss(r) = √(d(r)·q(r))``, q the share of energy beyond rank r, and ``log d`` linear in
    ``log q`` between the ranks tried, with slope 1 beyond them.

    Args:
        layer: the layer's spectrum.
        tried: rank → distance; a larger rank is taken to lose no more than a smaller one.

    Returns:
        ``(full + 1,)``, 0 at full rank.

    Example:
        >>> from lorank.ranks import Price
        >>> fc = Spectrum(torch.ones(4), (4, 4), "channel", Price(16, 8))
        >>> curve(fc, {2: 0.5}).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    energy = layer.energy
    tail = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
    tiny = torch.finfo(tail.dtype).tiny
    share = tail / tail[0].clamp_min(tiny)
    x = share.clamp_min(tiny).log()
    ranks = sorted(tried, reverse=True)  # the energy lost ascends
    at = x[torch.tensor(ranks, device=x.device)]
    floor = torch.finfo(torch.float32).eps ** 2
    d = torch.tensor([max(tried[r], floor) for r in ranks], dtype=x.dtype, device=x.device)
    y = d.cummax(0).values.log()
    distance = _interpolate(x, at, y).exp()
    loss = (distance * share).sqrt()
    return torch.where(share > 0, loss, torch.zeros_like(loss))


def _interpolate(x: Tensor, at: Tensor, y: Tensor) -> Tensor:
    """Piecewise linear through ``(at, y)``, ``at`` ascending, with slope 1 outside."""
    inside = torch.searchsorted(at, x).clamp(1, max(1, len(at) - 1))
    low, high = inside - 1, inside.clamp_max(len(at) - 1)
    run = (at[high] - at[low]).clamp_min(torch.finfo(x.dtype).eps)
    between = y[low] + (y[high] - y[low]) * ((x - at[low]) / run).clamp(0, 1)
    outside = (x - at[-1]).clamp_min(0) + (x - at[0]).clamp_max(0)
    return between + outside
