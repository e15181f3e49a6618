"""Exact sums over which components are signal, under stick-breaking weights that grow with rank."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 0.01
"""Grid step of S; halving it moves no probability of the tests by more than 1e-5."""

REACH = 20.0
"""Largest S on the grid: beyond it, e^-20 is left for a slab."""

EXPONENT = 600.0
"""Largest ``α·S`` on the grid: its exponential is a double still."""


class Stick(NamedTuple):
    """Log evidence ``(...)``, P(slab) ``(..., H)`` and P(number of slabs) ``(..., H + 1)``."""

    log_evidence: Tensor
    slab: Tensor
    count: Tensor


class Walk:
    """The process ``S_h = e_1 + … + e_h``, ``e ~ Exp(α)``, on a grid; ``1 − π_h = e^{−S_h}``.

    A step stays with probability ``p`` and is geometric from there, the two numbers chosen so that
    its mean and its second moment are those of the exponential, ``1/α`` and ``2/α²``, for every
    grid: errors fall with the square of the grid's step. The last point holds all that goes beyond.

    Args:
        alpha: expected number of slabs a priori, positive.
        like: a tensor whose device the grid takes.
        nothing: probability that there is no slab at all: an atom at ``S = ∞``.

    Cost: ``O(G)`` a step, ``G ≤ 2001`` points: the filter of a geometric step is a running sum.

    Example:
        >>> walk = Walk(5.0, torch.zeros(1))
        >>> start = walk.start(())
        >>> round(float((walk.forward(start) * walk.points).sum()), 6)  # the mean of one step
        0.2
    """

    def __init__(self, alpha: float, like: Tensor, nothing: float = 0.0):
        self.nothing = nothing
        reach = min(REACH, EXPONENT / alpha)
        size = round(reach / STEP) + 1
        step = reach / (size - 1)
        index = torch.arange(size, dtype=torch.float64, device=like.device)
        self.points = step * index
        mean = 1 / (alpha * step)  # of a step, in points
        self.stay = 1 / (2 * mean + 1)
        self.ratio = (2 * mean - 1) / (2 * mean + 1)
        self.power = torch.exp(index * math.log(self.ratio))
        self.slab = torch.exp(-self.points)
        self.spike = -torch.expm1(-self.points)

    def start(self, batch: tuple[int, ...]) -> Tensor:
        """All mass at ``S_0 = 0``, but for the atom, ``(*batch, G)``."""
        mass = self.points.new_zeros((*batch, len(self.points)))
        mass[..., 0], mass[..., -1] = 1 - self.nothing, self.nothing
        return mass

    def forward(self, mass: Tensor) -> Tensor:
        """Take a step: ``b(s) = Σ_{s'≤s} a(s')·P(s − s')``, the last point absorbing."""
        reached = self.power * (mass / self.power).cumsum(-1)
        moved = (1 - self.stay) * torch.nn.functional.pad(reached[..., :-1], (1, 0))
        moved[..., :-1] *= 1 - self.ratio
        moved[..., :-1] += self.stay * mass[..., :-1]
        moved[..., -1] += mass[..., -1]
        return moved

    def backward(self, value: Tensor) -> Tensor:
        """Take the expectation over the next step: ``g(s') = Σ_{s≥s'} P(s − s')·x(s)``."""
        weighted = value * self.power
        weighted[..., :-1] *= 1 - self.ratio
        ahead = weighted.flip(-1).cumsum(-1).flip(-1) / self.power
        moved = (1 - self.stay) * torch.nn.functional.pad(ahead[..., 1:], (0, 1))
        moved[..., :-1] += self.stay * value[..., :-1]
        moved[..., -1] += value[..., -1]
        return moved


def slabs(log_odds: Tensor, alpha: float, nothing: float = 0.0) -> Stick:
    """Sum over all ``2^H`` patterns of spikes and slabs, weights integrated out.

    ``Z = E_π ∏_h [π_h·1 + (1 − π_h)·e^{L_h}]`` and the posterior of each indicator and of their
    number. ``1 − π_h = e^{−S_h}`` is a Markov chain, so forward-backward on a grid is exact up
    to the grid. The last slot is a spike by construction (``v_H = 1``).

    Args:
        log_odds: ``L_h``, log evidence of slab minus that of spike, ``(..., H)``; the slots in
            the order of the stick.
        alpha: expected number of slabs a priori, where there are any.
        nothing: probability a priori that there are none.

    Returns:
        ``log Z``, ``P(slab_h)``, ``P(number of slabs = k)``.

    Cost: ``O(H²·G)`` for the number, ``O(H·G)`` for the rest, ``G ≤ 2001``. Source: the process
    is that of Legramanti, Durante and Dunson, Bayesian cumulative shrinkage for infinite
    factorizations, Biometrika, 2020; the recursion follows from its log weights, whose
    increments are exponential.

    Example:
        >>> odds = torch.tensor([9.0, 9.0, -9.0, -9.0], dtype=torch.float64)
        >>> int(slabs(odds, 5.0).count.argmax())
        2
    """
    walk = Walk(alpha, log_odds, nothing)
    before, log_evidence = _forward(walk, log_odds)
    slab = _posterior(walk, log_odds, before)
    return Stick(log_evidence, slab, counts(log_odds, alpha, nothing))


def log_evidence(log_odds: Tensor, alpha: float, nothing: float = 0.0) -> Tensor:
    """Only ``log Z`` of :func:`slabs`, for whoever maximises it.

    Args:
        log_odds: ``(..., H)``.
        alpha: expected number of slabs a priori, where there are any.
        nothing: probability a priori that there are none.

    Returns:
        ``(...)``.

    Example:
        >>> log_evidence(torch.zeros(3, dtype=torch.float64), 5.0).abs().item() < 1e-12
        True
    """
    return _forward(Walk(alpha, log_odds, nothing), log_odds)[1]


def signals(log_odds: Tensor, alpha: float, nothing: float = 0.0) -> Tensor:
    """Only ``P(slab_h)`` of :func:`slabs`, in ``O(H·G)``.

    Args:
        log_odds: ``(..., H)``.
        alpha: expected number of slabs a priori, where there are any.
        nothing: probability a priori that there are none.

    Returns:
        ``(..., H)``.

    Example:
        >>> odds = torch.tensor([9.0, -9.0, 0.0], dtype=torch.float64)
        >>> (signals(odds, 5.0) > 0.5).tolist()
        [True, False, False]
    """
    walk = Walk(alpha, log_odds, nothing)
    return _posterior(walk, log_odds, _forward(walk, log_odds)[0])


def counts(
    log_odds: Tensor, alpha: float, nothing: float = 0.0, *, marked: Tensor | None = None
) -> Tensor:
    """Distribution of how many slots are marked, exactly.

    A slot of either kind may be marked: ``marked[0]`` of the spike's evidence and ``marked[1]``
    of the slab's. Without it, slabs are counted.

    Args:
        log_odds: ``(..., H)``.
        alpha: expected number of slabs a priori, where there are any.
        nothing: probability a priori that there are none.
        marked: ``(2, ..., H)``, shares of each evidence in [0, 1].

    Returns:
        ``(..., H + 1)``, probabilities of 0 to H.

    Cost: ``O(H²·G)``.

    Example:
        >>> counts(torch.zeros(2, dtype=torch.float64), 1.0).sum().item()
        1.0...
    """
    if marked is None:
        marked = torch.stack([torch.zeros_like(log_odds), torch.ones_like(log_odds)])
    walk = Walk(alpha, log_odds, nothing)
    *batch, H = log_odds.shape
    mass = walk.start((*batch, 1))
    for h in range(H):
        spike, slab = _factors(walk, log_odds[..., h, None, None], last=h == H - 1)
        in_spike, in_slab = marked[:, ..., h, None, None]
        mass = walk.forward(mass)
        hit = mass * (spike * in_spike + slab * in_slab)
        miss = mass * (spike * (1 - in_spike) + slab * (1 - in_slab))
        none = torch.zeros_like(hit[..., :1, :])
        mass = torch.cat([miss, none], -2) + torch.cat([none, hit], -2)
        mass = mass / mass.sum((-2, -1), keepdim=True)
    return mass.sum(-1)


def _factors(walk: Walk, odds: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """``π·1`` and ``(1 − π)·e^L``, both over ``max(1, e^L)``; the last slot has π = 1."""
    if last:
        return torch.ones_like(odds + walk.points), torch.zeros_like(odds + walk.points)
    return walk.spike * torch.exp(-odds.clamp_min(0)), walk.slab * torch.exp(odds.clamp_max(0))


def _forward(walk: Walk, log_odds: Tensor) -> tuple[list[Tensor], Tensor]:
    *batch, H = log_odds.shape
    mass, total, before = walk.start((*batch,)), log_odds.new_zeros(batch), []
    for h in range(H):
        odds = log_odds[..., h, None]
        spike, slab = _factors(walk, odds, last=h == H - 1)
        mass = walk.forward(mass)
        before.append(mass)
        mass = mass * (spike + slab)
        norm = mass.sum(-1, keepdim=True)
        mass = mass / norm
        scale = 0 if h == H - 1 else odds[..., 0].clamp_min(0)
        total = total + norm[..., 0].log() + scale
    return before, total


def _posterior(walk: Walk, log_odds: Tensor, before: list[Tensor]) -> Tensor:
    H = len(before)
    after, found = torch.ones_like(before[0]), []
    for h in reversed(range(H)):
        spike, slab = _factors(walk, log_odds[..., h, None], last=h == H - 1)
        both = spike + slab
        weight = before[h] * after
        found.append((weight * slab).sum(-1) / (weight * both).sum(-1))
        after = walk.backward(both * after)
        after = after / after.amax(-1, keepdim=True)
    return torch.stack(found[::-1], -1)
