"""The honest rival: a smaller dense network of the same MACs, from scratch.

Its schedule may have more epochs and a higher rate, by a ``schedule`` table of its own.
"""

from torch import nn

import lorank
from cifar10.job import Job, Method
from lorank.errors import LorankError
from lorank.zoo.resnet import BasicBlock, CifarResNet, kaiming

HALVINGS = 8  # of a range that doubles the width


class Narrow(Method):
    """A residual network of basic blocks whose width is bisected to the budget.

    Args:
        depth: layers, ``6n + 2``; the depth of the pretrained network where 0.
    """

    def __init__(self, *, depth: int = 0):
        self.depth = depth

    def begin(self, job: Job) -> nn.Module:
        """The widest network within the budget, at its ordinary initialisation."""
        dense = lorank.cost(job.dense, job.example).macs
        assert dense is not None
        depth = self.depth or 2 * _blocks(job.dense) + 2

        def fits(width: float) -> bool:
            macs = lorank.cost(slim(depth, width), job.example.cpu()).macs
            return macs is not None and macs <= job.experiment.budget * dense

        if not fits(1.0):
            raise LorankError(
                f"{job.experiment.budget:g} of the MACs is below a network of one channel"
            )
        high = 2.0
        while fits(high):
            high *= 2
        low = high / 2
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return slim(depth, low)


def slim(depth: int, width: float) -> CifarResNet:
    """A network with stages of ``width``, ``2·width`` and ``4·width`` channels, rounded."""
    first, second, third = (round(width * share) for share in (1, 2, 4))
    model = CifarResNet(depth, width=first)
    blocks = len(model.layer1)
    model.layer2 = _stage(blocks, first, second)
    model.layer3 = _stage(blocks, second, third)
    model.linear = nn.Linear(third, model.linear.out_features)
    return model.apply(kaiming)


def _stage(blocks: int, before: int, channels: int) -> nn.Sequential:
    rest = (BasicBlock(channels, channels, 1, "A") for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(before, channels, 2, "A"), *rest)


def _blocks(model: nn.Module) -> int:
    return sum(isinstance(m, BasicBlock) for m in model.modules())
