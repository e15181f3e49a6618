"""Published networks of the real data's folder, as they were trained."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lorank.errors import unknown
from lorank.zoo import load_model
from lorank.zoo.cifar import MEAN, STD
from lorank.zoo.weights import load_weights
from record import data_folder

DEPTHS = (20, 32, 44, 56)
OTHER_MEAN, OTHER_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
RENAMED = {".downsample.": ".shortcut.", "fc.": "linear."}


class Published(NamedTuple):
    """A network of the zoo, its file, and whether it standardises images in its own way."""

    model: str
    shortcut: str
    file: str
    own: bool


PUBLISHED = {
    f"resnet{depth}": Published(
        f"resnet{depth}", "A", f"resnet_cifar10/resnet{depth}.safetensors", False
    )
    for depth in DEPTHS
} | {
    f"resnet{depth}-b": Published(
        f"resnet{depth}", "B", f"pytorch_cifar_models/cifar10_resnet{depth}.pth", True
    )
    for depth in DEPTHS
}
"""By name: of akamaster/pytorch_resnet_cifar10, and with ``-b`` of chenyaofo/pytorch-cifar-models,
which are better, have convolutions for shortcuts, and standardise images by other numbers."""


class Restandardised(nn.Module):
    """A network behind the change from these images' mean and deviation to its own.

    ``x ↦ (x·std + mean − own mean) / own std``: it cannot be taken into the first convolution,
    which pads by zeros.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.network = network
        have, want = (
            (torch.tensor(v).view(3, 1, 1) for v in p) for p in ((MEAN, STD), (mean, std))
        )
        (have_mean, have_std), (want_mean, want_std) = have, want
        self.register_buffer("scale", have_std / want_std)
        self.register_buffer("shift", (have_mean - want_mean) / want_std)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 10) of images (N, 3, 32, 32)."""
        return self.network(x * self.scale + self.shift)


def pretrained(name: str) -> nn.Module:
    """A published network in evaluation mode.

    Raises:
        LorankError: if the name is unknown, or its file is not there or is of another network.
    """
    if name not in PUBLISHED:
        raise unknown("published network", name, PUBLISHED)
    found = PUBLISHED[name]
    model = load_model(found.model, shortcut=found.shortcut)
    load_weights(model, data_folder() / found.file, rename=RENAMED)
    if found.own:
        return Restandardised(model, OTHER_MEAN, OTHER_STD).eval()
    return model.eval()
