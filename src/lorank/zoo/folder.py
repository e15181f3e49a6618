"""Images in folders, one folder a class, opened when they are asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lorank.errors import LorankError, extra
from lorank.zoo.augment import Augment
from lorank.zoo.find import require_folder
from lorank.zoo.images import Data, black, normalised
from lorank.zoo.reason import reason

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as pretrained networks want
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
IGNORED = ("Thumbs.db", "desktop.ini")  # left by file browsers; hidden files are ignored as well


class ImageFolder(Dataset):
    """Image files, read as RGB on access and normalised; all of one size.

    Args:
        paths: the image files.
        labels: one whole number a file.
        size: height and width; or None to insist that each file has ``shape`` as it is. With a
            size, an image is scaled until its short side fits and cut at the centre.
        shape: channels, height and width that an item has.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        size: int | None,
        shape: tuple[int, int, int],
    ) -> None:
        self.paths = tuple(paths)
        self.labels = torch.tensor(labels, dtype=torch.long)
        self.size = size
        self.shape = shape

    def __len__(self) -> int:
        """Count the images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Give one normalised image (3, H, W) and its label."""
        image = normalised(self._pixels(index).unsqueeze(0), MEAN, STD)
        return image.squeeze(0), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give a batch: normalised images (N, 3, H, W) and labels (N,)."""
        pixels = torch.stack([self._pixels(index) for index in indices])
        return normalised(pixels, MEAN, STD), self.labels[torch.as_tensor(indices)]

    def _pixels(self, index: int) -> Tensor:
        path = self.paths[index]
        pixels = _open(path, self.size)
        if tuple(pixels.shape) != self.shape:
            raise LorankError(
                f"folder: all images must have one size, {_size(self.shape)} as the first, but "
                f"{path} has {_size(pixels.shape)}; name a size as folder:PATH@32"
            )
        return pixels


def image_folder(folder: Path | None = None) -> Data:
    """Describe the images in ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``.

    Args:
        folder: PATH, or ``PATH@SIZE`` to scale and cut every image to SIZE × SIZE pixels.

    Returns:
        The data, in RGB; classes are numbered in the order of their names in ``train``.

    Raises:
        LorankError: if a folder is missing or empty, holds a file that is no image, or ``test``
            has a class that ``train`` has not. A damaged image or one of another size is found,
            and refused, when it is opened.
        MissingExtraError: if Pillow is not installed.

    Example:
        >>> image_folder()
        Traceback (most recent call last):
            ...
        lorank.errors.LorankError: folder: name the folder of the images, as folder:PATH
    """
    if folder is None:
        raise LorankError("folder: name the folder of the images, as folder:PATH")
    folder, size = _path_and_size(folder)
    require_folder(folder, "folder")
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            raise LorankError(
                f"folder: {folder} must hold the folders train and test, but lacks {part}"
            )
    names = _classes(folder / "train")
    files = [_files(folder / part, names) for part in ("train", "test")]
    channels, height, width = _open(files[0][0][0], size).shape
    shape = (channels, height, width)
    augment = Augment(max(height // 8, 1), True, black(MEAN, STD))
    train, test = (ImageFolder(*part, size, shape) for part in files)
    return Data(folder.name, train, test, len(names), shape, augment)


def _path_and_size(folder: Path) -> tuple[Path, int | None]:
    stem, at, size = str(folder).rpartition("@")
    if not at or folder.is_dir():
        return folder, None
    if not size.isdecimal() or int(size) < 1:
        raise LorankError(f"folder: a size is a whole number of pixels, but got {size!r}")
    return Path(stem), int(size)


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in _entries(folder) if entry.is_dir())
    if not names:
        raise LorankError(f"folder: {folder} must hold one folder a class, but holds none")
    return names


def _files(folder: Path, names: list[str]) -> tuple[list[Path], list[int]]:
    foreign = sorted(set(_classes(folder)) - set(names))
    if foreign:
        raise LorankError(
            f"folder: every class of {folder} must be one of train's, but {foreign[0]!r} is not"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if (folder / name).is_dir():
            found = _images(folder / name)
            paths += found
            labels += [label] * len(found)
    return paths, labels


def _images(folder: Path) -> list[Path]:
    found = _entries(folder)
    for path in found:
        if path.suffix.lower() not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise LorankError(f"folder: {path} is no image file; their names end in {known}")
    if not found:
        raise LorankError(f"folder: the class folder {folder} holds no image")
    return found


def _entries(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name not in IGNORED
    )


def _open(path: Path, size: int | None) -> Tensor:
    pillow = extra("PIL.Image", "data")
    try:
        with pillow.open(path) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise LorankError(f"folder: {path} cannot be read as an image: {reason(error)}") from None
    if mode[0] in "IF":  # Pillow would clip these to 0..255 without a word
        raise LorankError(f"folder: {path} must have 8 bits a channel, but is of mode {mode}")
    if size is not None:
        rgb = extra("PIL.ImageOps", "data").fit(rgb, (size, size), pillow.Resampling.BILINEAR)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} × {shape[2]}"
