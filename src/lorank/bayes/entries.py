"""The entries of a matrix of data: as an array, in range, and without the means of its columns."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorank.errors import LorankError

Array = NDArray[np.float64]


def as_array(data: Any) -> Any:
    """A tensor as a NumPy array, a masked array with NaN where it is masked; the rest as it is.

    Raises:
        LorankError: if a tensor holds no numbers that can be read, such as a sparse one.

    Example:
        >>> as_array(torch.ones(2, dtype=torch.bfloat16)).dtype
        dtype('float64')
    """
    if isinstance(data, torch.Tensor):
        try:
            data = data.detach().cpu()
            return (data if data.is_complex() else data.double()).numpy()
        except (TypeError, RuntimeError):
            raise LorankError(
                "the data are a dense matrix of real numbers, found a tensor of layout "
                f"{data.layout} on {data.device}"
            ) from None
    if isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "fiu":
        return np.ma.filled(data.astype(np.float64), np.nan)
    return data


def check_range(X: Array) -> None:
    """Insist on entries so small that no singular value leaves the range of doubles.

    Args:
        X: ``(rows, columns)``; NaN is passed over.

    Raises:
        LorankError: otherwise.

    Example:
        >>> check_range(np.full((3, 4), 1e300))
    """
    # No value is above the norm, and taking means off at most doubles an entry.
    limit = np.finfo(np.float64).max / (2 * math.sqrt(X.size))
    largest = float(np.fmax.reduce(np.abs(X), axis=None, initial=0.0))
    if largest > limit:
        raise LorankError(
            f"entries of a {X.shape[0]}×{X.shape[1]} matrix are at most {limit:.3g} in size, so "
            f"that its singular values are doubles; found {largest:.3g}"
        )


def column_means(X: Array) -> Array:
    """Mean of each column's observed entries; where all are equal it is their value to the bit.

    Without that, rounding would leave a component of its own in a matrix that is constant.

    Args:
        X: ``(rows, columns)``, NaN where missing, otherwise finite.

    Returns:
        ``(columns,)``.

    Raises:
        LorankError: if a column has no observed entry.

    Example:
        >>> column_means(np.array([[0.1, 1.0], [0.1, np.nan], [0.1, 2.0]])).tolist()
        [0.1, 1.5]
    """
    count = (~np.isnan(X)).sum(0)
    if (count == 0).any():
        raise LorankError("every column needs an observed entry, and one has none")
    low, high = np.nanmin(X, axis=0), np.nanmax(X, axis=0)
    unit = np.maximum(np.abs(low), np.abs(high))  # sums of huge numbers would leave the range
    mean = unit * (np.nansum(X / np.where(unit > 0, unit, 1.0), axis=0) / count)
    return np.where(low == high, low, mean)
