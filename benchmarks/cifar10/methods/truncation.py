"""Plain truncation: one energy threshold for all layers, cut before training, then fine-tuning."""

from torch import Tensor, nn

from cifar10.job import Job, Method
from cifar10.methods.lowrank import energy_ranks, measured, paired, pairs


class Truncation(Method):
    """Truncated SVD of the pretrained weights by the per-layer energy rule, bisected to the budget.

    Args:
        layout: ``"channel"`` or ``"spatial"``, for all convolutions.
    """

    def __init__(self, *, layout: str = "channel"):
        self.layout = layout

    def begin(self, job: Job) -> nn.Module:
        """Cut at once; all epochs fine-tune two plain layers in the place of each."""
        spectra = measured(job, self.layout)
        return pairs(job, job.dense, energy_ranks(spectra, job.experiment.budget), spectra)

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Pairs of the shapes that the weights have."""
        return paired(job, weights)
