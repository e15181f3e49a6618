"""CIFAR-10: 60,000 colour images of 32 × 32 pixels, in any of three layouts of its files."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

import numpy as np
import torch

from lorank.errors import LorankError
from lorank.zoo.augment import Augment
from lorank.zoo.cifar_pickle import read_pickled
from lorank.zoo.find import require_files, require_folder
from lorank.zoo.images import Data, Images, black, check_labels
from lorank.zoo.reason import reason

# Not the set's own statistics but ImageNet's: the published CIFAR networks were trained with them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes

Arrays = tuple[np.ndarray, np.ndarray]


class Layout(NamedTuple):
    """Names of the files and how to read one: images uint8 (N, 3, 32, 32) and labels (N,)."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[Path], Arrays]


def cifar10(folder: Path | None = None) -> Data:
    """Load CIFAR-10 from a folder with one of its layouts.

    These are the binary version (``data_batch_1.bin``, …), the Python version (``data_batch_1``,
    …; pickles, of which only arrays and lists are read and no code is run), and the delta-coded
    ``train_0.npz``, ``train_1.npz``, ``test.npz``. The first two may also lie in the
    subfolder that their archives make.

    Args:
        folder: where the files are; by default ``./data``.

    Returns:
        The data; shape (3, 32, 32), 10 classes.

    Raises:
        LorankError: if files are missing, damaged, or do not match.

    Source:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.

    Example:
        >>> cifar10(Path("/no/such/folder"))
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: cifar10: there is no folder /no/such/folder
    """
    top = require_folder(Path("data") if folder is None else folder, "cifar10")
    place, layout = _layout(top)
    train, test = (
        _images(require_files(place, names, "cifar10"), layout.read)
        for names in (layout.train, layout.test)
    )
    return Data("cifar10", train, test, CLASSES, SHAPE, Augment(4, True, black(MEAN, STD)))


def _layout(top: Path) -> tuple[Path, Layout]:
    for place in (top, top / "cifar-10-batches-bin", top / "cifar-10-batches-py"):
        for layout in LAYOUTS:
            if any((place / name).is_file() for name in (*layout.train, *layout.test)):
                return place, layout
    first = ", ".join(layout.train[0] for layout in LAYOUTS)
    raise LorankError(f"cifar10: the folder {top} holds none of {first} and the files beside them")


def _images(paths: list[Path], read: Callable[[Path], Arrays]) -> Images:
    parts = []
    for path in paths:
        images, labels = read(path)
        if images.dtype != np.uint8 or images.shape[1:] != SHAPE:
            raise LorankError(
                f"{path} must hold uint8 images of shape {SHAPE}, but holds {images.dtype} "
                f"of shape {images.shape[1:]}"
            )
        numbers = torch.from_numpy(labels.astype(np.int64))
        check_labels(numbers, len(images), CLASSES, path)
        parts.append((torch.from_numpy(images), numbers))
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Images(images, labels, MEAN, STD)


def _read_binary(path: Path) -> Arrays:
    content = np.fromfile(path, np.uint8)
    if len(content) % RECORD:
        raise LorankError(
            f"{path} must be a whole number of records of {RECORD} bytes, "
            f"but has {len(content)} bytes"
        )
    records = content.reshape(-1, RECORD)
    return records[:, 1:].reshape(-1, *SHAPE), records[:, 0]


def _read_python(path: Path) -> Arrays:
    images, labels = read_pickled(path)
    return images.reshape(-1, *SHAPE), labels


def _read_delta(path: Path) -> Arrays:
    if not is_zipfile(path):  # np.load would advise to unpickle it
        raise LorankError(
            f"{path} is not a whole .npz file with the arrays delta and labels: it is no archive"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            delta, labels = arrays["delta"], arrays["labels"]
    except Exception as error:  # zip, zlib, header and key errors of a damaged or foreign file
        raise LorankError(
            f"{path} is not a whole .npz file with the arrays delta and labels: {reason(error)}"
        ) from None
    if delta.dtype != np.uint8 or delta.ndim != 4 or labels.ndim != 1 or labels.dtype != np.uint8:
        raise LorankError(
            f"{path} must hold uint8 delta (N, 3, 32, 32) and labels (N,), but holds {delta.dtype} "
            f"{delta.shape} and {labels.dtype} {labels.shape}"
        )
    return undelta(delta), labels


def undelta(delta: np.ndarray) -> np.ndarray:
    """Undo the prediction that makes the ``.npz`` files small, modulo 256.

    Rows and columns hold differences from their neighbours; red and blue hold differences from
    green.

    Args:
        delta: uint8 (N, 3, H, W).

    Returns:
        uint8 images of the same shape.

    Example:
        >>> undelta(np.ones((1, 3, 1, 2), np.uint8)).tolist()
        [[[[2, 4]], [[1, 2]], [[2, 4]]]]
    """
    images = np.cumsum(np.cumsum(delta, 2, dtype=np.uint8), 3, dtype=np.uint8)
    images[:, 0] += images[:, 1]
    images[:, 2] += images[:, 1]
    return images


FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
LAYOUTS = (
    Layout(tuple(f"{name}.bin" for name in FIVE), ("test_batch.bin",), _read_binary),
    Layout(("train_0.npz", "train_1.npz"), ("test.npz",), _read_delta),
    Layout(FIVE, ("test_batch",), _read_python),
)
