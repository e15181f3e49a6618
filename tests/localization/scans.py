"""Files of scans that are made in a test, and values known beforehand."""

import numpy as np

from lorank.localization import Volume

DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
"""Letters as directions in NIfTI's world, which grows to the right, the front and the head."""


def affine(volume: Volume) -> np.ndarray:
    found = np.eye(4)
    for i, (letter, length) in enumerate(zip(volume.axes, volume.spacing, strict=True)):
        found[:3, i] = np.array(DIRECTIONS[letter]) * length
    found[:3, 3] = (-30, 12, 400)
    return found


def write_nifti(volume: Volume, path, **changes):
    """Write a volume as its axes lie; ``changes`` go to the header."""
    import nibabel

    image = nibabel.Nifti1Image(volume.values, affine(volume))
    image.header.set_xyzt_units(changes.pop("unit", "mm"))
    for name, value in changes.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def write_series(volume: Volume, folder, *, uid="1.2.3", slope=1.0, change=None):
    """Write the slices of a volume ``SPL`` as DICOM files, in an order that is no order."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    assert volume.axes == "SPL"
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(0).permutation(volume.count)
    for name, number in enumerate(order):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{number + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{uid}-{name:03d}.dcm"
        made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, f"{uid}.{number + 1}"
        made.SeriesInstanceUID, made.Modality = uid, "CT"
        made.Rows, made.Columns = volume.values.shape[1:]
        made.ImagePositionPatient = [-100, -80, float(10 + number * volume.height)]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.PixelSpacing = list(volume.spacing[1:])
        made.RescaleSlope, made.RescaleIntercept = slope, -1024
        made.BitsAllocated = made.BitsStored = 16
        made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, 0, 1
        made.PhotometricInterpretation = "MONOCHROME2"
        stored = np.round((volume.values[number].astype(float) + 1024) / slope)
        made.PixelData = stored.astype(np.uint16).tobytes()
        if change is not None:
            change(made, int(number))
        pydicom.dcmwrite(path, made, enforce_file_format=True)
    return folder
