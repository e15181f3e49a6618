"""What a method is given, and what it must offer to be trained like all the others."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cifar10.data import Cifar, normalised
from cifar10.plan import Experiment

CALIBRATION, CALIBRATION_BATCH = 2000, 250


@dataclass(frozen=True)
class Job:
    """An experiment with everything loaded.

    Attributes:
        experiment: what is asked for.
        dense: the pretrained network in evaluation mode; methods work on copies.
        cifar: the data, on the device.
        example: one image, to count MACs.
        bfloat16: whether forward passes run in it, by autocast.
    """

    experiment: Experiment
    dense: nn.Module
    cifar: Cifar
    example: Tensor
    bfloat16: bool = False

    @property
    def device(self) -> torch.device:
        """Where everything runs."""
        return self.example.device

    def autocast(self) -> torch.autocast:
        """The context of forward passes in training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings."""
        return self.experiment.options

    def settings(self) -> str:
        """All that a run depends on beside its name: a state of other settings is not resumed."""
        return json.dumps({**self.experiment.asked(), "bfloat16": self.bfloat16}, sort_keys=True)

    def calibration(self) -> list[Tensor]:
        """Batches of 2,000 training images as they are, drawn by the seed."""
        images, _ = self.labelled(CALIBRATION)
        return list(images.split(CALIBRATION_BATCH))

    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        """So many training images with their labels, drawn by the seed."""
        train = self.cifar.train
        generator = torch.Generator().manual_seed(self.experiment.seed)
        drawn = torch.randperm(len(train.labels), generator=generator)[:count].to(self.device)
        return normalised(train.images[drawn]), train.labels[drawn]


class Method:
    """A way to a smaller network: the loop calls these in turn. The defaults do nothing."""

    def begin(self, job: Job) -> nn.Module:
        """The network to train; the same each time, since a run that resumes begins again."""
        raise NotImplementedError

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """The network that kept weights belong to; the loop fills it, and cuts what is factored."""
        return self.begin(job)

    def optimizer(
        self, job: Job, model: nn.Module, plain: torch.optim.Optimizer
    ) -> torch.optim.Optimizer:
        """What steps the network: the schedule's optimizer, or one around it."""
        return plain

    def penalty(self, job: Job, model: nn.Module, progress: float) -> Tensor | None:
        """A term of the loss at a share of the training, or none."""
        return None

    def after_step(self, job: Job, model: nn.Module, step: int) -> None:
        """Change weights in place after the optimizer's step, counted from 1."""

    def after_epoch(self, job: Job, model: nn.Module, done: int) -> nn.Module:
        """The network to go on with after so many epochs; another one gets a new optimizer."""
        return model

    def end(self, job: Job, model: nn.Module) -> nn.Module:
        """The result in plain layers."""
        return model


class Maker(Protocol):
    """Makes a method of its options."""

    def __call__(self, **options: Any) -> Method:
        """Refuse unknown options by name."""
        ...
