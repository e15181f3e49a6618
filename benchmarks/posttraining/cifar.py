"""CIFAR-10 ResNets: accuracy on all 10,000 test images, 2,000 training images to calibrate on."""

from functools import cache, partial
from pathlib import Path

import torch
from torch import nn

from lorank.zoo import load_data, load_model
from lorank.zoo.images import Data
from posttraining.network import Network, accuracy
from record import data_folder

CALIBRATION, BATCH = 2000, 250


@cache
def _data(folder: Path) -> Data:
    return load_data(f"cifar10:{folder / 'cifar10'}")


def resnet(name: str, models: Path, seed: int) -> Network:
    """Load ResNet-20, 32, 44 or 56; the seed draws the calibration images."""
    folder = data_folder()
    data = _data(folder)
    model = load_model(name, weights=folder / f"resnet_cifar10/{name}.safetensors").eval()
    drawn = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    images, labels = data.train.__getitems__(drawn[:CALIBRATION].tolist())
    return Network(
        model=model,
        example=torch.zeros(1, 3, 32, 32),
        calibration=list(images.split(BATCH)),
        score=partial(_score, data=data),
        labelled=(images, labels),
    )


def _score(model: nn.Module, data: Data) -> dict[str, float]:
    parts = torch.arange(len(data.test)).split(1000)
    right = [accuracy(model, *data.test.__getitems__(part.tolist())) * len(part) for part in parts]
    return {"accuracy": sum(right) / len(data.test)}
