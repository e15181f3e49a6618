"""What both samplers insist on before they start."""

import math
from numbers import Integral, Real
from typing import Any

from lorank.errors import LorankError

SEEDS = 2**62


def check_counts(least: int = 1, **counts: Any) -> None:
    """Insist on whole numbers.

    Raises:
        LorankError: if one is none, or below ``least``.

    Example:
        >>> check_counts(chains=2, draws=1000)
    """
    kind = "a positive whole number" if least == 1 else f"a whole number of at least {least}"
    for name, number in counts.items():
        if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
            raise LorankError(f"{name} is {kind}, found {number!r}")


def check_seed(seed: Any) -> int:
    """Give a seed back as a plain number.

    Raises:
        LorankError: if it is no whole number from 0 to below 2⁶².

    Example:
        >>> check_seed(7)
        7
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not (whole and 0 <= int(seed) < SEEDS):
        raise LorankError(f"seed is a whole number of at least 0, below 2⁶², found {seed!r}")
    return int(seed)


def check_widths(order: Any, noise: Any) -> None:
    """Insist on a width of the soft order, and on the two numbers of a prior of σ².

    Raises:
        LorankError: if they are not of at least 0 and finite.

    Example:
        >>> check_widths(0.05, (0.0, 0.0))
    """
    if not (_real(order) and 0 <= order < math.inf):
        raise LorankError(f"order is a number of at least 0, found {order!r}")
    pair = isinstance(noise, tuple | list) and len(noise) == 2
    if not (pair and all(_real(part) and 0 <= part < math.inf for part in noise)):
        raise LorankError(f"noise holds two numbers of at least 0, found {noise!r}")


def check_between(name: str, number: Any, high: float) -> None:
    """Insist on a number above 0 and below ``high``.

    Raises:
        LorankError: otherwise.

    Example:
        >>> check_between("accept", 0.8, 1)
    """
    if not (_real(number) and 0 < number < high):
        bounds = "positive and finite" if high == math.inf else f"between 0 and {high:g}"
        raise LorankError(f"{name} is a number {bounds}, found {number!r}")


def _real(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool)
