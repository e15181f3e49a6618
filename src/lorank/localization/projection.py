"""A scan seen from the front or the side: maximum-intensity projection in rows of 1 mm."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lorank.errors import LorankError, unknown
from lorank.localization.volume import Volume

PLANES = {"frontal": "IPL", "lateral": "ILP"}
"""Plane → where rows, the axis that is projected away, and columns grow to. Rows begin at the head;
the first column is the patient's right in a frontal image, and the front in a lateral one."""

BLANK = -1024.0
"""Hounsfield units of air: what lies beside the scan."""


@dataclass(frozen=True)
class View:
    """How a scan becomes an image, and the image windows.

    Args:
        plane: ``frontal`` or ``lateral``.
        row_mm: height of a row.
        column_mm: width of a column.
        columns: columns of the image: the middle of the scan, cut or filled up with air.
        low: Hounsfield units that become 0.
        high: Hounsfield units that become 1.
        rows: rows of one window, an even number.

    Raises:
        LorankError: if the plane is unknown or a number is out of its range.

    Example:
        >>> View(rows=96).size
        (96, 96)
    """

    plane: str = "frontal"
    row_mm: float = 1.0
    column_mm: float = 2.0
    columns: int = 96
    low: float = 100.0
    high: float = 1500.0
    rows: int = 128

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise unknown("plane", self.plane, PLANES)
        for name in ("rows", "columns"):
            found = getattr(self, name)
            if not isinstance(found, int):
                raise LorankError(f"{name} of a view are a whole number, found {found!r}")
        sizes = all(0 < size < float("inf") for size in (self.row_mm, self.column_mm))
        if not (sizes and self.columns >= 1):
            raise LorankError(
                "rows and columns of a view are above 0 mm and finite, and it has at least 1 "
                f"column, found {self.row_mm} mm, {self.column_mm} mm, {self.columns}"
            )
        if not float("-inf") < self.low < self.high < float("inf"):
            raise LorankError(
                f"a view's low lies below its high, both finite, found {self.low}, {self.high}"
            )
        if self.rows < 8 or self.rows % 2:
            raise LorankError(f"a window has an even number of rows, at least 8: found {self.rows}")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a window."""
        return self.rows, self.columns

    def as_dict(self) -> dict[str, Any]:
        """Give the view as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Projection:
    """An image of a scan, and the way back to its slices.

    Attributes:
        image: float32 (rows, columns) between 0 and 1, the head above.
        row_mm: height of a row.
        count: slices of the scan.
        height: millimetres from slice to slice.
        from_head: whether slice 0 of the scan is the one nearest to the head.
        name: of the scan.
        slices: names of its slices, or none.

    Example:
        >>> Projection(np.zeros((9, 1), np.float32), 1.0, 5, 2.0, from_head=True).slice_at(4.0)
        2
    """

    image: np.ndarray
    row_mm: float
    count: int
    height: float
    from_head: bool
    name: str = "scan"
    slices: tuple[str, ...] = ()

    def slice_at(self, row: float) -> int:
        """Number of the scan's slice, from 0, that is nearest to a row.

        Slices count along the axis of the volume as it was read, from its first.

        Example:
            >>> image = Projection(np.zeros((9, 1), np.float32), 1.0, 5, 2.0, from_head=False)
            >>> image.slice_at(0), image.slice_at(3.2), image.slice_at(99)
            (4, 2, 0)
        """
        down = min(max(round(row * self.row_mm / self.height), 0), self.count - 1)
        return down if self.from_head else self.count - 1 - down

    def row_of(self, number: float) -> float:
        """Row of a slice: the way back of :meth:`slice_at`.

        Raises:
            LorankError: if the scan has no such slice.

        Example:
            >>> image = Projection(np.zeros((9, 1), np.float32), 1.0, 5, 2.0, from_head=False)
            >>> image.row_of(4), image.row_of(2)
            (0.0, 4.0)
        """
        if not 0 <= number <= self.count - 1:
            raise LorankError(f"{self.name} has the slices 0 to {self.count - 1}, found {number:g}")
        down = number if self.from_head else self.count - 1 - number
        return float(down * self.height / self.row_mm)


def project(volume: Volume, view: View | None = None) -> Projection:
    """Largest value along one axis, in rows and columns of fixed size, scaled to [0, 1].

    ``image = clip((max over depth − low) / (high − low), 0, 1)``, by linear interpolation between
    slices and between columns: row r lies ``r·row_mm`` below the centre of the uppermost slice,
    the columns lie about the middle of the scan. What is beside the scan is air.

    Args:
        volume: the scan.
        view: plane, sizes and range; by default frontal, 1 mm × 2 mm.

    Returns:
        The image with the way back to the slices.

    Raises:
        LorankError: if the scan has one slice only, or the projection meets NaN or Inf.

    Cost: one pass over the voxels. Source: Belharbi et al., Computers in Biology and Medicine 87,
    2017.

    Example:
        >>> values = np.full((4, 4, 11), -1000, np.int16)
        >>> values[2, 2, 5] = 1500
        >>> image = project(Volume(values, (1, 1, 2), "RAS")).image
        >>> image.shape, int(image.max(1).argmax())
        ((21, 96), 10)
    """
    view = view or View()
    if volume.count < 2:
        raise LorankError(f"{volume.name}: a scan needs at least 2 slices, found {volume.count}")
    turned, (height, _, width) = volume.along(PLANES[view.plane])
    flat = turned.max(axis=1).astype(np.float32)
    bad = int((~np.isfinite(flat)).sum())
    if bad:
        raise LorankError(
            f"{volume.name}: voxels are finite, found NaN or Inf in {bad} of {flat.size} lines of "
            "the projection: replace them by air (-1024)"
        )
    rows = int((volume.count - 1) * height / view.row_mm + 1e-6) + 1
    flat = resampled(flat, np.arange(rows) * view.row_mm / height)
    middle = (flat.shape[1] - 1) / 2
    offsets = np.arange(view.columns) - (view.columns - 1) / 2
    flat = resampled(flat.T, middle + offsets * view.column_mm / width).T
    image = np.clip((flat - view.low) / (view.high - view.low), 0, 1)
    image = np.ascontiguousarray(image, np.float32)
    head = volume.axes[volume.vertical] == "I"
    return Projection(
        image, view.row_mm, volume.count, volume.height, head, volume.name, volume.slices
    )


def resampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate rows at fractional places; beyond the first and the last there is air.

    Args:
        image: float32 (rows, columns).
        places: (n,), in rows.

    Returns:
        float32 (n, columns).

    Example:
        >>> resampled(np.array([[0.0], [2.0]], np.float32), np.array([0.5, 9.0])).tolist()
        [[1.0], [-1024.0]]
    """
    last = len(image) - 1
    inside = (places >= -1e-6) & (places <= last + 1e-6)
    at = np.clip(places, 0, last)
    below = np.minimum(at.astype(int), max(last - 1, 0))
    share = (at - below).astype(np.float32)[:, None]
    found = image[below] * (1 - share) + image[np.minimum(below + 1, last)] * share
    return np.where(inside[:, None], found, np.float32(BLANK))
