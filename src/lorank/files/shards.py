"""Safetensors files tensor by tensor, for those that are larger than memory.

The library reads and checks headers. Bytes are read and written here: a file that shrinks while it
is read is then a sentence (a mapped one would end the process), and a file is written without
holding it.
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorank.atomic import replacing
from lorank.errors import LorankError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Words of the format for torch's dtypes."""

WORDS = {dtype: word for word, dtype in DTYPES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")

CHUNK = 1 << 24


class Entry(NamedTuple):
    """Where a tensor lies in a file: dtype in the format's word, shape, first byte, length."""

    path: Path
    word: str
    shape: tuple[int, ...]
    start: int
    size: int


def entries(path: Path) -> dict[str, Entry]:
    """Read the header of a safetensors file.

    Raises:
        LorankError: if the file is missing, truncated or not of that format.
    """
    if not path.is_file():
        raise LorankError(f"a shard of the weights is missing: there is no file {path}")
    try:
        with safe_open(path, framework="pt"):  # checks the header against the file's length
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise LorankError(f"{path} is not a whole safetensors file: {error}") from None
    found = {}
    for name, fields in header.items():
        if name != "__metadata__":
            start, end = fields["data_offsets"]
            shape = tuple(fields["shape"])
            found[name] = Entry(path, fields["dtype"], shape, 8 + length + start, end - start)
    return found


def chunks(entry: Entry) -> Iterator[bytes]:
    """Read a tensor's bytes piece by piece.

    Raises:
        LorankError: if the file has become shorter.
    """
    left = entry.size
    with entry.path.open("rb") as file:
        file.seek(entry.start)
        while left:
            piece = file.read(min(CHUNK, left))
            if not piece:
                raise LorankError(
                    f"{entry.path} became shorter while it was read: put the whole file back and "
                    "start again, what is done is kept"
                )
            left -= len(piece)
            yield piece


def read(entry: Entry) -> Tensor:
    """Read one tensor into memory of its own.

    Raises:
        LorankError: if its dtype is unknown here, or the file has become shorter.
    """
    if entry.word not in DTYPES:
        raise LorankError(
            f"weights are read as {', '.join(DTYPES)}, and {entry.path} holds {entry.word}"
        )
    memory = bytearray()
    for piece in chunks(entry):
        memory += piece
    if not memory:
        return torch.empty(entry.shape, dtype=DTYPES[entry.word])
    return torch.frombuffer(memory, dtype=DTYPES[entry.word]).reshape(entry.shape)


class Part(NamedTuple):
    """A tensor to be written: dtype in the format's word, shape, and how its bytes are had."""

    word: str
    shape: tuple[int, ...]
    data: Callable[[], Iterator[bytes]]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * _width(self.word)


def _width(word: str) -> int:
    """Bytes of one number; words that torch cannot name here are all one byte wide."""
    return DTYPES[word].itemsize if word in DTYPES else 1


def copied(entry: Entry) -> Part:
    """Part that is another file's tensor as it is."""
    return Part(entry.word, entry.shape, lambda: chunks(entry))


def held(tensor: Tensor) -> Part:
    """Part that is a tensor in memory.

    Raises:
        LorankError: if the format has no word for its dtype.
    """
    if tensor.dtype not in WORDS:
        raise LorankError(f"safetensors files are not written here in {tensor.dtype}")
    return Part(WORDS[tensor.dtype], tuple(tensor.shape), lambda: _bytes(tensor))


def _bytes(tensor: Tensor) -> Iterator[bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    step = CHUNK // flat.element_size()
    for start in range(0, flat.numel(), step):
        yield flat[start : start + step].view(torch.uint8).numpy().tobytes()


def write(path: Path, parts: Mapping[str, Part], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor in memory at a time; atomically.

    The same parts give the same bytes: wide numbers first, so that all are aligned, then by name.

    Raises:
        LorankError: if a part's data has another size than it says.
    """
    order = sorted(parts, key=lambda name: (-_width(parts[name].word), name))
    with replacing(path) as draft, draft.open("wb") as file:
        file.write(_header(order, parts, metadata))
        for name in order:
            written = sum(file.write(piece) for piece in parts[name].data())
            if written != parts[name].size:
                raise LorankError(
                    f"tensor {name!r} must have {parts[name].size} bytes, found {written}"
                )


def _header(order: list[str], parts: Mapping[str, Part], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        part = parts[name]
        ends = [start, start + part.size]
        header[name] = {"dtype": part.word, "shape": list(part.shape), "data_offsets": ends}
        start = ends[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
