"""The multiple-choice knapsack: one offer for every layer, least loss, bounded cost."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

CLOSE = 1e-3
"""A loss this near to the smallest possible one, relatively, is not worth a second search."""

SECOND_LOOKS = 16
"""At most so many layers are decided the other way; it bounds the time on large networks."""


def choose(costs: Sequence[Tensor], losses: Sequence[Tensor], target: int) -> list[int]:
    """Take one offer per layer: ``min Σ loss`` subject to ``Σ cost ≤ target``.

    The Lagrangian decides all layers at once, and a greedy fill spends what it leaves. What it
    can miss are the jumps, a layer's last and dearest offer: where the result is not
    proved to be near the best, the layers that were nearly indifferent about theirs are decided
    the other way, one at a time, and the others are chosen again.

    Args:
        costs: for every layer the cost of its offers, ``(k_l,)`` whole numbers, the largest last.
        losses: for every layer the loss of its offers, ``(k_l,)``.
        target: not below the sum of every layer's smallest cost.

    Returns:
        For every layer the index of the offer taken. The loss exceeds :func:`lower_bound` by at
        most the gain of one step of one layer.

    Cost: ``O(Σ k_l)`` per step of the multiplier, of which there are about ten; at most 16 times
    that where a second look is due.

    Example:
        >>> costs = [torch.tensor([1, 2, 3]), torch.tensor([1, 5])]
        >>> losses = [torch.tensor([0.9, 0.4, 0.0]), torch.tensor([0.5, 0.0])]
        >>> choose(costs, losses, 5)
        [2, 0]
    """
    best, multiplier = _solve(costs, losses, target)
    enough = (1 + CLOSE) * _bound(costs, losses, target, multiplier)
    for layer in _undecided(costs, losses, multiplier)[:SECOND_LOOKS]:
        if _total(losses, best) <= enough:
            break
        best = min(best, _flip(costs, losses, target, best, layer), key=partial(_total, losses))
    return best


def _solve(
    costs: Sequence[Tensor], losses: Sequence[Tensor], target: int
) -> tuple[list[int], float]:
    taken, multiplier = _relax(_table(costs), _table(losses), target)
    return fill(costs, losses, taken.tolist(), target), multiplier


def _undecided(costs: Sequence[Tensor], losses: Sequence[Tensor], multiplier: float) -> list[int]:
    """Layers with a choice, those first to which their last offer is nearly worth its price."""
    doubt = {}
    for layer, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if len(cost) > 1:
            total = loss + multiplier * cost.double()
            doubt[layer] = abs(float(total[-1] - total[:-1].min()))
    return sorted(doubt, key=doubt.__getitem__)


def _flip(
    costs: Sequence[Tensor], losses: Sequence[Tensor], target: int, taken: list[int], layer: int
) -> list[int]:
    """Choose again with one layer's last offer refused where it was taken, or the reverse."""
    last = len(costs[layer]) - 1
    part = slice(0, last) if taken[layer] == last else slice(last, None)
    costs, losses = list(costs), list(losses)
    costs[layer], losses[layer] = costs[layer][part], losses[layer][part]
    if sum(int(cost.min()) for cost in costs) > target:
        return taken
    again = _solve(costs, losses, target)[0]
    again[layer] += part.start
    return again


def _total(losses: Sequence[Tensor], taken: list[int]) -> float:
    return sum(float(loss[at]) for loss, at in zip(losses, taken, strict=True))


def lower_bound(costs: Sequence[Tensor], losses: Sequence[Tensor], target: int) -> float:
    """Loss that no choice within the budget can go below: the Lagrangian dual.

    ``max_{λ ≥ 0} Σ_l min_k (loss_lk + λ·cost_lk) − λ·target``.

    Args:
        costs: as for :func:`choose`.
        losses: as for :func:`choose`.
        target: as for :func:`choose`.

    Returns:
        The bound.

    Example:
        >>> costs = [torch.tensor([1, 3])]
        >>> lower_bound(costs, [torch.tensor([0.5, 0.0])], 2)
        0.25
    """
    return _bound(costs, losses, target, _relax(_table(costs), _table(losses), target)[1])


def _bound(
    costs: Sequence[Tensor], losses: Sequence[Tensor], target: int, multiplier: float
) -> float:
    rows = zip(costs, losses, strict=True)
    return sum(float((f + multiplier * c.double()).min()) for c, f in rows) - multiplier * target


def _table(rows: Sequence[Tensor]) -> Tensor:
    # One matrix, so that a step of the multiplier is one argmin however many layers there are.
    return pad_sequence(
        [row.double() for row in rows], batch_first=True, padding_value=float("inf")
    )


def _sums(cost: Tensor, loss: Tensor, taken: Tensor) -> tuple[float, float]:
    at = taken[:, None]
    return float(cost.gather(1, at).sum()), float(loss.gather(1, at).sum())


def _relax(cost: Tensor, loss: Tensor, target: int) -> tuple[Tensor, float]:
    """Best choice within the target that some multiplier λ makes optimal, and that λ.

    Between a choice that is cheap enough and one that is too dear, the next λ is the slope of
    the line through both; where no choice lies below that line, λ is the dual's optimum.
    """
    fits, dear = _cheapest(cost, loss), _cheapest(loss, cost)
    if _sums(cost, loss, dear)[0] <= target:
        return dear, 0.0
    while True:
        (c0, f0), (c1, f1) = _sums(cost, loss, fits), _sums(cost, loss, dear)
        multiplier = (f0 - f1) / (c1 - c0)
        taken = _cheapest(loss + multiplier * cost, cost)
        c, f = _sums(cost, loss, taken)
        line = f0 + multiplier * c0
        if f + multiplier * c >= line - 1e-12 * abs(line):
            return fits, multiplier
        fits, dear = (taken, dear) if c <= target else (fits, taken)


def _cheapest(first: Tensor, second: Tensor) -> Tensor:
    """Column of each row with the smallest ``first``, and of those the smallest ``second``."""
    tied = first == first.min(1, keepdim=True).values
    return torch.where(tied, second, float("inf")).argmin(1)


def fill(
    costs: Sequence[Tensor], losses: Sequence[Tensor], taken: list[int], target: int
) -> list[int]:
    """Spend what is left: again and again the step that gains most per cost and still fits.

    Args:
        costs: as for :func:`choose`.
        losses: as for :func:`choose`.
        taken: for every layer the index of the offer taken so far, within the target.
        target: as for :func:`choose`.

    Returns:
        For every layer an index; no single layer can do better with what is left.

    Example:
        >>> costs = [torch.tensor([1, 2, 3]), torch.tensor([1, 5])]
        >>> losses = [torch.tensor([0.9, 0.4, 0.0]), torch.tensor([0.5, 0.0])]
        >>> fill(costs, losses, [0, 0], 6)
        [2, 0]
    """
    taken = list(taken)
    left = target - sum(int(cost[at]) for cost, at in zip(costs, taken, strict=True))
    steps = [_step(costs[i], losses[i], taken[i], left) for i in range(len(taken))]
    while True:
        best = max(range(len(steps)), key=lambda i: steps[i][0])
        worth, extra, at = steps[best]
        if worth == 0:
            return taken
        taken[best], left = at, left - extra
        for i, step in enumerate(steps):
            # Only the layer that moved, and steps that no longer fit, look for another one.
            if i == best or step[1] > left:
                steps[i] = _step(costs[i], losses[i], taken[i], left)


def _step(cost: Tensor, loss: Tensor, at: int, left: int) -> tuple[float, int, int]:
    """Best gain per cost of one layer from offer ``at``: (ratio, extra cost, offer)."""
    extra, gain = cost - cost[at], loss[at] - loss
    open_ = (extra <= left) & (gain > 0)
    ratio = torch.where(open_, gain / extra.clamp_min(1), 0.0)
    best = int(ratio.argmax())
    return float(ratio[best]), int(extra[best]), best
