"""Pruning-aware training of torchao (PAT): proximal maps on singular values, then fine-tuning.

It is not among lorank's dependencies. In an environment of its own::

    pip install --no-deps torchao==0.18.0

Its optimizer trains dense weights and, every few steps, keeps a share of every matrix's singular
values, fewer and fewer by its cubic schedule. After a share of the epochs the weights are
decomposed by a plain SVD at the ranks that they then have, and pairs of layers train the rest.
"""

import copy
import math
import warnings

import torch
from torch import Tensor, nn

from cifar10.job import Job, Method
from cifar10.methods.lowrank import convolutions, is_cut, measured, paired, pairs
from lorank.errors import LorankError, MissingExtraError
from lorank.ranks import Spectra, cost_of

HALVINGS = 30


class PAT(Method):
    """Train under torchao's minimum-rank constraint, about one share of the ranks for all matrices.

    Args:
        share: of the epochs until the decomposition.
        every: steps between two proximal maps, each an SVD of every weight.
        warmup: share of these epochs before the first one.
    """

    def __init__(self, *, share: float = 0.5, every: int = 10, warmup: float = 0.05):
        self.share, self.every, self.warmup = share, every, warmup

    def begin(self, job: Job) -> nn.Module:
        """The dense network; its optimizer does the rest."""
        _package()
        self._choose(job)
        return copy.deepcopy(job.dense)

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Dense, or pairs after the decomposition."""
        self._choose(job)
        return paired(job, weights)

    def _choose(self, job: Job) -> None:
        self.spectra = measured(job, "channel")
        self.ranks = chosen(self.spectra, job.experiment.budget)

    def optimizer(
        self, job: Job, model: nn.Module, plain: torch.optim.Optimizer
    ) -> torch.optim.Optimizer:
        """Wrap the schedule's optimizer while the network is dense."""
        if is_cut(model):
            return plain
        steps = len(job.cifar.train.labels) // job.experiment.schedule.batch
        last = max(2, self._epochs(job) * steps)
        kernels = {id(layer.weight): name for name, layer in convolutions(model).items()}
        plain.param_groups[:] = [
            part for group in plain.param_groups for part in self._split(group, kernels)
        ]
        return _package().PruneOptimizer(
            plain, warmup_steps=min(last - 1, round(self.warmup * last)), healing_start_step=last
        )

    def _split(self, group: dict, kernels: dict[int, str]) -> list[dict]:
        """The convolutions' kernels of a group, each under its constraint, and the rest of it."""
        ours = [p for p in group["params"] if id(p) in kernels]
        rest = [p for p in group["params"] if id(p) not in kernels]
        parts = [{**group, "params": [p], **self._constraint(kernels[id(p)])} for p in ours]
        return [*parts, {**group, "params": rest}] if rest else parts

    def _constraint(self, name: str) -> dict:
        full = self.spectra[name].full_rank
        return {
            "prox_type": "MinRankConstraint",
            "group_type": "SVDGrouper",
            "min_sparsity": max(0.0, 1 - self.ranks[name] / full - 1e-9),  # it rounds up
            "min_sparsity_schedule": True,
            "prox_freq": self.every,
        }

    def _epochs(self, job: Job) -> int:
        return max(1, round(self.share * job.experiment.schedule.epochs))

    def after_epoch(self, job: Job, model: nn.Module, done: int) -> nn.Module:
        """Decompose after the share of the epochs."""
        return self._cut(job, model) if done == self._epochs(job) else model

    def end(self, job: Job, model: nn.Module) -> nn.Module:
        """Decompose what no epoch did."""
        return model if is_cut(model) else self._cut(job, model)

    def _cut(self, job: Job, model: nn.Module) -> nn.Module:
        return pairs(job, model, self.ranks, self.spectra)


def chosen(spectra: Spectra, budget: float) -> dict[str, int]:
    """The largest share of every matrix's ranks that fits the budget, and then one more in turn."""
    assert spectra.macs is not None
    most = math.floor(budget * spectra.macs)

    def at(share: float) -> dict[str, int]:
        return {n: max(1, math.floor(share * s.full_rank)) for n, s in spectra.items()}

    def fits(ranks: dict[str, int]) -> bool:
        return cost_of(ranks, spectra, "macs") <= most

    if not fits(at(0)):
        raise LorankError(f"{budget:g} of the MACs is below rank 1 everywhere")
    low, high = (1.0, 1.0) if fits(at(1)) else (0.0, 1.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(at(middle)) else (low, middle)
    ranks = at(low)
    for name, spectrum in spectra.items():
        more = {**ranks, name: min(ranks[name] + 1, spectrum.full_rank)}
        ranks = more if fits(more) else ranks
    return ranks


def _package():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.prototype.pat import optim
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "torchao":
            raise
        raise MissingExtraError(
            "PAT needs the package torchao, which is not installed: "
            "pip install --no-deps torchao==0.18.0 in an environment of its own"
        ) from None
    return optim
