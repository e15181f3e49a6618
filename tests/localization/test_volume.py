import itertools

import numpy as np
import pytest

from lorank.errors import LorankError
from lorank.localization import Projection, View, Volume, project

PAIRS = ("RL", "AP", "SI")
EVERY = [
    "".join(letters)
    for order in itertools.permutations(PAIRS)
    for letters in itertools.product(*order)
]


def head(seed=0):
    """A volume IPR, of odd sizes, no two voxels alike."""
    g = np.random.default_rng(seed)
    values = g.permutation(11 * 5 * 7).reshape(11, 5, 7).astype(np.int16)
    return Volume(values, (2.0, 3.0, 4.0), "IPR")


@pytest.mark.parametrize("axes", EVERY)
def test_every_orientation_leads_to_the_same_projection(axes):
    scan = head()
    turned, spacing = scan.along(axes)
    again = Volume(turned, spacing, axes)
    view = View(columns=9, column_mm=4.0, low=0, high=400)
    for plane in ("frontal", "lateral"):
        seen = View(**(view.as_dict() | {"plane": plane}))
        a, b = project(scan, seen), project(again, seen)
        assert np.array_equal(a.image, b.image)
        # The same slice has another number where the axis runs the other way.
        number = a.slice_at(6.0)
        same = number if "I" in axes else scan.count - 1 - number
        assert b.slice_at(6.0) == same


def test_the_orientations_are_all_there_are():
    assert len(set(EVERY)) == 48


def test_a_projection_is_the_largest_value_in_its_window():
    scan = head()
    view = View(row_mm=2.0, columns=7, column_mm=4.0, low=0, high=400)
    frontal = project(scan, view).image
    wanted = scan.values.max(axis=1)[:, ::-1] / 400  # the first column is the patient's right
    assert np.allclose(frontal, wanted.clip(0, 1), atol=1e-6)
    side = View(**(view.as_dict() | {"plane": "lateral", "columns": 5, "column_mm": 3.0}))
    lateral = project(scan, side).image
    assert np.allclose(lateral, (scan.values.max(axis=2) / 400).clip(0, 1), atol=1e-6)


def test_rows_are_a_millimetre_and_lie_between_slices():
    scan = head()
    view = View(columns=7, column_mm=4.0, low=-1024, high=400)
    image = project(scan, view).image
    assert len(image) == 21  # 10 gaps of 2 mm
    assert np.allclose(image[1], (image[0] + image[2]) / 2, atol=1e-6)


@pytest.mark.parametrize("height", [0.625, 1.0, 2.5, 5.0])
@pytest.mark.parametrize("axes", ["SPL", "IPL"])
def test_a_row_leads_back_to_its_slice(height, axes):
    count = 57
    scan = Volume(np.zeros((count, 2, 2), np.int16), (height, 1, 1), axes)
    image = project(scan, View(columns=2))
    assert [image.slice_at(image.row_of(n)) for n in range(count)] == list(range(count))
    assert abs(len(image.image) - 1 - (count - 1) * height) < 1
    top = 0 if axes[0] == "I" else count - 1
    assert image.slice_at(0) == top


def test_columns_lie_about_the_middle_and_the_rest_is_air():
    values = np.full((3, 3, 5), -1000, np.int16)
    values[:, 1, 2] = 1000
    image = project(Volume(values, (1, 1, 1), "SPL"), View(columns=9, column_mm=1.0)).image
    assert image[0].argmax() == 4 and (image[:, :2] == 0).all()


@pytest.mark.parametrize("spacing", [None, (1, 1), (1, 0, 1), (1, -1, 1), (1, 1, np.nan), "abc"])
def test_a_volume_without_spacing_is_refused(spacing):
    with pytest.raises(LorankError, match="millimetres from voxel to voxel"):
        Volume(np.zeros((2, 2, 2)), spacing, "RAS")


@pytest.mark.parametrize("spacing", [(1000, 1000, 3000), (0.0008, 1, 1), (1, 1, 1e-9)])
def test_another_unit_is_refused(spacing):
    with pytest.raises(LorankError, match="at most 50"):
        Volume(np.zeros((2, 2, 2)), spacing, "RAS")


@pytest.mark.parametrize("axes", [None, "", "RA", "RRS", "RLS", "XYZ", "RASS", 3])
def test_an_unknown_orientation_is_refused(axes):
    with pytest.raises(LorankError, match="an orientation is three letters"):
        Volume(np.zeros((2, 2, 2)), (1, 1, 1), axes)


@pytest.mark.parametrize(
    "values", [np.zeros((2, 2)), np.zeros((0, 2, 2)), np.zeros((2, 2, 2), complex), [["a"]]]
)
def test_what_is_no_volume_is_refused(values):
    with pytest.raises(LorankError, match=r"an array \(a, b, c\)"):
        Volume(values, (1, 1, 1), "RAS")


def test_one_slice_is_refused():
    with pytest.raises(LorankError, match="at least 2 slices, found 1"):
        project(Volume(np.zeros((4, 4, 1), np.int16), (1, 1, 1), "RAS"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(bad):
    values = np.zeros((4, 4, 6), np.float32)
    values[1, 2, 3] = bad
    with pytest.raises(LorankError, match=r"NaN or Inf in 1 of 24 lines"):
        project(Volume(values, (1, 1, 1), "RAS"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plane": "axial"}, "unknown plane"),
        ({"rows": 7}, "even number of rows"),
        ({"low": 5, "high": 5}, "low lies below"),
        ({"columns": 0}, "at least 1 column"),
        ({"columns": 2.5}, "columns of a view are a whole number, found 2.5"),
        ({"rows": 64.0}, "rows of a view are a whole number, found 64.0"),
        ({"rows": "64"}, "rows of a view are a whole number, found '64'"),
        ({"column_mm": float("inf")}, "above 0 mm and finite"),
        ({"row_mm": float("nan")}, "above 0 mm and finite"),
        ({"high": float("inf")}, "both finite"),
    ],
)
def test_a_view_is_checked(change, says):
    with pytest.raises(LorankError, match=says):
        View(**change)


def test_a_slice_that_is_not_there_has_no_row():
    image = Projection(np.zeros((5, 2), np.float32), 1.0, 5, 1.0, True)
    with pytest.raises(LorankError, match="slices 0 to 4, found 5"):
        image.row_of(5)
