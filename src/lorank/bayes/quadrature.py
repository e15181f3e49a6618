"""Nodes over the strength d of one component, close where its posterior is narrow."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.linalg.shrinkage import denoised_value, detection_edge

WIDTH = 9.0
"""Standard deviations on either side of an observed value: e^-40 is left outside."""

LEAST = 48
BETWEEN = 16


class Rule(NamedTuple):
    """Nodes ``d``, logs of their weights, and which lie beyond the edge, ``(B, H, D)``."""

    d: Tensor
    log_weight: Tensor
    beyond: Tensor


def rule(y: Tensor, shape: tuple[int, int], noise: Tensor) -> Rule:
    """Gauss-Legendre nodes on three intervals of each slot.

    ``[0, edge]``, where the nodes crowd towards 0 and see the spike; the window of d that
    observed values ``y ± 9σ`` come from; and what lies between, which has no mass unless the
    window touches it.

    Args:
        y: the value of each slot ``(H,)``.
        shape: ``(m, n)``.
        noise: ``(B,)`` noise levels.

    Returns:
        The rule; its size grows with the edge in units of the noise, so that neighbours are never
        much further apart than one standard deviation.

    Example:
        >>> nodes = rule(torch.tensor([9.0]), (4, 9), torch.tensor([1.0]))
        >>> float((nodes.log_weight.exp() * nodes.d).sum()) > 0
        True
    """
    m, n = shape
    H = len(y)
    h = torch.arange(H, dtype=y.dtype, device=y.device)
    unit = detection_edge(shape)
    sigma = noise[:, None]
    edge = (sigma * unit).expand(-1, H)
    bulk = sigma * ((m - h).sqrt() + (n - h).sqrt())
    sides = [
        denoised_value(y.maximum(bulk) + sign * WIDTH * sigma, (m - h, n - h), sigma)
        for sign in (-1, 1)
    ]
    low, high = sides[0].maximum(edge), sides[1].maximum(edge * 1.5)
    count = LEAST + math.ceil(unit)
    pieces = [
        _interval(torch.zeros_like(edge), edge, count, power=2),
        _interval(edge, low, BETWEEN),
        _interval(low, high, count),
    ]
    d, weight = (torch.cat(each, -1) for each in zip(*pieces, strict=True))
    beyond = torch.arange(d.shape[-1], device=d.device) >= count
    return Rule(d, weight.log(), beyond.expand_as(d))


def _interval(low: Tensor, high: Tensor, count: int, power: int = 1) -> tuple[Tensor, Tensor]:
    x, weight = (torch.tensor(t, dtype=low.dtype, device=low.device) for t in _legendre(count))
    span = (high - low)[..., None]
    return low[..., None] + span * x**power, span * weight * power * x ** (power - 1)


@functools.cache
def _legendre(count: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1], by the eigenvalues of the Jacobi matrix (Golub and Welsch)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k * k - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return ((nodes + 1) / 2).tolist(), vectors[0].square().tolist()
