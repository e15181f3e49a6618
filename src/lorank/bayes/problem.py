"""A noisy matrix made ready for sampling: checked, lying, of unit size, in its own basis."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorank.bayes.collapsed import collapsed
from lorank.bayes.entries import as_array, check_range
from lorank.errors import LorankError
from lorank.linalg.shrinkage import median_noise, shrink
from lorank.linalg.svd import svd

Array = NDArray[np.float64]

SPARE = 5
"""Slots beyond the rank that the collapsed posterior finds."""

FILLINGS = 50
"""Rounds of filling the missing entries before sampling starts."""


@dataclass(frozen=True)
class Problem:
    """A matrix with ``m ≤ n``, and where a sampler may start.

    L and R are the singular basis of the data, of filled data where entries are missing: all
    samplers start there. A complete matrix is rotated into it, to ``diag(y)``; with missing
    entries the matrix stays as it is, and ``observed`` tells which entries count.

    Attributes:
        matrix: ``(m, n)``, root mean square of the observed entries 1.
        observed: ``(m, n)`` of bool, or ``None`` for complete data.
        left: ``(m, m)`` orthogonal L.
        right: ``(n, n)`` orthogonal R.
        unit: what the data were divided by.
        upright: whether the data had more rows than columns, and were transposed.
        truncation: H.
        noise: σ to start at, in the unit.
        values: ``(H,)``, singular values to start at, in the unit.
    """

    matrix: Array
    observed: NDArray[np.bool_] | None
    left: Array
    right: Array
    unit: float
    upright: bool
    truncation: int
    noise: float
    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the lying matrix."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def edge(self) -> float:
        """``(mn)^¼``: the detection edge in units of the noise."""
        m, n = self.shape
        return (m * n) ** 0.25

    def outer(self, core: Array) -> Array:
        """``(..., m, n)`` in this basis → ``(..., rows, columns)`` as the data lay, in the unit."""
        full = self.left @ core @ self.right.T
        return np.swapaxes(full, -1, -2) if self.upright else full

    def noise_prior(self, noise: tuple[float, float]) -> tuple[float, float]:
        """``(a, b)`` of the inverse-gamma prior of σ² in the unit.

        Raises:
            LorankError: if b is magnitudes above the data's squares.
        """
        a, b = noise[0], noise[1] / self.unit / self.unit
        if not math.isfinite(b):
            raise LorankError(
                "the second number of noise is a variance of the data's magnitude, found "
                f"{noise[1]:g} for entries of {self.unit:.3g}"
            )
        return a, b


def prepare(data: Any, mask: Any = None, truncation: int | None = None) -> Problem:
    """Check a matrix, turn it to ``m ≤ n``, divide by its size, rotate it and find a start.

    Args:
        data: ``(rows, columns)``, array or tensor of real numbers; where ``mask`` is false an
            entry may be NaN.
        mask: ``(rows, columns)`` of bool, true where an entry was observed.
        truncation: H, from 2 to ``min(rows, columns) − 1``; by default the rank of the collapsed
            posterior and five more.

    Returns:
        The problem, in float64.

    Raises:
        LorankError: if the data are not a finite matrix with at least three rows and columns, hold
            no noise (zero, constant, of rank H or less), have fewer observed than missing
            entries or a row or column without any, or if ``truncation`` is out of range.

    Cost: one SVD; fifty with missing entries.

    Example:
        >>> problem = prepare(torch.randn(6, 4), truncation=2)
        >>> problem.shape, problem.upright
        ((4, 6), True)
    """
    Y, observed = _lying(*_checked(data, mask))
    largest = float(np.abs(Y[observed]).max())
    if largest == 0:
        raise LorankError("a matrix of zeros has neither signal nor noise to learn from")
    Y = Y / largest  # before anything is squared: no scale of the data leaves the range of doubles
    size = float(np.sqrt(np.mean(Y[observed] ** 2)))
    if np.ptp(Y[observed]) <= 1e-12 * size:
        raise LorankError("a constant matrix has no noise to learn from; every entry is equal")
    Y, unit = Y / size, max(largest * size, math.ulp(0.0))
    complete = bool(observed.all())
    filled = Y if complete else _filled(Y, observed)
    L, y, R = _factors(filled)
    H = _truncation(truncation, y, filled.shape)
    if np.sqrt(np.sum(y[H:] ** 2)) <= 1e-10 * np.sqrt(np.sum(y**2)):
        raise LorankError(
            f"noise is learned from what {H} components leave over, and these data have rank "
            f"{int((y > 1e-10 * y[0]).sum())} exactly; choose a smaller truncation"
        )
    noise, values = _start(y, filled.shape, H)
    core = np.where(observed, Y, 0.0)
    if complete:
        core = np.zeros(Y.shape)
        np.fill_diagonal(core, y)
    upright = np.shape(data)[0] > np.shape(data)[1]
    return Problem(core, None if complete else observed, L, R, unit, upright, H, noise, values)


def _checked(data: Any, mask: Any) -> tuple[Array, NDArray[np.bool_]]:
    Y = _array(data)
    if Y.ndim != 2 or min(Y.shape) < 3:
        raise LorankError(
            f"the data are a matrix with at least 3 rows and 3 columns, found shape {Y.shape}"
        )
    observed = np.ones(Y.shape, bool) if mask is None else _mask(mask, Y.shape)
    bad = ~np.isfinite(Y) & observed
    if bad.any():
        hint = "; mark missing ones by mask=" if mask is None else " among those marked observed"
        raise LorankError(f"entries are finite numbers, found {bad.sum()} that are not{hint}")
    if 2 * observed.sum() < observed.size:
        raise LorankError(
            f"at least half of the entries are observed, found {observed.sum()} of {observed.size}"
        )
    if not (observed.any(0).all() and observed.any(1).all()):
        raise LorankError("every row and column has an observed entry; leave out those without")
    Y = np.where(observed, Y, 0.0)
    check_range(Y)
    return Y, observed


def _array(data: Any) -> Array:
    data = as_array(data)
    try:
        Y = np.asarray(data)
        if Y.dtype.kind not in "fiu":
            raise TypeError
    except (TypeError, ValueError):
        raise LorankError("the data are a matrix of real numbers") from None
    return np.asarray(Y, np.float64)


def _mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    found = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if found.dtype != bool or found.shape != shape:
        raise LorankError(
            f"the mask is of bool, true where observed, with the data's shape {shape}; "
            f"found {found.dtype} with {found.shape}"
        )
    return found


def _lying(Y: Array, observed: NDArray[np.bool_]) -> tuple[Array, NDArray[np.bool_]]:
    return (Y.T, observed.T) if Y.shape[0] > Y.shape[1] else (Y, observed)


def _factors(Y: Array) -> tuple[Array, Array, Array]:
    """``L (m, m)``, ``y (m,)``, ``R (n, n)``; the last n − m columns of R are the null space."""
    U, S, Vh = svd(torch.from_numpy(Y))
    R = torch.linalg.qr(Vh.mT, mode="complete").Q
    R[:, : len(S)] = Vh.mT  # QR may turn the signs
    return U.numpy(), S.numpy(), R.numpy()


def _truncation(asked: int | None, y: Array, shape: tuple[int, ...]) -> int:
    m, n = shape
    if asked is None:
        return min(collapsed(torch.from_numpy(y), (m, n)).rank() + SPARE, m - 1)
    if isinstance(asked, bool) or not isinstance(asked, Integral) or not 2 <= asked < m:
        raise LorankError(
            f"the truncation H of a {m}×{n} matrix is a whole number from 2 to {m - 1}: the last "
            f"slot is never a slab, and full rank leaves no noise; found {asked!r}"
        )
    return int(asked)


def _start(y: Array, shape: tuple[int, ...], H: int) -> tuple[float, Array]:
    m, n = shape
    # Half of the values may be zero up to rounding; what H components leave over never is.
    left = float(np.sqrt(np.sum(y[H:] ** 2) / ((m - H) * (n - H))))
    noise = max(median_noise(torch.from_numpy(y), (m, n)), left / 2)
    values = shrink(torch.from_numpy(y), (m, n), noise).numpy()[:H]
    return noise, np.maximum(values, 0.1 * noise)


def _filled(Y: Array, observed: NDArray[np.bool_]) -> Array:
    """Fill what is missing by the shrunk matrix, again and again."""
    guess = np.zeros_like(Y)
    for _ in range(FILLINGS):
        filled = np.where(observed, Y, guess)
        U, S, Vh = svd(torch.from_numpy(filled))
        kept = shrink(S, Y.shape, median_noise(S, Y.shape))  # pyright: ignore[reportArgumentType]
        guess = ((U * kept) @ Vh).numpy()
    return np.where(observed, Y, guess)
