"""Lorank's recipe from pretrained weights: sparsify in SVD form, cut to a budget, fine-tune."""

import torch
from torch import Tensor, nn

import lorank
from cifar10.job import Job, Method
from cifar10.methods.lowrank import convolutions, paired
from lorank.nn.pair import Pair


class SVD(Method):
    """Sparsify and cut during the first share of the training; the rest fine-tunes.

    Args:
        sparsify: share of all epochs before the last cut; 0 cuts before training.
        steps: cuts on the way, the last one at the budget; 1 is one cut at the end.
        kind: of sparsity.
        sparsity: λ_s, rising over the first half of the sparsifying.
        orthogonality: λ_o, over the whole training.
        layout: ``"auto"`` chooses for each layer.
        calibrated: whether layouts, ranks and cuts go by what layers read and answer for.
        by: ``"product"``, or ``"raw"`` for the published cut of ``|S|``.
        rebuilt: whether a cut before training solves the factors again on data.
        plain: whether fine-tuning goes on in plain layers instead of SVD form.
        balanced: whether the two layers of each pair then get equally large weights.
    """

    def __init__(
        self,
        *,
        sparsify: float = 0.25,
        steps: int = 4,
        kind: str = "hoyer",
        sparsity: float = 0.01,
        orthogonality: float = 1.0,
        layout: str = "auto",
        calibrated: bool = True,
        by: str = "product",
        rebuilt: bool = True,
        plain: bool = False,
        balanced: bool = False,
    ):
        self.sparsify, self.steps = sparsify, steps
        self.kind, self.sparsity, self.orthogonality = kind, sparsity, orthogonality
        self.layout, self.calibrated, self.by = layout, calibrated, by
        self.rebuilt, self.plain, self.balanced = rebuilt, plain, balanced

    def begin(self, job: Job) -> nn.Module:
        """Full rank, in layouts chosen for what is to come; cut at once if nothing sparsifies."""
        dense = job.dense
        layers = list(convolutions(dense))
        moments = lorank.calibrate(dense, job.calibration()) if self.calibrated else None
        spectra = lorank.measure(
            dense, job.example, layout=self.layout, layers=layers, calibration=moments
        )
        layouts = {name: spectrum.layout for name, spectrum in spectra.items()}
        if self.sparsify:
            return lorank.decompose(dense, layers=layers, layout=layouts)
        ranks = lorank.ranks.budget(spectra, macs=job.experiment.budget)
        ranks = {name: rank for name, rank in ranks.items() if rank <= spectra[name].break_even}
        low = lorank.decompose(dense, ranks, layout=layouts, calibration=moments)
        if self.rebuilt and moments is not None:
            low = lorank.reconstruct(low, dense, job.calibration(), calibration=moments)
        return self._folded(job, low) if self.plain else low

    def _folded(self, job: Job, model: nn.Module) -> nn.Module:
        folded = lorank.fold(model, example=job.example)
        return balance(folded) if self.balanced else folded

    def again(self, job: Job, weights: dict[str, Tensor]) -> nn.Module:
        """Pairs where the kept weights are of pairs, or as begun."""
        factored = any(name.endswith(".Vh") for name in weights)
        return self.begin(job) if factored else paired(job, weights)

    def penalty(self, job: Job, model: nn.Module, progress: float) -> Tensor | None:
        """``λ_o·L_o``, with ``λ_s·L_s`` while sparsifying."""
        ramp = min(1.0, 2 * progress / self.sparsify) if progress < self.sparsify else 0.0
        weights = {"orthogonality": self.orthogonality, "sparsity": self.sparsity * ramp}
        if not any(weights.values()) or not _factored(model):
            return None
        return lorank.penalty(model, kind=self.kind, **weights)

    def after_epoch(self, job: Job, model: nn.Module, done: int) -> nn.Module:
        """Cut a step further where a step is due."""
        epochs = job.experiment.schedule.epochs
        if not self.sparsify:
            return model
        for step in range(1, self.steps + 1):
            if done == max(step, round(self.sparsify * epochs * step / self.steps)):
                model = self._cut(job, model, step / self.steps)
        return model

    def _cut(self, job: Job, model: nn.Module, share: float) -> nn.Module:
        """Down the cubic schedule, fast first: ``1 − (1 − t)³`` of the way to the budget."""
        eased = 1 - (1 - share) ** 3
        macs = 1 - eased * (1 - job.experiment.budget)
        moments = lorank.calibrate(model, job.calibration()) if self.calibrated else None
        spectra = lorank.measure(model, job.example, calibration=moments, layers=_factored(model))
        ranks = lorank.ranks.budget(spectra, macs=macs)
        ranks = {n: min(r, spectra[n].values.shape[-1]) for n, r in ranks.items()}
        model = lorank.prune(model, ranks, by=self.by, calibration=moments)
        last = share == 1
        return self._folded(job, model) if last and self.plain else model

    def end(self, job: Job, model: nn.Module) -> nn.Module:
        """Plain layers, dense where that is cheaper."""
        return lorank.fold(model, example=job.example) if _factored(model) else model


@torch.no_grad()
def balance(model: nn.Module) -> nn.Module:
    """Scale both layers of each pair, channel by channel, to weights of one norm; same function.

    A step on one layer moves the product by the square of the other's size: pairs of very
    different layers have no learning rate that suits both.
    """
    for pair in [m for m in model.modules() if isinstance(m, Pair)]:
        first, second = pair[0].weight, pair[1].weight
        ours, theirs = first.flatten(1).norm(dim=1), second.transpose(0, 1).flatten(1).norm(dim=1)
        scale = (theirs / ours.clamp_min(1e-12)).sqrt().clamp(1e-3, 1e3)
        first.mul_(scale.view(-1, *[1] * (first.ndim - 1)))
        second.div_(scale.view(1, -1, *[1] * (second.ndim - 2)))
    return model


def _factored(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, lorank.nn.Factored)]
