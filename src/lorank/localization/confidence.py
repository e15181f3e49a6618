"""What a match score is worth: the chance that a decision is right, learnt on validation scans."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from lorank.errors import LorankError

FEWEST = 10
"""Validation scans below which no confidence is given."""


class Confidence(NamedTuple):
    """``P(|error| ≤ tolerance) = 1 / (1 + exp(−(slope·score + bias)))``.

    Attributes:
        slope: of the score.
        bias: added.
        tolerance: in mm.
        scans: validation scans that it was fitted on.
    """

    slope: float
    bias: float
    tolerance: float
    scans: int

    def of(self, score: float) -> float:
        """Give the chance that belongs to a score.

        Example:
            >>> Confidence(10.0, -5.0, 10.0, 50).of(0.5)
            0.5
        """
        return float(torch.sigmoid(torch.tensor(self.slope * score + self.bias).double()))


def fit_confidence(
    scores: Sequence[float], errors: Sequence[float], tolerance: float = 10.0
) -> Confidence | None:
    """Fit the chance of being right to match scores, by Platt's scaling.

    Labels are pulled towards the middle as Platt does, ``(n₊ + 1)/(n₊ + 2)`` and ``1/(n₋ + 2)``,
    so that a validation without an error gives no certainty. A slope below 0, by which a better
    match would be worth less, is put to 0.

    Args:
        scores: of decisions on scans that were not trained on.
        errors: of the same decisions, in mm.
        tolerance: errors up to here count as right; 10 mm is well within one vertebra.

    Returns:
        The fitted curve; ``None`` for fewer than 10 scans.

    Raises:
        LorankError: if there is not one error a score, or one of them is not finite.

    Source: Platt, "Probabilistic outputs for support vector machines", 1999.

    Example:
        >>> fitted = fit_confidence([0.9] * 20 + [0.5] * 5, [1.0] * 20 + [35.0] * 5)
        >>> fitted.of(0.9) > 0.9, fitted.of(0.5) < 0.3
        (True, True)
    """
    if len(scores) != len(errors):
        raise LorankError(f"one error a score, found {len(errors)} and {len(scores)}")
    if not all(map(math.isfinite, (*scores, *errors))):
        raise LorankError("scores and errors are finite, found NaN or Inf")
    if len(scores) < FEWEST:
        return None
    s = torch.tensor(list(scores), dtype=torch.float64)
    right = torch.tensor([abs(e) <= tolerance for e in errors])
    wins, fails = int(right.sum()), int((~right).sum())
    y = torch.where(right, (wins + 1) / (wins + 2), 1 / (fails + 2)).double()
    slope, bias = _logistic(s, y)
    if slope < 0:
        slope, bias = 0.0, float(torch.logit(y.mean()))
    return Confidence(slope, bias, float(tolerance), len(scores))


def _logistic(s: torch.Tensor, y: torch.Tensor, ridge: float = 1e-3) -> tuple[float, float]:
    """Newton's steps for ``min −Σ y·log p + (1−y)·log(1−p) + ridge/2·slope²``, damped."""
    X = torch.stack([s, torch.ones_like(s)], 1)
    w = torch.zeros(2, dtype=torch.float64)
    R = torch.tensor([ridge, 1e-9], dtype=torch.float64)

    def loss(w: torch.Tensor) -> torch.Tensor:
        z = X @ w
        return (torch.nn.functional.softplus(z) - y * z).sum() + 0.5 * (R * w * w).sum()

    for _ in range(100):
        p = torch.sigmoid(X @ w)
        gradient = X.T @ (p - y) + R * w
        if float(gradient.abs().max()) < 1e-9:
            break
        hessian = (X.T * (p * (1 - p))) @ X + R.diag()
        step = torch.linalg.solve(hessian, gradient)
        size = 1.0
        while loss(w - size * step) > loss(w) and size > 1e-6:
            size /= 2
        w = w - size * step
    return float(w[0]), float(w[1])
