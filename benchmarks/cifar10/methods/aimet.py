"""AIMET's spatial SVD with its greedy rank search, then fine-tuning of its two plain layers.

It is not among lorank's dependencies; :mod:`posttraining.aimet` says how to install it. The MACs
that it reaches are not those it is asked for: what is asked is bisected until the network comes
closest to the budget from below, on one set of evaluations. The search runs on the CPU.
"""

import copy
import tempfile
from pathlib import Path

from torch import Tensor, nn

import lorank
from cifar10.job import Job, Method
from cifar10.methods.lowrank import paired
from lorank.errors import LorankError, MissingExtraError
from posttraining.aimet import IMAGES, greedy
from posttraining.network import Budget, Network

TRIALS = 7


class AIMET(Method):
    """Cut before training; all epochs fine-tune.

    Args:
        images: labelled training images that AIMET evaluates on.
    """

    def __init__(self, *, images: int = IMAGES):
        self.images = images

    def begin(self, job: Job) -> nn.Module:
        """Search; the largest network within the budget that any trial gave."""
        images, labels = (part.cpu() for part in job.labelled(self.images))
        dense, example = copy.deepcopy(job.dense).cpu(), job.example.cpu()
        network = Network(dense, example, [], lambda model: {}, labelled=(images, labels))
        allowed = job.experiment.budget * _macs(dense, example)
        low, high = job.experiment.budget / 2, min(1.0, 1.5 * job.experiment.budget)
        best, most = None, 0
        with tempfile.TemporaryDirectory() as folder:
            for trial in range(TRIALS):
                asked = job.experiment.budget if trial == 0 else (low + high) / 2
                found = _greedy(network, asked, Path(folder) / "scores")
                macs = _macs(found, example)
                if most < macs <= allowed:
                    best, most = found, macs
                low, high = (asked, high) if macs <= allowed else (low, asked)
        if best is None:
            raise LorankError(f"AIMET gave no network of {job.experiment.budget:g} of the MACs")
        # AIMET's own modules have been evaluated under inference mode, and cannot be trained.
        model = paired(job, best.state_dict())
        model.load_state_dict(best.state_dict())
        return model

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Pairs of the shapes that the weights have."""
        return paired(job, weights)


def _greedy(network: Network, asked: float, scores: Path) -> nn.Module:
    try:
        return greedy(network, Budget("macs", asked), "spatial", scores=scores)[0]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "aimet_torch":
            raise
        raise MissingExtraError(
            "this rival needs the package aimet-torch, which is not installed: "
            "benchmarks/posttraining/aimet.py says how to install it in an environment of its own"
        ) from None


def _macs(model: nn.Module, example: Tensor) -> int:
    macs = lorank.cost(model, example).macs
    assert macs is not None
    return macs
