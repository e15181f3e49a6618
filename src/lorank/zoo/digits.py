"""The handwritten digits that come with scikit-learn: 1797 images of 8 × 8 pixels."""

from pathlib import Path

import numpy as np
import torch

from lorank.errors import LorankError, extra
from lorank.zoo.augment import Augment
from lorank.zoo.images import Data, Images, black

MEAN, STD = (0.3049,), (0.3754,)  # of the training part
TRAIN = 1000


def digits(folder: Path | None = None) -> Data:
    """Load the digits: 1000 to train on, 797 to test on, always the same, stratified by class.

    Args:
        folder: must be None; the set comes with scikit-learn.

    Returns:
        The data; grey values 0..16 are scaled to 0..255, shape (1, 8, 8), 10 classes.

    Raises:
        LorankError: if a folder is given.
        MissingExtraError: if scikit-learn is not installed.

    Source:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (test part).

    Example:
        >>> len(digits().train), digits().shape
        (1000, (1, 8, 8))
    """
    if folder is not None:
        raise LorankError(f"digits comes with scikit-learn and takes no folder, but got {folder}")
    found = extra("sklearn.datasets", "data").load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = (
        Images(torch.from_numpy(images[part]), torch.from_numpy(found.target[part]), MEAN, STD)
        for part in _split(found.target)
    )
    return Data("digits", train, test, 10, (1, 8, 8), Augment(1, False, black(MEAN, STD)))


def _split(labels: np.ndarray) -> list[np.ndarray]:
    select = extra("sklearn.model_selection", "data").train_test_split
    return select(np.arange(len(labels)), train_size=TRAIN, stratify=labels, random_state=0)
