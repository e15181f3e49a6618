"""Filter pruning by Torch-Pruning (group magnitude), then fine-tuning.

It is not among lorank's dependencies. In an environment of its own::

    pip install torch-pruning==1.6.1

Only the channels inside each block (what its first convolution writes) are pruned. Torch-Pruning's
dependency graph takes the padding of parameter-free shortcuts for an elementwise operation: channel
2 before it is taken for channel 2 after it, which is channel 10 in truth, and a network whose
streams are pruned runs with its channels out of step. The inner channels have no such part.
"""

import copy

from torch import nn

import lorank
from cifar10.job import Job, Method
from lorank.errors import LorankError, MissingExtraError
from lorank.zoo.resnet import BasicBlock

STEPS, HALVINGS = 32, 6  # shares that are tried, and then halved between the two around the budget


class ChannelPruning(Method):
    """Prune the inner channels of the pretrained network to the budget before training.

    Args:
        across: whether channels compete between layers; otherwise each layer loses one share.
    """

    def __init__(self, *, across: bool = False):
        self.across = across

    def begin(self, job: Job) -> nn.Module:
        """Prune the smallest share of the channels that fits the budget."""
        allowed = job.experiment.budget * _macs(job, job.dense)
        largest = most(job.dense)
        for step in range(STEPS + 1):  # one by one: a layer that would lose all is left whole
            model = self.pruned(job, largest * step / STEPS)
            if _macs(job, model) <= allowed:
                return self._refined(job, model, largest * (step - 1) / STEPS, allowed)
        raise LorankError(
            f"{job.experiment.budget:g} of the MACs is out of reach of inner channels"
        )

    def _refined(self, job: Job, best: nn.Module, low: float, allowed: float) -> nn.Module:
        """Prune less, where a smaller share than the one that gave the best fits, too."""
        step = most(job.dense) / STEPS
        for _ in range(HALVINGS if low >= 0 else 0):
            step /= 2
            model = self.pruned(job, low + step)
            if _macs(job, model) <= allowed:
                best = model
            else:
                low += step
        return best

    def again(self, job: Job, weights):
        """The dense network, narrowed to the channels that the weights have."""
        model = copy.deepcopy(job.dense)
        for name, block in blocks(model).items():
            _narrow(block, len(weights[f"{name}.conv1.weight"]))
        return model

    def pruned(self, job: Job, share: float) -> nn.Module:
        """A copy without a share of its inner channels."""
        tp = _package()
        model = copy.deepcopy(job.dense)
        if not share:
            return model
        inner = {id(block.conv1) for block in blocks(model).values()}
        kept = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        tp.pruner.BasePruner(
            model,
            job.example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=self.across,
            pruning_ratio=share,
            max_pruning_ratio=most(job.dense),
            ignored_layers=[m for m in kept if id(m) not in inner],
        ).step()
        model.zero_grad(set_to_none=True)
        return model


def blocks(model: nn.Module) -> dict[str, BasicBlock]:
    """The residual blocks by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BasicBlock)}


def most(model: nn.Module) -> float:
    """The largest share that leaves every block a channel: Torch-Pruning skips what loses all."""
    return 1 - 1 / min(block.conv1.out_channels for block in blocks(model).values())


def _narrow(block: BasicBlock, width: int) -> None:
    """Make room for so many inner channels; what they hold is filled in later."""
    first, second = block.conv1, block.conv2
    first.weight = nn.Parameter(first.weight[:width].detach().clone())
    second.weight = nn.Parameter(second.weight[:, :width].detach().clone())
    first.out_channels = second.in_channels = width
    block.bn1 = nn.BatchNorm2d(width)


def _macs(job: Job, model: nn.Module) -> int:
    macs = lorank.cost(model, job.example).macs
    assert macs is not None
    return macs


def _package():
    try:
        import torch_pruning
    except ModuleNotFoundError as error:
        if error.name != "torch_pruning":
            raise
        raise MissingExtraError(
            "channel pruning needs the package torch-pruning, which is not installed: "
            "pip install torch-pruning==1.6.1 in an environment of its own"
        ) from None
    return torch_pruning
