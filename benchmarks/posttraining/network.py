"""What an experiment needs to know of a network, and what is left of it after a cut."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import lorank


class Budget(NamedTuple):
    """A share of the dense network: ``macs`` of one forward pass, or ``params`` (weights)."""

    unit: str
    share: float

    @classmethod
    def read(cls, text: str) -> "Budget":
        """Read ``macs0.5`` or ``params0.7``."""
        unit = text.rstrip("0123456789.")
        return cls(unit, float(text[len(unit) :]))


@dataclass(frozen=True)
class Network:
    """A pretrained network with its data.

    Attributes:
        model: dense, in evaluation mode; methods work on copies.
        example: what the model is called with, for MACs.
        calibration: unlabelled batches, never of the data that the score is taken on.
        score: plain model → figures by name; the first one is the main figure.
        labelled: the calibration images with their labels, for rivals that need them.
        layers: names of the layers that a budget of weights counts; all others are left alone.
        answer: picks from what the model returns the tensor that matters, where it is not plain.
    """

    model: nn.Module
    example: Any
    calibration: list[Any]
    score: Callable[[nn.Module], dict[str, float]]
    labelled: tuple[Tensor, Tensor] | None = None
    layers: list[str] | None = None
    answer: Callable[[Any], Tensor] | None = None

    @property
    def normalised(self) -> bool:
        """Whether there are BatchNorm statistics to estimate anew."""
        return any(isinstance(m, _BatchNorm) for m in self.model.modules())


def linear_weights(model: nn.Module, under: str = "encoder.") -> int:
    """Entries of the weights of all linear layers below a name; biases are never cut.

    Example:
        >>> linear_weights(nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 2))}))
        8
    """
    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(under)
    )


def sizes(network: Network, model: nn.Module) -> dict[str, float]:
    """Shares of the dense network that a model has: MACs, parameters, weights of counted layers."""
    dense, found = lorank.cost(network.model, network.example), lorank.cost(model, network.example)
    assert dense.macs is not None
    assert found.macs is not None
    shares = {"macs": found.macs / dense.macs, "params": found.params / dense.params}
    if network.layers is not None:
        shares["linear"] = linear_weights(model) / linear_weights(network.model)
    return {name: round(share, 4) for name, share in shares.items()}


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch: int = 250) -> float:
    """Share of right answers on prepared images (N, C, H, W)."""
    model = model.eval().to(memory_format=torch.channels_last)
    right = 0
    for some, truth in zip(images.split(batch), labels.split(batch), strict=True):
        scores = model(some.contiguous(memory_format=torch.channels_last))
        right += int((scores.argmax(1) == truth).sum())
    return right / len(labels)
