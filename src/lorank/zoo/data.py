"""Data sets by name, and a part of the training set to choose by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from lorank.errors import LorankError, unknown
from lorank.zoo.cifar import cifar10
from lorank.zoo.digits import digits
from lorank.zoo.fashion import fashion_mnist
from lorank.zoo.folder import image_folder
from lorank.zoo.images import Data
from lorank.zoo.mnist import mnist
from lorank.zoo.named import named

DATASETS: dict[str, Callable[[Path | None], Data]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist": mnist,
    "cifar10": cifar10,
    "folder": image_folder,
}


def load_data(spec: str, *, root: str | Path | None = None) -> Data:
    """Load a data set by name.

    Args:
        spec: ``digits``; ``fashion-mnist`` or ``fashion-mnist:FOLDER``; ``mnist:FOLDER``;
            ``cifar10:FOLDER``; ``folder:PATH`` or ``folder:PATH@SIZE``; or
            ``package.module:function``, a function without arguments that returns a ``Data`` or a
            pair of data sets for training and testing (the current directory is importable).
        root: the folder from which a relative FOLDER or PATH counts; alone, the folder itself.

    Returns:
        The data.

    Raises:
        LorankError: if the name is unknown, or files are missing, damaged or do not match.
        MissingExtraError: if a package that reads the data is not installed.

    Example:
        >>> data = load_data("digits")
        >>> len(data.train), len(data.test), data.classes
        (1000, 797, 10)
    """
    head, colon, tail = spec.partition(":")
    if head in DATASETS:
        return DATASETS[head](_folder(tail, root))
    if colon:
        return _described(named(spec)(), spec)
    raise unknown("data set", spec, [*DATASETS, "package.module:function"])


def holdout(data: Data, fraction: float = 0.1, seed: int = 0) -> Data:
    """Set a random part of the training set aside, so that choices never see the test set.

    Args:
        data: the data.
        fraction: part of the training set to set aside, between 0 and 1.
        seed: of the random choice.

    Returns:
        Data whose ``train`` is the rest and whose ``test`` is the part set aside.

    Raises:
        LorankError: if the fraction is not between 0 and 1, or a part would be empty.

    Example:
        >>> chosen = holdout(load_data("digits"), fraction=0.2)
        >>> len(chosen.train), len(chosen.test)
        (800, 200)
    """
    if not 0 < fraction < 1:
        raise LorankError(f"fraction must lie between 0 and 1, but got {fraction}")
    size = len(data.train)  # type: ignore[arg-type]
    aside = round(fraction * size)
    if not 0 < aside < size:
        raise LorankError(f"holding out {fraction} of {size} images leaves one part empty")
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    rest, part = Subset(data.train, order[aside:]), Subset(data.train, order[:aside])
    return data._replace(name=f"{data.name}-holdout", train=rest, test=part)


def _folder(text: str, root: str | Path | None) -> Path | None:
    if not text and root is None:
        return None
    return Path(root or "", text).expanduser()


def _described(found: Any, spec: str) -> Data:
    if isinstance(found, Data):
        return found
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise LorankError(
            f"{spec!r} must return a lorank.zoo.Data or a pair (train, test), "
            f"but returned {type(found).__name__}"
        )
    train, test = found
    return Data(spec, train, test, _classes(train, spec), _shape(train, spec))


def _shape(train: Dataset, spec: str) -> tuple[int, int, int]:
    try:
        channels, height, width = train[0][0].shape
    except (TypeError, ValueError, LookupError, AttributeError, NotImplementedError):
        raise LorankError(
            f"{spec!r}: the items of its training set must be pairs (image, label), the image a "
            f"tensor (C, H, W), but the first is not"
        ) from None
    return channels, height, width


def _classes(train: Dataset, spec: str) -> int:
    tensors = getattr(train, "tensors", None)
    labels = getattr(train, "labels", getattr(train, "targets", tensors and tensors[-1]))
    try:
        numbers = torch.as_tensor(labels)
        whole = not numbers.is_floating_point() and numbers.ndim == 1 and numbers.min() >= 0
    except (TypeError, ValueError, RuntimeError):  # not numbers, or none at all
        whole = False
    if not whole:
        raise LorankError(
            f"{spec!r}: its training set must have whole numbers from 0 as labels, targets or the "
            f"last of tensors; otherwise return a lorank.zoo.Data, which says the classes"
        )
    return int(numbers.max()) + 1
