"""Spherical integrals: how likely singular values are when one component of strength d is there."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

NODES = 320
"""Points of a table. Interpolation is of sixth order: see the tests for its error."""

STENCIL = 6
NONE = 1e-2
"""``c·σ_rms`` below which ``log I`` is the square of it over two, to a relative 1e-4."""


class Table(NamedTuple):
    """``log I_h(c) − c·y_h`` and the saddle point of every slot, on a grid over ``log c``.

    Shapes: ``log_c``, ``log_i``, ``log_w`` are ``(H, NODES)``, ascending in c; ``y`` is ``(K,)``.
    """

    log_c: Tensor
    log_i: Tensor
    log_w: Tensor
    y: Tensor

    def at(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """``log I_h(c) − c·y_h`` and ``w = z² − y_h²`` at ``c ≥ 0``, ``(..., H, D)``."""
        x = c.clamp_min(torch.finfo(c.dtype).tiny).log()
        low = self.log_c[:, :1]
        inside = x.maximum(low)
        place = torch.searchsorted(self.log_c, _by_slot(inside)) - STENCIL // 2
        place = place.clamp(0, self.log_c.shape[1] - STENCIL)
        found = _lagrange(self.log_c, (self.log_i, self.log_w), place, _by_slot(inside))
        values, w = (_restore(each, x) for each in found)
        # Below the table log I grows with c², and z ~ 1/c.
        y = self.y[: len(self.log_c), None]
        small = (values + inside.exp() * y) * torch.exp(2 * (x - inside)) - c * y
        return torch.where(x < low, small, values), torch.exp(w - 2 * (x - inside))


def table(y: Tensor, shape: tuple[int, int], slots: int, least: float) -> Table:
    """Tabulate the log spherical integrals ``log I_h(c) = log E exp(c·uᵀY_h v)``.

    ``Y_h`` has the values ``y_h, y_{h+1}, …`` and shape ``m' = m − h + 1``, ``n' = n − h + 1``;
    u and v are uniform on their spheres. By Laplace's method at the saddle point (μ, ν),

    ``log I ≈ (μ+ν)/2 − (n'−m')/2·log ν − ½Σ log(μν − c²y²) − (the same at 0) − ½ log(4m'n'·|Φ|)``,

    ``μ = Σ μν/(μν − c²y²)``, ``ν = μ + n' − m'``, Φ the Hessian in (μ, ν). The usual way finds μ
    for each c by bisection above the branch point. With ``z² = μν/c² > y_h²`` as the variable
    everything is explicit, ``μ = Σ z²/(z² − y²)`` and ``c = √(μν)/z``: no equation is solved,
    and ``z² − y_h²``, not their difference, is what the grid is over, so that nothing cancels.

    Args:
        y: singular values ``(m,)``, float64, descending, in units of the first.
        shape: ``(m, n)`` with ``m ≤ n``.
        slots: H, how many components are looked at, at most m.
        least: the smallest noise level that will be asked for, in units of the first value.

    Returns:
        The table; ``at(c)`` interpolates.

    Cost: ``O(H·NODES·m)``, no iterations. Source: saddle-point expansion of the rank-one
    rectangular spherical integral; derived here, checked against Monte Carlo in the tests.

    Example:
        >>> y = torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64)
        >>> values, _ = table(y, (3, 4), 1, 0.1).at(torch.zeros(1, 1, dtype=torch.float64))
        >>> values.item()
        0.0
    """
    m, n = shape
    rms = math.sqrt(max(float(y.square().sum()) / (m * n), torch.finfo(y.dtype).tiny))
    top = math.log(m * n) + 2 * math.log(rms / NONE)
    w = torch.linspace(2 * math.log(least) - 4, top, NODES, dtype=y.dtype, device=y.device)
    rows = [_slot(y[h:], m - h, n - h, w.exp()) for h in range(slots)]
    log_c, log_i = (torch.stack(each).flip(-1) for each in zip(*rows, strict=True))
    return Table(log_c, log_i, w.flip(0).expand(slots, -1), y)


def _slot(y: Tensor, m: int, n: int, w: Tensor) -> tuple[Tensor, Tensor]:
    """``log c`` and ``log I(c) − c·y₁`` at ``z² = y₁² + w``, for one slot."""
    gap, square = n - m, y.square()
    below = w[:, None] + (square[0] - square)  # z² − y², nothing cancelled
    one = below.reciprocal()
    z2 = w + square[0]
    mu = z2 * one.sum(-1)
    nu = mu + gap
    c2 = mu * nu / z2
    c = c2.sqrt()
    # (μ + ν)/2 − c·y₁: the difference of two numbers of size c·y₁, written as a quotient.
    half = (c2 * z2 + gap * gap / 4).sqrt()
    exponent = (c2 * w + gap * gap / 4) / (half + c * y[0])
    log_q = below.log().sum(-1) + m * c2.log()
    two = one.square()
    # 4|Φ|: with Σ 1/q = 1/ν the difference in the determinant becomes a sum of positive terms.
    area, second = two.sum(-1), (two * square).sum(-1)
    hessian = gap * area / c2.square() + (z2 * area + second) / (c2 * nu)
    start = (m + n) / 2 - gap / 2 * math.log(n) - m / 2 * math.log(m * n)
    log_i = exponent - gap / 2 * nu.log() - log_q / 2 - start - (m * n * hessian).log() / 2
    return c.log(), log_i


def weights(y: Tensor, w: Tensor, slot: int) -> Tensor:
    """``E[u_i·v_i]/σ²`` by d, of one slot's component in the singular basis: ``y/(z² − y²)/d``.

    Times d, which cancels: the share of each basis direction in the component's mean.

    Args:
        y: all singular values ``(K,)``.
        w: ``z² − y_h²`` at each strength, ``(D,)``.
        slot: h, from 0.

    Returns:
        ``(D, K − h)``: multiply by σ² and average over d.

    Example:
        >>> weights(torch.tensor([2.0, 1.0]), torch.tensor([1.0]), 0)
        tensor([[2.0000, 0.2500]])
    """
    square = y[slot:].square()
    return y[slot:] / (w[:, None] + (square[0] - square))


def _by_slot(x: Tensor) -> Tensor:
    """``(..., H, D)`` as ``(H, N)``."""
    return x.movedim(-2, 0).flatten(1).contiguous()


def _restore(flat: Tensor, like: Tensor) -> Tensor:
    return flat.unflatten(1, (*like.shape[:-2], like.shape[-1])).movedim(0, -2)


def _lagrange(grid: Tensor, values: tuple[Tensor, ...], place: Tensor, x: Tensor) -> list[Tensor]:
    """Polynomials through six neighbours, evaluated at x, ``(H, N)`` each."""
    near = place.unsqueeze(-1) + torch.arange(STENCIL, device=x.device)
    flat = near.flatten(1)
    nodes = grid.gather(1, flat).view_as(near)
    away = x.unsqueeze(-1) - nodes
    basis = torch.ones_like(away)
    for j in range(STENCIL):
        for k in range(STENCIL):
            if j != k:
                basis[..., j] *= away[..., k] / (nodes[..., j] - nodes[..., k])
    return [(v.gather(1, flat).view_as(near) * basis).sum(-1) for v in values]
