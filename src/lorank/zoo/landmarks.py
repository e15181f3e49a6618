"""Faces with 68 points, cropped to 50 × 50 grey pixels: LFPW, HELEN and AFW, from a folder.

The pictures are for research only and are not part of this package; nothing here shows one.
"""

import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from lorank.errors import LorankError, unknown
from lorank.zoo.find import require_files, require_folder

SETS = {"lfpw": ("lfpw_train.npz", "lfpw_test.npz"), "helen": ("helen_train.npz", "helen_test.npz")}
POINTS, SIZE = 68, 50

MIRRORED = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),  # nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65),  # mouth
)
"""Which of the 68 points each one becomes in a mirror."""


class Faces(NamedTuple):
    """Pixels and points of some faces."""

    x: Tensor
    """Pixels between 0 and 1, each image stretched to the whole range, ``(faces, 2500)``."""
    y: Tensor
    """Points relative to their box, minus 0.5: all x, then all y, ``(faces, 136)``."""
    sides: Tensor
    """Width and height of each box in its picture, ``(faces, 2)``."""


def landmarks(folder: str | Path, name: str = "lfpw") -> tuple[Faces, Faces]:
    """Load the faces of a set, for training and for testing.

    Args:
        folder: where ``lfpw_train.npz`` and the like are.
        name: ``"lfpw"`` or ``"helen"``.

    Returns:
        Training and test faces, as the published protocol prepares them.

    Raises:
        LorankError: if the set is unknown, or a file is missing, damaged or of other shapes.

    Source: Belharbi et al., Neurocomputing 2018; the annotations of the ibug 300-W challenge.

    Example:
        >>> sorted(SETS)
        ['helen', 'lfpw']
    """
    if name not in SETS:
        raise unknown("set of faces", name, SETS)
    place = require_folder(Path(folder), "landmarks")
    train, test = (read_faces(path) for path in require_files(place, SETS[name], "landmarks"))
    return train, test


def mirrored(faces: Faces) -> Faces:
    """The same faces in a mirror: pixels turned left to right, points moved and renamed.

    Args:
        faces: any number of them.

    Example:
        >>> face = Faces(torch.rand(1, 2500), torch.rand(1, 136), torch.ones(1, 2))
        >>> twice = mirrored(mirrored(face))
        >>> bool(torch.equal(twice.x, face.x) and torch.equal(twice.y, face.y))
        True
    """
    pixels = faces.x.view(-1, SIZE, SIZE).flip(-1).flatten(1)
    points = faces.y.view(-1, 2, POINTS)[:, :, list(MIRRORED)].clone()
    points[:, 0] = -points[:, 0]
    return Faces(pixels, points.flatten(1), faces.sides)


def read_faces(path: Path) -> Faces:
    """Read one file of faces: ``images`` (n, 50, 50), ``points`` (n, 68, 2) and ``box`` (n, 4).

    Raises:
        LorankError: if the file is damaged, or an array is missing, of another shape, or not of
            finite numbers.
    """
    if not is_zipfile(path):
        raise LorankError(f"{path.name} is no file of faces: it is no archive of arrays, .npz")
    try:
        with np.load(path, allow_pickle=False) as found:
            images, points, box = (found[key] for key in ("images", "points", "box"))
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error) as error:
        raise LorankError(f"{path.name} is no file of faces: {error}") from None
    n = images.shape[0] if images.ndim else 0
    shapes = (images.shape, points.shape, box.shape)
    if shapes != ((n, SIZE, SIZE), (n, POINTS, 2), (n, 4)) or n == 0:
        raise LorankError(
            f"{path.name}: faces are ({SIZE}, {SIZE}) pixels with {POINTS} points and a box of 4, "
            f"found arrays of {', '.join(map(str, shapes))}"
        )
    arrays = (images, points, box)
    if any(a.dtype.kind not in "iuf" or not np.isfinite(a).all() for a in arrays):
        raise LorankError(f"{path.name}: pixels, points and boxes are finite numbers, found others")
    if not (box[:, 2:] > 0).all():
        raise LorankError(f"{path.name}: boxes have an area, found one without")
    pixels = images.reshape(n, -1).astype(np.float32)
    low, high = pixels.min(1, keepdims=True), pixels.max(1, keepdims=True)
    pixels = (pixels - low) / np.where(high > low, high - low, 1)
    inside = (points.astype(np.float64) - box[:, None, :2]) / box[:, None, 2:] - 0.5
    targets = np.concatenate([inside[..., 0], inside[..., 1]], 1).astype(np.float32)
    sides = torch.from_numpy(box[:, 2:].astype(np.float32))
    return Faces(torch.from_numpy(pixels), torch.from_numpy(targets), sides)
