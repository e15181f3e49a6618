import importlib
import sys

import numpy as np
import pytest
from scans import affine, write_nifti, write_series

from lorank.errors import LorankError, MissingExtraError
from lorank.localization import Volume, read_volume, synthetic_volume
from lorank.localization.scaling import scaled

nibabel = pytest.importorskip("nibabel", reason="NIfTI needs the extra 'scan'")
pydicom = pytest.importorskip("pydicom", reason="DICOM needs the extra 'scan'")


def small(axes="SPL"):
    g = np.random.default_rng(1)
    values = g.integers(-1000, 1800, (6, 4, 5)).astype(np.int16)
    return Volume(values, (2.5, 0.75, 0.5), axes)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPL", "AIR"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_nifti_file_comes_back_as_it_was(tmp_path, axes, ending):
    scan = small(axes)
    found = read_volume(write_nifti(scan, tmp_path / f"a{ending}"))
    assert found.axes == axes and np.array_equal(found.values, scan.values)
    assert found.spacing == pytest.approx(scan.spacing)
    assert "".join(nibabel.aff2axcodes(affine(scan))) == axes


def test_scale_factors_of_a_nifti_header_count(tmp_path):
    image = nibabel.Nifti1Image(small().values, affine(small()))
    image.header.set_slope_inter(2.0, -100.0)
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
    reference = nibabel.load(tmp_path / "a.nii").get_fdata()
    assert np.abs(found.values - reference).max() <= np.spacing(np.float32(2**12))


def test_metres_become_millimetres(tmp_path):
    scan = small()
    thin = Volume(scan.values, (0.0025, 0.00075, 0.0005), "SPL")
    found = read_volume(write_nifti(thin, tmp_path / "a.nii", unit="meter"))
    assert found.spacing == pytest.approx(scan.spacing, rel=1e-6)


FORMS, LENGTHS = range(252, 256), range(80, 92)
"""Places in a NIfTI header: codes of both forms, and lengths of the first three axes."""


def blank(path, *places):
    content = bytearray(path.read_bytes())
    for place in places:
        content[place.start : place.stop] = bytes(len(place))
    path.write_bytes(content)
    return path


def test_a_nifti_file_without_orientation_asks_for_it(tmp_path):
    path = blank(write_nifti(small(), tmp_path / "a.nii"), FORMS)
    with pytest.raises(LorankError, match="states no orientation"):
        read_volume(path)
    assert read_volume(path, axes="SPL").spacing == pytest.approx((2.5, 0.75, 0.5))


def test_a_nifti_file_without_spacing_is_refused(tmp_path):
    blank(write_nifti(small(), tmp_path / "a.nii"), FORMS, LENGTHS)
    with pytest.raises(LorankError, match="millimetres from voxel to voxel"):
        read_volume(tmp_path / "a.nii", axes="SPL")


def test_an_oblique_volume_is_refused(tmp_path):
    turned = affine(small("RAS"))
    angle = np.deg2rad(40)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    turned[:3, :3] = turn @ turned[:3, :3]
    nibabel.save(nibabel.Nifti1Image(small().values, turned), tmp_path / "a.nii")
    with pytest.raises(LorankError, match="oblique"):
        read_volume(tmp_path / "a.nii")


def test_several_volumes_in_one_file_are_refused(tmp_path):
    four = np.zeros((3, 3, 3, 2), np.int16)
    nibabel.save(nibabel.Nifti1Image(four, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(LorankError, match="one volume with three axes"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_truncated_nifti_file_is_refused(tmp_path, ending):
    path = write_nifti(small(), tmp_path / f"a{ending}")
    content = path.read_bytes()
    for length in (0, 40, len(content) // 2, len(content) - 9):
        path.write_bytes(content[:length])
        with pytest.raises(LorankError, match="cannot be read as NIfTI"):
            read_volume(path)


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_a_series_is_sorted_and_rescaled(tmp_path, slope):
    scan = small()
    found = read_volume(write_series(scan, tmp_path / "s", slope=slope))
    assert found.axes == "SPL" and found.spacing == pytest.approx(scan.spacing)
    assert np.abs(found.values - scan.values).max() <= slope / 2
    heights = [
        float(pydicom.dcmread(tmp_path / "s" / name).ImagePositionPatient[2])
        for name in found.slices
    ]
    assert heights == sorted(heights) and list(found.slices) != sorted(found.slices)


def test_nifti_and_dicom_of_one_scan_lead_to_one_projection(tmp_path):
    from lorank.localization import project

    scan, _ = synthetic_volume(2, height=2.5)
    a = project(read_volume(write_nifti(scan, tmp_path / "a.nii.gz")))
    b = project(read_volume(write_series(scan, tmp_path / "s")))
    assert np.array_equal(a.image, b.image) and a.count == b.count
    assert a.slice_at(100) == b.slice_at(100)


def test_feet_first_slices_keep_their_letters(tmp_path):
    def flip(header, number):
        header.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]

    found = read_volume(write_series(small(), tmp_path / "s", change=flip))
    assert found.axes == "IPR" and found.count == 6


def test_two_series_are_refused_until_one_is_named(tmp_path):
    scan = small()
    write_series(scan, tmp_path / "s", uid="1.2.3")
    write_series(scan, tmp_path / "s", uid="1.2.4")
    with pytest.raises(LorankError, match=r"one series, found 2: .*1\.2\.[34] \(6 files\)"):
        read_volume(tmp_path / "s")
    assert read_volume(tmp_path / "s", series="1.2.4").count == 6
    with pytest.raises(LorankError, match="has no series '9'"):
        read_volume(tmp_path / "s", series="9")


def test_a_series_that_lost_its_name_is_one_series(tmp_path):
    def anonymous(header, number):
        del header.SeriesInstanceUID

    assert read_volume(write_series(small(), tmp_path / "s", change=anonymous)).count == 6


def only(number, **changes):
    def change(header, at):
        if at == number:
            for name, value in changes.items():
                if value is None:
                    delattr(header, name)
                else:
                    setattr(header, name, value)

    return change


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PixelSpacing": None}, "states no PixelSpacing"),
        ({"ImagePositionPatient": None}, "states no ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "states no ImageOrientationPatient"),
        ({"Modality": "MR"}, "must be CT, found modality 'MR'"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"PixelSpacing": [0.9, 0.9]}, "the same PixelSpacing"),
        ({"ImagePositionPatient": [-100, -80, 10]}, "two at one place"),
        ({"ImagePositionPatient": [-100, -80, 300]}, "is a slice missing"),
        ({"PixelData": b"\0\0"}, "cannot be read"),
    ],
)
def test_a_series_that_is_no_volume_is_refused(tmp_path, changes, says):
    write_series(small(), tmp_path / "s", change=only(3, **changes))
    with pytest.raises(LorankError, match=says):
        read_volume(tmp_path / "s")


def test_a_missing_slice_is_seen(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    next(p for p in folder.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 15).unlink()
    with pytest.raises(LorankError, match=r"gaps from 2\.5 to 5 mm"):
        read_volume(folder)


def test_a_truncated_slice_is_refused(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    path = sorted(folder.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(LorankError, match=rf"{path.name} cannot be read"):
        read_volume(folder)


def test_other_files_in_the_folder_are_left_out(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    (folder / "notes.txt").write_text("of the radiologist")
    assert read_volume(folder).count == 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(LorankError, match="no DICOM file"):
        read_volume(tmp_path / "empty")


def test_one_dicom_slice_is_refused(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    with pytest.raises(LorankError, match="at least 2 slices, found 1"):
        read_volume(folder)


def test_an_array_needs_spacing_and_axes(tmp_path):
    np.save(tmp_path / "a.npy", small().values)
    with pytest.raises(LorankError, match="give its spacing"):
        read_volume(tmp_path / "a.npy")
    with pytest.raises(LorankError, match="give its axes"):
        read_volume(tmp_path / "a.npy", spacing=(1, 1, 1))
    assert read_volume(tmp_path / "a.npy", spacing=(1, 1, 1), axes="RAS").axes == "RAS"


def test_an_array_that_would_run_code_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LorankError, match="no whole array"):
        read_volume(tmp_path / "a.npy", spacing=(1, 1, 1), axes="RAS")


@pytest.mark.parametrize("length", [0, 20, 150])
def test_a_truncated_array_is_refused(tmp_path, length):
    np.save(tmp_path / "a.npy", small().values)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:length])
    with pytest.raises(LorankError, match="no whole array"):
        read_volume(tmp_path / "a.npy", spacing=(1, 1, 1), axes="RAS")


def test_what_is_no_scan_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for name, says in (("a.txt", "unknown kind of scan"), ("b.nii", "there is no file")):
        with pytest.raises(LorankError, match=says):
            read_volume(tmp_path / name)
    with pytest.raises(LorankError, match="there is no scan"):
        read_volume(tmp_path / "b")


@pytest.mark.parametrize(("module", "name"), [("nibabel", "a.nii"), ("pydicom", "s")])
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, module, name):
    write_nifti(small(), tmp_path / "a.nii")
    (tmp_path / "s").mkdir()
    real = importlib.import_module

    def without(wanted, *rest):
        if wanted == module:
            raise ModuleNotFoundError(name=module)
        return real(wanted, *rest)

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=r"lorank\[scan\]"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("scale", [(1, 0), (1, -1024), (2, -5000), (0.5, 3), (1e6, 0)])
def test_scaling_is_exact_where_it_stays_whole(dtype, scale):
    stored = np.array([0, 1, 7, 200], dtype)
    found = scaled(stored, *scale)
    wanted = stored.astype(np.float64) * scale[0] + scale[1]
    assert np.array_equal(found.astype(np.float64), wanted)
    whole = np.issubdtype(dtype, np.integer) and scale[0] != 0.5 and scale[0] < 1e6
    assert (found.dtype == np.int16) is bool(whole)
