"""The methods by name: a network and a budget in, a plain smaller network and what it took out.

What a method returns beside the network is plain data for the record; ``evaluations`` (forward
passes over some samples that serve to choose) and ``labels`` default to none.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from posttraining import aimet, calibrated, plain, scaled
from posttraining.network import Budget, Network

Method = Callable[[Network, Budget], tuple[nn.Module, dict[str, Any]]]


def dense(network: Network, budget: Budget) -> tuple[nn.Module, dict[str, Any]]:
    """Leave the network as it is: the row to compare with."""
    return network.model, {}


METHODS: dict[str, Method] = {
    "dense": dense,
    "energy-channel": partial(plain.energy, layout="channel"),
    "energy-spatial": partial(plain.energy, layout="spatial"),
    "uniform": plain.uniform,
    "budget-channel": partial(plain.budgeted, layout="channel"),
    "budget-auto": partial(plain.budgeted, layout="auto"),
    "asvd": partial(scaled.uniformly, kind="asvd"),
    "asvd-energy": partial(scaled.by_energy, kind="asvd"),
    "asvd-search": partial(scaled.by_search, kind="asvd"),
    "svdllm": partial(scaled.uniformly, kind="svdllm"),
    "svdllm-energy": partial(scaled.by_energy, kind="svdllm"),
    "svdllm-v2": partial(scaled.by_loss, kind="svdllm"),
    "aimet-spatial": partial(aimet.greedy, scheme="spatial"),
    "aimet-spatial-fit": partial(aimet.greedy, scheme="spatial", fit=True),
    "aimet-weight": partial(aimet.greedy, scheme="weight"),
    "lorank-cut": calibrated.cut,
    "lorank": calibrated.lorank,
}

IMAGES = ("energy-channel", "energy-spatial", "budget-channel", "budget-auto")
AIMET = ("aimet-spatial", "aimet-spatial-fit", "aimet-weight")
WORDS = (
    "uniform",
    "energy-channel",
    "budget-channel",
    "asvd",
    "asvd-energy",
    "asvd-search",
    "svdllm",
    "svdllm-energy",
    "svdllm-v2",
)
