"""Unlabelled inputs by name, in batches: what a network is calibrated on."""

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from lorank.errors import LorankError, extra
from lorank.zoo.data import load_data
from lorank.zoo.reason import reason

BATCH = 64
TOKENS = 128
"""Longest text, in tokens; the rest of a line is cut off."""

Batch = Tensor | dict[str, Tensor]


def load_samples(
    spec: str,
    count: int,
    *,
    root: str | Path | None = None,
    tokenizer: str | Path | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> list[Batch]:
    """Load inputs without labels, drawn at random.

    Args:
        spec: a data set as in :func:`load_data`, of which training inputs are taken; a file
            ``*.npy`` with an input a row; or a file ``*.txt`` with a text a line.
        count: how many inputs; all, where there are fewer.
        root: as in :func:`load_data`.
        tokenizer: folder of the Hugging Face model that reads the texts.
        batch: inputs in a batch.
        seed: draws them.

    Returns:
        Tensors, or for texts dicts of token ids and masks; texts of a batch are of equal length
        in tokens, so that nothing is padded.

    Raises:
        LorankError: if the name is unknown, a file is missing, damaged or empty, the count is
            not positive, or texts come without a tokenizer.
        MissingExtraError: if texts are to be read without transformers.

    Example:
        >>> [tuple(x.shape) for x in load_samples("digits", 100)]
        [(64, 1, 8, 8), (36, 1, 8, 8)]
    """
    if count < 1 or batch < 1:
        raise LorankError(f"a number of inputs is at least 1, found {min(count, batch)}")
    noise = torch.Generator().manual_seed(seed)
    kind = Path(spec).suffix
    if kind == ".txt":
        return _texts(Path(root or "", spec), count, tokenizer, batch, noise)
    if kind == ".npy":
        rows: Any = _array(Path(root or "", spec))
        native = rows.dtype.newbyteorder("=")  # torch takes no other
        drawn = _drawn(len(rows), count, batch, noise)
        return [torch.from_numpy(rows[i.numpy()].astype(native, copy=False)) for i in drawn]
    train: Any = load_data(spec, root=root).train
    return [_images(train, i.tolist()) for i in _drawn(len(train), count, batch, noise)]


def _drawn(size: int, count: int, batch: int, noise: torch.Generator) -> tuple[Tensor, ...]:
    return torch.randperm(size, generator=noise)[:count].split(batch)


def _images(train: Any, chosen: list[int]) -> Tensor:
    if hasattr(train, "__getitems__"):
        items = train.__getitems__(chosen)
        if isinstance(items, tuple):
            return items[0]
        return torch.stack([item[0] for item in items])
    return torch.stack([train[i][0] for i in chosen])


def _array(path: Path) -> np.ndarray:
    if is_zipfile(path):
        raise LorankError(f"{path} must be a NumPy file of one array, found an archive of several")
    try:
        rows = np.lib.format.open_memmap(path, mode="r")  # np.load would advise to unpickle
    except (OSError, ValueError, EOFError) as error:
        raise LorankError(f"{path} must be a NumPy file of numbers: {reason(error)}") from None
    numbers = np.issubdtype(rows.dtype, np.floating) or np.issubdtype(rows.dtype, np.integer)
    if not numbers or rows.ndim < 2 or len(rows) == 0:
        raise LorankError(
            f"{path} must hold an input a row, found {rows.dtype} of shape {tuple(rows.shape)}"
        )
    if rows.dtype.itemsize == 1:
        raise LorankError(
            f"{path} must hold inputs as the network was trained on them, and {rows.dtype} is the "
            "scale of files: write normalised floats (or token numbers of more than a byte)"
        )
    return rows


def _texts(
    path: Path, count: int, tokenizer: str | Path | None, batch: int, noise: torch.Generator
) -> list[Batch]:
    if tokenizer is None:
        raise LorankError(f"texts are for a Hugging Face model (hf:FOLDER), and {path} holds texts")
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LorankError(f"{path} must be a text file: {reason(error)}") from None
    if not lines:
        raise LorankError(f"{path} must hold a text a line, and is empty")
    transformers = extra("transformers", "transformers")
    try:
        read = transformers.AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    except Exception as error:
        raise LorankError(f"{tokenizer} has no tokenizer to read texts with: {error}") from None
    (drawn,) = _drawn(len(lines), count, count, noise)
    by_length: dict[int, list[list[int]]] = {}
    for i in drawn.tolist():
        ids = read(lines[i], truncation=True, max_length=TOKENS)["input_ids"]
        by_length.setdefault(len(ids), []).append(ids)
    return [
        {"input_ids": part, "attention_mask": torch.ones_like(part)}
        for _, rows in sorted(by_length.items())
        for part in torch.tensor(rows).split(batch)
    ]
