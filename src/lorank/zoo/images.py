"""Images in memory, ready as normalised batches, and the tuple that describes a data set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, default_collate

from lorank.errors import LorankError

Augmentation = Callable[[Tensor, Generator], Tensor]


class Data(NamedTuple):
    """A data set for classification.

    Attributes:
        name: what to call it in tables.
        train: training images and labels.
        test: images and labels to judge by; after ``holdout`` these come from the training set.
        classes: number of classes; labels are 0, …, classes − 1.
        shape: channels, height and width of an image.
        augment: changes a batch at random, drawing only from the generator it is given; or None.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: int
    shape: tuple[int, int, int]
    augment: Augmentation | None = None


class Images(Dataset):
    """Images in memory as bytes; items and batches are ``(image / 255 − mean) / std``.

    ``__getitems__`` gives a whole batch at once, so a ``DataLoader`` needs ``collate_fn=as_is``.

    Args:
        images: uint8 (N, C, H, W).
        labels: whole numbers (N,), from 0.
        mean: per channel, on the scale 0..1.
        std: per channel, positive, on the scale 0..1.

    Raises:
        LorankError: if the shapes or types do not agree.

    Example:
        >>> pixels = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
        >>> five = Images(pixels, torch.arange(5), (0.5,), (0.5,))
        >>> images, labels = five.__getitems__([3, 1])
        >>> images.shape, images.min().item(), labels.tolist()
        (torch.Size([2, 1, 2, 2]), -1.0, [3, 1])
    """

    def __init__(
        self, images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise LorankError(
                f"images must be uint8 of shape (N, C, H, W), but are {images.dtype} "
                f"of shape {tuple(images.shape)}"
            )
        if labels.shape != images.shape[:1]:
            raise LorankError(
                f"there must be one label an image, but there are {len(images)} images "
                f"and labels of shape {tuple(labels.shape)}"
            )
        self.images = images
        self.labels = labels.long()
        self.mean = tuple(mean)
        self.std = tuple(std)
        check_scale(self.mean, self.std, images.shape[1])

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Give one normalised image (C, H, W) and its label."""
        image = normalised(self.images[index].unsqueeze(0), self.mean, self.std)
        return image.squeeze(0), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Give a batch: normalised images (N, C, H, W) and labels (N,)."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        return normalised(self.images[chosen], self.mean, self.std), self.labels[chosen]


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Compute ``(images / 255 − mean) / std`` channel by channel.

    Args:
        images: uint8 (N, C, H, W).
        mean: per channel, on the scale 0..1.
        std: per channel, on the scale 0..1.

    Returns:
        float32 (N, C, H, W).

    Example:
        >>> normalised(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), (0.5,), (0.25,)).item()
        2.0
    """
    centre = torch.tensor(mean).view(1, -1, 1, 1)
    scale = torch.tensor(std).view(1, -1, 1, 1)
    return images.float().div_(255).sub_(centre).div_(scale)


def black(mean: Sequence[float], std: Sequence[float]) -> tuple[float, ...]:
    """Give the value per channel that a black pixel has after normalisation.

    Args:
        mean: per channel.
        std: per channel.

    Returns:
        ``−mean / std``.

    Example:
        >>> black((0.5,), (0.25,))
        (-2.0,)
    """
    return tuple(-m / s for m, s in zip(mean, std, strict=True))


def as_is(batch: Any) -> Any:
    """Collate nothing: a ready batch passes; a list of samples is collated as torch does.

    Args:
        batch: what the data set gave, for ``DataLoader(…, collate_fn=as_is)``.

    Returns:
        A tuple of tensors.

    Example:
        >>> as_is([(torch.zeros(2), 1), (torch.ones(2), 0)])[1]
        tensor([1, 0])
    """
    return default_collate(batch) if isinstance(batch, list) else batch


def check_scale(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Refuse a normalisation that does not suit images of so many channels.

    Args:
        mean: per channel.
        std: per channel.
        channels: of the images.

    Raises:
        LorankError: if there is not one mean and one positive std a channel.

    Example:
        >>> check_scale((0.5,), (0.25,), 1)
    """
    if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
        raise LorankError(
            f"mean and std must have one value a channel ({channels}), std positive, "
            f"but are {tuple(mean)} and {tuple(std)}"
        )


def check_labels(labels: Tensor, images: int, classes: int, source: object) -> None:
    """Refuse labels that do not match their images or name no class.

    Args:
        labels: whole numbers (N,).
        images: how many images there are.
        classes: how many classes there are.
        source: the file to name in the error.

    Raises:
        LorankError: if the counts differ, there are none, or a label is not in 0..classes − 1.

    Example:
        >>> check_labels(torch.tensor([0, 1]), 2, 2, "labels.gz")
    """
    if len(labels) != images:
        raise LorankError(
            f"{source}: there must be one label an image, but there are {images} images "
            f"and {len(labels)} labels"
        )
    if images == 0:
        raise LorankError(f"{source}: a data set needs at least one image, but there is none")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        found = low if low < 0 else high
        raise LorankError(f"{source}: labels must lie in 0..{classes - 1}, but one is {found}")
