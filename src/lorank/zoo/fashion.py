"""Fashion-MNIST: 70,000 grey images of clothes, 28 × 28 pixels."""

from pathlib import Path

import torch

from lorank.errors import LorankError
from lorank.zoo.augment import Augment
from lorank.zoo.find import require_files, require_folder
from lorank.zoo.idx import read_idx
from lorank.zoo.images import Data, Images, black, check_labels

MEAN, STD = (0.2860,), (0.3530,)  # of the training part
CLASSES = 10
SHAPE = (1, 28, 28)
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
# The first is where Debian's package puts the files.
PLACES = (Path("/usr/share/datasets/fashion-mnist"), Path("data/fashion-mnist"), Path("data"))


def fashion_mnist(folder: Path | None = None) -> Data:
    """Load Fashion-MNIST from its four IDX files, gzipped or not.

    Args:
        folder: where the files are; by default the folder of Debian's package
            ``dataset-fashion-mnist``, ``./data/fashion-mnist`` or ``./data``.

    Returns:
        The data; shape (1, 28, 28), 10 classes.

    Raises:
        LorankError: if files are missing, damaged, or do not match.

    Source:
        Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
        Learning Algorithms", 2017.

    Example:
        >>> fashion_mnist(Path("/no/such/folder"))
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: fashion-mnist: there is no folder /no/such/folder
    """
    folder = _anywhere() if folder is None else require_folder(folder, "fashion-mnist")
    train, test = read_idx_images(folder, "fashion-mnist", MEAN, STD)
    return Data("fashion-mnist", train, test, CLASSES, SHAPE, Augment(2, True, black(MEAN, STD)))


def _anywhere() -> Path:
    for place in PLACES:
        if any((place / _stored(place, name)).is_file() for name in TRAIN):
            return place
    raise LorankError(
        f"fashion-mnist was not found in {', '.join(map(str, PLACES))}: install Debian's package "
        f"dataset-fashion-mnist, or name its folder as fashion-mnist:FOLDER"
    )


def read_idx_images(
    folder: Path, source: str, mean: tuple[float], std: tuple[float]
) -> tuple[Images, Images]:
    """Read the training and the test part from the four files that MNIST and its relatives have.

    Args:
        folder: where they are, gzipped or not.
        source: the data set, to be named in errors.
        mean: of the training part.
        std: of the training part.

    Raises:
        LorankError: if files are missing, damaged, or do not match.
    """
    train, test = (_read(folder, names, source) for names in (TRAIN, TEST))
    return Images(*train, mean, std), Images(*test, mean, std)


def _read(folder: Path, names: tuple[str, str], source: str) -> tuple[torch.Tensor, torch.Tensor]:
    stored = [_stored(folder, name) for name in names]
    images_file, labels_file = require_files(folder, stored, source)
    images = torch.from_numpy(read_idx(images_file, axes=3)).unsqueeze(1)
    if images.shape[1:] != SHAPE:
        raise LorankError(
            f"{images_file} must hold images of shape {SHAPE}, but they are of shape "
            f"{tuple(images.shape[1:])}"
        )
    labels = torch.from_numpy(read_idx(labels_file, axes=1)).long()
    check_labels(labels, len(images), CLASSES, labels_file)
    return images, labels


def _stored(folder: Path, name: str) -> str:
    return name if (folder / name).is_file() else f"{name}.gz"
