"""A scan as one array, with the size of a voxel and the direction of each axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lorank.errors import LorankError

PAIRS = ("RL", "AP", "SI")
"""Right and left, anterior and posterior, superior (head) and inferior: the two ends of an axis."""

SHORTEST, LONGEST = 0.01, 50.0
"""Millimetres: a smaller or a larger voxel is a wrong unit."""


@dataclass(frozen=True)
class Volume:
    """A CT scan in Hounsfield units.

    Args:
        values: ``(a, b, c)``, whole or floating-point numbers.
        spacing: millimetres from voxel to voxel along each axis.
        axes: three letters, one an axis: where the index grows to. ``"RAS"`` grows to the patient's
            right, front and head; ``"SPL"`` is what a DICOM series of axial slices gives.
        name: to be named in errors and answers.
        slices: names of the slices along the head–foot axis, such as the files they came from, in
            the order of that axis; or none.

    Raises:
        LorankError: if the array has not three axes or is empty, a spacing is missing or not in
            millimetres (0.01 to 50), or the letters are not one of each pair.

    Example:
        >>> scan = Volume(np.zeros((4, 4, 9), np.int16), (1, 1, 2.5), "RAS")
        >>> scan.height, scan.count, scan.vertical
        (2.5, 9, 2)
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    axes: str
    name: str = "scan"
    slices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _values(self.values, self.name))
        object.__setattr__(self, "spacing", checked_spacing(self.spacing, self.name))
        object.__setattr__(self, "axes", checked_axes(self.axes, self.name))
        if self.slices and len(self.slices) != self.count:
            raise LorankError(
                f"{self.name}: each of {self.count} slices has one name, found {len(self.slices)}"
            )

    @property
    def vertical(self) -> int:
        """Index of the axis between head and feet."""
        return axis(self.axes, "SI")

    @property
    def count(self) -> int:
        """Number of slices from head to feet."""
        return self.values.shape[self.vertical]

    @property
    def height(self) -> float:
        """Millimetres from slice to slice."""
        return self.spacing[self.vertical]

    def along(self, order: str) -> tuple[np.ndarray, tuple[float, ...]]:
        """Turn the axes so that they grow to the given letters; a view, nothing is copied.

        Args:
            order: three letters, as ``axes``.

        Returns:
            The turned array and its spacing.

        Raises:
            LorankError: if the letters are not one of each pair.

        Example:
            >>> scan = Volume(np.arange(8).reshape(2, 2, 2), (1, 2, 3), "RAS")
            >>> turned, spacing = scan.along("IRA")
            >>> turned[0, 0, 0], spacing
            (np.int64(1), (3.0, 1.0, 2.0))
        """
        wanted = checked_axes(order, "the order of axes")
        places = [axis(self.axes, ends(letter)) for letter in wanted]
        turned = self.values.transpose(places)
        flips = [
            slice(None, None, 1 if self.axes[place] == letter else -1)
            for place, letter in zip(places, wanted, strict=True)
        ]
        return turned[tuple(flips)], tuple(self.spacing[place] for place in places)


def ends(letter: str) -> str:
    """Name the pair that a letter belongs to.

    Example:
        >>> ends("I")
        'SI'
    """
    return next(pair for pair in PAIRS if letter in pair)


def axis(axes: str, pair: str) -> int:
    """Find the axis that runs between two ends.

    Example:
        >>> axis("SPL", "RL")
        2
    """
    return next(i for i, letter in enumerate(axes) if letter in pair)


def checked_axes(axes: Any, name: str) -> str:
    """Give the letters in capitals, and refuse what is no orientation.

    Raises:
        LorankError: if they are not three, one of each pair.

    Example:
        >>> checked_axes("lps", "scan")
        'LPS'
    """
    letters = str(axes).upper() if isinstance(axes, str) else ""
    pairs = [pair for letter in letters for pair in PAIRS if letter in pair]
    if len(letters) != 3 or sorted(pairs) != sorted(PAIRS):
        raise LorankError(
            f"{name}: an orientation is three letters, one of R/L, one of A/P and one of S/I, "
            f"such as RAS, found {axes!r}"
        )
    return letters


def checked_spacing(spacing: Any, name: str) -> tuple[float, float, float]:
    """Give three positive lengths, and refuse what is no spacing.

    Raises:
        LorankError: if there are not three, or one is below 0.01 mm or above 50 mm.

    Example:
        >>> checked_spacing([1, 1, 2.5], "scan")
        (1.0, 1.0, 2.5)
    """
    try:
        found = () if isinstance(spacing, str) else tuple(float(value) for value in spacing)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or not all(SHORTEST <= value <= LONGEST for value in found):
        raise LorankError(
            f"{name}: a scan needs the millimetres from voxel to voxel along its three axes, each "
            f"at least {SHORTEST:g} and at most {LONGEST:g}, found {told(spacing)}"
        )
    return found[0], found[1], found[2]


def told(value: Any) -> str:
    """Write a value of unknown kind for an error, shortly.

    Example:
        >>> told(None), told((0.5, 0.0))
        ('none', '0.5, 0')
    """
    if value is None:
        return "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(f"{v:g}" if isinstance(v, (int, float)) else repr(v) for v in value)
    return repr(value)


def _values(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values)
    if found.ndim != 3 or found.size == 0 or found.dtype.kind not in "iuf":
        raise LorankError(
            f"{name}: a scan is an array (a, b, c) of real numbers, found {found.dtype} of shape "
            f"{found.shape}"
        )
    return found
