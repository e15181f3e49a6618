"""CIFAR-10 on the device, and views: augmented copies that are functions of a number alone."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lorank.zoo import load_data
from lorank.zoo.cifar import MEAN, STD
from record import data_folder

PAD, HELD_OUT = 4, 5000


class Part(NamedTuple):
    """Images uint8 (N, 3, 32, 32), labels (N,), and each image's place in the training set."""

    images: Tensor
    labels: Tensor
    places: Tensor


class View(NamedTuple):
    """How each of the 50,000 training images is changed, and which other one it is mixed with.

    Attributes:
        top: rows that its crop begins below the padded image's edge.
        left: columns, likewise.
        mirror: whether it is mirrored.
        partner: place of the image that is mixed in, or none.
        share: of that image, or none.
    """

    top: Tensor
    left: Tensor
    mirror: Tensor
    partner: Tensor | None
    share: Tensor | None


class Cifar(NamedTuple):
    """The whole set on one device: what to train on, what to judge by, and all training images."""

    train: Part
    judge: Part
    whole: Part
    padded: Tensor


@cache
def _read() -> tuple[Part, Part]:
    data = load_data(f"cifar10:{data_folder() / 'cifar10'}")
    parts = []
    for split in (data.train, data.test):
        count = len(split)  # type: ignore[arg-type]
        parts.append(Part(split.images, split.labels, torch.arange(count)))  # type: ignore[attr-defined]
    return parts[0], parts[1]


def load(device: torch.device, *, holdout: bool, images: int | None, seed: int) -> Cifar:
    """Load the set; which images are held out is the same in all experiments."""
    whole, test = (Part(*(t.to(device) for t in part)) for part in _read())
    order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(0))
    kept, out = (order[:-HELD_OUT], order[-HELD_OUT:]) if holdout else (order, None)
    if images is not None:
        drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(1000 + seed))
        kept = kept[drawn[:images]]
    padded = torch.nn.functional.pad(whole.images, (PAD,) * 4)
    return Cifar(_some(whole, kept), test if out is None else _some(whole, out), whole, padded)


def _some(part: Part, places: Tensor) -> Part:
    places = places.sort().values.to(part.labels.device)
    return Part(*(t[places] for t in part))


def view(number: int, mix: float, places: Tensor, count: int = 50000) -> View:
    """Draw the numbered view of all training images.

    Partners are drawn among the images at ``places``, those that are trained on: any other one,
    with its label, would be one more to learn from, or one that is judged by.
    """
    generator = torch.Generator().manual_seed(7919 * number + 1)
    top, left = torch.randint(2 * PAD + 1, (2, count), generator=generator)
    mirror = torch.randint(2, (count,), generator=generator).bool()
    if not mix:
        return View(top, left, mirror, None, None)
    places, partner = places.cpu(), torch.arange(count)
    partner[places] = places[torch.randperm(len(places), generator=generator)]
    share = mix * torch.rand(count, generator=generator)
    return View(top, left, mirror, partner, share)


def to(seen: View, device: torch.device) -> View:
    """The view on a device."""
    return View(*(None if t is None else t.to(device) for t in seen))


def normalised(images: Tensor) -> Tensor:
    """``(image / 255 − mean) / std``, channels last."""
    mean, std = _scale(images.device)
    scaled = (images.float() - 255 * mean) / (255 * std)
    return scaled.contiguous(memory_format=torch.channels_last)


@cache
def _scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept where they are used: bringing them to a GPU would make every step wait."""
    mean, std = (torch.tensor(v).view(3, 1, 1).to(device) for v in (MEAN, STD))
    return mean, std


def seen_images(cifar: Cifar, places: Tensor, seen: View) -> Tensor:
    """A batch of a view, normalised: crops, mirrored or not, mixed with their partners."""
    images = normalised(_crops(cifar.padded, places, seen))
    if seen.share is None or seen.partner is None:
        return images
    share = seen.share[places]
    others = normalised(_crops(cifar.padded, seen.partner[places], seen))
    return torch.lerp(images, others, share.view(-1, 1, 1, 1))


def _crops(padded: Tensor, places: Tensor, seen: View) -> Tensor:
    side = padded.shape[-1]
    size = side - 2 * PAD
    steps = torch.arange(size, device=padded.device)
    columns = torch.where(seen.mirror[places, None], steps.flip(0), steps)
    columns = columns + seen.left[places, None]
    rows = steps + seen.top[places, None]
    flat = (rows.unsqueeze(2) * side + columns.unsqueeze(1)).view(len(places), 1, -1)
    picked = padded[places].flatten(2).gather(2, flat.expand(-1, 3, -1))
    return picked.view(len(places), 3, size, size)
