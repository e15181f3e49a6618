"""The multiple-choice knapsack: one offer for every layer, least loss, bounded cost."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def choose(costs: Sequence[Tensor], losses: Sequence[Tensor], target: int) -> list[int]:
    """Take one offer per layer: ``min Σ loss`` subject to ``Σ cost ≤ target``.

    Args:
        costs: for every layer the cost of its offers, ``(k_l,)`` whole numbers.
        losses: for every layer the loss of its offers, ``(k_l,)``.
        target: not below the sum of every layer's smallest cost.

    Returns:
        For every layer the index of the offer taken. The loss exceeds :func:`lower_bound` by at
        most the gain of one step of one layer.

    Cost: ``O(Σ k_l)`` per step of the multiplier, and per layer touched by the greedy fill.

    Example:
        >>> costs = [torch.tensor([1, 2, 3]), torch.tensor([1, 5])]
        >>> losses = [torch.tensor([0.9, 0.4, 0.0]), torch.tensor([0.5, 0.0])]
        >>> choose(costs, losses, 5)
        [2, 0]
    """
    cost, loss = _table(costs), _table(losses)
    taken = _relax(cost, loss, target)[0].tolist()
    return fill(costs, losses, taken, target)


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
    cost, loss = _table(costs), _table(losses)
    taken, multiplier = _relax(cost, loss, target)
    spent, lost = _sums(cost, loss, taken)
    return lost + multiplier * (spent - target)


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
