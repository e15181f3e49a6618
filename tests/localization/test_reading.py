import importlib
import sys

import numpy as np
import pytest
from scans import affine, write_nifti, write_series

from lorank.errors import LorankError, MissingExtraError
from lorank.localization import View, Volume, project, read_volume, synthetic_volume
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
    metres = affine(scan) @ np.diag([1e-3, 1e-3, 1e-3, 1])
    image = nibabel.Nifti1Image(scan.values, metres)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii")
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


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_an_affine_without_an_axis_is_refused(tmp_path, bad):
    path = write_nifti(small("RAS"), tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[296:328] = np.array([0, bad, 0, 0, 0, 0, 1, 0], "<f4").tobytes()  # srow_y, srow_z
    path.write_bytes(content)
    with pytest.raises(LorankError, match="an axis of its affine has length 0 or NaN"):
        read_volume(path)


def test_letters_for_a_nifti_file_that_has_its_own_are_refused(tmp_path):
    with pytest.raises(LorankError, match="states its own orientation"):
        read_volume(write_nifti(small(), tmp_path / "a.nii"), axes="LPI")


def test_an_unknown_unit_is_refused(tmp_path):
    with pytest.raises(LorankError, match="no unit of length that NIfTI knows, found code 7"):
        read_volume(write_nifti(small(), tmp_path / "a.nii", xyzt_units=7))


@pytest.mark.parametrize("kind", [[("R", "u1"), ("G", "u1"), ("B", "u1")], np.complex64])
def test_colours_and_complex_numbers_are_refused(tmp_path, kind):
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), kind), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(LorankError, match="must hold real numbers"):
        read_volume(tmp_path / "a.nii")


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
    scan, _ = synthetic_volume(2, height=2.5)
    a = project(read_volume(write_nifti(scan, tmp_path / "a.nii.gz")))
    b = project(read_volume(write_series(scan, tmp_path / "s")))
    assert np.array_equal(a.image, b.image) and a.count == b.count
    assert a.slice_at(100) == b.slice_at(100)


@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("front", [1, -1])
def test_axial_slices_run_from_the_feet_to_the_head_however_they_lie(tmp_path, right, front):
    def turn(header, number):
        header.ImageOrientationPatient = [right, 0, 0, 0, front, 0]

    found = read_volume(write_series(small(), tmp_path / "s", change=turn))
    assert found.axes == "S" + "AP"[front > 0] + "RL"[right > 0]
    assert np.array_equal(found.values, small().values)
    heights = [
        float(pydicom.dcmread(tmp_path / "s" / name).ImagePositionPatient[2])
        for name in found.slices
    ]
    assert heights == sorted(heights)


PLANES = {"axial": ("X", "Y"), "coronal": ("X", "-Z"), "sagittal": ("Y", "-Z"), "odd": ("-Z", "-X")}


@pytest.mark.parametrize("plane", PLANES)
def test_a_point_of_the_patient_is_where_it_was(tmp_path, plane):
    """A bright voxel, its place in the patient by the formula of DICOM, and in the projection."""
    unit = {"X": (1, 0, 0), "Y": (0, 1, 0), "Z": (0, 0, 1), "-Z": (0, 0, -1), "-X": (-1, 0, 0)}
    along, down = (np.array(unit[name]) for name in PLANES[plane])
    step = np.cross(along, down)
    values = np.full((9, 11, 13), -1000, np.int16)
    values[2, 7, 3] = 1500
    scan = Volume(values, (2.5, 2.0, 1.5), "SPL")

    def place(header, number):
        header.ImageOrientationPatient = [*map(int, along), *map(int, down)]
        header.ImagePositionPatient = [float(v) for v in 2.5 * number * step]

    found = read_volume(write_series(scan, tmp_path / "s", change=place))
    corners = [
        2.5 * k * step + 2.0 * j * down + 1.5 * i * along
        for k in (0, 8)
        for j in (0, 10)
        for i in (0, 12)
    ]
    point = 2.5 * 2 * step + 2.0 * 7 * down + 1.5 * 3 * along
    middle, head = np.mean(corners, axis=0), np.max(corners, axis=0)[2]
    for name, side in (("frontal", 0), ("lateral", 1)):  # columns grow to the left, or the back
        view = View(plane=name, row_mm=0.5, column_mm=0.5, columns=81, low=-1000)
        image = project(found, view)
        row, column = np.unravel_index(image.image.argmax(), image.image.shape)
        assert row * 0.5 == pytest.approx(head - point[2])
        assert (column - 40) * 0.5 == pytest.approx(point[side] - middle[side])
        below = found.along("I" + found.axes.translate(str.maketrans("", "", "SI")))[0]
        down_at = int(below.max((1, 2)).argmax())
        number = down_at if "I" in found.axes else found.count - 1 - down_at
        assert image.slice_at(float(row)) == number


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
        ({"RescaleSlope": None}, "states no RescaleSlope"),
        ({"RescaleIntercept": None}, "states no RescaleIntercept"),
        ({"RescaleSlope": 0}, "a slope is not 0"),
        ({"Columns": None}, "states no Columns"),
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


@pytest.mark.parametrize("scale", [2, 0])
def test_a_plane_of_no_unit_vectors_is_refused(tmp_path, scale):
    def change(header, number):
        header.ImageOrientationPatient = [scale, 0, 0, 0, scale, 0]

    with pytest.raises(LorankError, match="two unit vectors at a right angle"):
        read_volume(write_series(small(), tmp_path / "s", change=change))


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_truncated_slice_is_refused_wherever_it_breaks_off(tmp_path):
    """The uppermost slice: without it the others are a series, and slices would miscount."""
    folder = write_series(small(), tmp_path / "s")
    path = next(
        p for p in folder.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 10 + 5 * 2.5
    )
    content = path.read_bytes()
    for length in (*range(0, len(content), 7), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(LorankError, match=path.name):
            read_volume(folder)


def test_packed_pixels_that_cannot_be_unpacked_name_their_packing(tmp_path):
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, RLELossless

    def packed(header, number):
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
        header.PixelData = encapsulate([b"no picture"])
        header["PixelData"].is_undefined_length = True

    with pytest.raises(LorankError, match=r"packed \(JPEG 2000 .*plugin"):
        read_volume(write_series(small(), tmp_path / "a", change=packed))
    folder = write_series(small(), tmp_path / "b", change=lambda h, _: h.compress(RLELossless))
    assert np.array_equal(read_volume(folder).values, small().values)


def test_a_series_is_read_beside_pictures_of_another_kind(tmp_path):
    def report(header, number):
        header.Modality = "OT"
        del header.ImagePositionPatient, header.PixelSpacing

    folder = write_series(small(), tmp_path / "s")
    write_series(small(), folder, uid="9.9", change=report)
    with pytest.raises(LorankError, match="one series, found 2"):
        read_volume(folder)
    assert read_volume(folder, series="1.2.3").count == 6
    with pytest.raises(LorankError, match="found modality 'OT'"):
        read_volume(folder, series="9.9")


def test_other_files_in_the_folder_are_left_out(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    (folder / "notes.txt").write_text("of the radiologist")
    (folder / "._1.dcm").write_text("of another file system")
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


def test_a_packed_file_with_a_changed_bit_is_refused(tmp_path):
    """Most of them unpack to other voxels: only the checksum at the end of the file tells."""
    path = write_nifti(synthetic_volume(0)[0], tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-5] ^= 1  # of the checksum, as a bit of the voxels would be one the other way
    path.write_bytes(content)
    with pytest.raises(LorankError, match="cannot be read as NIfTI: CRC check failed"):
        read_volume(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(LorankError, match="cannot be read as NIfTI"):
        read_volume(path)


def test_a_file_that_is_no_array_is_refused_without_advice_to_unpickle(tmp_path):
    for content in (b"what else", b"PK"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(LorankError, match="no whole array in NumPy's format") as said:
            read_volume(tmp_path / "a.npy", spacing=(1, 1, 1), axes="RAS")
        assert "pickle" not in str(said.value)


@pytest.mark.parametrize("spacing", ["111", 1.0])
def test_a_spacing_that_is_no_list_is_refused(tmp_path, spacing):
    np.save(tmp_path / "a.npy", small().values)
    with pytest.raises(LorankError, match=r"millimetres from voxel to voxel .* found '?1"):
        read_volume(tmp_path / "a.npy", spacing=spacing, axes="RAS")


@pytest.mark.parametrize(
    "kind", ["1.2.840.10008.5.1.4.4.1.2", "1.2.840.10008.5.1.4.1\x1e1.2", "1.2\\1.3"]
)
def test_a_slice_whose_header_is_damaged_is_not_left_out(tmp_path, kind):
    """Its kind is none that DICOM knows, so that it cannot be trusted to be no slice."""
    folder = write_series(small(), tmp_path / "s")
    path = next(
        p for p in folder.iterdir() if pydicom.dcmread(p).ImagePositionPatient[2] == 10 + 5 * 2.5
    )
    content = path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2", kind.encode().ljust(25), 1)
    broken = content.index(b"(\x00\x10\x00US")  # the tag of the number of rows
    path.write_bytes(content[:broken] + b"(\x00\x0f" + content[broken + 3 :])
    with pytest.raises(LorankError, match="breaks off in its header"):
        read_volume(folder)


def test_a_header_that_cannot_be_decoded_is_refused(tmp_path):
    folder = write_series(small(), tmp_path / "s")
    path = next(folder.iterdir())
    content = path.read_bytes()
    kind = content.index(b"\x02\x00\x02\x00UI")
    rows = content.index(b"(\x00\x10\x00US")
    changed = content[: kind + 4] + b"WI" + content[kind + 6 : rows] + b"(\x00\x0f"
    path.write_bytes(changed + content[rows + 3 :])
    with pytest.raises(LorankError, match="cannot be read as DICOM"):
        read_volume(folder)
