"""Windows of fixed height over the rows of a projection, and the offsets that they should have."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lorank.errors import LorankError
from lorank.localization.projection import Projection, View

MARGIN = 8
"""Rows between a training window's end and its target, at least: half a vertebra is seen."""


def centres(projection: Projection, view: View, step: int = 1) -> np.ndarray:
    """Rows on which a window's centre can lie, every ``step`` rows; the window stays inside.

    A window about row c has the rows c − rows/2 to c + rows/2 − 1.

    Raises:
        LorankError: if the projection is of another view, the scan is shorter than a window, or the
            step is not positive.

    Example:
        >>> image = Projection(np.zeros((20, 96), np.float32), 1.0, 20, 1.0, True)
        >>> centres(image, View(rows=16), step=2).tolist()
        [8, 10, 12]
    """
    if isinstance(step, bool) or not isinstance(step, int) or step < 1:
        raise LorankError(f"the step between windows is a whole number of rows, found {step!r}")
    columns, row_mm = projection.image.shape[1], projection.row_mm
    if (columns, row_mm) != (view.columns, view.row_mm):
        raise LorankError(
            f"{projection.name}: this view takes {view.columns} columns and rows of "
            f"{view.row_mm:g} mm, found {columns} and {row_mm:g} mm"
        )
    rows, half = len(projection.image), view.rows // 2
    if rows < view.rows:
        raise LorankError(
            f"{projection.name}: a scan is at least as high as a window, {view.rows} rows of "
            f"{view.row_mm:g} mm, found {rows}"
        )
    return np.arange(half, rows - half + 1, step)


def windows(image: Tensor, at: Sequence[int] | np.ndarray, rows: int) -> Tensor:
    """Cut windows out of an image without a copy.

    Args:
        image: (H, W).
        at: rows of the centres.
        rows: height of a window.

    Returns:
        (n, 1, rows, W).

    Example:
        >>> windows(torch.arange(6.0).view(6, 1), [2, 3], 4)[:, 0, :, 0].tolist()
        [[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]
    """
    every = image.unfold(0, rows, 1).transpose(1, 2)  # (H − rows + 1, rows, W)
    return every[torch.as_tensor(at, dtype=torch.long) - rows // 2].unsqueeze(1)


class Windows(Dataset):
    """Training windows: each holds the target, and its label is the target's signed offset in mm.

    The windows of a scan are all that keep the target inside by a margin; ``per_scan`` of them are
    taken, evenly. ``__getitems__`` gives a whole batch, for ``collate_fn=as_is``.

    Args:
        projections: images of scans, all of one width.
        targets: row of the target in each.
        view: the same that made the images.
        per_scan: windows of one scan, at most.

    Raises:
        LorankError: if there is no scan, one is of another view or shorter than a window, a target
            lies outside its image, no window of a scan holds it, one that holds it is empty, or
            no window is to be taken.

    Example:
        >>> image = Projection(np.eye(60, 96, dtype=np.float32), 1.0, 60, 1.0, True)
        >>> cut = Windows([image], [30.0], View(rows=32))
        >>> window, offset = cut[0]
        >>> window.shape, len(cut), offset.item()
        (torch.Size([1, 32, 96]), 17, 8.0)
    """

    def __init__(
        self,
        projections: Sequence[Projection],
        targets: Sequence[float],
        view: View,
        per_scan: int = 1000,
    ) -> None:
        if not projections or len(projections) != len(targets):
            raise LorankError(
                f"windows need scans with one target each, found {len(projections)} scans and "
                f"{len(targets)} targets"
            )
        if per_scan < 1:
            raise LorankError(f"a scan gives at least 1 window, found {per_scan}")
        self.view = view
        self.images = [torch.from_numpy(np.ascontiguousarray(p.image)) for p in projections]
        pairs = [
            (number, int(row), float(target - row) * view.row_mm)
            for number, (image, target) in enumerate(zip(projections, targets, strict=True))
            for row in _holding(image, target, view, per_scan)
        ]
        scans, rows, offsets = zip(*pairs, strict=True)
        self.scan, self.row = torch.tensor(scans), torch.tensor(rows)
        self.labels = torch.tensor(offsets, dtype=torch.float32)

    def __len__(self) -> int:
        """Count the windows."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Give one window (1, rows, columns) and its offset."""
        found, offset = self.__getitems__([index])
        return found[0], offset[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give a batch of windows (N, 1, rows, columns) and offsets (N,)."""
        half = self.view.rows // 2
        found = [
            self.images[int(self.scan[i])][int(self.row[i]) - half : int(self.row[i]) + half]
            for i in indices
        ]
        return torch.stack(found).unsqueeze(1), self.labels[torch.as_tensor(indices)]


def _holding(image: Projection, target: float, view: View, most: int) -> np.ndarray:
    """Centres of windows that hold the target, at most ``most`` of them, evenly."""
    every = centres(image, view)
    if not 0 <= target <= len(image.image) - 1:
        raise LorankError(
            f"{image.name}: the target lies in the image, rows 0 to {len(image.image) - 1}, "
            f"found row {target:g}"
        )
    reach = view.rows / 2 - min(MARGIN, view.rows // 4)
    found = every[np.abs(every - target) <= reach]
    if not len(found):
        raise LorankError(
            f"{image.name}: no window of {view.rows} rows holds row {target:g} by a margin: the "
            "target lies too near to the end of the scan"
        )
    take = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    found, half = found[take], view.rows // 2
    empty = [row for row in found if blank(image.image[row - half : row + half])]
    if empty:
        raise LorankError(
            f"{image.name}: windows that hold the target show bone, and the one about row "
            f"{empty[0]} is empty: is the slice right, and is the scan in Hounsfield units?"
        )
    return found


def blank(image: np.ndarray) -> bool:
    """Whether nothing can be seen: all pixels are alike, as below or above the view's range.

    Example:
        >>> blank(np.zeros((4, 4))), blank(np.eye(4))
        (True, False)
    """
    return bool(image.min() == image.max())
