"""A scan from wherever it is: a NIfTI file, a folder of DICOM files, or a NumPy array."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lorank.errors import LorankError, unknown
from lorank.localization.dicom import read_dicom
from lorank.localization.nifti import read_nifti
from lorank.localization.volume import Volume
from lorank.zoo.reason import reason


def read_volume(
    path: str | Path,
    *,
    spacing: Sequence[float] | None = None,
    axes: str | None = None,
    series: str | None = None,
) -> Volume:
    """Read a scan.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.npy``, or the folder of a DICOM series.
        spacing: millimetres along each axis; a ``.npy`` file needs it, the others state theirs.
        axes: orientation letters, such as ``"RAS"``; a ``.npy`` file needs them, and so does a
            NIfTI file that states none.
        series: SeriesInstanceUID, for a folder with several.

    Returns:
        The scan in Hounsfield units.

    Raises:
        LorankError: if there is nothing of these kinds, it cannot be used, or spacing and axes are
            missing or given where the file states its own.
        MissingExtraError: if the reader's package is not installed.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "scan.npy"
        >>> np.save(place, np.zeros((8, 8, 20), np.int16))
        >>> read_volume(place, spacing=(1, 1, 2), axes="LPS").count
        20
    """
    place = Path(path)
    kind = _kind(place)
    if spacing is not None and kind != ".npy":
        raise LorankError(f"{place} states its own spacing: leave spacing out")
    if series is not None and kind != "dicom":
        raise LorankError(f"a series is named in a DICOM folder, and {place} is a file")
    if kind == ".npy":
        return _read_array(place, spacing, axes)
    if kind == ".nii":
        return read_nifti(place, axes=axes)
    if axes is not None:
        raise LorankError(f"{place} states its own orientation: leave axes out")
    return read_dicom(place, series=series)


def _kind(place: Path) -> str:
    if place.is_dir():
        return "dicom"
    if place.name.lower().endswith((".nii", ".nii.gz")):
        return ".nii"
    if place.suffix.lower() == ".npy":
        return ".npy"
    if not place.exists():
        raise LorankError(f"there is no scan {place}")
    raise unknown("kind of scan", place.suffix or place.name, [".nii", ".nii.gz", ".npy", "folder"])


def _read_array(place: Path, spacing: Sequence[float] | None, axes: str | None) -> Volume:
    if not place.is_file():
        raise LorankError(f"there is no file {place}")
    if spacing is None or axes is None:
        lacks = [n for n, v in (("spacing", spacing), ("axes", axes)) if v is None]
        raise LorankError(f"{place} states neither spacing nor orientation: give its {lacks[0]}")
    try:
        with place.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # a damaged header may make the reader raise anything
        raise LorankError(f"{place} is no whole array in NumPy's format: {reason(error)}") from None
    return Volume(values, spacing, axes, name=str(place))  # type: ignore[arg-type]
