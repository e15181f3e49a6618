"""The Python version of CIFAR: pickles, read without running what a pickle can run."""

from pathlib import Path
from typing import Any

import numpy as np

from lorank.errors import LorankError
from lorank.zoo.inert import InertReader, Kept
from lorank.zoo.reason import reason

PIXELS = 3 * 32 * 32


def read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch of the Python version.

    Args:
        path: the file, for example ``data_batch_1``.

    Returns:
        Pixels uint8 (N, 3072) and labels (N,).

    Raises:
        LorankError: if the file is damaged or holds anything but an array of bytes and a list of
            labels.

    Example:
        >>> import pickle, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data_batch_1"
        >>> _ = path.write_bytes(pickle.dumps({b"data": print}))
        >>> read_pickled(path)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: ...data_batch_1 cannot be read safely: it names ...
    """
    try:
        with path.open("rb") as file:
            content = InertReader(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise LorankError(
            f"{path} cannot be read safely: {reason(error)}; use the binary version of CIFAR-10"
        ) from None
    entries = content if isinstance(content, dict) else {}
    pixels, labels = _pixels(entries.get(b"data")), _labels(entries.get(b"labels"))
    if pixels is None or labels is None:
        raise LorankError(
            f"{path} must hold a dict of an array 'data' (N, {PIXELS}) of bytes and a list "
            f"'labels', but does not; use the binary version of CIFAR-10"
        )
    return pixels, labels


def _labels(labels: Any) -> np.ndarray | None:
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        return None
    return np.array(labels, dtype=np.int64) if all(0 <= i < 2**31 for i in labels) else None


def _pixels(array: Any) -> np.ndarray | None:
    match getattr(array, "state", None):
        case (int(), (int(rows), int(width)), Kept(args=(b"u1", *_)), by_column, bytes(raw)):
            if width == PIXELS and rows >= 0 and len(raw) == rows * width:
                order = "F" if by_column else "C"
                return np.frombuffer(raw, np.uint8).reshape((rows, width), order=order).copy()
    return None
