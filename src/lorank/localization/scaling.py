"""Stored numbers to Hounsfield units, in as little memory as they need."""

import numpy as np

INT16 = np.iinfo(np.int16)


def scaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """``slope·stored + intercept``; whole numbers stay 16-bit where they fit.

    Args:
        stored: any real array.
        slope: factor.
        intercept: summand.

    Returns:
        int16 where nothing is lost, and float32 elsewhere.

    Example:
        >>> scaled(np.array([0, 1024], np.uint16), 1.0, -1024.0).tolist()
        [-1024, 0]
        >>> scaled(np.array([2], np.int16), 0.5, 0.0)
        array([1.], dtype=float32)
    """
    exact = stored.dtype.kind in "iu" and all(float(v).is_integer() for v in (slope, intercept))
    if exact and stored.size:
        ends = [slope * int(end) + intercept for end in (stored.min(), stored.max())]
        if INT16.min <= min(ends) and max(ends) <= INT16.max:
            found = stored.astype(np.int64 if stored.dtype.itemsize > 2 else np.int32)
            found *= int(slope)
            found += int(intercept)
            return found.astype(np.int16)
    return (stored * np.float32(slope) + np.float32(intercept)).astype(np.float32)
