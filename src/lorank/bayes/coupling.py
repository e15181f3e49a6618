"""What components of a matrix say about each other: spherical integrals of pairs."""

import torch
from torch import Tensor

PRESENT = 0.01
"""Least probability of a component to be asked what it does to those behind it."""


def log_coupling(
    c: Tensor, w: Tensor, strong: Tensor, place: Tensor, present: Tensor, y: Tensor, columns: int
) -> Tensor:
    """Correct products of spherical integrals for pairs: ``Σ_{i<j} P(i)·log F_ij(c_j)``.

    Slot j has its integral in the complement of the singular vectors before it, but what it must
    be orthogonal to are the components, which are not those vectors. Given slot i, ``u_j`` may
    lean into direction i by ``−(p·u_j)/u``, p the part of ``u_i`` elsewhere and u its part in
    direction i, likewise v. Both leanings are normal with covariance S to leading order, and
    their share of the exponent is quadratic, so that

    ``F = |I + S·T|^(−½)/(u·v)``, ``T = [[μ_j/u², −c_j y_i/uv], [−c_j y_i/uv, ν_j/v²]]``,
    ``S = [[ν_iν_j P, c_ic_j Q], [c_ic_j Q, μ_iμ_j P + g/(ν_iν_j)]]``, ``g = n − m``,
    ``P = Σ_{l≥j} 1/(q_i q_j)``, ``Q = Σ_{l≥j} y_l²/(q_i q_j)``, ``q = μν − c²y_l²``,
    ``u² = ν_i/q_ii``, ``v² = μ_i/q_ii``.

    ``F(0) = 1``. For strong components F is ``(1 − c_j²/c_i²)^(−½)``: next to a strong component a
    weaker one is likelier than on its own. The normal law fails where the two can turn into each
    other, ``(c_i − c_j)(y_i − y_j) < 1``; from there on F is kept as it is.

    Args:
        c: strengths ``(B, H, D)``.
        w: ``z_j² − y_j²`` at them, ``(B, H, D)``.
        strong: strength of each slot where it is signal, ``(B, H)``.
        place: ``z_i² − y_i²`` at it, ``(B, H)``.
        present: P(slot i is signal), ``(B, H)``.
        y: all singular values ``(m,)``, descending.
        columns: n, at least the number of values.

    Returns:
        ``(B, H, D)``, 0 in the first slot.

    Cost: ``O(B·H²·D)`` for the H slots that are present, ``O(B·H·m)`` beside it.

    Source: Laplace's method for two components; derived here, checked against Monte Carlo and
    against the limit of strong components in the tests.

    Example:
        >>> from lorank.bayes.spherical import table
        >>> y = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
        >>> c = torch.tensor([[[80.0], [60.0]]], dtype=torch.float64)
        >>> _, w = table(y, (3, 4), 2, 1e-3).at(c)
        >>> sure = torch.ones(1, 2, dtype=torch.float64)
        >>> found = log_coupling(c, w, c[..., 0], w[..., 0], sure, y, 4)
        >>> [round(value, 2) for value in found.flatten().tolist()]
        [0.0, 0.4]
    """
    square, gap = y.square(), columns - len(y)
    found = torch.zeros_like(c)
    for i in range(c.shape[1] - 1):
        here = present[:, i, None, None]
        if float(here.max()) < PRESENT:
            continue
        # Σ 1/(z_i² − y_l²) over l ≥ j, for every j behind i.
        near = (place[:, i, None] + (square[i] - square[i:])).reciprocal()
        rest = near.flip(-1).cumsum(-1).flip(-1)[:, 1 : c.shape[1] - i, None]
        log_f = _pair(
            c[:, i + 1 :],
            w[:, i + 1 :] + square[i + 1 : c.shape[1], None],
            strong[:, i, None, None],
            place[:, i, None, None],
            rest,
            (y[i], y[i + 1 : c.shape[1], None]),
            gap,
        )
        found[:, i + 1 :] += torch.where(here < PRESENT, 0.0, here * log_f)
    return found


def _pair(
    c: Tensor, z2: Tensor, ci: Tensor, wi: Tensor, rest: Tensor, y: tuple[Tensor, Tensor], gap: int
) -> Tensor:
    yi, yj = y
    zi2 = wi + yi * yi
    mu, mui = _mu(c.square() * z2, gap), _mu(ci.square() * zi2, gap)
    nu, nui = mu + gap, mui + gap
    # Partial fractions: both sums from Σ 1/(z² − y²) at the two places.
    apart = z2 - zi2
    apart = torch.where(apart.abs() < 1e-6 * zi2, 1e-6 * zi2, apart)
    both = (rest - mu / z2) / apart
    p = both / (ci.square() * c.square())
    q = (zi2 * both - mu / z2) / (ci * c)
    s11, s22, s12 = nui * nu * p, mui * mu * p + gap / (nui * nu), q
    qii = ci.square() * wi
    u2, v2 = nui / qii, mui / qii
    t11, t22, t12 = mu / u2, nu / v2, -c * yi / (u2 * v2).sqrt()
    # |I + ST| = 1 + tr(ST) + |S||T|
    trace = s11 * t11 + 2 * s12 * t12 + s22 * t22
    area = 1 + trace + (s11 * s22 - s12.square()) * (t11 * t22 - t12.square())
    least = (2 / (ci * (yi - yj)).clamp_min(2)).clamp_max(1)
    return -(area * u2 * v2).maximum(least).log() / 2


def _mu(product: Tensor, gap: int) -> Tensor:
    """μ of ``μ·(μ + gap) = product``, nothing cancelled."""
    return 2 * product / (gap + (gap * gap + 4 * product).sqrt())
