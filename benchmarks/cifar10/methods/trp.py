"""Trained Rank Pruning: dense training that truncates every weight again and again.

Written anew from the paper: Xu et al., TRP: Trained Rank Pruning for Efficient Deep Neural
Networks, IJCAI 2020. Its energy threshold, there chosen by hand for each network, is bisected at
each truncation to the budget of MACs. The authors evaluate the decomposed network both without
retraining (``share = 1``) and with it.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from cifar10.job import Job, Method
from cifar10.methods.lowrank import (
    convolutions,
    energy_ranks,
    is_cut,
    measured,
    paired,
    pairs,
    paying,
)
from lorank.linalg import SVD, Unfolding, truncate
from lorank.nn import SVDConv
from lorank.ranks import Spectra


class TRP(Method):
    """Every m steps each weight becomes its truncated SVD; ``λ·U·Vᵀ`` joins its gradient.

    ``U·Vᵀ`` is a sub-gradient of the nuclear norm; as in the paper it is that of the latest
    truncation, and needs no SVD of its own.

    Args:
        layout: ``"channel"`` or ``"spatial"``, for all convolutions.
        every: steps from one truncation to the next.
        nuclear: λ.
        share: of the epochs, after which the weights are decomposed; pairs train the rest.
    """

    def __init__(
        self,
        *,
        layout: str = "channel",
        every: int = 20,
        nuclear: float = 3e-4,
        share: float = 0.75,
    ):
        self.layout, self.every = layout, every
        self.nuclear, self.share = nuclear, share
        self.prices = Spectra()
        self.views: dict[str, Unfolding] = {}
        self.bases: dict[str, Tensor] = {}

    def begin(self, job: Job) -> nn.Module:
        """The dense network, truncated once."""
        self._look(job)
        model = copy.deepcopy(job.dense)
        self.truncate(job, model)
        return model

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Dense, or pairs after the decomposition."""
        self._look(job)
        return paired(job, weights)

    def _look(self, job: Job) -> None:
        self.prices = measured(job, self.layout)
        layers = convolutions(job.dense)
        self.views = {n: SVDConv.unfold(layers[n], p.layout) for n, p in self.prices.items()}

    def penalty(self, job: Job, model: nn.Module, progress: float) -> Tensor | None:
        """``λ·Σ ⟨W, U·Vᵀ⟩``, whose gradient is the sub-gradient wanted."""
        if not self.nuclear or is_cut(model):
            return None
        if not self.bases:  # resumed: the weights are as truncated after the last epoch
            self._keep(job, self._truncated(job, model)[1])
        weights = {name: layer.weight for name, layer in convolutions(model).items()}
        terms = [(weights[name] * basis).sum() for name, basis in self.bases.items()]
        return self.nuclear * torch.stack(terms).sum()

    def after_step(self, job: Job, model: nn.Module, step: int) -> None:
        """Truncate where it is due."""
        if step % self.every == 0 and not is_cut(model):
            self.truncate(job, model)

    def after_epoch(self, job: Job, model: nn.Module, done: int) -> nn.Module:
        """Truncate; decompose after the share of the epochs."""
        if is_cut(model):
            return model
        ranks = self.truncate(job, model)
        if done < max(1, round(self.share * job.experiment.schedule.epochs)):
            return model
        return pairs(job, model, ranks, self.prices)

    def end(self, job: Job, model: nn.Module) -> nn.Module:
        """Decompose what no epoch did."""
        return model if is_cut(model) else pairs(job, model, self.truncate(job, model), self.prices)

    @torch.no_grad()
    def truncate(self, job: Job, model: nn.Module) -> dict[str, int]:
        """Put the truncated SVD of each weight in its place, at ranks that meet the budget."""
        ranks, factors = self._truncated(job, model)
        layers = convolutions(model)
        for name in paying(ranks, self.prices):
            U, s, Vh = factors[name]
            layers[name].weight.copy_(self.views[name].kernel((U * s) @ Vh))
        self._keep(job, factors)
        return ranks

    @torch.no_grad()
    def _truncated(self, job: Job, model: nn.Module) -> tuple[dict[str, int], dict[str, SVD]]:
        layers = convolutions(model)
        # Small matrices: a processor decomposes them faster than a GPU.
        factors = {name: view.svd(layers[name].weight.cpu()) for name, view in self.views.items()}
        now = {name: replace(self.prices[name], values=f.S) for name, f in factors.items()}
        spectra = Spectra(now, macs=self.prices.macs)
        ranks = energy_ranks(spectra, job.experiment.budget)
        return ranks, {name: truncate(f, ranks[name]) for name, f in factors.items()}

    def _keep(self, job: Job, factors: dict[str, SVD]) -> None:
        kernels = {name: self.views[name].kernel(f.U @ f.Vh) for name, f in factors.items()}
        self.bases = {name: kernel.to(job.device) for name, kernel in kernels.items()}
