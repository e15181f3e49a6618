"""One image in a file: read it whole, write it again."""

from pathlib import Path
from typing import Any

import numpy as np

from lorank.errors import LorankError, extra
from lorank.zoo.reason import reason

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
ARRAY = ".npy"


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as bytes ``(height, width, 3)``, or an array from a ``.npy`` file.

    Grey images and palettes become red, green and blue; transparency is left out. Arrays are read
    without pickles.

    Raises:
        LorankError: if there is no such file, it is no image or no array of numbers, or it has
            more than 8 bits a channel.
        MissingExtraError: if Pillow is not installed.

    Example:
        >>> read_image("no.png")
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: there is no image file no.png
    """
    path = Path(path)
    if not path.is_file():
        raise LorankError(f"there is no image file {path}")
    return _array(path) if path.suffix.lower() == ARRAY else _pixels(path)


def _array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, SyntaxError) as error:
        raise LorankError(
            f"{path} cannot be read as an array of numbers: {reason(error)}"
        ) from None
    return found


def _pixels(path: Path) -> np.ndarray:
    pillow = extra("PIL.Image", "data")
    try:
        with pillow.open(path) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise LorankError(f"{path} cannot be read as an image: {reason(error)}") from None
    if mode[0] in "IF":  # Pillow would clip these to 0..255 without a word
        raise LorankError(f"{path} must have 8 bits a channel, but is of mode {mode}")
    return np.array(rgb)


def write_image(path: str | Path, image: Any, ending: str) -> None:
    """Write bytes ``(height, width, 3)`` as an image, or any array as ``.npy``.

    Args:
        path: where to.
        image: the array.
        ending: of the file's final name: it says the format.

    Raises:
        LorankError: if the ending is none that is known, or the format cannot hold the image.
        MissingExtraError: if Pillow is not installed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "draft"
        >>> write_image(path, np.zeros((2, 3, 4)), ".npy")
        >>> np.load(path).shape
        (2, 3, 4)
    """
    ending = checked_ending(ending)
    if ending == ARRAY:
        with Path(path).open("wb") as file:
            np.save(file, np.asarray(image), allow_pickle=False)
        return
    pillow = extra("PIL.Image", "data")
    pillow.init()
    try:
        pillow.fromarray(np.asarray(image)).save(path, format=pillow.EXTENSION[ending])
    except (OSError, ValueError, KeyError) as error:
        raise LorankError(f"an image cannot be written as {ending}: {reason(error)}") from None


def checked_ending(ending: str) -> str:
    """Refuse an ending that no image is written with.

    Raises:
        LorankError: if it is unknown.

    Example:
        >>> checked_ending(".PNG")
        '.png'
    """
    known = (*ENDINGS, ARRAY)
    if ending.lower() not in known:
        raise LorankError(
            f"an image's name ends in {', '.join(known)}, found {ending or 'no ending'!r}"
        )
    return ending.lower()
