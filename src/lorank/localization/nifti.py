"""Scans in NIfTI files, by nibabel."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from lorank.errors import LorankError, extra
from lorank.localization.scaling import scaled
from lorank.localization.volume import Volume
from lorank.zoo.reason import reason

UNITS = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
"""Millimetres in a unit by its NIfTI code: none (in millimetres by custom), metre, mm, micron."""

STRAIGHT = 0.9
"""Smallest cosine between a volume's axis and the patient's: about 25 degrees."""


def read_nifti(path: str | Path, *, axes: str | None = None) -> Volume:
    """Read ``.nii`` or ``.nii.gz``; scale factors of the header are applied.

    Args:
        path: the file.
        axes: orientation letters, for a file that does not state its own.

    Returns:
        The scan, its axes as they lie in the file.

    Raises:
        LorankError: if the file is missing, damaged or no NIfTI, is not one volume of real
            numbers, states no spacing, no unit that is known or no orientation, letters are given
            and it states its own, or it lies oblique by more than 25 degrees.
        MissingExtraError: if nibabel is not installed.

    Example: ``read_nifti("scan.nii.gz").axes``
    """
    place = Path(path)
    nibabel = extra("nibabel", "scan")
    if not place.is_file():
        raise LorankError(f"there is no file {place}")
    try:
        image: Any = nibabel.load(place)
        stored = np.asanyarray(image.dataobj.get_unscaled())
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        header = _header(image)
        _check_sum(place)
    except Exception as error:  # a damaged file may make the reader raise anything
        raise LorankError(f"{place} cannot be read as NIfTI: {reason(error)}") from None
    stored = _one(stored, place)
    if axes is not None and _known(image):
        raise LorankError(f"{place} states its own orientation: leave axes out")
    letters = _axes(nibabel, image, place) if axes is None else axes
    spacing = _spacing(image, header, place)
    return Volume(scaled(stored, slope, intercept), spacing, letters, name=str(place))


def _one(stored: np.ndarray, place: Path) -> np.ndarray:
    """Take the one volume of a file; axes of length 1 after the third are left out."""
    shape = stored.shape
    if stored.dtype.kind not in "iuf":
        raise LorankError(f"{place} must hold real numbers, found {stored.dtype}")
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise LorankError(f"{place} must hold one volume with three axes, found shape {shape}")
    return stored.reshape(shape[:3])


def _header(image: Any) -> Any:
    """Read the header as it stands in the file: nibabel's own has lengths of 0 put to 1."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        return type(image.header).from_fileobj(file, check=False)


def _check_sum(place: Path) -> None:
    """Read a packed file to its end, where its checksum stands: nibabel stops before it."""
    if place.name.lower().endswith(".gz"):
        with gzip.open(place) as file:
            while file.read(1 << 20):
                pass


def _spacing(image: Any, header: Any, place: Path) -> tuple[float, float, float]:
    """Read voxel sizes in the header's unit; those of the affine where the header has one."""
    code = int(header["xyzt_units"]) & 7  # the other bits are the unit of time
    if code not in UNITS:
        raise LorankError(f"{place} states no unit of length that NIfTI knows, found code {code}")
    unit = UNITS[code]
    columns = np.linalg.norm(image.affine[:3, :3], axis=0)
    a, b, c = columns if _known(image) else np.abs(header["pixdim"][1:4])
    return float(a) * unit, float(b) * unit, float(c) * unit


def _known(image: Any) -> bool:
    """Whether the file states where its voxels lie: a form code of 0 says that nobody knows."""
    header = image.header
    return int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0


def _axes(nibabel: Any, image: Any, place: Path) -> str:
    if not _known(image):
        raise LorankError(
            f"{place} states no orientation (its sform and qform codes are 0): give the letters "
            "of its axes, such as RAS"
        )
    directions = image.affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if not (np.isfinite(directions).all() and (lengths > 0).all()):
        raise LorankError(f"{place} states no spacing: an axis of its affine has length 0 or NaN")
    cosines = np.abs(directions / lengths)
    if cosines.max(0).min() < STRAIGHT or len(set(cosines.argmax(0))) < 3:
        raise LorankError(
            f"{place} lies oblique to the patient, by more than 25 degrees: resample it to "
            "straight axes first"
        )
    return "".join(nibabel.aff2axcodes(image.affine))
