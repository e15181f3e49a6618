import numpy as np
import pytest
import torch

from lorank.errors import LorankError
from lorank.localization import Projection, View, Windows
from lorank.localization.windows import centres, windows

VIEW = View(rows=32, columns=3)


def ramp(rows=100):
    """An image whose rows say which they are."""
    image = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    return Projection(image, 1.0, rows, 1.0, True)


def test_windows_hold_their_rows():
    at = centres(ramp(), VIEW, step=7)
    cut = windows(torch.from_numpy(ramp().image), at, 32)
    assert cut.shape == (len(at), 1, 32, 3)
    assert (cut[:, 0, 16, 0] == torch.from_numpy(at)).all()
    assert at[0] == 16 and at[-1] <= 84 and len(centres(ramp(), VIEW)) == 69


def test_labels_are_the_signed_offset_of_the_target_that_the_window_holds():
    made = Windows([ramp(), ramp(60)], [50.0, 31.5], VIEW)
    images, offsets = made.__getitems__(list(range(len(made))))
    targets = torch.where(made.scan == 0, 50.0, 31.5)
    assert torch.equal(images[:, 0, 16, 0] + offsets, targets)
    held = targets - images[:, 0, 0, 0]
    assert held.min() >= 8 and held.max() <= 32 - 8
    one, offset = made[3]
    assert torch.equal(one, images[3]) and offset == offsets[3]


def test_millimetres_are_not_rows():
    image = ramp()
    thick = Projection(image.image, 2.0, 100, 2.0, True)
    view = View(rows=32, columns=3, row_mm=2.0)
    wide, plain = Windows([thick], [50.0], view), Windows([image], [50.0], VIEW)
    assert torch.equal(wide.labels, 2 * plain.labels)


def test_as_many_windows_as_asked_for():
    few = Windows([ramp()] * 3, [50.0] * 3, VIEW, per_scan=5)
    assert len(few) == 15 and few.labels[:5].tolist() == [8, 4, 0, -4, -8]


@pytest.mark.parametrize(
    ("target", "rows", "says"),
    [
        (50.0, 20, "at least as high as a window, 32 rows of 1 mm, found 20"),
        (120.0, 100, "rows 0 to 99, found row 120"),
        (float("nan"), 100, "the target lies in the image"),
        (2.0, 100, "no window of 32 rows holds row 2 by a margin"),
    ],
)
def test_a_scan_without_windows_is_refused(target, rows, says):
    with pytest.raises(LorankError, match=says):
        Windows([ramp(rows)], [target], VIEW)


def test_windows_that_show_nothing_are_refused():
    image = ramp()
    image.image[40:75] = 0  # rows that were padded with air
    with pytest.raises(LorankError, match="the one about row 56 is empty: is the slice right"):
        Windows([image], [58.0], VIEW)


def test_no_scan_and_no_target_are_refused():
    for scans, targets in (([], []), ([ramp()], [])):
        with pytest.raises(LorankError, match="one target each"):
            Windows(scans, targets, VIEW)
    with pytest.raises(LorankError, match="whole number of rows"):
        centres(ramp(), VIEW, step=0)


def test_images_of_another_view_are_refused():
    """A network may take any width, and would be trained on what its finder then refuses."""
    with pytest.raises(LorankError, match="takes 4 columns and rows of 1 mm, found 3 and 1 mm"):
        Windows([ramp()], [50.0], View(rows=32, columns=4))
    with pytest.raises(LorankError, match="rows of 2 mm, found 3 and 1 mm"):
        Windows([ramp()], [50.0], View(rows=32, columns=3, row_mm=2.0))


def test_no_window_of_a_scan_is_refused():
    for count in (0, -1):
        with pytest.raises(LorankError, match=f"at least 1 window, found {count}"):
            Windows([ramp()], [50.0], VIEW, per_scan=count)
