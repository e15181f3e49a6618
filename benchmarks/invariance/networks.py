"""The networks: everything below the penalised layer, that layer, and the classifier on top."""

from collections import OrderedDict

import torch
from torch import nn

TAPPED = "act"
"""What the penalties see: the last hidden layer after its activation."""

HIDDEN = "hidden"
"""The layer whose singular values are looked at."""

WIDTH = {"mlp": 64, "cnn": 500}


def network(
    name: str,
    seed: int,
    *,
    norm: bool = False,
    dropout: float = 0.0,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """A network whose linear weights depend on the name and the seed alone."""
    torch.manual_seed(seed)
    below = _perceptron(norm, dropout, activation) if name == "mlp" else _convolutions(norm)
    inputs, width = (256, 64) if name == "mlp" else (800, 500)
    parts: OrderedDict[str, nn.Module] = OrderedDict(below=below)
    parts[HIDDEN] = nn.Linear(inputs, width)
    parts["norm"] = nn.BatchNorm1d(width) if norm else nn.Identity()
    parts[TAPPED] = activation()
    parts["drop"] = nn.Dropout(dropout)
    parts["head"] = nn.Linear(width, 10)
    return nn.Sequential(parts).to(memory_format=torch.channels_last)


def _perceptron(norm: bool, dropout: float, activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((784, 256), (256, 256)):
        layers += [nn.Linear(inputs, outputs)]
        # The published network has batch norm on its last hidden layer alone.
        layers += [nn.BatchNorm1d(outputs)] if norm and activation is nn.ReLU else []
        layers += [activation(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def _convolutions(norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 20), (20, 50)):
        layers += [nn.Conv2d(inputs, outputs, 5), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(outputs)] if norm else []
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def top(model: nn.Module) -> nn.Module:
    """What follows the layers below: a network of its own, on the same weights."""
    parts = OrderedDict(model.named_children())
    del parts["below"]
    return nn.Sequential(parts)
