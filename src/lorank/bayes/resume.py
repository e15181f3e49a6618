"""The state of a sampler on disk: plain arrays, replaced as a whole, never unpickled."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lorank.atomic import replacing
from lorank.errors import LorankError

Arrays = dict[str, NDArray]
FINGERPRINT = "fingerprint"


def save_arrays(path: str | Path, arrays: Arrays) -> None:
    """Write named arrays so that a reader sees the old file or the new one, never half of one.

    A fingerprint goes with them: an edited state would go on to draws that are of no posterior.

    Raises:
        LorankError: if the folder does not exist or cannot be written to.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "state.npz"
        >>> save_arrays(target, {"x": np.ones(2)})
        >>> load_arrays(target)["x"].tolist()
        [1.0, 1.0]
    """
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{FINGERPRINT: _fingerprint(arrays)})


def load_arrays(path: str | Path) -> Arrays:
    """Read what :func:`save_arrays` wrote; objects are refused, so that no code can run.

    Raises:
        LorankError: if the file is not one of plain arrays, or not as it was written.

    Example:
        >>> load_arrays(__file__)
        Traceback (most recent call last):
        ...
        lorank.errors.LorankError: ... is not a sampler's state of plain arrays
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile and NumPy have a dozen kinds for what is damaged
        raise LorankError(f"{path} is not a sampler's state of plain arrays") from error
    if not np.array_equal(arrays.pop(FINGERPRINT, None), _fingerprint(arrays)):
        raise LorankError(f"{path} was changed after it was written; delete it to start anew")
    return arrays


def _fingerprint(arrays: Arrays) -> NDArray:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return np.asarray(digest.hexdigest())
