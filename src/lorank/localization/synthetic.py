"""Spines that were made, with a known target: projections for trials, and volumes for readers.

Nothing here is a patient. The columns vary as anatomy does, coarsely: heights of vertebrae, curves,
ribs and pelvis, a fused pair, four or six lumbar vertebrae, what the scan shows of the body, noise.
They show that a pipeline works, and say nothing about its error on real scans.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lorank.errors import LorankError
from lorank.localization.projection import Projection, View
from lorank.localization.volume import Volume, checked_spacing

TISSUE, BONE = 60.0, 650.0
"""Hounsfield units of a projection through soft tissue, and through spongy bone."""

LEVELS = ("T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
HEIGHT = (20.0, 21.0, 22.5, 24.0, 25.5, 26.5, 27.5, 28.0, 27.5, 27.0)
"""Of the bodies, in mm."""

DISC = (4.0, 4.5, 5.0, 6.0, 7.0, 8.0, 9.5, 10.5, 11.0, 10.0)
"""Of the disc below, in mm."""

WIDTH = (28.0, 29.0, 31.0, 33.0, 36.0, 39.0, 41.0, 43.0, 46.0, 50.0)
PROCESS = (0.0, 0.0, 0.0, 0.0, 12.0, 19.0, 25.0, 30.0, 24.0, 20.0)
"""Length of the transverse processes, in mm: those of L3 are the longest."""

RIB = (1.0, 1.0, 1.0, 0.75, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Length of the ribs, as a share of the image's half width."""


class Column(NamedTuple):
    """A spine that was made.

    Attributes:
        image: (rows, columns) of Hounsfield units, rows of 1 mm, the head above.
        target: row of the centre of L3.
        others: rows of the centres of all vertebrae that the image holds, from above.
        kind: ``plain``, ``four`` or ``six`` (lumbar vertebrae), or ``fused`` (L2 and L3).
    """

    image: np.ndarray
    target: float
    others: tuple[float, ...]
    kind: str


def synthetic_column(seed: int, view: View | None = None) -> Column:
    """Draw a spine as a frontal projection sees it.

    Args:
        seed: of everything.
        view: its columns and their width; rows are 1 mm.

    Returns:
        The image and its truth. The scan begins between T8 and T12 and ends at or below L5.

    Example:
        >>> a, b = synthetic_column(1), synthetic_column(1)
        >>> bool((a.image == b.image).all()), 0 < a.target < len(a.image)
        (True, True)
    """
    view = view or View()
    g = np.random.default_rng([seed, 3])
    kind = str(g.choice(["plain", "four", "six", "fused"], p=[0.88, 0.03, 0.04, 0.05]))
    levels = _levels(kind)
    scale = g.normal(1.0, 0.07)
    heights = [scale * HEIGHT[i] * g.normal(1, 0.03) for i in levels]
    discs = [scale * DISC[i] * max(g.normal(1, 0.12), 0.4) for i in levels]
    if kind == "fused":
        discs[levels.index(6)] *= 0.15
    tops = 12.0 + np.concatenate([[0.0], np.cumsum(np.add(heights, discs))])
    centres = tops[:-1] + np.array(heights) / 2
    rows, half = int(tops[-1] + g.uniform(150, 190)), view.columns * view.column_mm / 2
    canvas = _Canvas(rows, view, g)
    for place, level in enumerate(levels):
        _vertebra(canvas, g, level, centres[place], heights[place], scale, half)
    _pelvis(canvas, g, tops[-1], scale, centres, levels)
    _clutter(canvas, g)
    first = int(g.uniform(0, centres[levels.index(4)] - 10))
    last = int(g.uniform(centres[-1] + 25, rows))
    image = _finished(canvas.image, g)[first:last]
    shown = [float(c - first) for c in centres if first < c < last]
    return Column(image, float(centres[levels.index(7)] - first), tuple(shown), kind)


def synthetic_projection(column: Column, view: View, name: str = "synthetic") -> Projection:
    """Give a column as the projection that a scan of 1 mm slices would have.

    Raises:
        LorankError: if the view has other rows than of 1 mm, or is not frontal.

    Example:
        >>> synthetic_projection(synthetic_column(0), View()).height
        1.0
    """
    if view.row_mm != 1.0:
        raise LorankError(f"synthetic columns have rows of 1 mm, found {view.row_mm:g} mm")
    if view.plane != "frontal":
        raise LorankError(f"synthetic columns are seen from the front, found plane {view.plane!r}")
    image = np.clip((column.image - view.low) / (view.high - view.low), 0, 1).astype(np.float32)
    return Projection(image, 1.0, len(image), 1.0, True, name)


def synthetic_volume(
    seed: int, *, height: float = 2.5, axes: str = "SPL", view: View | None = None
) -> tuple[Volume, int]:
    """Put a column into a small scan, so that readers and commands can be tried from end to end.

    Args:
        seed: of everything.
        height: millimetres between slices.
        axes: how the array lies.
        view: width of the columns, which are the voxels' width.

    Returns:
        The scan, and the number of its slice that is nearest to the target.

    Raises:
        LorankError: if the height is no spacing, or the letters are no orientation.

    Example:
        >>> scan, target = synthetic_volume(0, height=5.0)
        >>> scan.axes, scan.height, 0 < target < scan.count
        ('SPL', 5.0, True)
    """
    view = view or View()
    height, depth, width = checked_spacing((height, 10.0, view.column_mm), "a made scan")
    column = synthetic_column(seed, view)
    rows = np.arange(0, len(column.image), height)
    below = np.minimum(rows.astype(int), len(column.image) - 2)
    share = (rows - below)[:, None]
    flat = column.image[below] * (1 - share) + column.image[below + 1] * share
    values = np.full((len(rows), 5, view.columns), -1000.0)
    values[:, 1], values[:, 2], values[:, 3] = 40.0, flat, 40.0
    made = Volume(values.round().astype(np.int16), (height, depth, width), "IPL")
    turned, spacing = made.along(axes)
    number = round(column.target / height)
    scan = Volume(np.ascontiguousarray(turned), spacing, axes)  # type: ignore[arg-type]
    head = scan.axes[scan.vertical] == "I"
    return replace(scan, name=f"synthetic {seed}"), number if head else scan.count - 1 - number


def _levels(kind: str) -> list[int]:
    """Indices into the tables of anatomy: one lumbar vertebra fewer, or one more."""
    if kind == "four":
        return [0, 1, 2, 3, 4, 5, 6, 7, 9]
    if kind == "six":
        return [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9]
    return list(range(len(LEVELS)))


class _Canvas:
    """An image to draw on in millimetres about a curved middle line."""

    def __init__(self, rows: int, view: View, g: np.random.Generator) -> None:
        self.y = np.arange(rows, dtype=np.float64)[:, None]
        columns = (np.arange(view.columns) - (view.columns - 1) / 2) * view.column_mm
        bend = g.normal(0, 5) * np.sin(2 * np.pi * (self.y / g.uniform(250, 500) + g.random()))
        self.x = columns[None, :] - bend - g.normal(0, 4)
        self.slope = np.gradient((bend).ravel())
        self.image = np.full((rows, view.columns), TISSUE)
        self.blur = max(view.column_mm, 1.0)

    def add(self, inside: np.ndarray, value: float, rows: slice) -> None:
        """Draw where a signed distance in mm is negative; edges are soft. The brightest stays."""
        cover = 1 / (1 + np.exp(np.clip(inside / (0.5 * self.blur), -30, 30)))
        part = self.image[rows]
        np.maximum(part, TISSUE + (value - TISSUE) * cover, out=part)

    def rows(self, low: float, high: float) -> slice:
        """Rows between two heights."""
        return slice(max(int(low), 0), min(int(high) + 1, len(self.y)))

    def box(self, y: float, x: float, height: float, width: float, value: float) -> None:
        """Draw a box about (y, x), turned with the middle line."""
        rows = self.rows(y - height, y + height)
        at = min(max(int(y), 0), len(self.slope) - 1)
        dx = self.x[rows] - x
        dy = self.y[rows] - y + self.slope[at] * dx
        self.add(np.maximum(np.abs(dy) - height / 2, np.abs(dx) - width / 2), value, rows)

    def stroke(self, y: np.ndarray, x: np.ndarray, thick: float, value: float) -> None:
        """Draw a line through points, each a disc."""
        rows = self.rows(y.min() - thick, y.max() + thick)
        away = np.full(self.x[rows].shape, np.inf)
        for a, b in zip(y, x, strict=True):
            away = np.minimum(away, np.hypot(self.y[rows] - a, self.x[rows] - b))
        self.add(away - thick / 2, value, rows)


def _vertebra(
    canvas: _Canvas,
    g: np.random.Generator,
    level: int,
    y: float,
    h: float,
    scale: float,
    half: float,
) -> None:
    bright = g.normal(1, 0.06)
    width = scale * WIDTH[level] * g.normal(1, 0.03)
    canvas.box(y, 0, h, width, BONE * bright)
    for edge in (y - h / 2 + 1, y + h / 2 - 1):  # end plates
        canvas.box(edge, 0, 2.5, width, 1.45 * BONE * bright)
    for side in (-1, 1):
        canvas.box(y - 0.12 * h, side * 0.3 * width, 0.45 * h, 0.17 * width, 1.6 * BONE)
        length = scale * PROCESS[level] * g.normal(1, 0.08)
        if length > 0:
            x = side * (width / 2 + length / 2)
            canvas.box(y - 0.1 * h, x, 6.5 if level < 9 else 11, length, 0.8 * BONE * bright)
        share = RIB[level] * g.normal(1, 0.08)
        if level == 5 and g.random() < 0.06:  # a rudimentary rib on L1
            share = 0.22
        if share > 0:
            x = np.linspace(width / 2, share * half, 24)
            drop = (0.55 + 0.04 * level) * (x - width / 2) * g.normal(1, 0.1)
            canvas.stroke(y - 0.3 * h + drop, side * x, 8 * scale, 0.9 * BONE)
    canvas.box(y + 0.35 * h, 0, 0.6 * h, 6, 1.2 * BONE)  # spinous process


def _pelvis(
    canvas: _Canvas,
    g: np.random.Generator,
    top: float,
    scale: float,
    centres: np.ndarray,
    levels: list[int],
) -> None:
    rows = canvas.rows(top - 10, top + 115 * scale)
    depth = (canvas.y[rows] - top) / (105 * scale)
    wide = 27 * scale * np.clip(1.25 - depth, 0.05, None)
    canvas.add(np.maximum(np.abs(canvas.x[rows]) - wide, -20 * depth), 0.8 * BONE, rows)
    for k in range(4):  # foramina between the sacral bodies
        canvas.box(top + (14 + 24 * k) * scale, 0, 3, 30 * scale * (1 - 0.2 * k), 1.2 * BONE)
    crest = float(centres[levels.index(8) if 8 in levels else -2]) + g.normal(8, 5)
    for side in (-1, 1):
        x = np.linspace(32, 95, 26) * scale
        y = crest + 60 * scale * ((x / scale - 62) / 33) ** 2 * np.where(x < 62 * scale, 1.0, 0.8)
        canvas.stroke(y, side * x, 13 * scale, 1.1 * BONE)


def _clutter(canvas: _Canvas, g: np.random.Generator) -> None:
    """Contrast agent, calcified vessels and the like: bright spots that are no bone."""
    height, half = len(canvas.y), float(np.abs(canvas.x[0]).max())
    for _ in range(int(g.integers(0, 7))):
        y, x = g.uniform(0, height), g.uniform(-half, half)
        canvas.box(y, x, g.uniform(4, 40), g.uniform(4, 30), g.uniform(0.4, 1.4) * BONE)


def _finished(image: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Contrast of the scanner, its noise, and bands of soft tissue."""
    rows = np.arange(len(image))[:, None]
    tissue = 40 * np.sin(rows / g.uniform(30, 90) + 6 * g.random())
    noise = g.normal(0, g.uniform(20, 80), image.shape)
    return (image * g.normal(1, 0.08) + tissue + noise).astype(np.float32)
