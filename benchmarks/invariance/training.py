"""The training of one run: joint loss and AdamW, or the published pair of AdaDelta optimizers."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invariance.arms import Term
from invariance.networks import TAPPED
from lorank.nn import Tap

BATCH = 100


class Sets(NamedTuple):
    """Images and labels of a seed's draw, and the whole test set."""

    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def joint(
    model: nn.Module, term: Term | None, sets: Sets, *, seed: int, epochs: int, lr: float, wd: float
) -> None:
    """Train in place by one loss; the rate falls to zero along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=wd, fused=True)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the masks of dropout
    steps, done = epochs * (len(sets.train[1]) // BATCH), 0
    model.train()
    with Tap(model, TAPPED) as tap:
        for _ in range(epochs):
            for x, y in batches(sets.train, generator):
                optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * done / steps)) / 2
                loss = F.cross_entropy(model(x), y)
                loss = loss if term is None else loss + term(tap.value, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1


def alternating(model: nn.Module, term: Term | None, sets: Sets, *, seed: int, epochs: int) -> None:
    """Train in place as published: on each batch a step on the penalty, then one on the task.

    Each of the two has an AdaDelta of its own; the penalty's step moves the layers below alone.
    """
    first, second = (
        torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95, eps=1e-7) for _ in range(2)
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with Tap(model, TAPPED) as tap:
        for _ in range(epochs):
            for x, y in batches(sets.train, generator):
                if term is not None:
                    model(x)
                    step(first, term(tap.value, y))
                step(second, F.cross_entropy(model(x), y))


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def batches(of: tuple[Tensor, Tensor], generator: torch.Generator):
    images, labels = of
    for at in torch.randperm(len(labels), generator=generator).split(BATCH):
        yield images[at], labels[at]


@torch.no_grad()
def error(model: nn.Module, of: tuple[Tensor, Tensor]) -> float:
    """Share of wrong answers, in evaluation mode."""
    model.eval()
    answers = zip(of[0].split(1000), of[1].split(1000), strict=True)
    return sum(int((model(x).argmax(1) != y).sum()) for x, y in answers) / len(of[1])
