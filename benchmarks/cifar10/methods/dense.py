"""No compression at all: the dense network trained on, or from weights drawn anew."""

import copy

from torch import nn

from cifar10.job import Job, Method
from lorank.zoo.resnet import kaiming


class Dense(Method):
    """The network as it is; its budget is 1.

    Args:
        scratch: whether weights are drawn anew instead of pretrained.
    """

    def __init__(self, *, scratch: bool = False):
        self.scratch = scratch

    def begin(self, job: Job) -> nn.Module:
        """A copy of the network."""
        return fresh(job) if self.scratch else copy.deepcopy(job.dense)


def fresh(job: Job) -> nn.Module:
    """The network at its ordinary initialisation, drawn by the experiment's seed."""
    model = copy.deepcopy(job.dense)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return model.apply(kaiming)
