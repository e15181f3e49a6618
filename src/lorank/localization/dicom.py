"""Scans as a folder of DICOM files, one a slice, by pydicom."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorank.errors import LorankError, extra
from lorank.localization.scaling import scaled
from lorank.localization.volume import Volume
from lorank.zoo.reason import reason

LETTERS = ("LR", "PA", "SI")
"""DICOM's own axes grow to the left, the back and the head."""

STRAIGHT = 0.9
UNEVEN = 0.1
"""Largest departure of a gap between slices from their median, as a share of it."""

NEEDED = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
)

READ = (*NEEDED, "Rows", "Modality", "NumberOfFrames", "SeriesInstanceUID")

SQUARE = 1e-3
"""Largest departure of the two directions of a plane from unit length and from a right angle."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of a CT slice."""


class Slice(NamedTuple):
    """A file of the series: its header, and where it is."""

    path: Path
    header: Any


def read_dicom(folder: str | Path, *, series: str | None = None) -> Volume:
    """Read a CT series: slices sorted by position, rescaled to Hounsfield units.

    Files that are no DICOM are left out, unless they end as the slices do: those are damaged. The
    slices run along the normal of their plane, axial ones from the feet to the head.

    Args:
        folder: where the files are; sub-folders are not searched.
        series: the SeriesInstanceUID to read, where the folder has several.

    Returns:
        The scan with axes ``(slices, rows, columns)``; ``slices`` has the names of the files.

    Raises:
        LorankError: if the folder has no DICOM slices or several series, a file is damaged, is no
            CT, or states no position, orientation, spacing, slope or intercept, slices differ in
            size, two lie at one place, gaps between them are uneven, or the plane is oblique.
        MissingExtraError: if pydicom is not installed.

    Example: ``read_dicom("patient/series").count``
    """
    place = Path(folder)
    pydicom = extra("pydicom", "scan")
    if not place.is_dir():
        raise LorankError(f"a DICOM series is a folder, and there is none at {place}")
    found = _series(_headers(pydicom, place), place, series)
    _check(found, place)
    plane = _plane(found[0])
    normal = np.cross(plane[0], plane[1])
    if _letter(normal, place) == "I":  # rows and columns of a mirrored plane
        normal = -normal
    heights = np.array([_numbers(s, "ImagePositionPatient", 3) @ normal for s in found])
    order = np.argsort(heights, kind="stable")
    found = [found[i] for i in order]
    gap = _gap(heights[order], place)
    rows, columns = _numbers(found[0], "PixelSpacing", 2)
    axes = "".join(_letter(d, place) for d in (normal, plane[1], plane[0]))
    values = _stack(pydicom, found)
    names = tuple(s.path.name for s in found)
    name = str(place)
    volume = Volume(values, (gap, float(rows), float(columns)), axes, name=name)
    return volume if volume.vertical else Volume(values, volume.spacing, axes, name, names)


def _headers(pydicom: Any, place: Path) -> list[Slice]:
    found, foreign = [], []
    for path in sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            for name in READ:  # decoded when first asked for
                header.get(name)
            kind = None if "Rows" in header else header.file_meta.get("MediaStorageSOPClassUID")
        except pydicom.errors.InvalidDicomError:
            foreign.append(path)
            continue
        except Exception as error:  # a damaged file may make the reader raise anything
            raise LorankError(f"{path} cannot be read as DICOM: {reason(error)}") from None
        if "Rows" in header:
            found.append(Slice(path, header))
        elif not _needs_no_pixels(pydicom, kind):
            raise LorankError(f"{path} cannot be read as DICOM: it breaks off in its header")
    if not found:
        raise LorankError(f"{place} holds no DICOM file with an image")
    endings = {one.path.suffix for one in found}
    broken = next((path for path in foreign if path.suffix in endings), None)
    if broken is not None:  # left out, it could be the slice that others are counted from
        raise LorankError(f"{broken} ends as the slices do and is no DICOM: is it damaged?")
    return found


def _needs_no_pixels(pydicom: Any, kind: Any) -> bool:
    """Whether a file says that it is no slice: a DICOMDIR, a report, or what a maker keeps."""
    if not isinstance(kind, pydicom.uid.UID) or not kind.is_valid or CT_IMAGE.startswith(kind):
        return False
    return kind.is_private or bool(kind.type)


def _series(found: list[Slice], place: Path, series: str | None) -> list[Slice]:
    """Take one series; several are refused, because their slices do not belong together."""
    counts = Counter(map(_uid, found))
    if series is None and len(counts) > 1:
        told = ", ".join(f"{uid} ({n} files)" for uid, n in counts.most_common(5))
        raise LorankError(f"{place} must hold one series, found {len(counts)}: {told}; name one")
    if series is not None and series not in counts:
        raise LorankError(f"{place} has no series {series!r}: it holds {', '.join(counts)}")
    taken = [one for one in found if series in (None, _uid(one))]
    for one in taken:
        _require(one)
    return taken


def _uid(one: Slice) -> str:
    """Name the series of a slice; anonymised files may have lost it, and then are one series."""
    return str(getattr(one.header, "SeriesInstanceUID", "") or "without a name")


def _require(one: Slice) -> None:
    if str(getattr(one.header, "Modality", "CT")) != "CT":
        raise LorankError(f"{one.path} must be CT, found modality {one.header.Modality!r}")
    if int(getattr(one.header, "NumberOfFrames", 1) or 1) > 1:
        raise LorankError(
            f"{one.path} holds several frames, and a series has one slice a file: convert it "
            "(for example to NIfTI)"
        )
    missing = [name for name in NEEDED if getattr(one.header, name, None) in (None, "")]
    if missing:
        raise LorankError(f"{one.path} states no {', '.join(missing)}")


def _check(found: list[Slice], place: Path) -> None:
    """Refuse slices that differ in what one volume has once."""
    for name in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        values = {str(_rounded(getattr(one.header, name))) for one in found}
        if len(values) > 1:
            some = ", ".join(sorted(values)[:3])
            raise LorankError(f"{place}: all slices have the same {name}, found {some}")
    if len(found) < 2:
        raise LorankError(f"{place}: a series has at least 2 slices, found 1")


def _rounded(value: Any) -> Any:
    if isinstance(value, int):
        return value
    try:
        return [round(float(number), 4) + 0.0 for number in value]
    except (TypeError, ValueError):
        return str(value)


def _numbers(one: Slice, name: str, count: int) -> np.ndarray:
    try:
        numbers = np.array([float(value) for value in getattr(one.header, name)])
    except (TypeError, ValueError):
        numbers = np.array([])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise LorankError(f"{one.path}: {name} must be {count} numbers, found {numbers.tolist()}")
    return numbers


def _plane(one: Slice) -> np.ndarray:
    """Read the directions of a slice's rows and columns: unit vectors at a right angle."""
    found = _numbers(one, "ImageOrientationPatient", 6).reshape(2, 3)
    if np.abs(found @ found.T - np.eye(2)).max() > SQUARE:
        raise LorankError(
            f"{one.path}: ImageOrientationPatient must be two unit vectors at a right angle, "
            f"found {found.ravel().tolist()}"
        )
    return found


def _gap(heights: np.ndarray, place: Path) -> float:
    gaps = np.diff(heights)
    middle = float(np.median(gaps))
    if gaps.min() <= 1e-3:
        raise LorankError(f"{place}: each slice has a place of its own, found two at one place")
    if float(np.abs(gaps - middle).max()) > UNEVEN * middle:
        raise LorankError(
            f"{place}: slices lie at even distances, found gaps from {gaps.min():.4g} to "
            f"{gaps.max():.4g} mm: is a slice missing?"
        )
    return float(gaps.mean())


def _letter(direction: np.ndarray, place: Path) -> str:
    nearest = int(np.abs(direction).argmax())
    if abs(direction[nearest]) < STRAIGHT:
        raise LorankError(
            f"{place}: slices lie oblique to the patient, by more than 25 degrees: resample the "
            "scan to straight axes first"
        )
    return LETTERS[nearest][0 if direction[nearest] > 0 else 1]


def _stack(pydicom: Any, found: list[Slice]) -> np.ndarray:
    slices = [_pixels(pydicom, one) for one in found]
    kind = np.result_type(*{each.dtype for each in slices})
    out = np.empty((len(slices), *slices[0].shape), kind)
    for place, each in zip(out, slices, strict=True):
        place[...] = each
    return out


def _pixels(pydicom: Any, one: Slice) -> np.ndarray:
    """Read one slice, with its own slope and intercept: scanners change them within a series."""
    try:
        whole = pydicom.dcmread(one.path)
        stored = np.asarray(whole.pixel_array)
        slope, intercept = float(whole.RescaleSlope), float(whole.RescaleIntercept)
    except Exception as error:  # damaged, or packed in a way that needs a plugin
        why = reason(error).rstrip(":")
        raise LorankError(f"the pixels of {one.path} cannot be read: {why}{_packed(one)}") from None
    if not (slope and np.isfinite(slope) and np.isfinite(intercept)):
        raise LorankError(
            f"{one.path}: a slope is not 0, and slope and intercept are finite, found {slope:g} "
            f"and {intercept:g}"
        )
    shape = (int(one.header.Rows), int(one.header.Columns))
    if stored.shape != shape:
        raise LorankError(f"{one.path}: a slice is {shape[0]} × {shape[1]}, found {stored.shape}")
    return scaled(stored, slope, intercept)


def _packed(one: Slice) -> str:
    """Say what helps with packed pixels."""
    syntax = one.header.file_meta.get("TransferSyntaxUID")
    if not getattr(syntax, "is_transfer_syntax", False) or not syntax.is_compressed:
        return ""
    return f"; they are packed ({syntax.name}): install the plugin of pydicom's for that"
