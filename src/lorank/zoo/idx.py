"""IDX files, plain or gzipped: the format of MNIST and its relatives."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lorank.errors import LorankError
from lorank.zoo.reason import reason

BYTES = 0x08  # the code of unsigned bytes, the third byte of the file


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Args:
        path: the file; gzipped if its name ends in ``.gz``.
        axes: how many axes the array must have.

    Returns:
        uint8 array.

    Raises:
        LorankError: if the file is damaged, of another kind, or of another length than it says.

    Source:
        LeCun, "The MNIST database", section "The IDX file format".

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "labels.idx"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(path, 1)
        array([7, 9], dtype=uint8)
    """
    content = _content(path)
    magic = bytes([0, 0, BYTES, axes])
    if content[:4] != magic:
        raise LorankError(
            f"{path} must begin with {magic.hex()} (IDX, bytes, {axes} axes), "
            f"but begins with {content[:4].hex() or 'nothing'}"
        )
    start = 4 + 4 * axes
    if len(content) < start:
        raise LorankError(f"{path} is cut off within its header of {start} bytes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise LorankError(
            f"{path} must hold {math.prod(shape)} bytes for its shape {shape}, "
            f"but holds {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise LorankError(f"{path} is not a whole gzip file: {reason(error)}") from None
