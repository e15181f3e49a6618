"""A small problem that trains in a second: two classes of 8×8 images, told apart by a pattern."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Problem(NamedTuple):
    train: TensorDataset
    test: TensorDataset
    augment: object = None


def images(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    patterns = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(count, 1, 8, 8, generator=generator)
    return TensorDataset(patterns[labels] + 0.8 * noise, labels)


def flip(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """An augmentation that leaves a trace of every draw."""
    return batch + 0.05 * torch.randn(batch.shape, generator=generator)


@pytest.fixture
def problem() -> Problem:
    return Problem(images(192, 0), images(120, 1), flip)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return small_net()


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(12, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )
